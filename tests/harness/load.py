"""Requests that never pause, and what became of each.

Knows: HTTP. Must not know: what serves, or what is asserted. Laws: a request is failed when it has no answer
or one that is not 200; a connection is kept for as long as its server keeps it.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

CLIENTS = 4


class Load:
    """Requests to every URL in turn, by a few clients, for as long as the `with` block lasts.

    `answered` is how many were, `failed` what became of the others.
    """

    def __init__(self, urls: Sequence[str]) -> None:
        self.answered, self.failed = 0, list[str]()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        shares = [urls[first::CLIENTS] for first in range(CLIENTS)]
        self._threads = [threading.Thread(target=self._run, args=(share,)) for share in shares if share]

    def __enter__(self) -> Self:
        """Starts the clients."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends them."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, urls: Sequence[str]) -> None:
        connections = [http.client.HTTPConnection(urlsplit(url).netloc, timeout=10) for url in urls]
        while not self._stop.is_set():
            for connection in connections:
                self._count(connection, _ask(connection))
        for connection in connections:
            connection.close()

    def _count(self, connection: http.client.HTTPConnection, trouble: str) -> None:
        with self._lock:
            self.answered += not trouble
            if trouble:
                self.failed.append(f"{connection.host}:{connection.port}: {trouble}")


def _ask(connection: http.client.HTTPConnection) -> str:
    """One request; returns what went wrong, nothing when it was answered with 200."""
    try:
        connection.request("GET", "/")
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        return repr(error)
    return "" if answer.status == 200 else f"status {answer.status}"
