"""What the kernel counts for a container: processes and statistics, on cgroup v1, v2 and hybrids.

Laws: reads only, but for the cgroups of its own making (`own_cgroup`) and for this process's place; a file
that is missing (controller off, cgroup gone) counts as nothing, but a cgroup that is gone altogether is
NotFound (wire.md 3.4); the type of the answer is the one clients expect (wire.md 4.5).
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import Message

from shim.errors import NotFound
from shim.pb import cgroup1_pb2, cgroup2_pb2

ROOT = Path("/sys/fs/cgroup")
PROCS = "cgroup.procs"
UNLIMITED = 2**64 - 1
OWN_PREFIX = "spinwheel-compile-"
MAX_THREADS = 512  # of one compilation: its pool has one per core


@dataclass(frozen=True, slots=True)
class Cgroup:
    """A container's cgroup folders: by controller on v1, one on v2 (`unified`)."""

    controllers: dict[str, Path]
    unified: Path | None

    @property
    def is_v2(self) -> bool:
        """True where the memory controller lives in the unified hierarchy."""
        return "memory" not in self.controllers and self.unified is not None

    def pids(self) -> list[int]:
        """Every process in the cgroup, in the kernel's order; empty when it is gone.

        Empty too for a cgroup that we are in ourselves: it is not the container's own, and whoever kills
        by this list must not reach beyond the container.
        """
        folder = self.controllers.get("pids") or self.controllers.get("memory") or self.unified
        found = [int(line) for line in _lines(folder, "cgroup.procs")]
        return [] if os.getpid() in found else found

    def signal_all_but(self, spared: int, number: int) -> None:
        """Signals every process but `spared`, each through a pidfd taken while it was listed here."""
        for pid in self.pids():
            if pid != spared:
                with contextlib.suppress(OSError):
                    self._signal_member(pid, number)

    def _signal_member(self, pid: int, number: int) -> None:
        descriptor = os.pidfd_open(pid)
        try:
            if pid in self.pids():
                signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)

    def oom_kills(self) -> int:
        """How many processes of the cgroup the kernel has killed for want of memory."""
        if self.is_v2:
            return _table(self.unified, "memory.events").get("oom_kill", 0)
        return _table(self.controllers.get("memory"), "memory.oom_control").get("oom_kill", 0)

    def stats(self) -> cgroup1_pb2.Metrics | cgroup2_pb2.Metrics:
        """The figures of now; raises NotFound when the cgroup is gone."""
        folder = self.unified if self.is_v2 else self.controllers.get("memory")
        if folder is None or not folder.is_dir():
            message = f"cgroup {folder}: not found"
            raise NotFound(message)
        return _stats_v2(folder) if self.is_v2 else _stats_v1(self.controllers)


def of_process(pid: int, proc: Path = Path("/proc"), root: Path = ROOT) -> Cgroup:
    """The cgroup that process `pid` is in."""
    controllers: dict[str, Path] = {}
    unified = None
    for line in _lines(proc / str(pid), "cgroup"):
        _, names, path = line.split(":", 2)
        if not names:
            base = root if (root / "cgroup.controllers").exists() else root / "unified"
            unified = base / path.lstrip("/")
        for name in filter(None, names.split(",")):
            controllers[name] = root / name.removeprefix("name=") / path.lstrip("/")
    return Cgroup(controllers, unified)


@contextlib.contextmanager
def own_cgroup(memory_mib: int, root: Path = ROOT) -> Iterator[list[Path]]:
    """Fresh folders outside any pod's, one per hierarchy, for one child; removed after it. Best effort."""
    parents = [root] if is_v2_host(root) else [root / name for name in ("memory", "cpu", "pids")]
    made = [parent / f"{OWN_PREFIX}{os.getpid()}-{time.monotonic_ns()}" for parent in parents]
    made = [folder for folder in made if _make(folder, memory_mib)]
    try:
        yield made
    finally:
        for folder in made:
            _remove(folder)


def _make(folder: Path, memory_mib: int) -> bool:
    try:
        for left in folder.parent.glob(f"{OWN_PREFIX}*"):
            if not Path("/proc", left.name.removeprefix(OWN_PREFIX).split("-")[0]).exists():
                _remove(left)
        folder.mkdir()
    except OSError:
        return False
    for name, value in {
        "memory.limit_in_bytes": memory_mib << 20,
        "memory.max": memory_mib << 20,
        "pids.max": MAX_THREADS,
    }.items():
        if (folder / name).exists():
            with contextlib.suppress(OSError):
                (folder / name).write_text(str(value))
    return True


def _remove(folder: Path) -> None:
    """The kernel empties a cgroup some moments after its last process was waited for."""
    for _ in range(50):
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.01)
        else:
            return


