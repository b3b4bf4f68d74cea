"""A ttrpc client over a UNIX socket: unary calls side by side on one connection.

Laws: stream ids are odd and grow by two (wire.md 1.3); a late answer to a call nobody waits for is dropped;
when the connection ends every pending call fails with Unavailable.
"""

from __future__ import annotations

import asyncio
from typing import cast

from google.protobuf.message import DecodeError

from shim.errors import Unavailable, error_from
from shim.pb.request_pb2 import Response
from shim.ttrpc.wire import Frame, FrameReader, encode_request, make_request


class Client(asyncio.Protocol):
    """One connection; make it with `connect`."""

    def __init__(self) -> None:
        self._reader = FrameReader()
        self._pending: dict[int, asyncio.Future[Frame]] = {}
        self._next_id = 1
        self._transport: asyncio.Transport | None = None

    @property
    def closed(self) -> bool:
        """True once the connection has ended or was never made."""
        return self._transport is None or self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remembers the way out."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Hands answers to those who wait for them."""
        self._reader.feed(data)
        while (event := self._reader.next_event()) is not None:
            waiter = self._pending.pop(event.stream_id, None)
            if waiter is None or waiter.done():
                continue
            if isinstance(event, Frame):
                waiter.set_result(event)
            else:
                waiter.set_exception(error_from(8, f"answer of {event.length} bytes is too large"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Fails whoever still waits."""
        self._transport = None
        for waiter in self._pending.values():
            if not waiter.done():
                waiter.set_exception(Unavailable(f"ttrpc: closed ({exc or 'end of file'})"))
        self._pending.clear()

    async def call(
        self,
        service: str,
        method: str,
        payload: bytes,
        seconds: float | None = None,
        metadata: dict[str, str] | None = None,
    ) -> bytes:
        """The answer's payload; `seconds` is its deadline, which goes over the wire too.

        Raises the ShimError of the answer's status, Unavailable when the connection ends, TimeoutError, and
        ResourceExhausted for a call too large to send.
        """
        if self._transport is None or self._transport.is_closing():
            message = "ttrpc: closed"
            raise Unavailable(message)
        stream_id = self._next_id
        request = make_request(service, method, payload, int((seconds or 0) * 1e9), metadata)
        self._transport.write(encode_request(stream_id, request))
        self._next_id += 2
        waiter = asyncio.get_running_loop().create_future()
        self._pending[stream_id] = waiter
        try:
            async with asyncio.timeout(seconds):
                frame = await waiter
        finally:
            self._pending.pop(stream_id, None)
        return payload_of(frame)

    def close(self) -> None:
        """Ends the connection."""
        if self._transport:
            self._transport.close()


def payload_of(frame: Frame) -> bytes:
    """The payload of a Response frame; raises the ShimError of its status."""
    try:
        response = Response.FromString(frame.payload)
    except DecodeError as error:
        message = f"ttrpc: an answer of {len(frame.payload)} bytes does not decode"
        raise Unavailable(message) from error
    if response.status.code:
        raise error_from(response.status.code, response.status.message)
    return response.payload


async def connect(path: str) -> Client:
    """A client on the UNIX socket at `path`; raises Unavailable when nobody listens there."""
    loop = asyncio.get_running_loop()
    try:
        _, client = await loop.create_unix_connection(Client, path)
    except OSError as error:
        message = f"no ttrpc server at {path}: {error.strerror or error}"
        raise Unavailable(message) from error
    return client
