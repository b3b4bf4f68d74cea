"""Folders whose owners are shifted for a user namespace: `uidmap=` and `gidmap=` of containerd's mounts.

Laws: the kernel takes the shift as a descriptor of a user namespace, and only a process can make one, so a
child is forked that does nothing else and ends when it is let go; a copy of a mount is shifted, never the
mount itself, for others use it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

_libc = ctypes.CDLL(None, use_errno=True)

OPEN_TREE, MOVE_MOUNT, MOUNT_SETATTR = 428, 429, 442  # the same on every architecture
CLONE_NEWUSER = 0x10000000
AT_FDCWD, AT_EMPTY_PATH, AT_RECURSIVE = -100, 0x1000, 0x8000
OPEN_TREE_CLONE, MOVE_MOUNT_F_EMPTY_PATH = 1, 4
MOUNT_ATTR_IDMAP = 0x100000


class _Attributes(ctypes.Structure):
    """`struct mount_attr` of mount_setattr(2)."""

    _fields_ = tuple((name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns"))


@contextlib.contextmanager
def user_namespace(uids: str, gids: str) -> Iterator[int]:
    """A descriptor of a user namespace with these maps (`inside:outside:count`, joined by commas).

    Raises OSError when the kernel or a map does not allow it.
    """
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if not pid:
        ours.close()
        _hold_namespace(theirs)
    theirs.close()
    with ours:
        answer = ours.recv(4)
        if answer != b"made":
            number = int.from_bytes(answer, "little")
            raise OSError(number, f"no user namespace: {os.strerror(number)}")
        for name, text in (("uid_map", uids), ("gid_map", gids)):
            Path(f"/proc/{pid}/{name}").write_text(text.replace(":", " ").replace(",", "\n"))
        descriptor = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _hold_namespace(parent: socket.socket) -> NoReturn:
    """The child: unshares, says so, and waits to be let go."""
    try:
        signal.set_wakeup_fd(-1)
        failed = _libc.unshare(CLONE_NEWUSER) != 0
        parent.send(ctypes.get_errno().to_bytes(4, "little") if failed else b"made")
        parent.recv(1)
    finally:
        os._exit(0)


def mount_shifted(source: Path, target: Path, userns: int) -> None:
    """Mounts a copy of `source` on `target`, with owners as `userns` maps them; raises OSError."""
    tree = _call(OPEN_TREE, AT_FDCWD, os.fsencode(source), OPEN_TREE_CLONE | os.O_CLOEXEC)
    try:
        wanted = _Attributes(set=MOUNT_ATTR_IDMAP, userns=userns)
        flags = AT_EMPTY_PATH | AT_RECURSIVE
        _call(MOUNT_SETATTR, tree, b"", flags, ctypes.byref(wanted), ctypes.sizeof(wanted))
        _call(MOVE_MOUNT, tree, b"", AT_FDCWD, os.fsencode(target), MOVE_MOUNT_F_EMPTY_PATH)
    finally:
        os.close(tree)


def _call(number: int, *words: object) -> int:
    """One system call; raises OSError."""
    result = int(_libc.syscall(number, *words))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
