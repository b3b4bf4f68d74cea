"""One container from Create to Delete, native or Spin: acts, and asks `state` whether it may.

Laws: whatever Create made, a failed Create unmakes; an exit that comes while Start runs is told after the
start; an init's exit is told after those of its execs, and when it is told no process of the container is
left (wire.md 3.6); a process killed for want of memory is told of before its exit (wire.md 4.5).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from shim import cgroup
from shim.bundle import Bundle, Record
from shim.errors import AlreadyExists, DeadlineExceeded, GuestFailed, ShimError
from shim.guest import prepare, runtime, spec
from shim.guest.reaper import Exit
from shim.guest.runtime import OciRuntime
from shim.mounts import Mount, mount_all, unmount
from shim.oom import OomWatch
from shim.pb.shim_pb2 import CreateTaskRequest, ExecProcessRequest
from shim.pipes import readable
from shim.stdio import Wanted
from shim.task import events
from shim.task.execs import Exec
from shim.task.process import Process, World
from shim.task.ready import until_ready
from shim.task.state import TABLE, State, Verb
from shim.task.timeline import Timeline

PREPARE_SECONDS = 900.0  # above the compiler's own limit
KILL_SECONDS = 10.0
EXECS_SECONDS = 5.0
OOM_SECONDS = 2.0
NO_SHELL = "; a Spin image brings no programs: use an ephemeral debug container (`kubectl debug --target`)"

# The OCI runtime for a spec: (the spec, whether it is a native container's).
Choose = Callable[[Mapping[str, Any], bool], OciRuntime]

log = logging.getLogger(__name__)


class Container(Process):
    """A task: its init, and what was added to it."""

    def __init__(self, request: CreateTaskRequest, choose: Choose, world: World, timeline: Timeline) -> None:
        wanted = Wanted(request.stdin, request.stdout, request.stderr, request.terminal)
        super().__init__(f"task {request.id}", TABLE, wanted)
        self.id = request.id
        self.request = request
        self.bundle = Bundle(Path(request.bundle))
        self.timeline = timeline
        self.execs: dict[str, Exec] = {}
        self.native = False
        self._oci: OciRuntime | None = None
        self._choose = choose
        self._world = world
        self._ready = -1
        self._cgroup = cgroup.Cgroup({}, None)
        self._oom: OomWatch | None = None
        self._watching: asyncio.Future[Exit] | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._made_at = 0
        self._oom_told = False

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
        self._oom = OomWatch(self._cgroup, self._tell_oom)
        self._watch()
        return self.pid

    async def _make(self) -> None:
        self.timeline.mark("Create received")
        config = self.bundle.config()
        oci = self._choose(config, False)  # before anything heavy: there may be none at all
        mounts = [Mount(m.type, m.source, m.target, tuple(m.options)) for m in self.request.rootfs]
        mount_all(mounts, self.bundle.rootfs)
        prepared = await self._prepare(config)
        try:
            self.native = prepared.native
            if self.native:
                oci = self._choose(config, True)
                self._restate(oci, config)
            self._oci = oci
            self.bundle.write_record(Record(oci.binary, oci.root, oci.systemd))
            self.timeline.extend(prepared.steps)
            await self._create_container(oci, prepared.fds)
        finally:
            prepared.close()

    def _restate(self, oci: OciRuntime, native: Mapping[str, Any]) -> None:
        """An operator's own choice of runtime may refuse what containerd writes (design.md section 8)."""
        version = str(native.get("ociVersion", ""))
        if not runtime.accepts(oci.binary, version):
            log.warning("%s refuses OCI version %s: stating %s to it", oci.name, version, spec.OCI_VERSION)
            self.bundle.write_oci(spec.restated(native, self.bundle.rootfs))

    async def _prepare(self, config: Mapping[str, Any]) -> prepare.Prepared:
        if prepare.is_sandbox(config):  # a pause container is never an app: nothing needs to be looked up
            return prepare.Prepared([], native=True)
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

    async def _create_container(self, oci: OciRuntime, codes: list[int]) -> None:
        job = self._world.job(self.id, self.bundle.path)
        streams = await self.open_streams(job, self._world.reaper, lossy=not self.native)
        ready_end = self._ready_pipe() if not self.native else -1
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            extra = [] if self.native else [codes[0], ready_end, *codes[1:]]
            fds = [*(streams or [null] * 3), *extra]
            self._made_at = time.time_ns()
            await self._call(oci, [*self._create_words(len(extra), oci), self.id], fds)
        finally:
            for descriptor in (null, ready_end):
                if descriptor >= 0:
                    os.close(descriptor)
        self._adopt_init(oci)
        await self.streams.attach()

    def _create_words(self, extra: int, oci: OciRuntime) -> list[str]:
        folder = self.bundle.oci if self.bundle.oci.is_dir() else self.bundle.path
        words = ["create", "--bundle", str(folder), "--pid-file", str(self.bundle.path / "init.pid")]
        preserved = ["--preserve-fds", str(extra)] if extra else []
        return [*words, *oci.create_words, *preserved, *self.streams.console_words]

    def _ready_pipe(self) -> int:
        """The end of the ready pipe that the host writes to; ours is kept."""
        self._ready, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(theirs, True)
        return theirs

    async def _call(self, oci: OciRuntime, words: list[str], fds: list[int] | None = None) -> None:
        await runtime.call(self._world.reaper, oci, self.bundle.path, words, fds or ())

    @property
    def oci(self) -> OciRuntime:
        """The OCI runtime that made the container."""
        assert self._oci is not None, self.name  # noqa: S101  # no state that needs it comes before
        return self._oci

    def _adopt_init(self, oci: OciRuntime) -> None:
        pid = self.bundle.pid()
        if pid is None:
            message = f"{oci.name} create succeeded without a pid file"
            raise GuestFailed(message)
        self.adopt(pid)
        self._cgroup = cgroup.of_process(pid)

    def _watch(self) -> None:
        self._watching = self._world.reaper.watch(self.pid, self._made_at)
        self._watching.add_done_callback(lambda future: self._on_exit(future.result()))

    def _on_exit(self, ended: Exit) -> None:
        """Takes the init's exit in; whatever shared its container dies with it, and is told of first."""
        self.ended = ended
        self._cgroup.signal_all_but(self.pid, signal.SIGKILL)
        live = [one for one in self.execs.values() if one.state in (State.STARTING, State.RUNNING)]
        if live:
            self._go(self._tell_after(live))
        else:
            self._tell_exit(ended)

    async def _tell_after(self, live: list[Exec]) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(EXECS_SECONDS):
                for one in live:
                    await one.exited.wait()
        if self.ended:
            self._tell_exit(self.ended)

    def _tell_exit(self, ended: Exit) -> None:
        """An exit is told to containerd only for what was told to have started."""
        if self._oom:
            self._oom.check()
        ran = self.state not in (State.CREATED, State.STARTING, State.STOPPED, State.DELETING)
        self.step(Verb.EXITED)
        if self.state is State.STARTING:
            return
        if ran:
            self._world.publish(*events.exited(self.id, ended))
        if self._oom_told:
            self._go(self._tell_waiters())
        else:
            self.exited.set()

    def _tell_oom(self) -> None:
        self._oom_told = True
        self._world.publish(*events.out_of_memory(self.id))

    async def _tell_waiters(self) -> None:
        """CRI before 2.3 says OOMKilled only if it hears of that before Wait is answered (wire.md 4.5)."""
        await self._world.delivered(OOM_SECONDS)
        self.exited.set()

    async def start(self) -> int:
        """Lets the init run; returns the pid, of an app once it listens. Raises GuestFailed."""
        self.step(Verb.START)
        self.timeline.mark("Start received")
        try:
            await self._call(self.oci, ["start", self.id])
            self.timeline.mark("OCI runtime started it")
            if not self.native:
                self.timeline.extend(await until_ready(self._ready))
        except BaseException:
            await self._end_failed_start()
            raise
        self.step(Verb.START_DONE)
        self.timeline.mark("started")
        self._world.publish(*events.started(self.id, self.pid))
        if self.ended:
            self._tell_exit(self.ended)
        self.timeline.write(self.bundle.path)
        return self.pid

    async def _end_failed_start(self) -> None:
        """Nothing of a failed start goes on running; no exit is told for what was never started."""
        try:
            await self._kill_and_wait()
        except DeadlineExceeded as error:
            log.error("after a failed start: %s; Delete will try again", error)
        self.step(Verb.START_FAILED)
        if self.ended:
            self.exited.set()

    def kill(self, number: int, *, everyone: bool) -> None:
        """Signals the init, or every process of the container. Raises the table's refusal."""
        self.step(Verb.KILL)
        if everyone:
            self._cgroup.signal_all_but(self.pid, number)
        self.signal(number)
        if number == signal.SIGKILL and self.state in (State.PAUSING, State.PAUSED):
            self._go(self._thaw())

    async def _thaw(self) -> None:
        """A frozen process of cgroup v1 does not even die: SIGKILL means that it shall."""
        with contextlib.suppress(ShimError):
            await self._call(self.oci, ["resume", self.id])

    async def pause(self) -> None:
        """Freezes every process; raises the table's refusal or the OCI runtime's words."""
        await self._change((Verb.PAUSE, Verb.PAUSE_DONE, Verb.PAUSE_FAILED), ["pause", self.id])
        self._world.publish(*events.paused(self.id))

    async def resume(self) -> None:
        """Lets them go on."""
        await self._change((Verb.RESUME, Verb.RESUME_DONE, Verb.RESUME_FAILED), ["resume", self.id])
        self._world.publish(*events.resumed(self.id))

    async def _change(self, verbs: tuple[Verb, Verb, Verb], words: list[str]) -> None:
        """One OCI verb between two states; the task may die meanwhile, and then stays dead."""
        asked, done, failed = verbs
        self.step(asked)
        between = self.state
        try:
            await self._call(self.oci, words)
        except BaseException:
            if self.state is between:
                self.step(failed)
            raise
        if self.state is between:
            self.step(done)

    async def update(self, resources: bytes) -> None:
        """Changes the cgroup's limits to `resources`, an OCI LinuxResources in JSON."""
        self.step(Verb.UPDATE)
        file = self.bundle.path / f"exec-resources-{time.monotonic_ns()}.json"
        file.write_bytes(resources)
        try:
            await self._call(self.oci, ["update", "--resources", str(file), self.id])
        finally:
            file.unlink(missing_ok=True)

    def add_exec(self, request: ExecProcessRequest) -> None:
        """Notes a process to be started; raises AlreadyExists or the table's refusal."""
        self.step(Verb.EXEC)
        if request.exec_id in self.execs:
            message = f"id {request.exec_id}: already exists"
            raise AlreadyExists(message)
        self.execs[request.exec_id] = Exec(request, "" if self.native else NO_SHELL)
        self._world.publish(*events.exec_added(self.id, request.exec_id))

    async def start_exec(self, exec_id: str) -> int:
        """Starts an added process; returns its pid."""
        self.step(Verb.EXEC)
        return await self.execs[exec_id].start(self.oci, self.bundle, self._world)

    async def delete_exec(self, exec_id: str) -> Exit:
        """Forgets an added process; returns how it ended."""
        ended = await self.execs[exec_id].delete()
        del self.execs[exec_id]
        return ended

    async def delete(self) -> Exit:
        """Removes the container and all that Create made; returns how it ended."""
        self.step(Verb.DELETE)
        try:
            await self._kill_and_wait()
            await self._call(self.oci, ["delete", "--force", self.id])
        except BaseException:
            self.step(Verb.DELETE_FAILED)
            raise
        await self._release()
        self.step(Verb.DELETE_DONE)
        self.exited.set()
        ended = self.ended or Exit(self.pid, 137, 0)
        self._world.publish(*events.deleted(self.id, ended))
        return ended

    async def _kill_and_wait(self) -> None:
        if self.ended is not None or self._watching is None:
            return
        with contextlib.suppress(ShimError):
            self.signal(signal.SIGKILL)
        try:
            async with asyncio.timeout(KILL_SECONDS):
                await asyncio.shield(self._watching)
        except TimeoutError as error:
            message = f"{self.name} did not die of SIGKILL within {KILL_SECONDS:.0f} s"
            raise DeadlineExceeded(message) from error

    async def _unmake(self) -> None:
        """Undoes a Create that failed, as far as it came; never fails itself."""
        if self._oci:
            try:
                await self._call(self._oci, ["delete", "--force", self.id])
            except (ShimError, OSError) as error:
                log.debug("after a failed create: %s", error)
        await self._release()

    async def _release(self) -> None:
        if self._ready >= 0:
            os.close(self._ready)
        self._ready = -1
        if self._oom:
            self._oom.close()
        for one in list(self.execs.values()):
            one.exited.set()
            await one.release()
        self.execs.clear()
        await self.release()
        unmount(self.bundle.rootfs)
        self.bundle.clear()

    def pids(self) -> dict[int, str]:
        """Every process of the container, the init first, with the exec ids of those that have one.

        Never empty while the init lives (wire.md 2.9).
        """
        self.step(Verb.PIDS)
        ids = {one.pid: one.id for one in self.execs.values() if one.state is State.RUNNING}
        found = dict.fromkeys([self.pid, *self._cgroup.pids()], "")
        return {pid: ids.get(pid, "") for pid in (*found, *ids)}

    def stats(self) -> Message:
        """The cgroup's figures; raises NotFound when it is gone."""
        self.step(Verb.STATS)
        return self._cgroup.stats()

    def _go(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name=f"{self.id}: background")
        self._background.add(task)
        task.add_done_callback(self._background.discard)
