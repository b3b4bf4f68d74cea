"""Child exits to whoever waits, early exits included.

Laws: this is the only place that calls wait; the process is a subreaper, so container inits and orphans
arrive here too (wire.md 2.8); an exit that nobody has asked for yet is kept until somebody does, the
oldest of more than KEPT forgotten; times are wall clock, taken when the child was reaped.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import time
from collections import OrderedDict
from dataclasses import dataclass

KEPT = 1024
PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended: `status` as shells count (128 + signal), `at` in ns since 1970."""

    pid: int
    status: int
    at: int


class Reaper:
    """Owns SIGCHLD of its event loop."""

    def __init__(self) -> None:
        self._waiting: dict[int, asyncio.Future[Exit]] = {}
        self._early: OrderedDict[int, Exit] = OrderedDict()

    def install(self) -> None:
        """Becomes the subreaper and starts to listen for SIGCHLD on the running loop."""
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self.reap)
        self.reap()

    def reap(self) -> None:
        """Collects every child that has ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._record(Exit(pid, exit_status(status), time.time_ns()))

    def watch(self, pid: int, since: int) -> asyncio.Future[Exit]:
        """A future of the exit of `pid`, done already if the child was faster than its caller.

        `since` is a time (ns since 1970) before the child was made: an older exit was another child's, whose
        number came round again.
        """
        waiter = self._waiting.get(pid)
        if waiter is None:
            waiter = asyncio.get_running_loop().create_future()
            early = self._early.pop(pid, None)
            if early and early.at >= since:
                waiter.set_result(early)
            else:
                self._waiting[pid] = waiter
        return waiter

    def _record(self, ended: Exit) -> None:
        waiter = self._waiting.pop(ended.pid, None)
        if waiter is None:
            self._early[ended.pid] = ended
            if len(self._early) > KEPT:
                self._early.popitem(last=False)
        elif not waiter.done():
            waiter.set_result(ended)


def exit_status(wait_status: int) -> int:
    """The exit code of a wait status: 128 + signal for a death by signal (wire.md 3.2)."""
    code = os.waitstatus_to_exitcode(wait_status)
    return code if code >= 0 else 128 - code
