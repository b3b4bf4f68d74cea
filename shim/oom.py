"""Tells when the kernel killed a process of a cgroup for want of memory, on cgroup v1 and v2.

Laws: what counts is the kernel's own counter, so that a wake-up that was about something else tells nothing
and none is told twice; whoever sees a process end asks `check` first, because the kill may be seen before
the wake-up; a kernel that cannot wake us costs the early notice only.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
from collections.abc import Callable
from pathlib import Path

from shim.cgroup import Cgroup

IN_MODIFY, IN_NONBLOCK_CLOEXEC = 0x2, os.O_NONBLOCK | os.O_CLOEXEC
# The v1 notice comes before the kill: the counter is looked at again a little later.
AGAIN_SECONDS, AGAIN_TIMES = 0.02, 50


class OomWatch:
    """Calls `tell` once for each time the counter was found to have grown."""

    def __init__(self, cgroup: Cgroup, tell: Callable[[], None]) -> None:
        self._cgroup = cgroup
        self._tell = tell
        self._told = cgroup.oom_kills()
        self._fds: list[int] = []
        with contextlib.suppress(OSError):
            self._fds = _subscribe(cgroup)
            asyncio.get_running_loop().add_reader(self._fds[0], self._wake)

    def check(self) -> bool:
        """Tells of what has come; True when there was something."""
        count = self._cgroup.oom_kills()
        grown = count > self._told
        self._told = max(count, self._told)
        if grown:
            self._tell()
        return grown

    def _wake(self) -> None:
        try:
            os.read(self._fds[0], 4096)
        except OSError:
            return
        self._look(AGAIN_TIMES)

    def _look(self, times: int) -> None:
        if self._fds and not self.check() and times:
            asyncio.get_running_loop().call_later(AGAIN_SECONDS, self._look, times - 1)

    def close(self) -> None:
        """Stops watching."""
        if self._fds:
            asyncio.get_running_loop().remove_reader(self._fds[0])
        while self._fds:
            os.close(self._fds.pop())


def _subscribe(cgroup: Cgroup) -> list[int]:
    """Descriptors of which the first can be read when something happened; raises OSError."""
    memory = cgroup.controllers.get("memory")
    if memory is not None:
        return _subscribe_v1(memory)
    if cgroup.unified is None:
        raise FileNotFoundError
    return _subscribe_v2(cgroup.unified / "memory.events")


def _subscribe_v1(folder: Path) -> list[int]:
    wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    control = -1
    try:
        control = os.open(folder / "memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        (folder / "cgroup.event_control").write_text(f"{wake} {control}")
    except OSError:
        for descriptor in (wake, control):
            if descriptor >= 0:
                os.close(descriptor)
        raise
    return [wake, control]


def _subscribe_v2(file: Path) -> list[int]:
    libc = ctypes.CDLL(None, use_errno=True)
    wake = libc.inotify_init1(IN_NONBLOCK_CLOEXEC)
    if wake < 0 or libc.inotify_add_watch(wake, os.fsencode(file), IN_MODIFY) < 0:
        number = ctypes.get_errno()
        if wake >= 0:
            os.close(wake)
        raise OSError(number, os.strerror(number), str(file))
    return [wake]
