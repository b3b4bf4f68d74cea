"""What an init and an exec have in common: a state, a pid, streams, and an end that many may wait for.

Laws: the state moves before and after an act, never across an await without an -ING state between; signals go
to a pidfd, so never to a stranger (faults.md F10).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import Message

from shim.errors import FailedPrecondition, NotFound
from shim.guest import prepare
from shim.guest.reaper import Exit, Reaper
from shim.guest.streams import Place, Streams
from shim.stdio import Wanted
from shim.task.state import ALREADY_FINISHED, State, Table, Verb, step


@dataclass(frozen=True, slots=True)
class World:
    """What a task acts through: the seams to processes, to containerd's events, to preparation.

    `delivered` waits until containerd has every event that was published, or for so many seconds.
    """

    reaper: Reaper
    publish: Callable[[str, Message], None]
    delivered: Callable[[float], Awaitable[bool]]
    job: Callable[[str, Path], prepare.Job]
    work: Callable[[prepare.Job], prepare.Prepared]


class Process:
    """One process that containerd knows by an id."""

    def __init__(self, name: str, table: Table, wanted: Wanted) -> None:
        self.name = name
        self.wanted = wanted
        self.state = State.ABSENT
        self.pid = 0
        self.ended: Exit | None = None
        self.exited = asyncio.Event()
        self.streams = Streams()
        self._table = table
        self._pidfd = -1

    def __repr__(self) -> str:
        return f"<{self.name}, {self.state.value}, pid {self.pid}>"

    def step(self, verb: Verb) -> None:
        """Moves to the state after `verb`; raises the table's refusal."""
        self.state = step(self.name, self.state, verb, self._table)

    async def open_streams(self, job: prepare.Job, reaper: Reaper, *, lossy: bool) -> list[int]:
        """Opens what the request asked for; returns descriptors for the OCI runtime's 0, 1 and 2."""
        place = Place(job.container_id, job.namespace, job.settings.run_dir, reaper, lossy)
        self.streams = await Streams.open(self.wanted, place)
        return self.streams.fds

    def adopt(self, pid: int) -> None:
        """The process exists: its signals go through a descriptor from now on."""
        self.pid = pid
        with contextlib.suppress(ProcessLookupError):  # a zombie of ours still has a pidfd; a bad pid has not
            self._pidfd = os.pidfd_open(pid)

    async def wait(self) -> Exit:
        """How the process ended, as soon as it has; raises NotFound when it will never have run."""
        self.step(Verb.WAIT)
        await self.exited.wait()
        if self.ended is None:
            message = f"{self.name}: deleted before it ran"
            raise NotFound(message)
        return self.ended

    def signal(self, number: int) -> None:
        """Sends a signal to this process alone; raises NotFound when it is gone, FailedPrecondition."""
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError as error:
            raise NotFound(ALREADY_FINISHED) from error
        except OSError as error:
            message = f"cannot send signal {number} to {self.name}: {error.strerror}"
            raise FailedPrecondition(message) from error

    def resize(self, width: int, height: int) -> None:
        """The terminal's new size, in columns and rows."""
        self.step(Verb.RESIZE)
        self.streams.resize(width, height)

    def close_stdin(self) -> None:
        """End of input; fine for a process that has none, and before Start has answered (wire.md 2.12)."""
        self.step(Verb.CLOSE_IO)
        self.streams.close_stdin()

    async def release(self) -> None:
        """Gives up descriptors, once the last output is out."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
        self._pidfd = -1
        await self.streams.drain()
