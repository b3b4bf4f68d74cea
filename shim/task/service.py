"""containerd.task.v2.Task: one method per RPC, request in, response out (wire.md 3.1, 3.2).

Must not know: processes, files, wire bytes. Laws: State, Pids, Stats and Connect answer from memory and the
cgroup files at once; what has begun goes on when its caller goes away, so that a second connection finds a
consistent task; v3 has the same messages, so one implementation is served under both names.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty

from shim import __version__
from shim.errors import NotFound, Unimplemented
from shim.guest.runtime import OciRuntime
from shim.pb import shim_pb2 as pb
from shim.pb.oci_pb2 import ProcessDetails
from shim.pb.task_pb2 import ProcessInfo, Status
from shim.task.container import Container
from shim.task.events import timestamp
from shim.task.process import Process, World
from shim.task.requests import answering, at_once, check_supported
from shim.task.state import State, Verb, step
from shim.task.timeline import Timeline

NAMES = ("containerd.task.v2.Task", "containerd.task.v3.Task")
STATUS = {
    State.CREATED: Status.CREATED,
    State.STARTING: Status.CREATED,
    State.RUNNING: Status.RUNNING,
    State.PAUSING: Status.PAUSING,
    State.PAUSED: Status.PAUSED,
    State.RESUMING: Status.PAUSED,
    State.STOPPED: Status.STOPPED,
    State.DELETING: Status.STOPPED,
}
Handler = Callable[[bytes], bytes | Awaitable[bytes]]
# The OCI runtime for a request's options, a spec, and whether it is a native container's.
ChooseRuntime = Callable[[AnyMessage, Mapping[str, Any], bool], OciRuntime]
T = TypeVar("T")

log = logging.getLogger(__name__)


class TaskService:
    """All tasks of one pod server."""

    def __init__(
        self,
        world: World,
        choose_runtime: ChooseRuntime,
        timeline: Callable[[], Timeline],
        on_shutdown: Callable[[], None],
    ) -> None:
        self.tasks: dict[str, Container] = {}
        self._world = world
        self._choose_runtime = choose_runtime
        self._timeline = timeline
        self._on_shutdown = on_shutdown
        self._running: set[asyncio.Task[Any]] = set()

    def services(self) -> dict[str, dict[str, Handler]]:
        """Handlers of request bytes by service and method, for the ttrpc server."""
        methods: dict[str, Handler] = {
            "Create": answering(pb.CreateTaskRequest, self.create),
            "Start": answering(pb.StartRequest, self.start),
            "Delete": answering(pb.DeleteRequest, self.delete),
            "Wait": answering(pb.WaitRequest, self.wait),
            "Pause": answering(pb.PauseRequest, self.pause),
            "Resume": answering(pb.ResumeRequest, self.resume),
            "Update": answering(pb.UpdateTaskRequest, self.update),
            "Exec": at_once(pb.ExecProcessRequest, self.exec),
            "State": at_once(pb.StateRequest, self.state),
            "Kill": at_once(pb.KillRequest, self.kill),
            "Pids": at_once(pb.PidsRequest, self.pids),
            "Stats": at_once(pb.StatsRequest, self.stats),
            "ResizePty": at_once(pb.ResizePtyRequest, self.resize_pty),
            "CloseIO": at_once(pb.CloseIORequest, self.close_io),
            "Checkpoint": at_once(pb.CheckpointTaskRequest, self.checkpoint),
            "Connect": at_once(pb.ConnectRequest, self.connect),
            "Shutdown": at_once(pb.ShutdownRequest, self.shutdown),
        }
        return dict.fromkeys(NAMES, methods)

    async def create(self, request: pb.CreateTaskRequest) -> pb.CreateTaskResponse:
        """Makes a task, its init alive and waiting."""
        known = self.tasks.get(request.id)
        step(f"task {request.id}", known.state if known else State.ABSENT, Verb.CREATE)
        check_supported(request)

        def choose(spec: Mapping[str, Any], native: bool) -> OciRuntime:  # noqa: FBT001  # see Choose
            return self._choose_runtime(request.options, spec, native)

        container = Container(request, choose, self._world, self._timeline())
        self.tasks[request.id] = container
        pid = await self._to_the_end(container.create(), container)
        return pb.CreateTaskResponse(pid=pid)

    async def start(self, request: pb.StartRequest) -> pb.StartResponse:
        """Lets a created process run; an app's answer comes when it listens."""
        container, _ = self._find(request.id, request.exec_id)
        work = container.start_exec(request.exec_id) if request.exec_id else container.start()
        return pb.StartResponse(pid=await self._to_the_end(work, container))

    async def delete(self, request: pb.DeleteRequest) -> pb.DeleteResponse:
        """Removes a process that has ended or never ran."""
        container, _ = self._find(request.id, request.exec_id)
        work = container.delete_exec(request.exec_id) if request.exec_id else container.delete()
        ended = await self._to_the_end(work, container)
        return pb.DeleteResponse(pid=ended.pid, exit_status=ended.status, exited_at=timestamp(ended.at))

    async def wait(self, request: pb.WaitRequest) -> pb.WaitResponse:
        """Answers when the process has ended, however long that takes."""
        _, process = self._find(request.id, request.exec_id)
        ended = await process.wait()
        return pb.WaitResponse(exit_status=ended.status, exited_at=timestamp(ended.at))

    async def pause(self, request: pb.PauseRequest) -> Empty:
        """Freezes a task."""
        container, _ = self._find(request.id)
        await self._to_the_end(container.pause(), container)
        return Empty()

    async def resume(self, request: pb.ResumeRequest) -> Empty:
        """Lets a frozen task go on."""
        container, _ = self._find(request.id)
        await self._to_the_end(container.resume(), container)
        return Empty()

    async def update(self, request: pb.UpdateTaskRequest) -> Empty:
        """Changes a task's limits."""
        container, _ = self._find(request.id)
        await self._to_the_end(container.update(request.resources.value), container)
        return Empty()

    def exec(self, request: pb.ExecProcessRequest) -> Empty:
        """Notes a process that Start will add to a task."""
        container, _ = self._find(request.id)
        container.add_exec(request)
        return Empty()

    def state(self, request: pb.StateRequest) -> pb.StateResponse:
        """Where a process stands."""
        container, process = self._find(request.id, request.exec_id)
        process.step(Verb.STATE)
        wanted = process.wanted
        answer = pb.StateResponse(
            id=container.id,
            exec_id=request.exec_id,
            bundle=container.request.bundle,
            pid=process.pid,
            status=STATUS[process.state],
            stdin=wanted.stdin,
            stdout=wanted.stdout,
            stderr=wanted.stderr,
            terminal=wanted.terminal,
        )
        if process.ended and STATUS[process.state] == Status.STOPPED:
            answer.exit_status = process.ended.status
            answer.exited_at.CopyFrom(timestamp(process.ended.at))
        return answer

    def kill(self, request: pb.KillRequest) -> Empty:
        """Sends a signal; never waits for another call."""
        container, _ = self._find(request.id, request.exec_id)
        if request.exec_id:
            container.execs[request.exec_id].kill(request.signal)
        else:
            container.kill(request.signal, everyone=request.all)
        return Empty()

    def pids(self, request: pb.PidsRequest) -> pb.PidsResponse:
        """Every process of a task; those that were added carry their id (wire.md 3.1)."""
        container, _ = self._find(request.id)
        return pb.PidsResponse(processes=[_info(pid, name) for pid, name in container.pids().items()])

    def stats(self, request: pb.StatsRequest) -> pb.StatsResponse:
        """A task's figures, with a bare type url (wire.md 4.5)."""
        container, _ = self._find(request.id)
        metrics = container.stats()
        body = AnyMessage(type_url=metrics.DESCRIPTOR.full_name, value=metrics.SerializeToString())
        return pb.StatsResponse(stats=body)

    def resize_pty(self, request: pb.ResizePtyRequest) -> Empty:
        """A terminal's new size."""
        _, process = self._find(request.id, request.exec_id)
        process.resize(request.width, request.height)
        return Empty()

    def close_io(self, request: pb.CloseIORequest) -> Empty:
        """End of a process's input."""
        _, process = self._find(request.id, request.exec_id)
        if request.stdin:
            process.close_stdin()
        return Empty()

    def checkpoint(self, request: pb.CheckpointTaskRequest) -> Empty:
        """Not without CRIU, which neither Debian's crun nor a plain node has."""
        container, _ = self._find(request.id)
        container.step(Verb.CHECKPOINT)
        message = f"task {request.id}: checkpoints need CRIU, which crun and runc are run without"
        raise Unimplemented(message)

    def connect(self, request: pb.ConnectRequest) -> pb.ConnectResponse:
        """Our pid and the task's, for any id; containerd takes the task's pid from here."""
        container = self.tasks.get(request.id)
        return pb.ConnectResponse(
            shim_pid=os.getpid(), task_pid=container.pid if container else 0, version=__version__
        )

    def shutdown(self, request: pb.ShutdownRequest) -> Empty:
        """Ends the server when no task is left; ignored otherwise (wire.md 2.9)."""
        del request
        if not self.tasks:
            self._on_shutdown()
        return Empty()

    def _find(self, task_id: str, exec_id: str = "") -> tuple[Container, Process]:
        container = self.tasks.get(task_id)
        if container is None:
            message = f"task {task_id}: not found"
            raise NotFound(message)
        if not exec_id:
            return container, container
        if exec_id not in container.execs:
            message = f"process does not exist {exec_id}: not found"
            raise NotFound(message)
        return container, container.execs[exec_id]

    async def _to_the_end(self, work: Coroutine[Any, Any, T], container: Container) -> T:
        """Runs `work` to its end even if whoever asked goes away; forgets tasks that are gone."""

        async def owned() -> T:
            try:
                return await work
            finally:
                if container.state is State.ABSENT:
                    self.tasks.pop(container.id, None)

        task = asyncio.get_running_loop().create_task(owned(), name=f"{container.id}: {work}")
        self._running.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and task.exception():
            log.info("%s: %s", task.get_name(), task.exception())


def _info(pid: int, exec_id: str) -> ProcessInfo:
    info = ProcessInfo(pid=pid)
    if exec_id:
        details = ProcessDetails(exec_id=exec_id)
        info.info.type_url = details.DESCRIPTOR.full_name
        info.info.value = details.SerializeToString()
    return info
