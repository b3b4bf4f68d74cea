"""What is read from the node: cgroups, stdio, mounts, exits, settings, the log, the timeline."""

import asyncio
import logging
import os
import signal
import time
from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from shim import cgroup, log, mounts
from shim.errors import InvalidArgument, NotFound
from shim.guest.reaper import Exit, Reaper
from shim.guest.runtime import accepts, choose, last_error, suits
from shim.guest.spawn import spawn
from shim.options import Options, from_table, parse_options
from shim.pb import cgroup1_pb2, cgroup2_pb2
from shim.pb.oci_pb2 import Options as RuncOptions
from shim.settings import Settings, allowed_env
from shim.stdio import Wanted, logger_argv, open_stdio
from shim.task.timeline import rows


def hierarchy(root: Path, files: dict[str, str]) -> None:
    """Writes a cgroup tree."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def proc_with(tmp_path: Path, lines: str) -> Path:
    """A /proc with one process, number 7."""
    hierarchy(tmp_path / "proc", {"7/cgroup": lines})
    return tmp_path / "proc"


def test_stats_of_a_v1_hybrid(tmp_path: Path) -> None:
    """The fields that `kubectl top` reads, from the files of each controller (wire.md 4.5)."""
    root = tmp_path / "cg"
    hierarchy(
        root,
        {
            "memory/a/memory.stat": "cache 5\ntotal_inactive_file 3\nswap 0\nunknown 1\n",
            "memory/a/memory.usage_in_bytes": "100\n",
            "memory/a/memory.limit_in_bytes": "9223372036854771712\n",
            "memory/a/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
            "pids/a/pids.current": "4\n",
            "pids/a/pids.max": "max\n",
            "pids/a/cgroup.procs": "7\n8\n",
            "cpuacct/a/cpuacct.usage": "123456\n",
            "cpuacct/a/cpuacct.usage_percpu": "1 2\n",
        },
    )
    proc = proc_with(tmp_path, "4:memory:/a\n8:pids:/a\n2:cpuacct:/a\n0::/a\n")
    found = cgroup.of_process(7, proc, root)
    stats = found.stats()
    assert isinstance(stats, cgroup1_pb2.Metrics)
    assert (stats.memory.usage.usage, stats.memory.total_inactive_file, stats.memory.cache) == (100, 3, 5)
    assert (stats.pids.current, stats.pids.limit, stats.cpu.usage.total) == (4, 0, 123456)
    assert stats.memory_oom_control.oom_kill == 2
    assert (found.pids(), list(stats.cpu.usage.per_cpu)) == ([7, 8], [1, 2])


def test_stats_of_v2(tmp_path: Path) -> None:
    """One folder, another message, `max` as all ones."""
    root = tmp_path / "cg"
    hierarchy(
        root,
        {
            "cgroup.controllers": "cpu memory pids",
            "a/memory.current": "100\n",
            "a/memory.max": "max\n",
            "a/memory.stat": "anon 7\ninactive_file 2\n",
            "a/memory.events": "oom 1\noom_kill 1\n",
            "a/cpu.stat": "usage_usec 55\nuser_usec 44\n",
            "a/pids.current": "1\n",
            "a/pids.max": "10\n",
        },
    )
    stats = cgroup.of_process(7, proc_with(tmp_path, "0::/a\n"), root).stats()
    assert isinstance(stats, cgroup2_pb2.Metrics)
    assert (stats.memory.usage, stats.memory.anon, stats.memory.usage_limit) == (100, 7, 2**64 - 1)
    assert (stats.cpu.usage_usec, stats.pids.limit, stats.memory_events.oom_kill) == (55, 10, 1)
    assert cgroup.is_v2_host(root)


def test_a_cgroup_that_is_gone(tmp_path: Path) -> None:
    """NotFound, which CRI takes for a container that ended."""
    proc = proc_with(tmp_path, "4:memory:/gone\n")
    with pytest.raises(NotFound, match="gone: not found"):
        cgroup.of_process(7, proc, tmp_path).stats()


def test_a_cgroup_that_we_share_lists_nobody(tmp_path: Path) -> None:
    """Kill with `all` must not reach beyond the container."""
    hierarchy(tmp_path, {"pids/a/cgroup.procs": f"7\n{os.getpid()}\n"})
    assert cgroup.of_process(7, proc_with(tmp_path, "8:pids:/a\n"), tmp_path).pids() == []


def test_crun_needs_hugetlb_on_v1(tmp_path: Path) -> None:
    """Measured: crun 1.8 refuses a v1 host without it; runc does not care."""
    assert not suits("/usr/bin/crun", tmp_path)
    assert suits("/usr/sbin/runc", tmp_path)
    (tmp_path / "hugetlb").mkdir()
    assert suits("/usr/bin/crun", tmp_path)


def test_output_to_fifo_and_file(tmp_path: Path) -> None:
    """The container gets the client's own ends; a late reader finds what was written (wire.md 2.12)."""
    fifo = tmp_path / "out"
    os.mkfifo(fifo)
    streams = open_stdio(Wanted("", str(fifo), f"file://{tmp_path}/logs/err.log"), lossy=True)
    os.write(streams.fds[1], b"early")
    os.write(streams.fds[2], b"to a file")
    streams.close_fds()
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    assert os.read(reader, 100) == b"early"
    assert os.read(reader, 100) == b"", "no writer is left, so the reader sees the end"
    os.close(reader)
    streams.close()
    assert (tmp_path / "logs" / "err.log").read_bytes() == b"to a file"


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("npipe://x", "unknown STDIO scheme npipe://"),
        ("/no/such/fifo", "cannot open /no/such/fifo"),
    ],
)
def test_bad_output(uri: str, words: str) -> None:
    """Named, and nothing stays open."""
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(InvalidArgument, match=words):
        open_stdio(Wanted(stdout=uri), lossy=False)
    assert len(os.listdir("/proc/self/fd")) == before


