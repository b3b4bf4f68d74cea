"""A program that takes a container's output: `binary://` and `binary-v2://` URIs (wire.md 2.12).

Laws: its environment is the container's id and namespace and nothing else; it reads descriptors 3 and 4, and
says on 5 that it is ready; it ends when the container's output has ended, is asked to after that, and is
killed when asking did not help.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from dataclasses import dataclass, field

from shim.errors import DeadlineExceeded, GuestFailed
from shim.guest.reaper import Exit, Reaper
from shim.guest.spawn import spawn
from shim.pipes import readable
from shim.stdio import close_all, logger_argv

READY_SECONDS = 30.0
EOF_SECONDS = 1.0  # for what was written last; then it is asked, as runc's shim asks at once
GRACE_SECONDS = 12.0


@dataclass(slots=True)
class Logger:
    """A running log program: `fds` are the write ends for the container's stdout and stderr."""

    pidfd: int
    ended: asyncio.Future[Exit]
    fds: list[int] = field(default_factory=list)

    def take(self, count: int) -> list[int]:
        """The first `count` of `fds`, which are the caller's to close from now on."""
        taken = self.fds[:count]
        del self.fds[:count]
        return taken

    async def stop(self) -> None:
        """Waits for its end once the container has none of `fds` any more; then asks, then kills."""
        close_all(self.fds)
        for number, seconds in ((0, EOF_SECONDS), (signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, 1.0)):
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self.pidfd, number)
            if await self._has_ended(seconds):
                break
        os.close(self.pidfd)

    async def _has_ended(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await asyncio.shield(self.ended)
        except TimeoutError:
            return False
        return True


async def start(uri: str, container_id: str, namespace: str, reaper: Reaper) -> Logger:
    """Starts the program in `uri` and waits until it is ready; raises GuestFailed or DeadlineExceeded."""
    argv = logger_argv(uri)
    env = {"CONTAINER_ID": container_id, "CONTAINER_NAMESPACE": namespace}
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    out, err, ready = (os.pipe2(os.O_CLOEXEC) for _ in range(3))
    since = time.time_ns()
    try:
        pid = spawn(argv, [null, null, null, out[0], err[0], ready[1]], env)
    except BaseException:
        close_all([out[1], err[1], ready[0]])
        raise
    finally:
        close_all([null, out[0], err[0], ready[1]])
    logger = Logger(os.pidfd_open(pid), reaper.watch(pid, since), [out[1], err[1]])
    try:
        await _until_ready(ready[0], argv[0], strict=uri.startswith("binary-v2:"))
    except BaseException:
        await logger.stop()
        raise
    finally:
        os.close(ready[0])
    return logger


async def _until_ready(descriptor: int, program: str, *, strict: bool) -> None:
    """A byte is "ready"; end of file is too, but not for binary-v2."""
    try:
        async with asyncio.timeout(READY_SECONDS):
            await readable(descriptor)
    except TimeoutError as error:
        message = f"log driver {program} was not ready within {READY_SECONDS:.0f} s"
        raise DeadlineExceeded(message) from error
    if not os.read(descriptor, 1) and strict:
        message = f"log driver {program} ended or closed its descriptor 5 before it said that it is ready"
        raise GuestFailed(message)
