"""Where the entries of the ledgers L1 to L7 come from: /proc, /sys, folders, and `ctr`.

Knows: the kernel's text formats. Must not know: what a difference means. Laws: reading never
changes what is read; a process or file that goes away while we look is simply not there.
"""

import contextlib
import functools
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.harness.containerd import PrivateContainerd
from tests.harness.ledger import Source

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
# Every program of ours or started by ours, by the beginning of its file name.
PROGRAMS = ("containerd-shim", "spinwheel", "crun", "runc")
SOCKET_FOLDERS = (Path("/run/containerd/s"),)
STATE_FOLDERS = tuple(map(Path, ("/run/crun", "/run/runc", "/run/spinwheel", "/run/containerd/fifo")))
# Below it stand folders of namespaces, which containerd makes and keeps, and in those the bundles.
BUNDLES = "io.containerd.runtime.v2.task"
LISTENING = "0A"
# Set on a machine where several sessions test at once; CI is alone, and looks everywhere.
SHARED = "SPINWHEEL_SHARED_MACHINE"


@dataclass(frozen=True)
class Scope:
    """What a test may touch, and so where to look."""

    containerd: PrivateContainerd
    cgroup_parents: Sequence[str] = ()
    cgroup_prefix: str = "test-"
    files: Sequence[Path] = ()

    @property
    def sockets(self) -> list[Path]:
        """The folders where sockets of shims are made."""
        return [*SOCKET_FOLDERS, self.containerd.base_dir]

    @property
    def state(self) -> list[Path]:
        """The folders where state of containers is kept."""
        return [*STATE_FOLDERS, self.containerd.base_dir / "state" / BUNDLES, *self.files]


def sources(scope: Scope) -> dict[str, Source]:
    """Return the ledgers L1 to L7 over *scope*."""
    daemon = scope.containerd
    if os.environ.get(SHARED):
        return _sources_below(scope)
    return {
        "L1 processes": processes,
        "L2 mounts": functools.partial(all_mounts, daemon),
        "L3 sockets": functools.partial(sockets, scope.sockets),
        "L4 cgroups": functools.partial(cgroups, scope.cgroup_parents, scope.cgroup_prefix),
        "L5 descriptors": lambda: descriptors(daemon.pid),
        "L6 files": functools.partial(files, scope.state),
        "L7 objects": functools.partial(objects, daemon),
    }


def _sources_below(scope: Scope) -> dict[str, Source]:
    """The same for a machine on which others test too: only what names the daemon's folder."""
    daemon, folder = scope.containerd, str(scope.containerd.base_dir)

    def only_ours(read: Source) -> Source:
        return lambda: Counter({entry: n for entry, n in read().items() if folder in entry})

    return {
        "L1 processes": only_ours(processes),
        "L2 mounts": only_ours(functools.partial(all_mounts, daemon)),
        "L3 sockets": only_ours(functools.partial(sockets, [daemon.base_dir])),
        "L4 cgroups": functools.partial(cgroups, scope.cgroup_parents, scope.cgroup_prefix),
        "L5 descriptors": lambda: descriptors(daemon.pid),
        "L6 files": functools.partial(files, [path for path in scope.state if folder in str(path)]),
        "L7 objects": functools.partial(objects, daemon),
    }


def processes() -> Counter[str]:
    """L1: processes of our programs, and zombies that nobody reaps, by pid."""
    found = (_process_entry(folder) for folder in PROC.iterdir() if folder.name.isdigit())
    return Counter(entry for entry in found if entry)


def _process_entry(folder: Path) -> str | None:
    try:
        # The name stands in brackets and may hold anything; the state is the word after it.
        state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
        if state == "Z":
            # Orphans are the machine's init's to reap, and some take seconds over it.
            return None if parent == "1" else f"zombie {folder.name} of {parent}"
        argv = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        program = (folder / "exe").readlink().name
    except OSError:
        return None
    names = (program, Path(argv[0]).name, Path(argv[1]).name if len(argv) > 1 else "")
    if any(name.startswith(PROGRAMS) for name in names):
        return f"process {folder.name} {' '.join(argv).strip()}"
    return None


def all_mounts(daemon: PrivateContainerd) -> Counter[str]:
    """L2: mounts that we see, and those of the daemon's mount namespace if it has its own.

    Ours rather than those of pid 1, which even root may not read on a hardened machine.
    """
    found = mounts(os.getpid())
    if not Path("/proc/self/ns/mnt").samefile(f"/proc/{daemon.pid}/ns/mnt"):
        found += Counter({f"containerd: {entry}": n for entry, n in mounts(daemon.pid).items()})
    return found


