"""Our server and client over real UNIX sockets (wire.md 6.1)."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from shim.errors import AlreadyExists, Code, ResourceExhausted, ShimError, Unavailable, Unimplemented
from shim.pb.request_pb2 import Response
from shim.ttrpc import server as server_module
from shim.ttrpc import wire
from shim.ttrpc.client import Client, connect
from shim.ttrpc.server import Server


class Echo:
    """A small service with one method for each way to behave."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.cancelled = 0

    def services(self) -> dict[str, dict[str, Callable[[bytes], bytes | Awaitable[bytes]]]]:
        """As the server takes them."""
        return {
            "test.Echo": {
                "Echo": bytes,
                "Wait": self.wait,
                "Fail": self.fail,
                "Bug": self.bug,
                "Big": self.big,
            }
        }

    async def wait(self, data: bytes) -> bytes:
        """Answers once the gate is open."""
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return data

    async def fail(self, data: bytes) -> bytes:
        """Fails with an error of the vocabulary."""
        raise AlreadyExists(data.decode())

    def bug(self, data: bytes) -> bytes:
        """Fails with one that is not."""
        raise ZeroDivisionError

    def big(self, data: bytes) -> bytes:
        """Answers with more than a frame may hold."""
        return b"x" * wire.MAX_PAYLOAD


@asynccontextmanager
async def serving(path: Path, uid: int | None = None) -> AsyncIterator[Echo]:
    """The service on a socket at *path*."""
    echo = Echo()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    server = Server(echo.services(), os.geteuid() if uid is None else uid)
    await server.start(listener)
    try:
        yield echo
    finally:
        server.stop()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the socket goes."""
    return tmp_path / "s"


async def ask(client: Client, method: str, data: bytes = b"", seconds: float | None = 5) -> bytes:
    """One call of the test service."""
    return await client.call("test.Echo", method, data, seconds)


def test_calls_run_side_by_side(path: Path) -> None:
    """200 waits hang while others are answered; all end when the gate opens."""

    async def scenario() -> None:
        async with serving(path) as echo:
            client = await connect(str(path))
            waits = [asyncio.create_task(ask(client, "Wait", str(n).encode(), None)) for n in range(200)]
            assert await ask(client, "Echo", b"hi") == b"hi"
            assert not any(wait.done() for wait in waits)
            echo.gate.set()
            assert await asyncio.gather(*waits) == [str(n).encode() for n in range(200)]
            client.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("service", "method", "error"),
    [
        ("test.Echo", "Nope", Unimplemented),
        ("no.Service", "Echo", Unimplemented),
        ("test.Echo", "Fail", AlreadyExists),
        ("test.Echo", "Bug", ShimError),
        ("test.Echo", "Big", ResourceExhausted),
    ],
)
def test_errors_have_their_code_and_leave_the_connection(
    path: Path, service: str, method: str, error: type[ShimError], caplog: pytest.LogCaptureFixture
) -> None:
    """Each failure is an answer; the next call works."""

    async def scenario() -> None:
        async with serving(path):
            client = await connect(str(path))
            with pytest.raises(error):
                await client.call(service, method, b"x", 5)
            assert await ask(client, "Echo", b"still here") == b"still here"
            client.close()

    asyncio.run(scenario())


def test_deadline_of_the_caller_is_kept(path: Path) -> None:
    """timeout_nano ends the call on the server's side too."""

    async def scenario() -> None:
        async with serving(path) as echo:
            client = await connect(str(path))
            with pytest.raises((TimeoutError, ShimError)):
                await ask(client, "Wait", seconds=0.05)
            await asyncio.sleep(0.1)
            assert echo.cancelled == 1
            assert await ask(client, "Echo", b"x") == b"x"
            client.close()

    asyncio.run(scenario())


def test_a_peer_that_leaves_cancels_its_calls_only(path: Path) -> None:
    """Another connection's calls go on."""

    async def scenario() -> None:
        async with serving(path) as echo:
            first, second = await connect(str(path)), await connect(str(path))
            gone = asyncio.create_task(ask(first, "Wait", seconds=None))
            stays = asyncio.create_task(ask(second, "Wait", b"2", None))
            await asyncio.sleep(0.05)
            first.close()
            with pytest.raises(Unavailable, match="ttrpc: closed"):
                await gone
            await asyncio.sleep(0.05)
            assert echo.cancelled == 1
            echo.gate.set()
            assert await stays == b"2"
            second.close()

    asyncio.run(scenario())


