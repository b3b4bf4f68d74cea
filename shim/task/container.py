"""One Spin container from Create to Delete: acts, and asks `state` whether it may.

Laws: the state moves before and after an act, never across an await without an -ING state between; whatever
Create made, a failed Create unmakes; an exit that comes while Start runs is told after the start (wire.md
3.6); signals go to a pidfd, so never to a stranger (faults.md F10).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import Message

from shim import cgroup
from shim.bundle import Bundle, Record
from shim.errors import DeadlineExceeded, FailedPrecondition, GuestFailed, NotFound, ShimError
from shim.guest import prepare, runtime
from shim.guest.reaper import Exit, Reaper
from shim.mounts import Mount, mount_all, unmount
from shim.pb.shim_pb2 import CreateTaskRequest
from shim.stdio import Stdio, open_stdio
from shim.task import events
from shim.task.state import ALREADY_FINISHED, State, Verb, step
from shim.task.timeline import Timeline

READY_SECONDS = 60.0
PREPARE_SECONDS = 900.0  # above the compiler's own limit
KILL_SECONDS = 10.0
MAX_READY_LINE = 64 << 10

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class World:
    """What a container acts through: the seams to processes, to containerd's events, to preparation."""

    reaper: Reaper
    publish: Callable[[str, Message], None]
    job: Callable[[str, Path], prepare.Job]
    work: Callable[[prepare.Job], prepare.Prepared]


