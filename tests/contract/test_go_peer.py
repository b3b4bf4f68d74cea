"""Our ttrpc against Go's, both ways: its server is containerd's runc shim, its client `ctr shim`."""

import asyncio
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shim.errors import InvalidArgument, NotFound, ResourceExhausted, ShimError, Unimplemented
from shim.pb import shim_pb2 as pb
from shim.pb.task_pb2 import Status
from shim.ttrpc.client import Client, connect
from shim.ttrpc.server import Handler, Server
from shim.ttrpc.wire import MAX_PAYLOAD
from tests.harness import goshim
from tests.harness.tools import containerd_folder


@pytest.fixture(scope="module")
def bin_dir() -> Path:
    """containerd's programs, built by tools/build.sh."""
    return containerd_folder()


@pytest.fixture
def go_server(bin_dir: Path, tmp_path: Path) -> Iterator[Path]:
    """The socket of a live runc shim."""
    with goshim.running(bin_dir, tmp_path) as path:
        yield path


def talk(path: Path, *calls: tuple[str, str, bytes]) -> list[bytes | ShimError]:
    """The answers to calls made side by side on one connection."""

    async def scenario() -> list[bytes | ShimError]:
        client = await connect(str(path))
        try:
            return list(await asyncio.gather(*(one(client, *call) for call in calls)))
        finally:
            client.close()
            await asyncio.sleep(0)  # the transport closes on the loop's next turn

    async def one(client: Client, service: str, method: str, payload: bytes) -> bytes | ShimError:
        try:
            return await client.call(service, method, payload, 5, {"containerd-namespace-ttrpc": "contract"})
        except ShimError as error:
            return error

    return asyncio.run(scenario())


def test_our_client_and_gos_server(go_server: Path) -> None:
    """A hundred calls at once: each gets the answer that is its own."""
    nobody = pb.StateRequest(id="nobody").SerializeToString()
    calls = [
        (goshim.SERVICE, "Connect", pb.ConnectRequest(id="x").SerializeToString()),
        (goshim.SERVICE, "State", nobody),
        (goshim.SERVICE, "Nope", nobody),
        ("no.such.Service", "State", nobody),
    ] * 25
    answers = talk(go_server, *calls)
    for at in range(0, len(answers), 4):
        connected, *errors = answers[at : at + 4]
        assert isinstance(connected, bytes)
        assert pb.ConnectResponse.FromString(connected).shim_pid > 0
        assert [type(error) for error in errors] == [NotFound, Unimplemented, Unimplemented]


def test_calls_too_large_or_garbled(go_server: Path) -> None:
    """One is refused before it is sent, the other by Go; the connection serves what comes after."""
    large = (goshim.SERVICE, "State", b"\0" * MAX_PAYLOAD)
    garbled = (goshim.SERVICE, "State", b"\xff\xff")
    good = (goshim.SERVICE, "Connect", pb.ConnectRequest(id="x").SerializeToString())
    refused, answered, connected = talk(go_server, large, garbled, good)
    assert isinstance(refused, ResourceExhausted)
    assert isinstance(answered, ShimError)
    assert not isinstance(answered, ResourceExhausted)
    assert isinstance(connected, bytes)


class Recorder:
    """Serves `State` and `Shutdown` as a shim would, and remembers who asked for what."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def services(self) -> dict[str, dict[str, Handler]]:
        """Under both of the task service's names."""
        methods: dict[str, Handler] = {"State": self.state, "Shutdown": self.shutdown}
        return {f"containerd.task.v{version}.Task": methods for version in (2, 3)}

    def state(self, data: bytes) -> bytes:
        """A task that runs, or an error for a bad name."""
        request = pb.StateRequest.FromString(data)
        self.asked.append(request.id)
        if request.id == "bad":
            message = "no such thing"
            raise InvalidArgument(message)
        return pb.StateResponse(id=request.id, pid=4321, status=Status.RUNNING).SerializeToString()

    async def shutdown(self, data: bytes) -> bytes:
        """An Empty: ten bytes on the wire."""
        self.asked.append("shutdown")
        return b""


@pytest.fixture
def our_server(tmp_path: Path) -> Iterator[tuple[Path, Recorder]]:
    """Our server in a thread of its own."""
    path, recorder = tmp_path / "s", Recorder()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    loop = asyncio.new_event_loop()
    server = Server(recorder.services(), 0)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(server.start(listener), loop).result(5)
    yield path, recorder
    loop.call_soon_threadsafe(server.stop)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def ctr_shim(bin_dir: Path, path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Go's client, with words of `ctr shim`."""
    argv = [str(bin_dir / "ctr"), "shim", "--id", "t1", "--shim-address", f"unix://{path}", *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=20)


@pytest.mark.parametrize("version", ["2", "3"])
def test_gos_client_and_our_server(bin_dir: Path, our_server: tuple[Path, Recorder], version: str) -> None:
    """An answer, an error and an Empty are all understood."""
    path, recorder = our_server
    good = ctr_shim(bin_dir, path, "state", "--task-id", "web", "--api-version", version)
    assert "4321" in good.stdout
    bad = ctr_shim(bin_dir, path, "state", "--task-id", "bad", "--api-version", version)
    assert (bad.returncode != 0, "no such thing" in bad.stderr) == (True, True)
    assert ctr_shim(bin_dir, path, "shutdown").returncode == 0
    assert recorder.asked == ["web", "bad", "shutdown"]