async def raw(path: Path, data: bytes, *, byte_by_byte: bool = False) -> Response:
    """Sends raw bytes on a fresh connection; returns the one answer."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    for piece in [data[i : i + 1] for i in range(len(data))] if byte_by_byte else [data]:
        writer.write(piece)
        await writer.drain()
    header = await asyncio.wait_for(reader.readexactly(10), 5)
    response = Response.FromString(await reader.readexactly(wire.HEADER.unpack(header)[0]))
    writer.close()
    return response


def good_frame() -> bytes:
    """A call that succeeds, on the second stream."""
    return wire.encode_request(3, wire.make_request("test.Echo", "Echo", b"ok"))


def test_one_byte_writes_work(path: Path) -> None:
    """A header in ten pieces is a header."""

    async def scenario() -> None:
        async with serving(path):
            assert (await raw(path, good_frame(), byte_by_byte=True)).payload == b"ok"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (wire.HEADER.pack(4194305, 1, 1, 0) + b"\0" * 4194305, Code.RESOURCE_EXHAUSTED),
        (wire.HEADER.pack(3, 1, 1, 0) + b"\xff\xff\xff", Code.INVALID_ARGUMENT),
        (wire.HEADER.pack(0, 2, 1, 0), Code.INVALID_ARGUMENT),
        (wire.HEADER.pack(1, 1, 3, 0) + b"x", Code.INVALID_ARGUMENT),
    ],
    ids=["oversized", "garbage", "even stream id", "data on no stream"],
)
def test_bad_frames_get_an_answer_and_the_connection_lives(path: Path, data: bytes, code: Code) -> None:
    """The error is the stream's; the frame behind it is served."""

    async def scenario() -> None:
        async with serving(path):
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(data + good_frame())
            answers = []
            for _ in range(2):
                header = await asyncio.wait_for(reader.readexactly(10), 5)
                answers.append(Response.FromString(await reader.readexactly(wire.HEADER.unpack(header)[0])))
            assert [answers[0].status.code, answers[1].payload] == [code, b"ok"]
            writer.close()

    asyncio.run(scenario())


def test_unknown_message_types_are_ignored(path: Path) -> None:
    """As Go's server does (wire.md 1.3)."""

    async def scenario() -> None:
        async with serving(path):
            assert (await raw(path, wire.HEADER.pack(1, 1, 9, 0) + b"x" + good_frame())).payload == b"ok"

    asyncio.run(scenario())


def test_a_frame_that_never_ends_costs_the_connection(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A withheld body is cut off at its deadline; others are served meanwhile (faults.md T2)."""
    monkeypatch.setattr(server_module, "PARTIAL_FRAME_SECONDS", 0.1)

    async def scenario() -> None:
        async with serving(path):
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(wire.HEADER.pack(2**31, 1, 1, 0))
            await reader.readexactly(10)  # ResourceExhausted comes at once
            assert (await raw(path, good_frame())).payload == b"ok"
            await asyncio.wait_for(reader.read(), 2)
            assert reader.at_eof()
            writer.close()

    asyncio.run(scenario())


def test_a_peer_that_does_not_read_is_cut_off(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unsent answers are bounded (faults.md S5)."""
    monkeypatch.setattr(server_module, "MAX_UNSENT", 1 << 20)

    async def scenario() -> None:
        async with serving(path):
            _, writer = await asyncio.open_unix_connection(str(path), limit=1 << 16)
            call = wire.make_request("test.Echo", "Echo", b"x" * 500_000)
            with pytest.raises(ConnectionError):
                for stream in range(1, 100, 2):
                    writer.write(wire.encode_request(stream, call))
                    await writer.drain()
                    await asyncio.sleep(0.01)
            writer.close()

    asyncio.run(scenario())


def test_other_users_are_not_served(path: Path) -> None:
    """A peer of another uid finds a closed door (faults.md S1)."""

    async def scenario() -> None:
        async with serving(path, uid=os.geteuid() + 1):
            client = await connect(str(path))
            with pytest.raises(Unavailable):
                await ask(client, "Echo")

    asyncio.run(scenario())


def test_nobody_listens() -> None:
    """The error names the socket."""
    with pytest.raises(Unavailable, match="no ttrpc server at /no/such"):
        asyncio.run(connect("/no/such"))
