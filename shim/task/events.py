"""Which events a task tells containerd of, and how they read (wire.md 3.5); knows no sockets.

Laws: for one task the word is Create (Start Exit)? Delete, each once and in this order; an init's exit
carries the container id twice; times are those of the reaper.
"""

from __future__ import annotations

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from shim.guest.reaper import Exit
from shim.pb.shim_pb2 import CreateTaskRequest
from shim.pb.task_events_pb2 import TaskCreate, TaskDelete, TaskExit, TaskIO, TaskStart

Event = tuple[str, Message]


def timestamp(nanoseconds: int) -> Timestamp:
    """A protobuf time from ns since 1970."""
    seconds, nanos = divmod(nanoseconds, 10**9)
    return Timestamp(seconds=seconds, nanos=nanos)


def created(request: CreateTaskRequest, pid: int) -> Event:
    """The task exists, with a live init."""
    streams = TaskIO(
        stdin=request.stdin, stdout=request.stdout, stderr=request.stderr, terminal=request.terminal
    )
    event = TaskCreate(
        container_id=request.id,
        bundle=request.bundle,
        rootfs=request.rootfs,
        io=streams,
        checkpoint=request.checkpoint,
        pid=pid,
    )
    return "/tasks/create", event


def started(container_id: str, pid: int) -> Event:
    """The init runs the app."""
    return "/tasks/start", TaskStart(container_id=container_id, pid=pid)


def exited(container_id: str, ended: Exit) -> Event:
    """The init ended."""
    return "/tasks/exit", TaskExit(
        container_id=container_id,
        id=container_id,
        pid=ended.pid,
        exit_status=ended.status,
        exited_at=timestamp(ended.at),
    )


def deleted(container_id: str, ended: Exit) -> Event:
    """Nothing of the task is left."""
    return "/tasks/delete", TaskDelete(
        container_id=container_id,
        pid=ended.pid,
        exit_status=ended.status,
        exited_at=timestamp(ended.at),
    )
