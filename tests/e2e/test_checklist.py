"""wire.md section 6 with native containers: the same expectations of our shim, over crun and runc, and of runc's own.

That the stock shim passes the same file is what makes the expectations containerd's and not ours.
"""

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.harness.events import EventLog
from tests.harness.node import RUNTIME, Node
from tests.native import REFERENCE, pack_busybox

RUNC = "io.containerd.runc.v2"
WAYS = {
    "ours-crun": (RUNTIME, "/usr/bin/crun"),
    "ours-runc": (RUNTIME, "/usr/sbin/runc"),
    "runc-shim": (RUNC, ""),
}


@dataclass
class Way:
    """One runtime to run native containers by."""

    node: Node
    runtime: str
    binary: str
    ids: list[str] = field(default_factory=list)

    @property
    def words(self) -> list[str]:
        """What `ctr run` needs to use it."""
        if not self.binary:
            return ["--runtime", self.runtime]
        file = self.node.containerd.base_dir / f"{Path(self.binary).name}.toml"
        file.write_text(f'BinaryName = "{self.binary}"\n')
        return ["--runtime", self.runtime, "--runtime-config-path", str(file)]

    def run(
        self, task: str, *command: str, words: tuple[str, ...] = (), detach: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """`ctr run`, in the background or to its end."""
        self.ids.append(task)
        how = ["--detach", "--null-io"] if detach else ["--rm"]
        return self.node.ctr("run", *self.words, *how, *words, REFERENCE, task, *command, check=detach)

    def exec(self, task: str, exec_id: str, *command: str) -> subprocess.CompletedProcess[str]:
        """`ctr tasks exec`, to its end."""
        return self.node.ctr("tasks", "exec", "--exec-id", exec_id, task, *command, check=False)

    def clean(self) -> None:
        """Removes what is left."""
        for task in self.ids:
            self.node.remove(task)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, node: Node) -> Iterator[Way]:
    """Each runtime; what a test leaves running is removed."""
    if REFERENCE not in node.ctr("images", "ls", "--quiet").stdout:
        tar = pack_busybox(node.containerd.base_dir / "busybox.tar")
        node.ctr("images", "import", tar)
        tar.unlink()
    made = Way(node, *WAYS[request.param])
    yield made
    made.clean()


def test_exit_code(way: Way) -> None:
    """The program's own code, and nothing left (item 1)."""
    assert way.run("t1", "sh", "-c", "exit 7", detach=False).returncode == 7


def test_exec_status(way: Way) -> None:
    """Output and code of an added process (item 8)."""
    way.run("t8", "sleep", "300")
    done = way.exec("t8", "e", "sh", "-c", "echo hi; exit 5")
    assert (done.stdout, done.returncode) == ("hi\n", 5)


def test_exec_id_twice(way: Way) -> None:
    """The second one is refused while the first lives (item 9)."""
    way.run("t9", "sleep", "300")
    first = threading.Thread(target=way.exec, args=("t9", "d", "sleep", "2"))
    first.start()
    wait_for_processes(way, "t9", 2)
    assert "id d: already exists" in way.exec("t9", "d", "true").stderr
    first.join()


def wait_for_processes(way: Way, task: str, count: int) -> list[str]:
    """The lines of `ctr tasks ps` once there are that many."""
    deadline = time.monotonic() + 10
    while len(lines := way.node.ctr("tasks", "ps", task).stdout.splitlines()[1:]) < count:
        assert time.monotonic() < deadline, lines
        time.sleep(0.02)
    return lines


def test_exec_of_a_missing_program(way: Way) -> None:
    """It is named, and the same exec id works afterwards (item 10)."""
    way.run("t10", "sleep", "300")
    refused = way.exec("t10", "m", "/nope")
    assert refused.returncode != 0
    assert "/nope" in refused.stderr
    assert way.exec("t10", "m", "echo", "x").stdout == "x\n"


def test_ps_lists_execs(way: Way) -> None:
    """Init and execs, the latter by their id (item 11)."""
    way.run("t11", "sleep", "300")
    added = threading.Thread(target=way.exec, args=("t11", "e11", "sleep", "1"))
    added.start()
    lines = wait_for_processes(way, "t11", 2)
    assert any("e11" in line for line in lines)
    added.join()


def test_metrics(way: Way) -> None:
    """Processes, CPU and memory are not zero (item 12)."""
    way.run("t12", "sh", "-c", "while :; do :; done")
    text = way.node.ctr("tasks", "metrics", "--format", "json", "t12").stdout
    figures = json.loads(text)
    assert figures["pids"]["current"] >= 1
    assert figures["memory"]["usage"]["usage"] > 0
    assert figures["cpu"]["usage"]["total"] > 0


