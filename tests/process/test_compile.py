"""The compile sandbox, on the real compiler: what it may touch, and how it ends when it takes too much."""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cache.key import Key
from cache.refused import Refused
from shim import cgroup
from shim.guest.compiler import Compiler, Limits
from tests.guests.bombs import all_bombs, modest
from tests.guests.build import guest_path

HOST = Path(os.environ.get("SPINWHEEL_BIN") or Path(sys.prefix) / "bin") / "spinwheel-host"
KEY = Key("sha256:" + "a" * 64, "f" * 64, "native")
TIGHT = Limits(cpu_seconds=2, memory_mib=512, output_mib=64, wall_seconds=60)
BOMBS = all_bombs()
SLOW = "many-long-functions"


def compiling(tmp_path: Path, wasm: bytes, limits: Limits = TIGHT) -> Path:
    """The output of one compilation; raises what it raises."""
    source = os.memfd_create("wasm")
    os.write(source, wasm)
    output = tmp_path / "code"
    try:
        Compiler(HOST, "test", tmp_path / "turns", limits).compile(KEY, source, output)
    finally:
        os.close(source)
    return output


def compilers() -> list[int]:
    """Compilers that this process has started and not yet waited for."""
    lists = [path.read_text() for path in Path("/proc/self/task").glob("*/children")]
    found = [int(pid) for text in lists for pid in text.split()]
    return [pid for pid in found if b"compile" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@contextmanager
def a_running_compiler(tmp_path: Path) -> Iterator[int]:
    """One that has shut itself in and is busy; its pid. It ends by its own limit."""
    ended: list[BaseException] = []

    def run() -> None:
        try:
            compiling(tmp_path, BOMBS["one-long-function"])
        except BaseException as error:  # noqa: BLE001  # handed to the test
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    deadline = time.monotonic() + 20
    try:
        while not (pids := [pid for pid in compilers() if "Seccomp:\t2" in status(pid)]):
            assert time.monotonic() < deadline
            assert thread.is_alive(), ended
            time.sleep(0.001)
        yield pids[0]
    finally:
        thread.join()


def status(pid: int) -> str:
    """/proc's words about a process."""
    return Path(f"/proc/{pid}/status").read_text()


def test_the_sandbox_changes_no_byte(tmp_path: Path) -> None:
    """The same code as outside of it; nothing else is left in the folder, and no cgroup."""
    wasm = guest_path("hello-p2").read_bytes()
    (tmp_path / "in").write_bytes(wasm)
    subprocess.run([HOST, "compile", tmp_path / "in", tmp_path / "plain"], check=True, capture_output=True)
    inside = compiling(tmp_path, wasm, Limits())
    assert inside.read_bytes() == (tmp_path / "plain").read_bytes()
    assert not list(cgroup.ROOT.glob(f"*/{cgroup.OWN_PREFIX}{os.getpid()}-*"))


def test_what_the_compiler_is_and_has(tmp_path: Path) -> None:
    """Another uid, no capability, network or environment; three descriptors, seccomp, its own cgroup."""
    with a_running_compiler(tmp_path) as pid:
        seen = dict(line.split(":\t", 1) for line in status(pid).splitlines() if ":\t" in line)
        network = os.readlink(f"/proc/{pid}/ns/net")
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        descriptors = set(os.listdir(f"/proc/{pid}/fd"))
        groups = Path(f"/proc/{pid}/cgroup").read_text()
    assert len(set(seen["Uid"].split())) == 1
    assert seen["Uid"].split()[0] not in ("0", "65534")
    assert int(seen["CapEff"], 16) == int(seen["CapPrm"], 16) == 0
    assert (seen["NoNewPrivs"], seen["Seccomp"], seen["Groups"].strip()) == ("1", "2", "")
    assert network != os.readlink("/proc/self/ns/net")
    assert environment == b""
    assert {"0", "1", "2"} <= descriptors
    assert len(descriptors) <= 4, "no more than its input, its output, and a copy of one of them"
    assert f"{cgroup.OWN_PREFIX}{os.getpid()}-" in groups


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_ends_at_its_limit(tmp_path: Path, name: str) -> None:
    """Compiled within the limits or refused in words; our memory stays flat (faults.md A13)."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.suppress(Refused):
        compiling(tmp_path, BOMBS[name])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert used <= TIGHT.cpu_seconds + 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 64 << 10


def test_limits_are_named(tmp_path: Path) -> None:
    """CPU time, memory and output each say what was allowed and what to do."""
    cases = {
        "1 s of CPU time": (BOMBS[SLOW], Limits(cpu_seconds=1)),
        "64 MiB of memory": (BOMBS[SLOW], Limits(memory_mib=64)),
        "1 MiB of output": (modest(), Limits(output_mib=1)),
    }
    found = {}
    for at, (words, (bomb, limits)) in enumerate(cases.items()):
        (tmp_path / str(at)).mkdir()
        with pytest.raises(Refused) as refused:
            compiling(tmp_path / str(at), bomb, limits)
        found[words] = str(refused.value)
    for words, said in found.items():
        assert words in said
        assert "make the component smaller" in said


def test_the_compiler_dies_with_its_parent(tmp_path: Path) -> None:
    """A killed Create leaves no compiler (faults.md F1)."""
    code = (
        "import os,sys\nfrom pathlib import Path\nfrom tests.process import test_compile as t\n"
        "t.compiling(Path(sys.argv[1]), t.BOMBS['one-long-function'], t.Limits())\n"
    )
    root = Path(__file__).parents[2]
    parent = subprocess.Popen([sys.executable, "-c", code, tmp_path], cwd=root)
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    deadline = time.monotonic() + 30
    while not (pids := [int(p) for p in children.read_text().split() if "Seccomp:\t2" in status(int(p))]):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    while any(Path(f"/proc/{pid}/exe").exists() and "State:\tZ" not in status(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.01)
