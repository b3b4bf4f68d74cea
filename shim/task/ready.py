"""The one line by which a host says that it serves, or why it does not (docs/flows.md)."""

from __future__ import annotations

import asyncio
import json

from shim.errors import DeadlineExceeded, GuestFailed
from shim.pipes import read_line

READY_SECONDS = 60.0


async def until_ready(pipe: int) -> list[tuple[str, int]]:
    """The host's own steps (name, ns) once it listens; raises GuestFailed in its words, DeadlineExceeded."""
    try:
        async with asyncio.timeout(READY_SECONDS):
            line = await read_line(pipe)
    except TimeoutError as error:
        message = f"the host was not ready within {READY_SECONDS:.0f} s"
        raise DeadlineExceeded(message) from error
    word, _, detail = line.partition(" ")
    if word == "ready":
        return [(f"host: {name}", when) for name, when in json.loads(detail).get("steps", [])]
    if word == "error":
        raise GuestFailed(str(json.loads(detail).get("message")))
    message = "the host ended before it was ready; see the container's stderr"
    raise GuestFailed(message)
