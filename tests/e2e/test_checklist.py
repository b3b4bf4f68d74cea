"""wire.md section 6 with native containers: our shim over crun and over runc, and runc's own shim.

That the stock shim passes the same file is what makes the expectations containerd's and not ours.
"""

import asyncio
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from shim.pb import shim_pb2 as pb
from shim.ttrpc.client import connect
from tests.harness.containerd import QUIET
from tests.harness.events import EventLog
from tests.harness.node import Node
from tests.harness.processes import is_running
from tests.harness.ways import CHOSEN, RUNC, WAYS, Way
from tests.native import REFERENCE

SOCKETS = Path("/run/containerd/s")
RESOURCES = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"


@pytest.fixture(params=CHOSEN)
def way(request: pytest.FixtureRequest, node: Node, events: EventLog, busybox: str) -> Iterator[Way]:
    """Each runtime; what a test leaves running is removed."""
    made = Way(node, *WAYS[request.param])
    yield made
    made.clean()
    if made.runtime == RUNC:  # it may end before its last event is sent: the word is not checked
        events.foreign |= {f"{node.namespace}/{task}" for task in made.ids}


def test_exit_code(way: Way) -> None:
    """The program's own code, and nothing left (item 1)."""
    assert way.run("n1", "sh", "-c", "exit 7", detach=False).returncode == 7


def test_background_task(way: Way) -> None:
    """RUNNING, with a live pid whose parent is the shim (item 6)."""
    way.run("n6", "sleep", "300")
    assert way.node.status("n6") == "RUNNING"
    command = Path(f"/proc/{way.node.server_pid('n6')}/cmdline").read_bytes().decode().replace("\0", " ")
    assert "containerd-shim-" in command
    assert "-id n6 " in command


def test_listing_never_waits(way: Way) -> None:
    """`ctr tasks ls` is quick and never says UNKNOWN while a create is under way (item 7)."""
    creating = threading.Thread(target=way.run, args=("n7", "sleep", "300"))
    creating.start()
    slowest = 0.0
    while creating.is_alive():
        began = time.monotonic()
        assert "UNKNOWN" not in way.node.ctr("tasks", "ls").stdout
        slowest = max(slowest, time.monotonic() - began)
    creating.join()
    assert way.node.status("n7") == "RUNNING"
    assert 0 < slowest < 2.0


def test_exec_status(way: Way) -> None:
    """Output and code of an added process (item 8)."""
    way.run("n8", "sleep", "300")
    done = way.exec("n8", "e", "sh", "-c", "echo hi; exit 5")
    assert (done.stdout, done.returncode) == ("hi\n", 5)


def test_exec_id_twice(way: Way) -> None:
    """The second one is refused while the first lives (item 9)."""
    way.run("n9", "sleep", "300")
    first = threading.Thread(target=way.exec, args=("n9", "twice", "sleep", "2"))
    first.start()
    wait_for_exec(way, "n9", "twice")
    assert "id twice: already exists" in way.exec("n9", "twice", "true").stderr
    first.join()


def wait_for_exec(way: Way, task: str, exec_id: str) -> None:
    """Returns once `ctr tasks ps` shows the added process by its id, and not only what is making it."""
    deadline = time.monotonic() + 10
    while exec_id not in (listed := way.node.ctr("tasks", "ps", task).stdout.partition("\n")[2]):
        assert time.monotonic() < deadline, listed
        time.sleep(0.02)


def test_exec_of_a_missing_program(way: Way) -> None:
    """It is named, and the same exec id works afterwards (item 10)."""
    way.run("n10", "sleep", "300")
    refused = way.exec("n10", "m", "/nope")
    assert refused.returncode != 0
    assert "/nope" in refused.stderr
    assert way.exec("n10", "m", "echo", "x").stdout == "x\n"


def test_ps_lists_execs(way: Way) -> None:
    """Init and execs, the latter by their id (item 11)."""
    way.run("n11", "sleep", "300")
    added = threading.Thread(target=way.exec, args=("n11", "e11", "sleep", "1"))
    added.start()
    wait_for_exec(way, "n11", "e11")
    added.join()


def test_metrics(way: Way) -> None:
    """Processes, CPU and memory are not zero (item 12)."""
    way.run("n12", "sh", "-c", "while :; do :; done")
    text = way.node.ctr("tasks", "metrics", "--format", "json", "n12").stdout
    figures = json.loads(text)
    assert figures["pids"]["current"] >= 1
    assert figures["memory"]["usage"]["usage"] > 0
    assert figures["cpu"]["usage"]["total"] > 0


def test_pause_and_resume(way: Way) -> None:
    """PAUSED, then RUNNING; a second pause is an error (item 13)."""
    way.run("n13", "sleep", "300")
    way.node.ctr("tasks", "pause", "n13")
    assert way.node.status("n13") == "PAUSED"
    assert way.node.ctr("tasks", "pause", "n13", check=False).returncode != 0
    way.node.ctr("tasks", "resume", "n13")
    assert way.node.status("n13") == "RUNNING"
    assert way.exec("n13", "after", "echo", "on").stdout == "on\n"


