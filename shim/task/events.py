"""Which events a task tells containerd of, and how they read (wire.md 3.5); knows no sockets.

Laws: for one task the word is Create (Start Exit)? Delete, each once and in this order, and for one exec
Added (Started Exit)?; an init's exit carries the container id twice; times are those of the reaper.
"""

from __future__ import annotations

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from shim.guest.reaper import Exit
from shim.pb.shim_pb2 import CreateTaskRequest
from shim.pb.task_events_pb2 import (
    TaskCreate,
    TaskDelete,
    TaskExecAdded,
    TaskExecStarted,
    TaskExit,
    TaskIO,
    TaskOOM,
    TaskPaused,
    TaskResumed,
    TaskStart,
)

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


def exited(container_id: str, ended: Exit, exec_id: str = "") -> Event:
    """The init ended, or an exec; clients tell them apart by `id`."""
    return "/tasks/exit", TaskExit(
        container_id=container_id,
        id=exec_id or container_id,
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


def exec_added(container_id: str, exec_id: str) -> Event:
    """A process was added, and does not run yet."""
    return "/tasks/exec-added", TaskExecAdded(container_id=container_id, exec_id=exec_id)


def exec_started(container_id: str, exec_id: str, pid: int) -> Event:
    """An added process runs."""
    return "/tasks/exec-started", TaskExecStarted(container_id=container_id, exec_id=exec_id, pid=pid)


def paused(container_id: str) -> Event:
    """Every process of the task stands still."""
    return "/tasks/paused", TaskPaused(container_id=container_id)


def resumed(container_id: str) -> Event:
    """They go on."""
    return "/tasks/resumed", TaskResumed(container_id=container_id)


def out_of_memory(container_id: str) -> Event:
    """The kernel killed a process of the task for want of memory."""
    return "/tasks/oom", TaskOOM(container_id=container_id)
