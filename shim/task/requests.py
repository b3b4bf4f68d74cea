"""From request bytes to a handler's answer bytes, and what is refused before anything is done."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message

from shim.errors import InvalidArgument, Unimplemented
from shim.pb import shim_pb2 as pb

R = TypeVar("R", bound=Message)


def check_supported(request: pb.CreateTaskRequest) -> None:
    """Raises Unimplemented for what no OCI runtime of ours can do."""
    if request.checkpoint or request.parent_checkpoint:
        message = "restoring from a checkpoint is not supported: crun and runc are run without CRIU"
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
