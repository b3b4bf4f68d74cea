"""Waiting for a descriptor on the running loop."""

from __future__ import annotations

import asyncio
import os

MAX_LINE = 64 << 10


async def readable(descriptor: int) -> None:
    """Returns when `descriptor` has something to read, end of file included."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(descriptor, _settle, ready)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


async def read_line(descriptor: int) -> str:
    """One line from a non-blocking pipe, or what there is at its end."""
    data = b""
    while b"\n" not in data and len(data) < MAX_LINE:
        await readable(descriptor)
        try:
            chunk = os.read(descriptor, 4096)
        except BlockingIOError:
            continue
        if not chunk:
            break
        data += chunk
    return data.decode(errors="replace").strip()
