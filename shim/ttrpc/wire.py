"""ttrpc frames as values: bytes in, events out (wire.md section 1; containerd/ttrpc PROTOCOL.md).

Laws: no I/O here; `feed` never raises, `next_event` never blocks; a payload is never allocated from a
claimed size, only from bytes that came; an oversized frame is skipped, and the connection lives.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag

from google.protobuf.message import DecodeError

from shim.errors import Code, InvalidArgument, ResourceExhausted
from shim.pb.request_pb2 import KeyValue, Request, Response

HEADER = struct.Struct(">IIBB")
MAX_PAYLOAD = 4 << 20  # bytes, both directions (wire.md 1.4)


class MessageType(IntEnum):
    """The types a peer may send; others are ignored as Go's server does (wire.md 1.3)."""

    REQUEST = 1
    RESPONSE = 2
    DATA = 3


class Flags(IntFlag):
    """Meaningful for streaming calls only, which containerd's shim API has none of."""

    NONE = 0
    REMOTE_CLOSED = 1
    REMOTE_OPEN = 2
    NO_DATA = 4


@dataclass(frozen=True, slots=True)
class Frame:
    """One whole message: `type` may be a number that MessageType does not know."""

    stream_id: int
    type: int
    flags: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Oversized:
    """A frame above MAX_PAYLOAD: its bytes are thrown away as they come."""

    stream_id: int
    type: int
    length: int


class FrameReader:
    """Collects bytes of one connection and yields its frames in order."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._skip = 0

    def __repr__(self) -> str:
        return f"<FrameReader {len(self._buffer)} bytes buffered, {self._skip} to skip>"

    @property
    def partial(self) -> bool:
        """True while a frame has begun but not ended."""
        return bool(self._buffer) or self._skip > 0

    def feed(self, data: bytes) -> None:
        """Adds what the socket gave."""
        if self._skip:
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            data = data[skipped:]
        self._buffer += data

    def next_event(self) -> Frame | Oversized | None:
        """The next whole frame or oversize notice, or None when more bytes are needed."""
        if self._skip or len(self._buffer) < HEADER.size:
            return None
        length, stream_id, kind, flags = HEADER.unpack_from(self._buffer)
        if length > MAX_PAYLOAD:
            return self._oversized(Oversized(stream_id, kind, length))
        end = HEADER.size + length
        if len(self._buffer) < end:
            return None
        payload = bytes(memoryview(self._buffer)[HEADER.size : end])
        del self._buffer[:end]
        return Frame(stream_id, kind, flags, payload)

    def _oversized(self, event: Oversized) -> Oversized:
        rest = bytes(memoryview(self._buffer)[HEADER.size :])
        self._buffer.clear()
        self._skip = event.length
        self.feed(rest)
        return event


def encode_frame(stream_id: int, kind: MessageType, payload: bytes, flags: Flags = Flags.NONE) -> bytes:
    """The bytes of one frame; raises ResourceExhausted above MAX_PAYLOAD."""
    if len(payload) > MAX_PAYLOAD:
        message = f"payload of {len(payload)} bytes is above the limit of {MAX_PAYLOAD}"
        raise ResourceExhausted(message)
    return HEADER.pack(len(payload), stream_id, kind, flags) + payload


def is_client_stream(stream_id: int) -> bool:
    """True for ids that a client may open: odd (wire.md 1.3)."""
    return stream_id % 2 == 1


def parse_request(payload: bytes) -> Request:
    """The request in a frame's payload; raises InvalidArgument when it is not one."""
    try:
        return Request.FromString(payload)
    except DecodeError as error:
        message = f"wanted a ttrpc Request, found {len(payload)} bytes that do not decode: {error}"
        raise InvalidArgument(message) from error


def encode_response(stream_id: int, payload: bytes) -> bytes:
    """The frame of a success; an answer above the limit becomes ResourceExhausted (wire.md 1.4).

    The answer is wrapped in a Response without status, as Go's server leaves it out.
    """
    body = Response(payload=payload).SerializeToString()
    if len(body) > MAX_PAYLOAD:
        text = f"answer of {len(body)} bytes is above the limit of {MAX_PAYLOAD}"
        return encode_error(stream_id, Code.RESOURCE_EXHAUSTED, text)
    return encode_frame(stream_id, MessageType.RESPONSE, body)


def encode_error(stream_id: int, code: int, message: str) -> bytes:
    """The frame of a failure with a google.rpc.Status."""
    response = Response()
    response.status.code = code
    response.status.message = message
    return encode_frame(stream_id, MessageType.RESPONSE, response.SerializeToString())


def encode_request(stream_id: int, request: Request) -> bytes:
    """The frame of a unary call."""
    return encode_frame(stream_id, MessageType.REQUEST, request.SerializeToString())


def metadata_of(request: Request) -> dict[str, list[str]]:
    """Metadata by lower-cased key, repeated keys in order (wire.md 1.2)."""
    found: dict[str, list[str]] = {}
    for pair in request.metadata:
        found.setdefault(pair.key.lower(), []).append(pair.value)
    return found


def make_request(
    service: str, method: str, payload: bytes, timeout_ns: int = 0, metadata: dict[str, str] | None = None
) -> Request:
    """A Request message; `timeout_ns` 0 means no limit."""
    pairs = [KeyValue(key=key.lower(), value=value) for key, value in (metadata or {}).items()]
    return Request(service=service, method=method, payload=payload, timeout_nano=timeout_ns, metadata=pairs)