def test_kill_of_the_paused(way: Way) -> None:
    """SIGKILL ends a frozen container all the same."""
    way.run("n13k", "sleep", "300")
    way.node.ctr("tasks", "pause", "n13k")
    way.node.ctr("tasks", "kill", "-s", "SIGKILL", "n13k")
    way.node.wait_status("n13k", "STOPPED")


def test_kill_and_code(way: Way) -> None:
    """137, told by `tasks rm` (item 14); a second kill finds nobody (item 15)."""
    way.run("n14", "sleep", "300")
    way.node.ctr("tasks", "kill", "-s", "SIGKILL", "n14")
    way.node.wait_status("n14", "STOPPED")
    assert "process already finished" in way.node.ctr("tasks", "kill", "n14", check=False).stderr
    removed = way.node.ctr("tasks", "rm", "n14", check=False)
    assert "exit code 137" in removed.stderr


def test_kill_of_an_unknown_exec(way: Way) -> None:
    """Not found (item 16); a running task is not removed (item 17), but by force (item 18)."""
    way.run("n16", "sleep", "300")
    assert "not found" in way.node.ctr("tasks", "kill", "--exec-id", "nope", "n16", check=False).stderr
    refused = way.node.ctr("tasks", "rm", "n16", check=False)
    assert refused.returncode != 0
    assert "failed precondition" in refused.stderr
    assert way.node.status("n16") == "RUNNING"
    way.node.ctr("tasks", "rm", "--force", "n16", check=False)
    assert way.node.status("n16") == ""