def test_input_ends_when_it_is_closed(tmp_path: Path) -> None:
    """A client that leaves is not the end of input, CloseIO is (wire.md 2.12)."""
    fifo = tmp_path / "in"
    os.mkfifo(fifo)
    streams = open_stdio(Wanted(stdin=str(fifo)), lossy=False)
    client = os.open(fifo, os.O_WRONLY)
    os.write(client, b"words")
    os.close(client)
    os.set_blocking(streams.fds[0], False)
    assert os.read(streams.fds[0], 100) == b"words"
    with pytest.raises(BlockingIOError):
        os.read(streams.fds[0], 100)
    streams.close_stdin()
    assert os.read(streams.fds[0], 100) == b""
    streams.close()


def test_the_words_of_a_log_program() -> None:
    """Keys and first values of the query, decoded."""
    assert logger_argv("binary:///bin/log%20it?a=b&c&a=d") == ["/bin/log it", "a", "b", "c"]


def test_the_oci_runtime_follows_the_spec(tmp_path: Path) -> None:
    """systemd's form of cgroupsPath means systemd's driver, unless the operator said otherwise."""
    crun = tmp_path / "crun"
    crun.write_text("#!/bin/sh\n[ $1 = features ] && exit 1\necho 'spec: 1.0.0'\n")
    crun.chmod(0o755)
    settings = Settings(oci_runtime=str(crun))
    assert choose(Options(), settings, "ns", "system.slice:cri:id").systemd
    assert not choose(Options(systemd_cgroup=False), settings, "ns", "system.slice:cri:id").systemd
    assert not choose(Options(), settings, "ns", "/k8s.io/id").systemd
    assert accepts(str(crun), "1.0.2")
    assert not accepts(str(crun), "1.3.0")
    assert accepts("/usr/sbin/runc", "1.3.0")


def test_runcs_options_reach_create() -> None:
    """NoPivotRoot and NoNewKeyring are words of `create`, from runc's message and from TOML (wire.md 4.1)."""
    message = RuncOptions(binary_name="true", no_pivot_root=True, no_new_keyring=True)
    wrapped = AnyMessage(type_url=message.DESCRIPTOR.full_name, value=message.SerializeToString())
    spelled = from_table({"BinaryName": "true", "NoPivotRoot": True, "no_new_keyring": True}, "a test")
    for options in (parse_options(wrapped), spelled):
        assert choose(options, Settings(), "ns").create_words == ("--no-pivot", "--no-new-keyring")
    assert choose(Options(binary_name="true"), Settings(), "ns").create_words == ()