def follow(pid: int) -> None:
    """Moves this process into the cgroups of process `pid`; raises OSError."""
    if _lines(Path("/proc/self"), "cgroup") != _lines(Path(f"/proc/{pid}"), "cgroup"):
        place = of_process(pid)
        _enter({*place.controllers.values(), *([place.unified] if place.unified else [])})


def join(path: str, root: Path = ROOT) -> None:
    """Moves this process into the cgroup `path` of every hierarchy, made where missing; raises OSError."""
    bases = [root] if is_v2_host(root) else [base for base in root.iterdir() if (base / PROCS).exists()]
    folders = {base / path.strip("/") for base in bases}
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        _inherit_cpus(folder)
    _enter(folders)


def _inherit_cpus(folder: Path) -> None:
    """A new cpuset of v1 is empty, and takes nobody in before it has what its parent has."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        file = folder / name
        if file.exists() and not file.read_text().strip():
            file.write_text((folder.parent / name).read_text())


def _enter(folders: set[Path]) -> None:
    for folder in folders:
        (folder / PROCS).write_text(str(os.getpid()))


def is_v2_host(root: Path = ROOT) -> bool:
    """True when the node has the unified hierarchy only."""
    return (root / "cgroup.controllers").exists()


def _stats_v1(folders: dict[str, Path]) -> cgroup1_pb2.Metrics:
    metrics = cgroup1_pb2.Metrics()
    pids, cpu, memory = folders.get("pids"), folders.get("cpuacct"), folders.get("memory")
    metrics.pids.current, metrics.pids.limit = _number(pids, "pids.current"), _pids_limit(pids)
    metrics.cpu.usage.total = _number(cpu, "cpuacct.usage")
    metrics.cpu.usage.per_cpu.extend(int(n) for n in " ".join(_lines(cpu, "cpuacct.usage_percpu")).split())
    ticks = _table(cpu, "cpuacct.stat")
    per_second = os.sysconf("SC_CLK_TCK")
    metrics.cpu.usage.user = ticks.get("user", 0) * 10**9 // per_second
    metrics.cpu.usage.kernel = ticks.get("system", 0) * 10**9 // per_second
    throttled = _table(folders.get("cpu"), "cpu.stat")
    metrics.cpu.throttling.periods = throttled.get("nr_periods", 0)
    metrics.cpu.throttling.throttled_periods = throttled.get("nr_throttled", 0)
    metrics.cpu.throttling.throttled_time = throttled.get("throttled_time", 0)
    _memory_v1(metrics, memory)
    return metrics


def _memory_v1(metrics: cgroup1_pb2.Metrics, folder: Path | None) -> None:
    _copy(_table(folder, "memory.stat"), metrics.memory)
    metrics.memory.usage.usage = _number(folder, "memory.usage_in_bytes")
    metrics.memory.usage.limit = _number(folder, "memory.limit_in_bytes")
    metrics.memory.usage.max = _number(folder, "memory.max_usage_in_bytes")
    metrics.memory.usage.failcnt = _number(folder, "memory.failcnt")
    control = _table(folder, "memory.oom_control")
    metrics.memory_oom_control.oom_kill_disable = control.get("oom_kill_disable", 0)
    metrics.memory_oom_control.under_oom = control.get("under_oom", 0)
    metrics.memory_oom_control.oom_kill = control.get("oom_kill", 0)


def _stats_v2(folder: Path) -> cgroup2_pb2.Metrics:
    metrics = cgroup2_pb2.Metrics()
    metrics.pids.current, metrics.pids.limit = _number(folder, "pids.current"), _pids_limit(folder)
    _copy(_table(folder, "cpu.stat"), metrics.cpu)
    _copy(_table(folder, "memory.stat"), metrics.memory)
    metrics.memory.usage = _number(folder, "memory.current")
    metrics.memory.usage_limit = _number(folder, "memory.max")
    metrics.memory.swap_usage = _number(folder, "memory.swap.current")
    metrics.memory.swap_limit = _number(folder, "memory.swap.max")
    _copy(_table(folder, "memory.events"), metrics.memory_events)
    return metrics


def _copy(table: dict[str, int], message: Message) -> None:
    """Sets the fields that carry the kernel's own names; `swap` of v1 names a message, not a number."""
    numbers = {field.name for field in message.DESCRIPTOR.fields if field.message_type is None}
    for name, value in table.items():
        if name in numbers:
            setattr(message, name, value)


def _pids_limit(folder: Path | None) -> int:
    limit = _number(folder, "pids.max")
    return 0 if limit == UNLIMITED else limit


def _number(folder: Path | None, name: str) -> int:
    text = "".join(_lines(folder, name)).strip()
    return UNLIMITED if text == "max" else int(text or 0)


def _table(folder: Path | None, name: str) -> dict[str, int]:
    pairs = (line.split() for line in _lines(folder, name))
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _lines(folder: Path | None, name: str) -> list[str]:
    if folder is None:
        return []
    try:
        return (folder / name).read_text().splitlines()
    except OSError:
        return []
