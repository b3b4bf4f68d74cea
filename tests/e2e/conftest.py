"""A node for the end-to-end tests, and a ledger around each of them.

Laws: a test that leaves a process, mount, socket, cgroup, file or containerd object fails, whatever else it
shows; events are collected from the first test to the last.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guests.build import guest_path
from tests.harness.containerd import PrivateContainerd
from tests.harness.events import EventLog, violations
from tests.harness.ledger import Ledger, describe
from tests.harness.ledger_sources import SHARED, Scope, sources
from tests.harness.node import Node
from tests.harness.tools import containerd_folder
from tests.native import REFERENCE, pack_busybox

HUGETLB = Path("/sys/fs/cgroup/hugetlb")


@pytest.fixture(scope="session")
def programs() -> Path:
    """The folder of our programs: that of the tests' own environment, unless SPINWHEEL_BIN names another."""
    folder = Path(os.environ.get("SPINWHEEL_BIN") or Path(sys.prefix) / "bin")
    for name in ("containerd-shim-spin-v2", "spinwheel-host", "spinwheel-shim"):
        assert (folder / name).exists(), f"wanted {name} in {folder}; run ./install.sh test"
    return folder


@pytest.fixture(scope="session")
def hugetlb() -> Iterator[None]:
    """What crun insists on where cgroups are v1 (design.md section 8); unmounted again."""
    if HUGETLB.exists() or Path("/sys/fs/cgroup/cgroup.controllers").exists():
        yield
        return
    HUGETLB.mkdir()
    subprocess.run(["mount", "-t", "cgroup", "-o", "hugetlb", "cgroup", HUGETLB], check=True)
    yield
    if not os.environ.get(SHARED):
        subprocess.run(["umount", "--lazy", HUGETLB], check=True)
        HUGETLB.rmdir()


@pytest.fixture(scope="session")
def shim_only(programs: Path) -> Iterator[Path]:
    """A folder with nothing but the shim's name, as an installation links it into PATH."""
    with tempfile.TemporaryDirectory(prefix="sw-bin-") as folder:
        (Path(folder) / "containerd-shim-spin-v2").symlink_to(programs / "containerd-shim-spin-v2")
        yield Path(folder)


@pytest.fixture(scope="session")
def node(programs: Path, shim_only: Path, hugetlb: None) -> Iterator[Node]:
    """A node whose zygote is up and whose images are there."""
    base = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    env = {
        "SPINWHEEL_RUN_DIR": str(base / "run"),
        "SPINWHEEL_CACHE_DIR": str(base / "cache"),
        "SPINWHEEL_HOST": str(programs / "spinwheel-host"),
    }
    with PrivateContainerd(
        containerd_folder(), base_dir=base, env=env, path_prepend=[shim_only]
    ) as containerd:
        made = Node(containerd, programs, base / "run")
        image = made.add_guest("hello-p2")
        for binary in ("crun", "runc"):  # each makes its state folder the first time
            made.run("warm-up", image, options={"BinaryName": binary})
            made.remove("warm-up")
        yield made
        made.stop_zygotes()
    shutil.rmtree(base, ignore_errors=True)


@pytest.fixture(scope="session")
def p2(node: Node) -> str:
    """The reference of the Rust guest on WASI 0.2."""
    return node.add_guest("hello-p2")


@pytest.fixture(scope="session")
def p3(node: Node) -> str:
    """The reference of the Rust guest on WASI 0.3."""
    return node.add_guest("hello-p3")


@pytest.fixture(scope="session")
def busybox(node: Node) -> str:
    """The reference of an ordinary container image, unpacked."""
    tar = pack_busybox(node.containerd.base_dir / "busybox.tar")
    node.ctr("images", "import", tar)
    tar.unlink()
    node.ctr("run", "--rm", "--runtime", "io.containerd.runc.v2", REFERENCE, "unpack", "true")
    return REFERENCE


@pytest.fixture(scope="session")
def events(node: Node) -> Iterator[EventLog]:
    """All events from here on."""
    with EventLog(node.containerd) as log:
        yield log


@pytest.fixture
def ledger(node: Node) -> Ledger:
    """The books L1 to L7 over the node."""
    scope = Scope(node.containerd, cgroup_parents=(node.namespace,), files=(node.run_dir,))
    kept = tuple(str(node.run_dir / name) for name in ("verified", "compiling"))
    return Ledger(sources(scope), ignore=kept, may_shrink=("L5 descriptors",))


@pytest.fixture(autouse=True)
def nothing_is_lost(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test of the node that leaves anything behind, or whose tasks' events are wrong."""
    if "node" not in request.fixturenames:
        yield
        return
    books: Ledger = request.getfixturevalue("ledger")
    log: EventLog = request.getfixturevalue("events")
    already = len(log.events)
    before = books.snapshot()
    yield
    lost = books.settled(before)
    assert not lost, describe(lost)
    foreign, log.foreign = log.foreign, set()
    wrong = violations(e for e in log.events[already:] if e.task not in foreign)
    assert not wrong, "\n".join(wrong)


@pytest.fixture
def guest_bytes() -> bytes:
    """The WASI 0.2 guest's wasm."""
    return guest_path("hello-p2").read_bytes()
