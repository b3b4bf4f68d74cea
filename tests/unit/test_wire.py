"""The ttrpc codec against bytes captured from Go's implementation, and against its own laws."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.errors import Code, InvalidArgument, ResourceExhausted
from shim.pb.request_pb2 import Response
from shim.pb.shim_pb2 import StateRequest
from shim.ttrpc import wire

GO: dict[str, Any] = json.loads((Path(__file__).parents[1] / "fixtures" / "ttrpc" / "go.json").read_text())


def frames(data: bytes) -> list[wire.Frame | wire.Oversized]:
    """Everything a reader makes of *data* given at once."""
    reader = wire.FrameReader()
    reader.feed(data)
    return list(iter(reader.next_event, None))


@pytest.mark.parametrize("name", GO["client"])
def test_what_go_asks_is_read_and_written_alike(name: str) -> None:
    """A request of Go's client decodes, and encodes to the very same bytes."""
    data = bytes.fromhex(GO["client"][name])
    (frame,) = frames(data)
    assert isinstance(frame, wire.Frame)
    request = wire.parse_request(frame.payload)
    assert request.method.lower() == name
    assert wire.encode_request(frame.stream_id, request) == data


def test_a_request_of_ours_is_what_go_sends() -> None:
    """make_request builds the frame that ctr sent for State."""
    payload = StateRequest(id="t1").SerializeToString()
    request = wire.make_request("containerd.task.v2.Task", "State", payload)
    assert wire.encode_request(1, request).hex() == GO["client"]["state"]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("state of nobody", Code.NOT_FOUND),
        ("unknown method", Code.UNIMPLEMENTED),
        ("unknown service", Code.UNIMPLEMENTED),
        ("even stream id", Code.INVALID_ARGUMENT),
        ("request that does not decode", Code.INVALID_ARGUMENT),
        ("oversized", Code.RESOURCE_EXHAUSTED),
    ],
)
def test_errors_are_written_as_go_writes_them(name: str, code: Code) -> None:
    """An error frame with Go's words is byte for byte Go's answer."""
    data = bytes.fromhex(GO["server"][name]["answer"])
    (frame,) = frames(data)
    assert isinstance(frame, wire.Frame)
    status = Response.FromString(frame.payload).status
    assert (status.code, wire.encode_error(frame.stream_id, status.code, status.message)) == (code, data)


def test_a_success_has_no_status() -> None:
    """Go leaves the status out of a success, and so do we."""
    data = bytes.fromhex(GO["server"]["connect"]["answer"])
    (frame,) = frames(data)
    assert isinstance(frame, wire.Frame)
    assert wire.encode_response(1, Response.FromString(frame.payload).payload) == data


def test_an_empty_answer_is_ten_bytes() -> None:
    """An Empty response is a header and nothing else (wire.md 1.2)."""
    assert wire.encode_response(7, b"") == bytes.fromhex("00000000000000070200")


@given(
    st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 255), st.binary(max_size=40)), max_size=8)
)
def test_any_split_gives_the_same_frames(items: list[tuple[int, int, bytes]]) -> None:
    """Frames come out whole and in order, however the bytes were cut."""
    data = b"".join(wire.HEADER.pack(len(body), stream, kind, 0) + body for stream, kind, body in items)
    reader, found = wire.FrameReader(), []
    for byte in data:
        reader.feed(bytes([byte]))
        found += list(iter(reader.next_event, None))
    assert found == frames(data)
    assert [(f.stream_id, f.type, f.payload) for f in found if isinstance(f, wire.Frame)] == items
    assert not reader.partial


@given(st.binary(max_size=400))
def test_no_bytes_raise(data: bytes) -> None:
    """Whatever comes, the reader gives events or waits."""
    reader = wire.FrameReader()
    reader.feed(data)
    for event in iter(reader.next_event, None):
        assert isinstance(event, (wire.Frame, wire.Oversized))


def test_an_oversized_frame_is_skipped_and_the_next_one_read() -> None:
    """The connection lives: what follows an oversized frame is understood."""
    big = wire.HEADER.pack(wire.MAX_PAYLOAD + 1, 3, 1, 0) + b"\0" * (wire.MAX_PAYLOAD + 1)
    small = wire.encode_frame(5, wire.MessageType.REQUEST, b"hi")
    assert frames(big + small) == [
        wire.Oversized(3, 1, wire.MAX_PAYLOAD + 1),
        wire.Frame(5, 1, 0, b"hi"),
    ]


def test_a_claimed_size_allocates_nothing() -> None:
    """A header that claims 4 GiB leaves an empty buffer behind it."""
    reader = wire.FrameReader()
    reader.feed(wire.HEADER.pack(2**32 - 1, 1, 1, 0))
    assert reader.next_event() == wire.Oversized(1, 1, 2**32 - 1)
    reader.feed(b"x" * 1000)
    assert (reader.next_event(), reader.partial) == (None, True)
    assert "0 bytes buffered" in repr(reader)


def test_an_answer_above_the_limit_becomes_an_error() -> None:
    """Containerd 1.6 dies of a larger answer, so it gets ResourceExhausted (wire.md 1.4)."""
    (frame,) = frames(wire.encode_response(1, b"x" * wire.MAX_PAYLOAD))
    assert isinstance(frame, wire.Frame)
    assert Response.FromString(frame.payload).status.code == Code.RESOURCE_EXHAUSTED


def test_a_frame_above_the_limit_is_refused_here() -> None:
    """Nothing oversized leaves by accident."""
    with pytest.raises(ResourceExhausted, match="above the limit"):
        wire.encode_frame(1, wire.MessageType.REQUEST, b"x" * (wire.MAX_PAYLOAD + 1))


def test_garbage_in_a_frame_is_an_invalid_argument() -> None:
    """An undecodable Request is the peer's fault."""
    with pytest.raises(InvalidArgument, match="wanted a ttrpc Request"):
        wire.parse_request(b"\xff\xff\xff")


def test_metadata_keys_are_lower_case_and_repeat() -> None:
    """Keys fold, values keep their order (wire.md 1.2)."""
    request = wire.make_request("s", "m", b"", 0, {"Trace": "1"})
    request.metadata.add(key="TRACE", value="2")
    assert wire.metadata_of(request) == {"trace": ["1", "2"]}
