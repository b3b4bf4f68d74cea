"""Many pods at once, each with an app.

Knows: crictl's pods. Must not know: what is asserted.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tests.harness.cri import Cri

MAKERS = 4


@dataclass(frozen=True)
class Member:
    """One pod with one app."""

    pod: str
    container: str
    url: str


class Fleet:
    """`count` pods of one node."""

    def __init__(self, cri: Cri, count: int) -> None:
        self.cri = cri
        with ThreadPoolExecutor(MAKERS) as pool:
            self.members = list(pool.map(self._make, range(count)))

    def _make(self, number: int) -> Member:
        pod = self.cri.pod(f"fleet-{number}")
        return Member(pod, *self.cri.app(pod, f"app-{number}"))

    def pids(self) -> dict[str, int]:
        """The pid of every running task, pause containers included."""
        lines = self.cri.containerd.ctr("tasks", "ls", namespace="k8s.io").stdout.splitlines()[1:]
        return {words[0]: int(words[1]) for words in map(str.split, lines) if words[2] == "RUNNING"}
