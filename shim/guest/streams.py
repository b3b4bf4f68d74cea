"""What one process reads and writes, whichever way its client asked: files, a terminal, a log program.

Knows: which pieces of stdio, console and logger a request needs. Laws: opened before the process is made and
closed after it is deleted; whatever fails half-way leaves nothing open and no program running.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path

from shim.guest import console, logger
from shim.guest.reaper import Reaper
from shim.stdio import Stdio, Wanted, open_input, open_output, open_stdio

DRAIN_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Place:
    """Whose streams they are, and what is needed to make them."""

    container_id: str
    namespace: str
    run_dir: Path
    reaper: Reaper
    lossy: bool = False  # output that nobody reads is dropped: a Spin app's (faults.md G15)


class Streams:
    """One process's streams; `fds` are what the OCI runtime gets as 0, 1 and 2."""

    def __init__(self) -> None:
        self._stdio = Stdio()
        self._socket: console.Socket | None = None
        self._console: console.Console | None = None
        self._logger: logger.Logger | None = None
        self._size: tuple[int, int] | None = None

    @classmethod
    async def open(cls, wanted: Wanted, place: Place) -> Streams:
        """Opens everything that `wanted` names; raises ShimError with nothing left open or running."""
        streams = cls()
        try:
            await streams._open(wanted, place)
        except BaseException:
            await streams.drain()
            raise
        return streams

    async def _open(self, wanted: Wanted, place: Place) -> None:
        if wanted.logger:
            words = (wanted.logger, place.container_id, place.namespace, place.reaper)
            self._logger = await logger.start(*words)
        if not wanted.terminal and not wanted.logger:
            self._stdio = open_stdio(wanted, lossy=place.lossy)
            return
        if wanted.stdin or not wanted.terminal:
            open_input(wanted.stdin, self._stdio)
        if wanted.terminal:
            self._socket = console.Socket(place.run_dir)
        if self._logger:
            count = 1 if wanted.terminal else 2
            self._stdio.fds += self._logger.take(count)
        else:
            open_output(wanted.stdout, self._stdio, lossy=True)

    @property
    def fds(self) -> list[int]:
        """Descriptors for the OCI runtime; with a terminal it has none of its own to pass on."""
        return [] if self._socket else self._stdio.fds

    @property
    def console_words(self) -> list[str]:
        """The OCI runtime's words for a terminal."""
        return ["--console-socket", str(self._socket.path)] if self._socket else []

    async def attach(self) -> None:
        """Takes over what the process has by now: closes our copies, or begins to copy a terminal."""
        if self._socket is None:
            self._stdio.close_fds()
            return
        master = await self._socket.receive()
        self._socket.close()
        self._socket = None
        *stdin, stdout = self._stdio.fds
        self._stdio.fds = []
        self._console = console.Console(master, stdin[0] if stdin else None, stdout)
        if self._size:
            self._console.resize(*self._size)

    def resize(self, width: int, height: int) -> None:
        """Sets the terminal's size, now or as soon as there is one; nothing without a terminal."""
        self._size = (width, height)
        if self._console:
            self._console.resize(width, height)

    def close_stdin(self) -> None:
        """End of input, once the client has closed its end too."""
        self._stdio.close_stdin()

    async def drain(self) -> None:
        """Passes on what a process that is gone has left to say, within limits; gives everything up."""
        if self._console:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DRAIN_SECONDS):
                    await self._console.drained.wait()
            self._console.close()
        if self._socket:
            self._socket.close()
        self._console = self._socket = None
        self._stdio.close()
        if self._logger:
            ending, self._logger = self._logger, None
            await ending.stop()
