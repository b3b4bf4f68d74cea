"""Ledger L8: the word that each task's events must spell, and a collector for `ctr events`.

Knows: the lines of `ctr events`, and the grammar `Create (Start Exit)? Delete`. Must not know: who
publishes. Laws: an exec is not part of its task's word; each event comes exactly once; pid and
exit status agree between the events of one task.
"""

import json
import re
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from tests.harness.containerd import PrivateContainerd

if TYPE_CHECKING:
    import subprocess

LETTERS = {
    "/tasks/create": "C",
    "/tasks/start": "S",
    "/tasks/exit": "E",
    "/tasks/delete": "D",
}
WHOLE = re.compile("C(SE)?D")
# What a task may have spelled so far while it still exists.
PREFIX = re.compile("(C(S(ED?)?|D)?)?")
# The time is Go's time.String(): date, time, offset, name of the zone.
LINE = re.compile(r"(?P<time>\S+ \S+ \S+ \S+) (?P<namespace>\S+) (?P<topic>/\S+) (?P<body>\{.*\})")


@dataclass(frozen=True)
class Event:
    """One event of containerd."""

    namespace: str
    topic: str
    body: dict[str, Any]

    @property
    def task(self) -> str:
        """The task it belongs to, by namespace and container."""
        return f"{self.namespace}/{self.body.get('container_id', '')}"

    @property
    def letter(self) -> str:
        """Its letter in the task's word; empty for anything else, such as the exit of an exec."""
        process = self.body.get("id") or self.body.get("container_id")
        of_init = process == self.body.get("container_id")
        return LETTERS.get(self.topic, "") if of_init else ""


def parse(line: str) -> Event | None:
    """Read one line of `ctr events`; None if it is something else, such as a warning."""
    match = LINE.match(line)
    if match is None:
        return None
    return Event(match["namespace"], match["topic"], json.loads(match["body"]))


def violations(events: Iterable[Event], alive: Collection[str] = ()) -> list[str]:
    """Return one line per task whose events are wrong; tasks in *alive* may spell a beginning.

    An id may be used again once its task was deleted: each such life has a word of its own.
    """
    lives: dict[tuple[str, int], list[Event]] = defaultdict(list)
    ended: Counter[str] = Counter()
    for event in events:
        if event.letter:
            lives[event.task, ended[event.task]].append(event)
            ended[event.task] += event.letter == "D"
    found = (_violation(task, life, task in alive) for (task, _), life in lives.items())
    return [line for line in found if line]


def _violation(task: str, events: list[Event], alive: bool) -> str | None:  # noqa: FBT001
    word = "".join(event.letter for event in events)
    if not (PREFIX if alive else WHOLE).fullmatch(word):
        return f"{task}: wanted the events C(SE)?D, found {word}"
    for name, topics in (("pid", "CSED"), ("exit_status", "ED")):
        # Protobuf leaves a zero out of its JSON.
        values = {event.body.get(name, 0) for event in events if event.letter in topics}
        # A task that never started reports no pid, or the one that waited; both are in use.
        if len(values) > 1 and "S" in word:
            return f"{task}: wanted one {name} in all its events, found {sorted(values)}"
    return None


class EventLog:
    """Collects events from when it is entered until it is left."""

    def __init__(self, containerd: PrivateContainerd) -> None:
        self._containerd = containerd
        self.foreign: set[str] = set()  # tasks of another shim, whose words are not ours to keep
        self._events: list[Event] = []
        self._changed = threading.Condition()
        self._ctr: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        """Start listening; returns when the subscription surely exists."""
        self._ctr = self._containerd.popen_ctr("events")
        self._thread = threading.Thread(
            target=self._collect, args=(self._ctr,), name="ctr events", daemon=True
        )
        self._thread.start()
        self._wait_until_subscribed()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End `ctr events` and the thread that reads it."""
        if self._ctr is not None:
            with self._ctr as ctr:
                ctr.terminate()
                self._thread.join()

    @property
    def events(self) -> list[Event]:
        """What has come so far."""
        with self._changed:
            return list(self._events)

    def wait_for(self, condition: Callable[[list[Event]], bool], seconds: float = 10.0) -> bool:
        """Wait until *condition* holds for the events so far; False if it never did."""
        with self._changed:
            return self._changed.wait_for(lambda: condition(self._events), seconds)

    def _collect(self, ctr: "subprocess.Popen[str]") -> None:
        for line in ctr.stdout or ():
            event = parse(line)
            if event is not None:
                with self._changed:
                    self._events.append(event)
                    self._changed.notify_all()

    def _wait_until_subscribed(self) -> None:
        """Make events of our own until one of them arrives: `ctr` does not say when it is ready."""
        deadline = time.monotonic() + 10.0
        while not self.wait_for(bool, 0.05):
            if time.monotonic() > deadline:
                message = "wanted an event from `ctr events` within 10 s, found none"
                raise TimeoutError(message)
            self._containerd.ctr("namespaces", "create", "ledger-probe", check=False)
            self._containerd.ctr("namespaces", "rm", "ledger-probe", check=False)