def test_mount_options() -> None:
    """Words become flags, the rest is the file system's data."""
    flags, data = mounts.parse_options(["rw", "rbind", "nosuid", "lowerdir=/a:/b", "loop"])
    assert flags == mounts.MS_BIND | mounts.MS_REC | 2
    assert data == "lowerdir=/a:/b"
    assert mounts.parse_options(["ro", "rw"])[0] == 0


def test_exits_early_and_late() -> None:
    """Whether the child or its watcher is first, the exit arrives once, signals as 128 + n."""

    async def scenario() -> list[Exit]:
        reaper = Reaper()
        reaper.install()
        since = time.time_ns()
        early = spawn(["/bin/sh", "-c", "exit 7"])
        await asyncio.sleep(0.2)
        late = spawn(["/bin/sleep", "30"])
        waiter = reaper.watch(late, since)
        os.kill(late, signal.SIGTERM)
        return [await asyncio.wait_for(reaper.watch(early, since), 5), await asyncio.wait_for(waiter, 5)]

    assert [ended.status for ended in asyncio.run(scenario())] == [7, 143]


def test_children_get_their_descriptors_whatever_numbers_are_taken(tmp_path: Path) -> None:
    """Sources among the targets, and hundreds of others open: each arrives, none is lost."""
    others = [os.open(os.devnull, os.O_RDONLY) for _ in range(300)]
    files = [os.open(tmp_path / str(n), os.O_RDWR | os.O_CREAT) for n in range(6)]

    async def scenario() -> None:
        reaper = Reaper()
        reaper.install()
        script = "for n in 3 4 5; do echo $n >&$n; done"
        await reaper.watch(spawn(["/bin/sh", "-c", script], [*files[:3], files[5], files[4], files[3]]), 0)

    asyncio.run(scenario())
    assert [(tmp_path / str(n)).read_text() for n in (5, 4, 3)] == ["3\n", "4\n", "5\n"]
    for descriptor in (*others, *files):
        os.fstat(descriptor)
        os.close(descriptor)


def test_only_allowed_environment_passes() -> None:
    """containerd's own environment may hold anything (faults.md G11)."""
    env = {"PATH": "/bin", "TTRPC_ADDRESS": "/t", "AWS_SECRET": "x", "SPINWHEEL_RUN_DIR": "/r"}
    assert set(allowed_env(env)) == {"PATH", "TTRPC_ADDRESS", "SPINWHEEL_RUN_DIR"}
    assert Settings.from_env(env).run_dir == Path("/r")
    assert Settings.from_env({}).cache_dir == Path("/var/lib/spinwheel/cache")


def test_a_full_log_costs_lines_not_time() -> None:
    """Lines that do not fit are counted, and the count is told with the next that does."""
    reading, writing = os.pipe2(os.O_NONBLOCK)
    handler = log.FifoHandler(writing, {"pod": "a"})
    record = logging.LogRecord("x", logging.WARNING, "f", 1, "y" * 4000, None, None)
    for _ in range(40):
        handler.emit(record)
    assert handler.lost > 10
    while len(os.read(reading, 1 << 16)) == 1 << 16:
        pass
    handler.emit(logging.LogRecord("x", logging.WARNING, "f", 1, 'say "%s"', ("hi",), None))
    line = os.read(reading, 4096).decode()
    assert 'level=warn msg="say \\"hi\\"" pod=a lost=' in line
    os.close(reading)
    os.close(writing)


def test_the_runtimes_last_error_is_quoted(tmp_path: Path) -> None:
    """Warnings are passed over; what is no JSON is shown as it is."""
    file = tmp_path / "log.json"
    file.write_text('{"level":"error","msg":"no such file"}\n{"level":"warning","msg":"later"}\n')
    assert last_error(file) == "no such file"
    file.write_text("plain words\n")
    assert last_error(file) == "plain words"
    assert last_error(tmp_path / "none") == ""


def test_timeline_rows_are_in_order_of_time() -> None:
    """Steps of several processes are told as one story, in ms."""
    assert rows([("b", 3_000_000), ("a", 1_000_000)]) == [("a", 0.0, 0.0), ("b", 2.0, 2.0)]
