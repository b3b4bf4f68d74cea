"""Conversations that a ttrpc peer may hold, as data: which frames, and how many answers they ask for.

Knows: Go's rules for what is answered (containerd/ttrpc server.go; wire.md 1.3). Must not know: whose server
it is. Laws: no I/O; every step is drawn independently of any answer, so that one conversation can be held
with two servers; left out is what ends a server on purpose (Shutdown), what makes something (Create), and
data for a stream that is not open, for which Go's server panics (ttrpc 1.2.9, a nil interface conversion).
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from shim.pb import shim_pb2 as pb
from shim.pb.request_pb2 import KeyValue, Request
from shim.ttrpc.wire import HEADER, MAX_PAYLOAD, MessageType

SERVICE = "containerd.task.v3.Task"
METHODS = (
    "State", "Connect", "Wait", "Kill", "Delete", "Pids", "Stats", "Start",
    "Exec", "ResizePty", "CloseIO", "Pause", "Resume", "Update", "Checkpoint",
)  # fmt: skip
NOBODY = ("", "nobody", "a/../b", "x" * 5000)
TIMES = (0, 1, -1, 10**9, 2**63 - 1, -(2**63))
MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Step:
    """One frame, and whether a server answers it."""

    data: bytes
    stream_id: int
    answered: bool


@dataclass(frozen=True)
class Draft:
    """A frame whose stream id is still to be chosen.

    It is `jump` odd steps on (0 repeats the last, negative goes back), and one more when it shall be even.
    """

    kind: int
    flags: int
    payload: bytes
    jump: int
    even: bool
    claim: int = 0


def request(method: str, service: str, task: str, time: int, metadata: int) -> bytes:
    """A Request about a task that nobody has."""
    body = pb.StateRequest(id=task).SerializeToString()
    pairs = [KeyValue(key="k", value="v" * metadata)] if metadata else []
    whole = Request(service=service, method=method, payload=body, timeout_nano=time, metadata=pairs)
    return whole.SerializeToString()


calls = st.builds(
    request,
    st.one_of(st.sampled_from(METHODS), st.just("Nope"), st.text(max_size=8)),
    st.one_of(st.just(SERVICE), st.just(SERVICE), st.text(max_size=8)),
    st.sampled_from(NOBODY),
    st.sampled_from(TIMES),
    st.sampled_from((0, 0, 0, 10, MEGABYTE)),
)
garbage = st.binary(max_size=64)
drafts = st.builds(
    Draft,
    kind=st.one_of(st.just(int(MessageType.REQUEST)), st.integers(0, 255)),
    flags=st.one_of(st.just(0), st.integers(0, 255)),
    payload=st.one_of(calls, calls, calls, garbage),
    jump=st.sampled_from((1, 1, 1, 1, 2, 1000, 0, -1)),
    even=st.sampled_from((False,) * 7 + (True,)),
    claim=st.sampled_from((0,) * 30 + (MAX_PAYLOAD + 1,)),
)
conversations = st.lists(drafts, min_size=1, max_size=50)


def steps(conversation: list[Draft]) -> list[Step]:
    """The frames with their stream ids, in order."""
    found, last = [], -1
    for draft in conversation:
        stream_id = max(1, last + 2 * draft.jump) + draft.even
        kind = draft.kind
        if kind == MessageType.DATA and not draft.even and not draft.claim:
            kind = 255  # see the file's laws
        payload = bytes(draft.claim) if draft.claim else draft.payload
        data = HEADER.pack(len(payload), stream_id, kind, draft.flags) + payload
        answered = bool(draft.claim or draft.even or kind == MessageType.REQUEST)
        found.append(Step(data, stream_id, answered))
        if kind == MessageType.REQUEST and not draft.even and not draft.claim:
            last = max(last, stream_id)
    return found
