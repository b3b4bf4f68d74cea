"""containerd.task.v2.Task: one method per RPC, request in, response out (wire.md 3.1, 3.2).

Must not know: processes, files, wire bytes. Laws: State, Pids, Stats and Connect answer from memory and the
cgroup files at once; what has begun goes on when its caller goes away, so that a second connection finds a
consistent task; v3 has the same messages, so one implementation is served under both names.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError, Message

from shim import __version__
from shim.errors import InvalidArgument, NotFound, Unimplemented
from shim.guest.runtime import OciRuntime
from shim.pb import shim_pb2 as pb
from shim.pb.task_pb2 import ProcessInfo, Status
from shim.task.container import Container, World
from shim.task.events import timestamp
from shim.task.state import State, Verb, step
from shim.task.timeline import Timeline

NAMES = ("containerd.task.v2.Task", "containerd.task.v3.Task")
NOT_YET = ("Exec", "ResizePty", "Pause", "Resume", "Checkpoint", "Update")
STATUS = {
    State.CREATED: Status.CREATED,
    State.STARTING: Status.CREATED,
    State.RUNNING: Status.RUNNING,
    State.STOPPED: Status.STOPPED,
    State.DELETING: Status.STOPPED,
}
R = TypeVar("R", bound=Message)

log = logging.getLogger(__name__)


class Targeted(Protocol):
    """Any request that names a task."""

    id: str


class TaskService:
    """All tasks of one pod server."""

    def __init__(
        self,
        world: World,
        choose_runtime: Callable[[AnyMessage], OciRuntime],
        timeline: Callable[[], Timeline],
        on_shutdown: Callable[[], None],
    ) -> None:
        self.tasks: dict[str, Container] = {}
        self._world = world
        self._choose_runtime = choose_runtime
        self._timeline = timeline
        self._on_shutdown = on_shutdown
        self._running: set[asyncio.Task[Any]] = set()

    def services(self) -> dict[str, dict[str, Callable[[bytes], bytes | Awaitable[bytes]]]]:
        """Handlers of request bytes by service and method, for the ttrpc server."""
        methods: dict[str, Callable[[bytes], bytes | Awaitable[bytes]]] = {
            "Create": answering(pb.CreateTaskRequest, self.create),
            "Start": answering(pb.StartRequest, self.start),
            "Delete": answering(pb.DeleteRequest, self.delete),
            "Wait": answering(pb.WaitRequest, self.wait),
            "State": at_once(pb.StateRequest, self.state),
            "Kill": at_once(pb.KillRequest, self.kill),
            "Pids": at_once(pb.PidsRequest, self.pids),
            "Stats": at_once(pb.StatsRequest, self.stats),
            "CloseIO": at_once(pb.CloseIORequest, self.close_io),
            "Connect": at_once(pb.ConnectRequest, self.connect),
            "Shutdown": at_once(pb.ShutdownRequest, self.shutdown),
        }
        for name in NOT_YET:
            methods[name] = at_once(pb.PauseRequest, self._refusing(name))
        return dict.fromkeys(NAMES, methods)

    async def create(self, request: pb.CreateTaskRequest) -> pb.CreateTaskResponse:
        """Makes a task, its init alive and waiting."""
        known = self.tasks.get(request.id)
        step(request.id, known.state if known else State.ABSENT, Verb.CREATE)
        check_supported(request)
        oci = self._choose_runtime(request.options)
        container = Container(request, oci, self._world, self._timeline())
        self.tasks[request.id] = container
        pid = await self._to_the_end(container.create(), container)
        return pb.CreateTaskResponse(pid=pid)

    async def start(self, request: pb.StartRequest) -> pb.StartResponse:
        """Lets a created task run; answers when the app listens."""
        container = self._find(request.id, request.exec_id)
        pid = await self._to_the_end(container.start(), container)
        return pb.StartResponse(pid=pid)

    async def delete(self, request: pb.DeleteRequest) -> pb.DeleteResponse:
        """Removes a task that has ended or never ran."""
        container = self._find(request.id, request.exec_id)
        ended = await self._to_the_end(container.delete(), container)
        return pb.DeleteResponse(pid=ended.pid, exit_status=ended.status, exited_at=timestamp(ended.at))

    async def wait(self, request: pb.WaitRequest) -> pb.WaitResponse:
        """Answers when the task has ended, however long that takes."""
        ended = await self._find(request.id, request.exec_id).wait()
        return pb.WaitResponse(exit_status=ended.status, exited_at=timestamp(ended.at))

    def state(self, request: pb.StateRequest) -> pb.StateResponse:
        """Where a task stands."""
        container = self._find(request.id, request.exec_id)
        container.step(Verb.STATE)
        made = container.request
        answer = pb.StateResponse(
            id=container.id,
            bundle=made.bundle,
            pid=container.pid,
            status=STATUS[container.state],
            stdin=made.stdin,
            stdout=made.stdout,
            stderr=made.stderr,
            terminal=made.terminal,
        )
        if container.ended and STATUS[container.state] == Status.STOPPED:
            answer.exit_status = container.ended.status
            answer.exited_at.CopyFrom(timestamp(container.ended.at))
        return answer

    def kill(self, request: pb.KillRequest) -> Empty:
        """Sends a signal; never waits for another call."""
        self._find(request.id, request.exec_id).kill(request.signal, everyone=request.all)
        return Empty()

    def pids(self, request: pb.PidsRequest) -> pb.PidsResponse:
        """Every process of a task."""
        return pb.PidsResponse(processes=[ProcessInfo(pid=pid) for pid in self._find(request.id).pids()])

    def stats(self, request: pb.StatsRequest) -> pb.StatsResponse:
        """A task's figures, with a bare type url (wire.md 4.5)."""
        metrics = self._find(request.id).stats()
        body = AnyMessage(type_url=metrics.DESCRIPTOR.full_name, value=metrics.SerializeToString())
        return pb.StatsResponse(stats=body)

    def close_io(self, request: pb.CloseIORequest) -> Empty:
        """Fine for any task: a Spin component has no standard input to close."""
        self._find(request.id, request.exec_id)
        return Empty()

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

    def _refusing(self, method: str) -> Callable[[Targeted], Empty]:
        def refuse(request: Targeted) -> Empty:
            self._find(request.id)
            message = f"{method} is not supported for Spin containers yet"
            raise Unimplemented(message)

        return refuse

    def _find(self, task_id: str, exec_id: str = "") -> Container:
        container = self.tasks.get(task_id)
        if container is None:
            message = f"task {task_id}: not found"
            raise NotFound(message)
        if exec_id:
            message = f"process does not exist {exec_id}: not found"
            raise NotFound(message)
        return container

    async def _to_the_end(self, work: Coroutine[Any, Any, Any], container: Container) -> Any:  # noqa: ANN401
        """Runs `work` to its end even if whoever asked goes away; forgets tasks that are gone."""

        async def owned() -> Any:  # noqa: ANN401  # passes any result on
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


def check_supported(request: pb.CreateTaskRequest) -> None:
    """Raises Unimplemented for what Create asks of other issues' features."""
    if request.checkpoint or request.parent_checkpoint:
        message = "restoring from a checkpoint is not supported for Spin containers"
        raise Unimplemented(message)
    if request.terminal:
        message = "terminals are not supported yet; run without --tty"
        raise Unimplemented(message)


def parsed(kind: type[R], data: bytes) -> R:
    """The request in `data`; raises InvalidArgument."""
    try:
        return kind.FromString(data)
    except DecodeError as error:
        message = f"wanted a {kind.DESCRIPTOR.full_name}, found {len(data)} bytes that do not decode: {error}"
        raise InvalidArgument(message) from error


def at_once(kind: type[R], method: Callable[[R], Message]) -> Callable[[bytes], bytes]:
    """A handler for a method that answers without waiting."""
    return lambda data: method(parsed(kind, data)).SerializeToString()


def answering(
    kind: type[R], method: Callable[[R], Coroutine[Any, Any, Message]]
) -> Callable[[bytes], Awaitable[bytes]]:
    """A handler for a method that may wait."""

    async def handle(data: bytes) -> bytes:
        return (await method(parsed(kind, data))).SerializeToString()

    return handle
