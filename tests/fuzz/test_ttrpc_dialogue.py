"""Structured fuzzing of ttrpc: the same conversation with our server and with Go's (faults.md T3).

The oracle is containerd's own runc shim. Compared are the status codes of each stream; both servers have to
answer what their protocol answers, and to be alive after it.
"""

import asyncio
import os
import socket
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import HealthCheck, given, settings

from shim.guest.reaper import Reaper
from shim.pb import shim_pb2 as pb
from shim.pb.request_pb2 import Response
from shim.task.process import World
from shim.task.service import TaskService
from shim.ttrpc.server import Server
from shim.ttrpc.wire import HEADER, encode_request, make_request
from tests.fuzz.dialogue import SERVICE, Draft, Step, conversations, steps
from tests.harness import goshim
from tests.harness.tools import containerd_folder

SEQUENCES = int(os.environ.get("SPINWHEEL_FUZZ_SEQUENCES", "2000"))
ANSWER_SECONDS = 10.0


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of our server with the real task service, which no conversation lets make a task."""
    path = tmp_path_factory.mktemp("ours") / "s"
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(serve(path), loop).result(10)
    yield path
    loop.call_soon_threadsafe(server.stop)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


async def serve(path: Path) -> Server:
    """A server on `path`."""
    world = World(Reaper(), unexpected, unexpected, unexpected, unexpected)
    tasks = TaskService(world, unexpected, unexpected, unexpected)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    server = Server(tasks.services(), os.geteuid())
    await server.start(listener)
    return server


def unexpected(*words: object) -> NoReturn:
    """What nobody may reach without a Create."""
    message = f"called with {words}"
    raise AssertionError(message)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of a live runc shim."""
    with goshim.running(containerd_folder(), tmp_path_factory.mktemp("go"), "fuzz") as path:
        yield path


class Answers:
    """Whole responses out of one connection."""

    def __init__(self, peer: socket.socket) -> None:
        self._stream = peer.makefile("rb")

    def next(self) -> tuple[int, int]:
        """(stream id, status code); raises EOFError when hung up on, TimeoutError at silence."""
        head = self._stream.read(HEADER.size)
        if len(head) < HEADER.size:
            raise EOFError
        length, stream_id, _kind, _flags = HEADER.unpack(head)
        return stream_id, Response.FromString(self._stream.read(length)).status.code


def hold(path: Path, conversation: list[Step]) -> dict[int, list[int]]:
    """Says everything, then hears everything: the codes of each stream, sorted."""
    codes: dict[int, list[int]] = defaultdict(list)
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(ANSWER_SECONDS)
        peer.connect(str(path))
        answers = Answers(peer)
        for step in conversation:
            peer.sendall(step.data)
        for _ in range(sum(step.answered for step in conversation)):
            stream_id, code = answers.next()
            codes[stream_id].append(code)
    return {stream_id: sorted(found) for stream_id, found in codes.items()}


def is_alive(path: Path) -> bool:
    """True when a fresh connection gets a Connect answered."""
    body = pb.ConnectRequest(id="fuzz").SerializeToString()
    step = Step(encode_request(1, make_request(SERVICE, "Connect", body)), 1, answered=True)
    return hold(path, [step]) == {1: [0]}


@settings(max_examples=SEQUENCES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(conversation=conversations)
def test_same_conversation_same_codes(ours: Path, theirs: Path, conversation: list[Draft]) -> None:
    """2,000 conversations of up to 50 frames: each stream gets the codes that Go gives it, and both live."""
    said = steps(conversation)
    assert hold(ours, said) == hold(theirs, said)


def test_both_are_still_there(ours: Path, theirs: Path) -> None:
    """After all of that a fresh connection is served."""
    assert is_alive(ours)
    assert is_alive(theirs)
