"""containerd goes away and comes back: the same pids, no failed request, no lost event.

On a node of its own: the session's event log would end with the daemon.
"""

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.containerd import PrivateContainerd
from tests.harness.events import EventLog, violations
from tests.harness.load import Load
from tests.harness.node import Node
from tests.harness.tools import containerd_folder, containerds
from tests.harness.ways import CHOSEN, RUNC, WAYS, Way
from tests.native import pack_busybox


@pytest.fixture(params=containerds())
def own_node(request: pytest.FixtureRequest, programs: Path, shim_only: Path) -> Iterator[Node]:
    """A node whose containerd may be restarted; `next` is 2.4, which sends BootstrapParams."""
    base = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    env = {
        "SPINWHEEL_RUN_DIR": str(base / "run"),
        "SPINWHEEL_CACHE_DIR": str(base / "cache"),
        "SPINWHEEL_HOST": str(programs / "spinwheel-host"),
    }
    folder = containerd_folder(request.param)
    with PrivateContainerd(folder, base_dir=base, env=env, path_prepend=[shim_only]) as containerd:
        made = Node(containerd, programs, base / "run")
        yield made
        made.stop_zygotes()
    shutil.rmtree(base, ignore_errors=True)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_tasks_live_through_a_restart(own_node: Node, how: signal.Signals) -> None:
    """Same pid, requests answered throughout, kill works after, exit told once (items 29, 30)."""
    node = own_node
    image = node.add_guest("hello-p2")
    for name in ("lives", "dies"):
        node.run(name, image)
    pid, dying = node.pid("lives"), node.pid("dies")
    with Load([node.url("lives")]) as load:
        node.containerd.restart(how, down=0.5)
        assert node.pid("lives") == pid
        os.kill(dying, signal.SIGKILL)
        node.wait_status("dies", "STOPPED")
    assert load.failed == []
    assert load.answered > 20
    for name in ("lives", "dies"):
        node.remove(name)


def test_events_wait_for_containerd(own_node: Node) -> None:
    """A task that dies while containerd is away: its exit is told afterwards, in order, once."""
    node = own_node
    node.run("gap", node.add_guest("hello-p2"))
    pid = node.pid("gap")
    killer = threading.Timer(0.3, os.kill, (pid, signal.SIGKILL))
    killer.start()
    node.containerd.restart(signal.SIGTERM, down=1.0)
    with EventLog(node.containerd) as log:
        node.wait_status("gap", "STOPPED")
        removed = node.ctr("tasks", "rm", "gap", check=False)
        assert "137" in removed.stdout + removed.stderr
        assert log.wait_for(lambda seen: any(e.letter == "D" for e in seen))
        late = [e.letter for e in log.events if e.task == f"{node.namespace}/gap"]
    assert late in (["E", "D"], ["D"]), "the exit came before or after the log could listen, but once"
    assert violations([], alive=()) == []
    node.ctr("containers", "rm", "gap")


@pytest.mark.parametrize("name", CHOSEN)
def test_native_tasks_live_through_a_restart(own_node: Node, name: str) -> None:
    """Still RUNNING, and killable with its exit told; who died meanwhile has its code (items 29, 30)."""
    node = own_node
    way = Way(node, *WAYS[name])
    tar = pack_busybox(node.containerd.base_dir / "busybox.tar")
    node.ctr("images", "import", tar)
    for task in ("lives", "dies"):
        way.run(task, "sleep", "300")
    pid, dying = node.pid("lives"), node.pid("dies")
    node.containerd.restart(meanwhile=lambda: os.kill(dying, signal.SIGKILL))
    assert (node.status("lives"), node.pid("lives")) == ("RUNNING", pid)
    if way.runtime != RUNC:  # it may list no pid, and then containerd takes it for leaked (wire.md 2.9)
        node.wait_status("dies", "STOPPED")
        assert "exit code 137" in node.ctr("tasks", "rm", "dies", check=False).stderr
    with EventLog(node.containerd) as log:
        node.ctr("tasks", "kill", "-s", "SIGKILL", "lives")
        assert log.wait_for(lambda seen: any(e.letter == "E" and e.body["pid"] == pid for e in seen))
    node.wait_status("lives", "STOPPED")
    way.clean()