def test_pause_and_resume(way: Way) -> None:
    """PAUSED, then RUNNING; a second pause is an error (item 13)."""
    way.run("t13", "sleep", "300")
    way.node.ctr("tasks", "pause", "t13")
    assert way.node.status("t13") == "PAUSED"
    assert way.node.ctr("tasks", "pause", "t13", check=False).returncode != 0
    way.node.ctr("tasks", "resume", "t13")
    assert way.node.status("t13") == "RUNNING"
    assert way.exec("t13", "after", "echo", "on").stdout == "on\n"


def test_kill_of_the_paused(way: Way) -> None:
    """SIGKILL ends a frozen container all the same."""
    way.run("t13k", "sleep", "300")
    way.node.ctr("tasks", "pause", "t13k")
    way.node.ctr("tasks", "kill", "-s", "SIGKILL", "t13k")
    way.node.wait_status("t13k", "STOPPED")


def test_kill_and_code(way: Way) -> None:
    """137, told by `tasks rm` (item 14); a second kill finds nobody (item 15)."""
    way.run("t14", "sleep", "300")
    way.node.ctr("tasks", "kill", "-s", "SIGKILL", "t14")
    way.node.wait_status("t14", "STOPPED")
    assert "process already finished" in way.node.ctr("tasks", "kill", "t14", check=False).stderr
    removed = way.node.ctr("tasks", "rm", "t14", check=False)
    assert removed.returncode == 137


def test_kill_of_an_unknown_exec(way: Way) -> None:
    """Not found (item 16), and a running task is not removed (item 17)."""
    way.run("t16", "sleep", "300")
    assert "not found" in way.node.ctr("tasks", "kill", "--exec-id", "nope", "t16", check=False).stderr
    refused = way.node.ctr("tasks", "rm", "t16", check=False)
    assert refused.returncode != 0
    assert "failed precondition" in refused.stderr
    assert way.node.status("t16") == "RUNNING"
    way.node.ctr("tasks", "rm", "--force", "t16", check=False)
    assert way.node.status("t16") == ""


def test_stdin(way: Way) -> None:
    """What comes late arrives, and its end is the program's end (item 19)."""
    way.ids.append("t19")
    ctr = [str(way.node.containerd.bin_dir / "ctr"), "-a", str(way.node.containerd.address)]
    argv = [*ctr, "-n", way.node.namespace, "run", "--rm", *way.words, REFERENCE, "t19", "cat"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        time.sleep(1)
        said, _ = running.communicate("x\n", timeout=20)
    assert (said, running.returncode) == ("x\n", 0)


def test_null_and_file_output(way: Way, tmp_path: Path) -> None:
    """Nothing, or both streams in one file (item 20)."""
    both = "echo out; echo err >&2"
    quiet = way.run("t20", "sh", "-c", both, words=("--null-io",), detach=False)
    assert (quiet.stdout, quiet.stderr, quiet.returncode) == ("", "", 0)
    file = tmp_path / "deep" / "o.log"
    way.run("t20f", "sh", "-c", both, words=("--log-uri", f"file://{file}"), detach=False)
    assert sorted(file.read_text().split()) == ["err", "out"]


@pytest.mark.parametrize("scheme", ["binary", "binary-v2"])
def test_log_program(way: Way, tmp_path: Path, scheme: str) -> None:
    """It has the two variables and descriptors 3, 4, 5 only, and ends after the container (item 21)."""
    logger = tmp_path / "logger.sh"
    logger.write_text(
        f"#!/bin/sh\nexport -p > {tmp_path}/env\necho $1=$2 > {tmp_path}/words\n"
        f"printf r >&5; exec 5>&-\ncat <&3 > {tmp_path}/out & cat <&4 > {tmp_path}/err\nwait\n"
        f"echo ended > {tmp_path}/end\n"
    )
    logger.chmod(0o755)
    words = ("--log-uri", f"{scheme}://{logger}?a=b")
    way.run("t21", "sh", "-c", "echo out; echo err >&2", words=words, detach=False)
    told = dict(re.findall(r"export (\w+)='([^']*)'", (tmp_path / "env").read_text()))
    assert told.pop("CONTAINER_ID") == "t21"
    assert told.pop("CONTAINER_NAMESPACE") == way.node.namespace
    assert set(told) <= {"PWD", "OLDPWD", "PATH"}, "which the shell sets itself"
    read = {name: (tmp_path / name).read_text().strip() for name in ("words", "out", "err", "end")}
    assert read == {"words": "a=b", "out": "out", "err": "err", "end": "ended"}


def test_terminal(way: Way) -> None:
    """A console of its own, with the window's size (item 22)."""
    way.ids.append("t22")
    ctr = f"{way.node.containerd.bin_dir}/ctr -a {way.node.containerd.address} -n {way.node.namespace}"
    inner = f"{ctr} run --rm -t {' '.join(way.words)} {REFERENCE} t22 sh -c 'tty; sleep 0.5; stty size'"
    argv = ["script", "-qec", f"stty rows 37 cols 91; {inner}", "/dev/null"]
    done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=30)
    assert done.stdout.split() == ["/dev/pts/0", "37", "91"]


