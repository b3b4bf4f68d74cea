"""mount(2) and umount2(2) for the mounts that containerd sends with Create.

Laws: options are the words that containerd and mount(8) share; an unknown word is data for the file system;
a failed mount undoes the ones before it; unmounting is lazy and forgiving, so that clean-up always ends.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from shim.errors import GuestFailed

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
    """Makes one mount; a read-only bind takes the second call that the kernel wants."""
    flags, data = parse_options(one.options)
    _mount(one.source, target, one.type, flags & ~MS_RDONLY if flags & MS_BIND else flags, data)
    if flags & MS_BIND and flags & MS_RDONLY:
        _mount(one.source, target, one.type, flags | MS_REMOUNT, data)


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
