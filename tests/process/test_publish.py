"""The event queue against a server that comes, goes and refuses (wire.md 3.6)."""

import asyncio
import socket
from pathlib import Path

import pytest

from shim import publish
from shim.errors import InvalidArgument
from shim.pb.events_pb2 import ForwardRequest
from shim.pb.task_events_pb2 import TaskDelete
from shim.publish import SERVICE, Publisher
from shim.ttrpc.server import Server


class Events:
    """containerd's event service: keeps what it gets, refuses what is called `bad`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.got: list[str] = []
        self.type_urls: set[str] = set()

    def forward(self, data: bytes) -> bytes:
        """Takes one event in."""
        envelope = ForwardRequest.FromString(data).envelope
        name = TaskDelete.FromString(envelope.event.value).container_id
        if name == "bad":
            message = "bad topic"
            raise InvalidArgument(message)
        self.type_urls.add(envelope.event.type_url)
        self.got.append(name)
        return b""

    async def listen(self) -> Server:
        """Begins to serve."""
        self.path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.path))
        listener.listen()
        server = Server({SERVICE: {"Forward": self.forward}}, 0)
        await server.start(listener)
        return server


def send(publisher: Publisher, *names: str) -> None:
    """Queues one delete for each name."""
    for name in names:
        publisher.publish("/tasks/delete", TaskDelete(container_id=name))


def test_events_wait_for_a_socket_that_is_not_there_yet(tmp_path: Path) -> None:
    """Absent at start: queued, then delivered in order."""

    async def scenario() -> list[str]:
        events = Events(tmp_path / "s")
        publisher = Publisher(str(events.path), "default")
        running = asyncio.create_task(publisher.run())
        send(publisher, "a", "b")
        await asyncio.sleep(0.1)
        server = await events.listen()
        send(publisher, "c")
        assert await publisher.drain(5)
        server.stop()
        running.cancel()
        assert events.type_urls == {"containerd.events.TaskDelete"}, "bare, or 1.6 loses the event"
        return events.got

    assert asyncio.run(scenario()) == ["a", "b", "c"]


def test_events_survive_a_restart(tmp_path: Path) -> None:
    """What was raised while the server was away is delivered after, nothing twice, nothing out of order."""

    async def scenario() -> list[str]:
        events = Events(tmp_path / "s")
        publisher = Publisher(str(events.path), "default")
        running = asyncio.create_task(publisher.run())
        server = await events.listen()
        send(publisher, "1", "2")
        assert await publisher.drain(5)
        server.stop()
        await asyncio.sleep(0.05)
        send(publisher, "3", "4", "5")
        await asyncio.sleep(0.2)
        server = await events.listen()
        assert await publisher.drain(5)
        server.stop()
        running.cancel()
        return events.got

    assert asyncio.run(scenario()) == ["1", "2", "3", "4", "5"]


def test_a_refused_event_does_not_hold_the_others_up(tmp_path: Path) -> None:
    """InvalidArgument will not get better; it is logged, counted and passed over."""

    async def scenario() -> tuple[list[str], int]:
        events = Events(tmp_path / "s")
        server = await events.listen()
        publisher = Publisher(str(events.path), "default")
        running = asyncio.create_task(publisher.run())
        send(publisher, "a", "bad", "b")
        assert await publisher.drain(5)
        server.stop()
        running.cancel()
        return events.got, publisher.dropped

    assert asyncio.run(scenario()) == (["a", "b"], 1)


def test_the_queue_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest go first, and are counted."""
    monkeypatch.setattr(publish, "LIMIT", 3)

    async def scenario() -> tuple[int, bool]:
        publisher = Publisher(str(tmp_path / "none"), "default")
        send(publisher, *"abcde")
        return publisher.dropped, await publisher.drain(0.05)

    assert asyncio.run(scenario()) == (2, False)
