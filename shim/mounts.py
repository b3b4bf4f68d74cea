"""mount(2) and umount2(2) for the mounts that containerd sends with Create.

Laws: options are the words that containerd and mount(8) share; an unknown word is data for the file system;
a failed mount undoes the ones before it; unmounting is lazy and forgiving, so that clean-up always ends; with
`uidmap=` and `gidmap=` owners are shifted, those of an overlay's lower folders one by one (overlayfs itself
cannot be shifted); options longer than the kernel takes are shortened, never cut.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from shim.errors import GuestFailed
from shim.idmap import mount_shifted, user_namespace

_libc = ctypes.CDLL(None, use_errno=True)

MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC = 1, 32, 4096, 16384
MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8

# word -> (flags to set, flags to clear); see mount(8)
FLAGS: dict[str, tuple[int, int]] = {
    "ro": (MS_RDONLY, 0),
    "rw": (0, MS_RDONLY),
    "nosuid": (2, 0),
    "suid": (0, 2),
    "nodev": (4, 0),
    "dev": (0, 4),
    "noexec": (8, 0),
    "exec": (0, 8),
    "sync": (16, 0),
    "async": (0, 16),
    "remount": (MS_REMOUNT, 0),
    "noatime": (1024, 0),
    "atime": (0, 1024),
    "nodiratime": (2048, 0),
    "diratime": (0, 2048),
    "bind": (MS_BIND, 0),
    "rbind": (MS_BIND | MS_REC, 0),
    "relatime": (1 << 21, 0),
    "norelatime": (0, 1 << 21),
    "strictatime": (1 << 24, 0),
    "defaults": (0, 0),
}
LOWER, UIDS, GIDS = "lowerdir=", "uidmap=", "gidmap="
LONGEST_DATA = 4095  # bytes: mount(2) takes one page


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount as containerd describes it; `target` is relative to the rootfs."""

    type: str
    source: str
    target: str
    options: tuple[str, ...]


def parse_options(options: Sequence[str]) -> tuple[int, str]:
    """(flags, data) for mount(2)."""
    flags, data = 0, []
    for word in options:
        if word in FLAGS:
            on, off = FLAGS[word]
            flags = (flags | on) & ~off
        elif not word.startswith("loop"):
            data.append(word)
    return flags, ",".join(data)


def mount_all(mounts: Iterable[Mount], rootfs: Path) -> None:
    """Mounts each in order onto `rootfs`; raises GuestFailed, leaving nothing mounted."""
    try:
        for one in mounts:
            mount(one, rootfs / one.target.lstrip("/"))
    except OSError as error:
        unmount(rootfs)
        message = f"cannot mount {one.type} {one.source} on {rootfs}: {error.strerror}"
        raise GuestFailed(message) from error


def mount(one: Mount, target: Path) -> None:
    """Makes one mount, its owners shifted where it says so."""
    maps = [word for word in one.options if word.startswith((UIDS, GIDS))]
    plain = replace(one, options=tuple(word for word in one.options if word not in maps))
    uids, gids = ("".join(w.removeprefix(key) for w in maps if w.startswith(key)) for key in (UIDS, GIDS))
    if not (uids and gids):
        _mount_plain(plain, target)
        return
    with user_namespace(uids, gids) as userns:
        if one.type == "overlay":
            _mount_shifted_overlay(plain, target, userns)
            return
        _mount_plain(plain, target)
        # The folder of an image without layers, which is a bind, has its new owner already.
        if os.stat(target).st_uid != int(uids.split(":")[1]):
            mount_shifted(target, target, userns)


def _mount_shifted_overlay(one: Mount, target: Path, userns: int) -> None:
    """An overlay over shifted copies of its lower folders, which it keeps when they are unmounted again."""
    folder = target.parent / "lower"
    options = [word for word in one.options if not word.startswith(LOWER)]
    copies = [folder / str(number) for number, _ in enumerate(_lower(one.options))]
    try:
        for source, copy in zip(_lower(one.options), copies, strict=True):
            copy.mkdir(parents=True)
            mount_shifted(Path(source), copy, userns)
        joined = LOWER + ":".join(map(str, copies))
        _mount_plain(replace(one, options=(*options, joined)), target)
    finally:
        for copy in copies:
            unmount(copy)
            with contextlib.suppress(OSError):
                copy.rmdir()
        with contextlib.suppress(OSError):
            folder.rmdir()


def _lower(options: Sequence[str]) -> list[str]:
    """The lower folders of an overlay's options, topmost first."""
    found = next((word.removeprefix(LOWER) for word in options if word.startswith(LOWER)), "")
    return [folder for folder in found.split(":") if folder]


def _mount_plain(one: Mount, target: Path) -> None:
    """One mount; a read-only bind takes the second call that the kernel wants."""
    with _short_enough(one.options) as options:
        flags, data = parse_options(options)
        _mount(one.source, target, one.type, flags & ~MS_RDONLY if flags & MS_BIND else flags, data)
    if flags & MS_BIND and flags & MS_RDONLY:
        _mount(one.source, target, one.type, flags | MS_REMOUNT, data)


@contextlib.contextmanager
def _short_enough(options: Sequence[str]) -> Iterator[Sequence[str]]:
    """The options, lower folders named by a descriptor of their common parent where there are too many."""
    lower = _lower(options)
    if len(parse_options(options)[1].encode()) <= LONGEST_DATA or len(lower) < 2:
        yield options
        return
    parent = os.path.commonpath(lower)
    descriptor = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        names = (f"/proc/self/fd/{descriptor}/{os.path.relpath(folder, parent)}" for folder in lower)
        others = (word for word in options if not word.startswith(LOWER))
        yield (*others, LOWER + ":".join(names))
    finally:
        os.close(descriptor)


def _mount(source: str, target: Path, kind: str, flags: int, data: str) -> None:
    words = (source.encode(), os.fsencode(target), kind.encode())
    if _libc.mount(*words, ctypes.c_ulong(flags), data.encode() or None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))


def unmount(target: Path) -> None:
    """Detaches everything mounted on `target`, however often; never fails."""
    for _ in range(64):
        if _libc.umount2(os.fsencode(target), MNT_DETACH | UMOUNT_NOFOLLOW) != 0:
            return
