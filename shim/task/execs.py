"""A process added to a running container: `ctr tasks exec`, `kubectl exec`.

Laws: it is made by Exec, runs from Start on, and is forgotten by Delete; a start that fails leaves it as it
was, tells no event but its Wait (wire.md 3.3, 3.5); its exit is told before the init's.
"""

from __future__ import annotations

import itertools
import time

from shim.bundle import Bundle, replace
from shim.errors import GuestFailed, InvalidArgument
from shim.guest import runtime
from shim.guest.reaper import Exit
from shim.pb.shim_pb2 import ExecProcessRequest
from shim.stdio import Wanted
from shim.task import events
from shim.task.process import Process, World
from shim.task.state import EXEC_TABLE, State, Verb

SPEC_TYPE = "types.containerd.io/opencontainers/runtime-spec/1/Process"
_numbers = itertools.count()  # file names of our own: an exec id is never part of a path


class Exec(Process):
    """One added process; `hint` completes the OCI runtime's words when it cannot be started."""

    def __init__(self, request: ExecProcessRequest, hint: str = "") -> None:
        wanted = Wanted(request.stdin, request.stdout, request.stderr, request.terminal)
        super().__init__(f"exec {request.exec_id}", EXEC_TABLE, wanted)
        self.id = request.exec_id
        self._container = request.id
        self._spec = request.spec.value
        self._hint = hint
        self._number = next(_numbers)
        if request.spec.type_url.rpartition("/")[2] != "Process":
            message = f"exec {self.id}: wanted a spec of type {SPEC_TYPE}, found {request.spec.type_url!r}"
            raise InvalidArgument(message)
        self.step(Verb.CREATE)

    async def start(self, oci: runtime.OciRuntime, bundle: Bundle, world: World) -> int:
        """Starts the process; returns its pid. Raises GuestFailed with the OCI runtime's words."""
        self.step(Verb.START)
        try:
            await self._start(oci, bundle, world)
        except BaseException:
            await self.release()
            self.step(Verb.START_FAILED)
            self.exited.set()
            raise
        self.step(Verb.START_DONE)
        world.publish(*events.exec_started(self._container, self.id, self.pid))
        if self.ended:
            self._told(self.ended, world)
        return self.pid

    async def _start(self, oci: runtime.OciRuntime, bundle: Bundle, world: World) -> None:
        spec, pid_file = (bundle.path / f"exec-{self._number}.{end}" for end in ("json", "pid"))
        replace(spec, self._spec)
        job = world.job(self._container, bundle.path)
        fds = await self.open_streams(job, world.reaper, lossy=False)
        words = ["exec", "--process", str(spec), "--detach", "--pid-file", str(pid_file)]
        since = time.time_ns()
        try:
            words += [*self.streams.console_words, self._container]
            await runtime.call(world.reaper, oci, bundle.path, words, fds)
            self._adopt(bundle.pid(pid_file.name), oci)
        except GuestFailed as error:
            message = f"{error}{self._hint}"
            raise GuestFailed(message) from error
        finally:
            for file in (spec, pid_file):
                file.unlink(missing_ok=True)
        await self.streams.attach()
        watching = world.reaper.watch(self.pid, since)
        watching.add_done_callback(lambda future: self._told(future.result(), world))

    def _adopt(self, pid: int | None, oci: runtime.OciRuntime) -> None:
        if pid is None:
            message = f"{oci.name} exec succeeded without a pid file"
            raise GuestFailed(message)
        self.adopt(pid)

    def _told(self, ended: Exit, world: World) -> None:
        """Takes the exit in; it is told to containerd once the start was."""
        self.ended = ended
        self.step(Verb.EXITED)
        if self.state is State.STOPPED:
            world.publish(*events.exited(self._container, ended, self.id))
            self.exited.set()

    def kill(self, number: int) -> None:
        """Signals the process; raises the table's refusal."""
        self.step(Verb.KILL)
        self.signal(number)

    async def delete(self) -> Exit:
        """Forgets the process; returns how it ended (all zero when it never ran)."""
        self.step(Verb.DELETE)
        self.exited.set()
        await self.release()
        return self.ended or Exit(self.pid, 0, 0)