def test_stdin(way: Way) -> None:
    """What comes late arrives, and its end is the program's end (item 19)."""
    way.ids.append("n19")
    ctr = [str(way.node.containerd.bin_dir / "ctr"), "-a", str(way.node.containerd.address)]
    argv = [*ctr, "-n", way.node.namespace, "run", "--rm", *way.words, REFERENCE, "n19", "cat"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        time.sleep(1)
        said, _ = running.communicate("x\n", timeout=20)
    assert (said, running.returncode) == ("x\n", 0)


def test_null_and_file_output(way: Way, tmp_path: Path) -> None:
    """Nothing, or both streams in one file (item 20)."""
    both = "echo out; echo err >&2"
    quiet = way.run("n20", "sh", "-c", both, words=("--null-io",), detach=False)
    assert (quiet.stdout, quiet.stderr, quiet.returncode) == ("", "", 0)
    file = tmp_path / "deep" / "o.log"
    way.run("n20f", "sh", "-c", both, words=("--log-uri", f"file://{file}"), detach=False)
    assert sorted(file.read_text().split()) == ["err", "out"]


@pytest.mark.parametrize("scheme", ["binary", "binary-v2"])
def test_log_program(way: Way, tmp_path: Path, scheme: str) -> None:
    """It has the two variables and descriptors 3, 4, 5 only, and ends after the container (item 21)."""
    if scheme == "binary-v2" and way.runtime == RUNC:
        pytest.skip(
            "the runc shim knows binary-v2 from 2.3 on (wire.md 2.12); the tests' containerd is older"
        )
    logger = tmp_path / "logger.sh"
    logger.write_text(
        f"#!/bin/sh\ntrap '' TERM\nexport -p > {tmp_path}/env\necho $1=$2 > {tmp_path}/words\n"
        f"printf r >&5; exec 5>&-\ncat <&3 > {tmp_path}/out & cat <&4 > {tmp_path}/err\nwait\n"
        f"echo ended > {tmp_path}/end\n"
    )
    logger.chmod(0o755)
    words = ("--log-uri", f"{scheme}://{logger}?a=b")
    way.run("n21", "sh", "-c", "echo out; echo err >&2", words=words, detach=False)
    told = dict(re.findall(r"export (\w+)='([^']*)'", (tmp_path / "env").read_text()))
    assert told.pop("CONTAINER_ID") == "n21"
    assert told.pop("CONTAINER_NAMESPACE") == way.node.namespace
    assert set(told) <= {"PWD", "OLDPWD", "PATH"}, "which the shell sets itself"
    read = {name: (tmp_path / name).read_text().strip() for name in ("words", "out", "err", "end")}
    assert read == {"words": "a=b", "out": "out", "err": "err", "end": "ended"}


def test_terminal(way: Way) -> None:
    """A console of its own, with the window's size (item 22)."""
    way.ids.append("n22")
    ctr = f"{way.node.containerd.bin_dir}/ctr -a {way.node.containerd.address} -n {way.node.namespace}"
    inner = f"{ctr} run --rm -t {' '.join(way.words)} {REFERENCE} n22 sh -c 'tty; sleep 0.5; stty size'"
    argv = ["script", "-qec", f"stty rows 37 cols 91; {inner}", "/dev/null"]
    env = {**os.environ, **QUIET}
    ours, theirs = os.pipe()  # an input that does not end
    done = subprocess.run(argv, capture_output=True, text=True, stdin=ours, env=env, timeout=30)
    os.close(ours)
    os.close(theirs)
    assert done.stdout.split() == ["/dev/pts/0", "37", "91"]


def test_bad_program(way: Way) -> None:
    """Create names it; non-zero; nothing left (item 23)."""
    refused = way.run("n23", "/nope", detach=False)
    assert refused.returncode != 0
    assert "/nope" in refused.stderr


def of_task(events: EventLog, node: Node, task: str) -> list[str]:
    """The topics of one task's latest life so far, with the exit of an exec told apart."""
    mine = [e for e in events.events if e.task == f"{node.namespace}/{task}"]
    begins = [at for at, e in enumerate(mine) if e.letter == "C"]
    mine = mine[begins[-1] :] if begins else []
    return [f"{e.topic.rpartition('/')[2]}{'' if e.letter else ' exec' * ('exit' in e.topic)}" for e in mine]


def test_events(way: Way, events: EventLog) -> None:
    """In order: create, start, exec, pause, resume, exit, delete (item 24)."""
    way.run("n24", "sleep", "300")
    way.exec("n24", "e", "true")
    way.node.ctr("tasks", "pause", "n24")
    way.node.ctr("tasks", "resume", "n24")
    way.node.ctr("tasks", "kill", "-s", "SIGKILL", "n24")
    way.node.wait_status("n24", "STOPPED")
    way.node.ctr("tasks", "rm", "n24", check=False)
    wanted = [
        "create",
        "start",
        "exec-added",
        "exec-started",
        "exit exec",
        "paused",
        "resumed",
        "exit",
        "delete",
    ]
    assert events.wait_for(lambda _: of_task(events, way.node, "n24")[-1:] == ["delete"])
    assert of_task(events, way.node, "n24") == wanted


def test_instant_death_keeps_the_order(way: Way) -> None:
    """Twenty that end at once: the ledger of events around this test has the words (item 25)."""
    for _ in range(20):
        assert way.run("n25", "true", detach=False).returncode == 0


def test_execs_end_before_their_init(way: Way, events: EventLog) -> None:
    """All die with the container, and the init is told of last (wire.md 3.6)."""
    way.run("n25x", "sleep", "300")
    added = threading.Thread(target=way.exec, args=("n25x", "e25", "sleep", "300"))
    added.start()
    wait_for_exec(way, "n25x", "e25")
    way.node.ctr("tasks", "kill", "-s", "SIGKILL", "n25x")
    way.node.wait_status("n25x", "STOPPED")
    way.node.ctr("tasks", "rm", "n25x", check=False)
    added.join()
    assert events.wait_for(lambda _: "exit" in of_task(events, way.node, "n25x"))
    exits = [topic for topic in of_task(events, way.node, "n25x") if "exit" in topic]
    assert exits == ["exit exec", "exit"]


def test_killed_shim(way: Way, events: EventLog) -> None:
    """containerd tells 137 and delete; processes and bundle are gone, the id is free (items 26, 27)."""
    sockets = set(SOCKETS.iterdir())
    for _ in range(2):
        way.run("n26", "sleep", "300")
        init, socket = way.node.pid("n26"), way.socket("n26")
        os.kill(way.node.server_pid("n26"), signal.SIGKILL)
        assert events.wait_for(lambda _: of_task(events, way.node, "n26")[-1:] == ["delete"])
        way.node.wait_status("n26", "")
        assert not is_running(init)
        assert way.runtime == RUNC or not socket.exists()
        for left in set(SOCKETS.iterdir()) - sockets if way.runtime == RUNC else ():
            left.unlink()  # runc's shim leaves both of its own (wire.md 2.9)
        assert not way.node.bundle("n26").exists()
        way.node.ctr("containers", "rm", "n26")


def test_oversized_error(way: Way) -> None:
    """Words of 100,000 characters are an error of that call alone (item 31)."""
    way.run("n31", "sleep", "300")
    # Of runc's own shim less: it never answers an exec of 100,000 characters.
    length = 2_000 if way.runtime == RUNC else 100_000
    assert way.exec("n31", "big", "/" + "x" * length).returncode != 0
    assert way.exec("n31", "small", "echo", "x").stdout == "x\n"


def test_limits_can_be_changed(way: Way) -> None:
    """An Update, which `ctr` has no word for, is in the figures that follow (wire.md 3.1)."""
    way.run("n36", "sleep", "300", words=("--memory-limit", str(64 << 20)))
    assert memory_limit(way, "n36") == 64 << 20
    resources = AnyMessage(type_url=RESOURCES, value=b'{"memory":{"limit":50331648}}')
    request = pb.UpdateTaskRequest(id="n36", resources=resources).SerializeToString()

    async def update() -> None:
        client = await connect(str(way.socket("n36")))
        await client.call("containerd.task.v3.Task", "Update", request, 10)
        client.close()

    asyncio.run(update())
    assert memory_limit(way, "n36") == 48 << 20


def memory_limit(way: Way, task: str) -> int:
    """Bytes that the task's cgroup allows, as containerd tells."""
    figures = json.loads(way.node.ctr("tasks", "metrics", "--format", "json", task).stdout)
    return int(figures["memory"]["usage"]["limit"])
