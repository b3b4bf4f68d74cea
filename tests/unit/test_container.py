"""A container without a kernel: what it tells, and in which order."""

import asyncio
from typing import NoReturn

from google.protobuf.message import Message

from shim.guest.reaper import Exit, Reaper
from shim.pb.shim_pb2 import CreateTaskRequest
from shim.task.container import Container
from shim.task.process import World
from shim.task.state import State
from shim.task.timeline import Timeline


def unexpected(*words: object) -> NoReturn:
    """A seam that no test here may reach."""
    raise AssertionError(words)


async def running(told: list[str], delivered: asyncio.Event) -> Container:
    """A container that runs; `told` gets the topics of its events, which arrive once `delivered` is set."""

    def publish(topic: str, event: Message) -> None:
        told.append(topic)

    async def wait(seconds: float) -> bool:
        return await delivered.wait()

    world = World(Reaper(), publish, wait, unexpected, unexpected)
    container = Container(CreateTaskRequest(id="one", bundle="/none"), unexpected, world, Timeline([]))
    container.state = State.RUNNING
    return container


def test_wait_is_answered_once_an_oom_was_delivered() -> None:
    """CRI before 2.3 says OOMKilled only if TaskOOM came before Wait's answer (F7, wire.md 4.5)."""

    async def scenario() -> None:
        told: list[str] = []
        delivered = asyncio.Event()
        container = await running(told, delivered)
        waiting = asyncio.create_task(container.wait())
        container._tell_oom()
        container._on_exit(Exit(1, 137, 0))
        await asyncio.sleep(0.05)
        assert told == ["/tasks/oom", "/tasks/exit"]
        assert not waiting.done()
        delivered.set()
        assert (await waiting).status == 137

    asyncio.run(scenario())


def test_wait_of_any_other_exit_waits_for_nobody() -> None:
    """A containerd that is away delays no answer but that of a kill for want of memory."""

    async def scenario() -> None:
        container = await running([], asyncio.Event())
        container._on_exit(Exit(1, 137, 0))
        async with asyncio.timeout(1):
            assert (await container.wait()).status == 137

    asyncio.run(scenario())
