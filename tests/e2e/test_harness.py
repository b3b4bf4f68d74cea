"""The harness itself, over real daemons: what later tests take for granted.

Native containers of the runc shim stand in for ours here, so a failure is the harness's.
"""

import os
import secrets
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apps import App, Component
from tests.guests.bad import no_handler
from tests.harness.containerd import PrivateContainerd, mounts_below, processes_of
from tests.harness.events import Event, EventLog, violations
from tests.harness.ledger import Ledger, describe
from tests.harness.ledger_sources import SHARED, Scope, sources
from tests.harness.tools import containerd_folder
from tests.images import Shape, pack

BUSYBOX = shutil.which("busybox")
RUNC = "io.containerd.runc.v2"
NOWHERE = "io.containerd.nowhere.v1"

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="containerd needs root"),
    pytest.mark.skipif(shutil.which("go") is None, reason="tools/build.sh needs Go"),
]
needs_runc = pytest.mark.skipif(
    not (BUSYBOX and shutil.which("runc")), reason="a native container needs runc and busybox"
)

# What `ctr run` says of each shape (wire.md 5.3). "not installed" is the last word before a shim.
RUN_WORDS = {
    Shape.SPIN: "not installed",
    Shape.SPIN_ARCHIVE: "not installed",
    Shape.APP_AS_CONFIG: "unknown image config media type",
    Shape.WKG: "unknown image config media type",
    Shape.INDEX: "no match for platform",
}


@pytest.fixture(scope="module", params=["containerd", "next"])
def daemon(request: pytest.FixtureRequest) -> Iterator[PrivateContainerd]:
    """Each containerd that we support, one for all tests of this file."""
    with PrivateContainerd(containerd_folder(request.param)) as started:
        yield started


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    """Return a root filesystem with nothing but busybox."""
    (tmp_path / "bin").mkdir()
    shutil.copy(BUSYBOX or "", tmp_path / "bin/busybox")
    return tmp_path


def run_sleeper(daemon: PrivateContainerd, rootfs: Path, name: str) -> None:
    """Start a native container that does nothing for a long time."""
    command = ("/bin/busybox", "sleep", "1000")
    daemon.ctr("run", "--detach", "--runtime", RUNC, "--rootfs", rootfs, name, *command)


def has_ended(events: list[Event]) -> bool:
    """Tell whether a task has ended."""
    return any(event.topic == "/tasks/exit" for event in events)


@pytest.mark.parametrize("shape", Shape)
def test_every_shape_imports_under_its_name(daemon: PrivateContainerd, shape: Shape, tmp_path: Path) -> None:
    """`ctr images import` takes each shape; `ctr run` goes as far as wire.md says."""
    reference = f"test.local/{shape.name.lower()}:1"
    app = App([Component(no_handler(), files={"a.txt": b"a", "b.txt": b"b" * 200})])
    daemon.ctr("images", "import", pack(app, tmp_path / "i.tar", reference=reference, shape=shape))
    assert reference in daemon.ctr("images", "ls", "--quiet").stdout.split()
    ran = daemon.ctr("run", "--runtime", NOWHERE, reference, "one", "/", check=False)
    daemon.ctr("containers", "rm", "one", check=False)
    assert RUN_WORDS[shape] in ran.stderr


@needs_runc
def test_a_whole_life_leaves_the_books_as_they_were(daemon: PrivateContainerd, rootfs: Path) -> None:
    """While a container runs, the ledgers show it; once it is deleted they are balanced."""
    ledger = Ledger(sources(Scope(daemon, cgroup_parents=["/default"])))
    before = ledger.snapshot()
    with EventLog(daemon) as log:
        life = f"life-{secrets.token_hex(4)}"  # cgroups are named by it, and other daemons may use them too
        run_sleeper(daemon, rootfs, life)
        gained = ledger.settled(before, seconds=0)
        daemon.ctr("tasks", "rm", "--force", life)
        daemon.ctr("containers", "rm", life)
        assert log.wait_for(has_ended)
        # runc's shim may leave before its last event is sent, so that the word may lack its end.
        assert violations(log.events, alive={f"default/{life}"}) == []
    shown = {"L1 processes", "L3 sockets", "L4 cgroups", "L6 files", "L7 objects"}
    if os.environ.get(
        SHARED
    ):  # then only what is below the daemon's folder, and runc's shim puts its socket elsewhere
        shown -= {"L3 sockets"}
    assert shown <= gained.keys()
    left = ledger.settled(before)
    assert left == {}, describe(left)


@needs_runc
def test_a_killed_daemon_comes_back_to_its_tasks(daemon: PrivateContainerd, rootfs: Path) -> None:
    """`restart` is a crash of the daemon only: the task and its pid stay."""
    run_sleeper(daemon, rootfs, "stays")
    before = daemon.ctr("tasks", "ls").stdout
    daemon.restart(signal.SIGKILL)
    assert before == daemon.ctr("tasks", "ls").stdout
    daemon.ctr("tasks", "rm", "--force", "stays")
    daemon.ctr("containers", "rm", "stays")


@needs_runc
def test_leaving_undoes_what_still_runs(rootfs: Path) -> None:
    """A test that fails half way leaves no process, mount or folder."""
    with PrivateContainerd(containerd_folder()) as daemon:
        run_sleeper(daemon, rootfs, "forgotten")
        assert list(processes_of(daemon.base_dir)) != []
    assert list(processes_of(daemon.base_dir)) == []
    assert mounts_below(daemon.base_dir) == []
    assert not daemon.base_dir.exists()
