"""Sends events to containerd in order, across its restarts.

Knows: the queue, the connection, the retry policy. Must not know what an event means.
Laws: one queue, one sender, so events leave in the order they came (wire.md 3.6); an event is dropped only
when containerd refuses it as invalid or when LIMIT is passed (oldest first, counted and logged).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from dataclasses import dataclass

from google.protobuf.message import Message

from shim.errors import InvalidArgument, ShimError, Unimplemented
from shim.pb.events_pb2 import ForwardRequest
from shim.ttrpc.client import Client, connect

SERVICE = "containerd.services.events.ttrpc.v1.Events"
LIMIT = 10_000
CALL_SECONDS = 5.0  # as Go's publisher
FIRST_PAUSE, LONGEST_PAUSE = 0.02, 1.0  # seconds between attempts

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pending:
    """An event as it will be sent."""

    topic: str
    body: bytes


class Publisher:
    """A queue of events for one containerd; `run` sends until cancelled."""

    def __init__(self, socket_path: str, namespace: str) -> None:
        self._path = socket_path
        self._namespace = namespace
        self._queue: deque[Pending] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._client: Client | None = None
        self.dropped = 0

    def __repr__(self) -> str:
        return f"<Publisher {self._path}, {len(self._queue)} queued, {self.dropped} dropped>"

    def publish(self, topic: str, event: Message) -> None:
        """Queues `event`; never blocks, never fails."""
        if len(self._queue) >= LIMIT:
            self.dropped += 1
            log.error("event queue full: dropped %s (%d so far)", self._queue.popleft().topic, self.dropped)
        self._queue.append(Pending(topic, envelope(self._namespace, topic, event)))
        self._idle.clear()
        self._wake.set()

    async def run(self) -> None:
        """Sends queued events for as long as the process lives."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                await self._send_first()
            self._idle.set()

    async def drain(self, seconds: float) -> bool:
        """Waits until everything queued was sent; False when `seconds` were not enough."""
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            log.warning("%d events were not sent within %.0f s", len(self._queue), seconds)
            return False
        return True

    async def _send_first(self) -> None:
        event = self._queue[0]
        pause = FIRST_PAUSE
        while not await self._sent(event):
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)
        if self._queue and self._queue[0] is event:
            self._queue.popleft()

    async def _sent(self, event: Pending) -> bool:
        """True when `event` needs no further attempt."""
        try:
            client = await self._connected()
            await client.call(SERVICE, "Forward", event.body, CALL_SECONDS)
        except (InvalidArgument, Unimplemented) as error:
            log.error("containerd refused event %s: %s", event.topic, error)  # no trace
            self.dropped += 1
        except (ShimError, TimeoutError) as error:
            log.warning("event %s waits: %s", event.topic, error)
            self._disconnect()
            return False
        return True

    async def _connected(self) -> Client:
        if self._client is None or self._client.closed:
            self._client = await connect(self._path)
        return self._client

    def _disconnect(self) -> None:
        if self._client:
            self._client.close()
        self._client = None


def envelope(namespace: str, topic: str, event: Message) -> bytes:
    """The ForwardRequest bytes; the type url is bare, or containerd 1.6 loses the event (wire.md 3.6)."""
    request = ForwardRequest()
    seconds, nanos = divmod(time.time_ns(), 10**9)
    request.envelope.timestamp.seconds = seconds
    request.envelope.timestamp.nanos = nanos
    request.envelope.namespace = namespace
    request.envelope.topic = topic
    request.envelope.event.type_url = event.DESCRIPTOR.full_name
    request.envelope.event.value = event.SerializeToString()
    return request.SerializeToString()