def test_bad_program(way: Way) -> None:
    """Create names it; non-zero; nothing left (item 23)."""
    refused = way.run("t23", "/nope", detach=False)
    assert refused.returncode != 0
    assert "/nope" in refused.stderr


def of_task(events: EventLog, node: Node, task: str) -> list[str]:
    """The topics of one task so far, with the exit told apart."""
    mine = [e for e in events.events if e.task == f"{node.namespace}/{task}"]
    return [f"{e.topic.rpartition('/')[2]}{'' if e.letter else ' exec' * ('exit' in e.topic)}" for e in mine]


def test_events(way: Way, events: EventLog) -> None:
    """In order: create, start, exec, pause, resume, exit, delete (item 24)."""
    way.run("t24", "sleep", "300")
    way.exec("t24", "e", "true")
    way.node.ctr("tasks", "pause", "t24")
    way.node.ctr("tasks", "resume", "t24")
    way.node.ctr("tasks", "kill", "-s", "SIGKILL", "t24")
    way.node.wait_status("t24", "STOPPED")
    way.node.ctr("tasks", "rm", "t24", check=False)
    wanted = ["create", "start", "exec-added", "exec-started", "exit exec", "paused", "resumed", "exit", "delete"]
    assert events.wait_for(lambda _: of_task(events, way.node, "t24")[-1:] == ["delete"])
    assert of_task(events, way.node, "t24") == wanted


def test_instant_death_keeps_the_order(way: Way) -> None:
    """Twenty that end at once: the ledger of events around this test has the words (item 25)."""
    for _ in range(20):
        assert way.run("t25", "true", detach=False).returncode == 0


def test_execs_end_before_their_init(way: Way, events: EventLog) -> None:
    """All die with the container, and the init is told of last (wire.md 3.6)."""
    way.run("t25x", "sleep", "300")
    added = threading.Thread(target=way.exec, args=("t25x", "e", "sleep", "300"))
    added.start()
    wait_for_processes(way, "t25x", 2)
    way.node.ctr("tasks", "kill", "-s", "SIGKILL", "t25x")
    way.node.wait_status("t25x", "STOPPED")
    way.node.ctr("tasks", "rm", "t25x", check=False)
    added.join()
    assert events.wait_for(lambda _: of_task(events, way.node, "t25x")[-1:] == ["delete"])
    assert of_task(events, way.node, "t25x")[-3:] == ["exit exec", "exit", "delete"]


def test_killed_shim(way: Way, events: EventLog) -> None:
    """containerd tells 137 and delete; processes and bundle are gone, the id is free (items 26, 27)."""
    for _ in range(2):
        way.run("t26", "sleep", "300")
        init = way.node.pid("t26")
        os.kill(way.node.server_pid("t26"), signal.SIGKILL)
        assert events.wait_for(lambda _: of_task(events, way.node, "t26")[-1:] == ["delete"])
        way.node.wait_status("t26", "")
        assert not Path(f"/proc/{init}/ns").exists() or not os.listdir(f"/proc/{init}/ns")
        assert not way.node.bundle("t26").exists()
        way.node.ctr("containers", "rm", "t26")


def test_oversized_error(way: Way) -> None:
    """Words of 100,000 characters are an error of that call alone (item 31)."""
    way.run("t31", "sleep", "300")
    assert way.exec("t31", "big", "/" + "x" * 100_000).returncode != 0
    assert way.exec("t31", "small", "echo", "x").stdout == "x\n"


def test_limits_can_be_changed(way: Way) -> None:
    """`ctr tasks` has no update, so the cgroup's own file shows what an exec of limits did at Create."""
    way.run("t36", "sleep", "300", words=("--memory-limit", str(64 << 20)))
    figures = json.loads(way.node.ctr("tasks", "metrics", "--format", "json", "t36").stdout)
    assert figures["memory"]["usage"]["limit"] == 64 << 20