class Container:
    """A task and its one process, the init."""

    def __init__(
        self, request: CreateTaskRequest, oci: runtime.OciRuntime, world: World, timeline: Timeline
    ) -> None:
        self.id = request.id
        self.request = request
        self.bundle = Bundle(Path(request.bundle))
        self.timeline = timeline
        self.state = State.ABSENT
        self.pid = 0
        self.ended: Exit | None = None
        self.exited = asyncio.Event()
        self._oci = oci
        self._world = world
        self._stdio = Stdio()
        self._pidfd = -1
        self._ready = -1
        self._cgroup = cgroup.Cgroup({}, None)
        self._watching: asyncio.Future[Exit] | None = None
        self._made_at = 0

    def __repr__(self) -> str:
        return f"<Container {self.id} {self.state.value}, pid {self.pid}>"

    def step(self, verb: Verb) -> None:
        """Moves to the state after `verb`; raises the table's refusal."""
        self.state = step(self.id, self.state, verb)

    async def create(self) -> int:
        """Makes the container, its init alive and waiting; returns the pid. Raises ShimError, all undone."""
        self.step(Verb.CREATE)
        try:
            await self._make()
        except BaseException:
            try:
                await self._unmake()
            finally:
                self.step(Verb.CREATE_FAILED)
            raise
        self.step(Verb.CREATE_DONE)
        self.timeline.mark("created")
        self._world.publish(*events.created(self.request, self.pid))
        self._watch()
        return self.pid

    async def _make(self) -> None:
        self.timeline.mark("Create received")
        mounts = [Mount(m.type, m.source, m.target, tuple(m.options)) for m in self.request.rootfs]
        mount_all(mounts, self.bundle.rootfs)
        self.bundle.write_record(Record(self._oci.binary, self._oci.root, self._oci.systemd))
        prepared = await self._prepare()
        try:
            self.timeline.extend(prepared.steps)
            self._stdio = open_stdio(self.request.stdin, self.request.stdout, self.request.stderr)
            await self._create_container(prepared.fds)
        finally:
            prepared.close()

    async def _prepare(self) -> prepare.Prepared:
        job = self._world.job(self.id, self.bundle.path)
        since = time.time_ns()
        pid, answer = prepare.fork(job, self._world.work)
        self._world.reaper.watch(pid, since)
        with answer:
            try:
                async with asyncio.timeout(PREPARE_SECONDS):
                    await readable(answer.fileno())
            except BaseException:
                os.kill(pid, signal.SIGKILL)
                raise
            return prepare.receive(answer)

    async def _create_container(self, codes: list[int]) -> None:
        plan_fd, *aot = codes
        self._ready, ready_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(ready_end, True)
        try:
            fds = [*self._stdio.fds, plan_fd, ready_end, *aot]
            argv = self._oci.create(self.bundle, self.id, len(fds) - 3)
            self._made_at = time.time_ns()
            await runtime.call(self._world.reaper, argv, self.bundle.path, fds)
        finally:
            os.close(ready_end)
            self._stdio.close_fds()
        self._adopt_init()

    def _adopt_init(self) -> None:
        pid = self.bundle.pid()
        if pid is None:
            message = f"{self._oci.binary} create succeeded without a pid file"
            raise GuestFailed(message)
        self.pid = pid
        with contextlib.suppress(ProcessLookupError):  # a zombie of ours still has a pidfd; a bad pid has not
            self._pidfd = os.pidfd_open(pid)
        self._cgroup = cgroup.of_process(pid)

    def _watch(self) -> None:
        self._watching = self._world.reaper.watch(self.pid, self._made_at)
        self._watching.add_done_callback(lambda future: self._on_exit(future.result()))

    def _on_exit(self, ended: Exit) -> None:
        """Takes an exit in; it is told to containerd only for what was told to have started."""
        self.ended = ended
        ran = self.state is State.RUNNING
        self.step(Verb.EXITED)
        if self.state is State.STARTING:
            return
        if ran:
            self._world.publish(*events.exited(self.id, ended))
        self.exited.set()

    async def start(self) -> int:
        """Lets the app run; returns the pid once it listens. Raises GuestFailed with what it said."""
        self.step(Verb.START)
        self.timeline.mark("Start received")
        try:
            argv = self._oci.start(self.bundle, self.id)
            await runtime.call(self._world.reaper, argv, self.bundle.path)
            self.timeline.mark("OCI runtime started it")
            self.timeline.extend(await self._until_ready())
        except BaseException:
            await self._end_failed_start()
            raise
        self.step(Verb.START_DONE)
        self.timeline.mark("started")
        self._world.publish(*events.started(self.id, self.pid))
        if self.ended:
            self._on_exit(self.ended)
        self.timeline.write(self.bundle.path)
        return self.pid

    async def _until_ready(self) -> list[tuple[str, int]]:
        try:
            async with asyncio.timeout(READY_SECONDS):
                line = await read_line(self._ready)
        except TimeoutError as error:
            message = f"the host was not ready within {READY_SECONDS:.0f} s"
            raise DeadlineExceeded(message) from error
        word, _, detail = line.partition(" ")
        if word == "ready":
            return [(f"host: {name}", when) for name, when in json.loads(detail).get("steps", [])]
        if word == "error":
            raise GuestFailed(str(json.loads(detail).get("message")))
        message = "the host ended before it was ready; see the container's stderr"
        raise GuestFailed(message)

    async def _end_failed_start(self) -> None:
        """Nothing of a failed start goes on running; no exit is told for what was never started."""
        try:
            await self._kill_and_wait()
        except DeadlineExceeded as error:
            log.error("after a failed start: %s; Delete will try again", error)
        self.step(Verb.START_FAILED)
        if self.ended:
            self.exited.set()

    async def wait(self) -> Exit:
        """How the init ended, as soon as it has."""
        self.step(Verb.WAIT)
        await self.exited.wait()
        if self.ended is None:
            message = f"task {self.id}: deleted before it ran"
            raise NotFound(message)
        return self.ended

    def kill(self, number: int, *, everyone: bool) -> None:
        """Signals the init, or every process of the container. Raises the table's refusal."""
        self.step(Verb.KILL)
        if everyone:
            self._cgroup.signal_all_but(self.pid, number)
        self._signal(number)

    def _signal(self, number: int) -> None:
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError as error:
            raise NotFound(ALREADY_FINISHED) from error
        except OSError as error:
            message = f"cannot send signal {number} to task {self.id}: {error.strerror}"
            raise FailedPrecondition(message) from error

    async def delete(self) -> Exit:
        """Removes the container and all that Create made; returns how it ended."""
        self.step(Verb.DELETE)
        try:
            await self._kill_and_wait()
            argv = self._oci.delete(self.bundle, self.id)
            await runtime.call(self._world.reaper, argv, self.bundle.path)
        except BaseException:
            self.step(Verb.DELETE_FAILED)
            raise
        self._release()
        self.step(Verb.DELETE_DONE)
        self.exited.set()
        ended = self.ended or Exit(self.pid, 137, 0)
        self._world.publish(*events.deleted(self.id, ended))
        return ended

    async def _kill_and_wait(self) -> None:
        if self.ended is not None or self._watching is None:
            return
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        try:
            async with asyncio.timeout(KILL_SECONDS):
                await asyncio.shield(self._watching)
        except TimeoutError as error:
            message = f"task {self.id} did not die of SIGKILL within {KILL_SECONDS:.0f} s"
            raise DeadlineExceeded(message) from error

    async def _unmake(self) -> None:
        """Undoes a Create that failed, as far as it came; never fails itself."""
        if self.bundle.record() and self.bundle.oci.is_dir():
            try:
                await runtime.call(
                    self._world.reaper, self._oci.delete(self.bundle, self.id), self.bundle.path
                )
            except (ShimError, OSError) as error:
                log.debug("after a failed create: %s", error)
        self._release()

    def _release(self) -> None:
        for descriptor in (self._ready, self._pidfd):
            if descriptor >= 0:
                os.close(descriptor)
        self._ready = self._pidfd = -1
        self._stdio.close()
        unmount(self.bundle.rootfs)
        self.bundle.clear()

    def pids(self) -> list[int]:
        """Every process of the container, the init first (wire.md 2.9: never empty while it lives)."""
        self.step(Verb.PIDS)
        others = [pid for pid in self._cgroup.pids() if pid != self.pid]
        return [self.pid, *others]

    def stats(self) -> Message:
        """The cgroup's figures; raises NotFound when it is gone."""
        self.step(Verb.STATS)
        return self._cgroup.stats()


async def readable(descriptor: int) -> None:
    """Returns when `descriptor` has something to read, end of file included."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(descriptor, _settle, ready)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


async def read_line(descriptor: int) -> str:
    """One line from a non-blocking pipe, or what there is at its end."""
    data = b""
    while b"\n" not in data and len(data) < MAX_READY_LINE:
        await readable(descriptor)
        try:
            chunk = os.read(descriptor, 4096)
        except BlockingIOError:
            continue
        if not chunk:
            break
        data += chunk
    return data.decode(errors="replace").strip()
