"""A ttrpc server on a listening UNIX socket: connections, dispatch, deadlines, cancellation.

Laws: requests of one connection run side by side and are answered in any order (wire.md 1.5); nothing a
peer sends ends the process; a peer that does not read is cut off at MAX_UNSENT bytes; handlers of a
connection that went away are cancelled (what must not stop half-way, its service shields).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from typing import cast

from shim.errors import Code, ShimError, Unimplemented, status_of
from shim.pb.request_pb2 import Request
from shim.ttrpc.wire import (
    MAX_PAYLOAD,
    Frame,
    FrameReader,
    MessageType,
    Oversized,
    encode_error,
    encode_response,
    is_client_stream,
    parse_request,
)

Handler = Callable[[bytes], "bytes | Awaitable[bytes]"]
Services = Mapping[str, Mapping[str, Handler]]

MAX_UNSENT = 8 << 20  # bytes waiting for a peer that does not read
MAX_IN_FLIGHT = 1024  # calls per connection; containerd leaves a Wait open for every process
MAX_CONNECTIONS = 512  # containerd opens one for each container of a pod (wire.md 1.5)
PARTIAL_FRAME_SECONDS = 10.0

log = logging.getLogger(__name__)


class Server:
    """Serves `services` (service name -> method name -> handler of request bytes)."""

    def __init__(self, services: Services, uid: int) -> None:
        self._services = services
        self._uid = uid
        self._listener: asyncio.Server | None = None
        self.connections: set[Connection] = set()

    async def start(self, listener: socket.socket) -> None:
        """Begins to accept on `listener`, which is bound and listening already."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_unix_server(lambda: Connection(self), sock=listener)

    def stop(self) -> None:
        """Stops accepting and closes every connection once its answers are out."""
        if self._listener:
            self._listener.close()
        for connection in list(self.connections):
            connection.close()

    def allows(self, peer: socket.socket) -> bool:
        """True for peers of our own uid, as Go's shims check (wire.md 1.9)."""
        raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _pid, uid, _gid = struct.unpack("3i", raw)
        return uid == self._uid and len(self.connections) < MAX_CONNECTIONS

    def handler(self, request: Request) -> Handler:
        """The handler of a call; raises Unimplemented when there is none."""
        methods = self._services.get(request.service)
        if methods is None:
            message = f"service {request.service} is not served here"
            raise Unimplemented(message)
        handler = methods.get(request.method)
        if handler is None:
            message = f"method {request.method} of {request.service} is not served here"
            raise Unimplemented(message)
        return handler


class Connection(asyncio.Protocol):
    """One peer: frames in, calls side by side, frames out."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._reader = FrameReader()
        self._calls: set[asyncio.Task[None]] = set()
        self._transport: asyncio.Transport | None = None
        self._last_stream = 0
        self._stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Takes the peer in, or closes at once on one that may not speak to us."""
        self._transport = cast("asyncio.Transport", transport)
        if not self._server.allows(transport.get_extra_info("socket")):
            transport.abort()  # type: ignore[attr-defined]  # a Transport, typed as its base
            return
        self._server.connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Feeds the codec and starts whatever became complete."""
        self._reader.feed(data)
        while (event := self._reader.next_event()) is not None:
            if isinstance(event, Oversized):
                self._refuse_oversized(event)
            else:
                self._receive(event)
        self._watch_partial_frame()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancels what the peer no longer waits for; state belongs to the process, not to us."""
        del exc
        self._server.connections.discard(self)
        if self._stalled:
            self._stalled.cancel()
        for call in self._calls:
            call.cancel()

    def close(self) -> None:
        """Closes after the answers written so far are out."""
        if self._transport:
            self._transport.close()

    def _watch_partial_frame(self) -> None:
        if self._stalled:
            self._stalled.cancel()
            self._stalled = None
        if self._reader.partial:
            loop = asyncio.get_running_loop()
            self._stalled = loop.call_later(PARTIAL_FRAME_SECONDS, self._abort, "a frame never ended")

    def _abort(self, why: str) -> None:
        log.warning("closing a connection: %s", why)
        if self._transport:
            self._transport.abort()

    def _refuse_oversized(self, event: Oversized) -> None:
        text = f"message of {event.length} bytes is above the limit of {MAX_PAYLOAD}"
        self._send(encode_error(event.stream_id, Code.RESOURCE_EXHAUSTED, text))

    def _receive(self, frame: Frame) -> None:
        try:
            self._check(frame)
            if frame.type != MessageType.REQUEST:
                return  # a type of the future
            request = parse_request(frame.payload)
            answer = self._server.handler(request)(request.payload)
        except Exception as error:  # noqa: BLE001  # whatever a handler raises is the call's answer
            self._send(failure(frame.stream_id, error))
            return
        if isinstance(answer, bytes):
            self._send(encode_response(frame.stream_id, answer))
        else:
            self._spawn(frame.stream_id, request, answer)

    def _check(self, frame: Frame) -> None:
        """Go's rules in Go's order, so that a peer finds the same server here (wire.md 1.3)."""
        if not is_client_stream(frame.stream_id):
            message = f"stream id {frame.stream_id} is even: clients open odd ones"
            raise BadStream(message)
        if frame.type == MessageType.DATA:
            message = f"data for stream {frame.stream_id}, which is not open"
            raise BadStream(message)
        if frame.type == MessageType.REQUEST:
            self._advance(frame.stream_id)
        if len(self._calls) >= MAX_IN_FLIGHT:
            message = f"more than {MAX_IN_FLIGHT} calls in flight on one connection"
            raise TooManyCalls(message)

    def _advance(self, stream_id: int) -> None:
        if stream_id <= self._last_stream:
            message = f"stream id {stream_id} is not above {self._last_stream}, the last one: ids only grow"
            raise BadStream(message)
        self._last_stream = stream_id

    def _spawn(self, stream_id: int, request: Request, answer: Awaitable[bytes]) -> None:
        name = f"{request.method}#{stream_id}"
        call = asyncio.get_running_loop().create_task(self._answer(stream_id, request, answer), name=name)
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

    async def _answer(self, stream_id: int, request: Request, answer: Awaitable[bytes]) -> None:
        try:
            limit = request.timeout_nano / 1e9 if request.timeout_nano > 0 else None
            async with asyncio.timeout(limit):
                frame = encode_response(stream_id, await answer)
        except Exception as error:  # noqa: BLE001  # whatever a handler raises is the call's answer
            frame = failure(stream_id, error)
        self._send(frame)

    def _send(self, frame: bytes) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        transport.write(frame)
        if transport.get_write_buffer_size() > MAX_UNSENT:
            self._abort("the peer does not read its answers")


class BadStream(ShimError):
    """A stream id or frame that the protocol forbids."""

    code = Code.INVALID_ARGUMENT


class TooManyCalls(ShimError):
    """A peer that opens calls without end."""

    code = Code.RESOURCE_EXHAUSTED


def failure(stream_id: int, error: Exception) -> bytes:
    """The error frame for `error`; what is not in our vocabulary is logged with its trace."""
    code, message = status_of(error)
    if code == Code.INTERNAL:
        log.error("call failed: %s", message, exc_info=error)
    return encode_error(stream_id, code, message)