def mounts(pid: int) -> Counter[str]:
    """Return the mounts that a process sees; the ids are left out, as they never repeat."""
    return Counter(map(_mount_entry, (PROC / str(pid) / "mountinfo").read_text().splitlines()))


def _mount_entry(line: str) -> str:
    place, _, kind = line.partition(" - ")
    root, point = place.split()[3:5]
    kind, source = kind.split()[:2]
    return f"{point} {kind} {source} {root}"


def sockets(folders: Iterable[Path]) -> Counter[str]:
    """L3: socket files, abstract sockets, and listening TCP ports."""
    named = (f"file {path}" for folder in folders for path in _walk(folder) if path.is_socket())
    return Counter([*named, *_abstract_sockets(), *_listening_ports()])


def _abstract_sockets() -> Iterator[str]:
    for line in (PROC / "net/unix").read_text().splitlines()[1:]:
        path = line.split()[7:]
        if path and path[0].startswith("@"):
            yield f"abstract {path[0]}"


def _listening_ports() -> Iterator[str]:
    for family in ("tcp", "tcp6"):
        with contextlib.suppress(FileNotFoundError):
            for line in (PROC / "net" / family).read_text().splitlines()[1:]:
                _, local, _, state, *_ = line.split()
                if state == LISTENING:
                    address, _, port = local.partition(":")
                    yield f"{family} {address}:{int(port, 16)}"


def cgroups(parents: Sequence[str], prefix: str) -> Counter[str]:
    """L4: cgroups below *parents*, or named with *prefix*, in every hierarchy (v1, v2, hybrid)."""
    wanted = [Path(parent.strip("/")) for parent in parents]
    return Counter(
        f"cgroup {found}"
        for found in CGROUPS.rglob("*/")
        if found.name.startswith(prefix) or _is_below_any(found, wanted)
    )


def _is_below_any(found: Path, parents: Sequence[Path]) -> bool:
    parts = found.relative_to(CGROUPS)
    # On v1 and on a hybrid host the first part names the hierarchy.
    inside = Path(*parts.parts[1:])
    return any(
        candidate != parent and candidate.is_relative_to(parent)
        for parent in parents
        for candidate in (parts, inside)
    )


def descriptors(pid: int) -> Counter[str]:
    """L5: how many descriptors of each type a process holds."""
    return Counter(_descriptor_type(link) for link in _links(PROC / str(pid) / "fd"))


def _links(folder: Path) -> Iterator[str]:
    for entry in folder.iterdir():
        with contextlib.suppress(OSError):
            yield str(entry.readlink())


def _descriptor_type(link: str) -> str:
    if link.startswith("/"):
        return "file"
    kind, _, name = link.partition(":")
    return f"{kind}:{name}" if kind == "anon_inode" else kind


def files(folders: Iterable[Path]) -> Counter[str]:
    """L6: every file, folder, FIFO and lock below *folders*."""
    found = (path for folder in folders for path in _walk(folder))
    return Counter(str(path) for path in found if path.parent.name != BUNDLES)


def _walk(folder: Path) -> Iterator[Path]:
    """Yield everything below *folder*; a folder that vanishes meanwhile ends its part."""
    for root, folders, names in os.walk(folder):
        # A container's root filesystem is not state of ours, and is a ledger of its own (L2).
        folders[:] = [name for name in folders if name not in ("rootfs", "root")]
        yield from (Path(root) / name for name in (*folders, *names))


# The listing of each kind of object; the name is the first word of each line.
LISTINGS: Mapping[str, Sequence[str]] = {
    "task": ("tasks", "ls", "--quiet"),
    "container": ("containers", "ls", "--quiet"),
    "lease": ("leases", "ls", "--quiet"),
    "snapshot": ("snapshots", "ls"),
    "ingest": ("content", "active"),
}
HEADINGS = ("KEY", "REF")


def objects(daemon: PrivateContainerd) -> Counter[str]:
    """L7: what containerd knows, in every namespace."""
    entries: Counter[str] = Counter()
    for namespace in daemon.namespaces():
        for kind, listing in LISTINGS.items():
            lines = daemon.ctr(*listing, namespace=namespace).stdout.splitlines()
            names = [line.split()[0] for line in lines if line.strip()]
            entries.update(f"{kind} {namespace}/{name}" for name in names if name not in HEADINGS)
    return entries
