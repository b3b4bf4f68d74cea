"""When each step of a start ended: one list per task, on the monotonic clock, written beside the bundle."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path

from shim.bundle import replace

FILE = "timeline.json"


class Timeline:
    """Steps in the order they ended; times in ns of CLOCK_MONOTONIC, which all processes share."""

    def __init__(self, steps: list[tuple[str, int]]) -> None:
        self.steps = list(steps)

    def mark(self, step: str) -> None:
        """`step` has just ended."""
        self.steps.append((step, time.monotonic_ns()))

    def extend(self, steps: list[tuple[str, int]]) -> None:
        """Steps that another process reported."""
        self.steps.extend((str(name), int(when)) for name, when in steps)

    def write(self, bundle: Path) -> None:
        """Leaves the timeline where `spinwheel timeline` finds it; a disk that is full costs no more."""
        with contextlib.suppress(OSError):
            replace(bundle / FILE, json.dumps(self.steps).encode())


def rows(steps: list[tuple[str, int]]) -> list[tuple[str, float, float]]:
    """(step, ms since the first step, ms since the step before) in time order."""
    ordered = sorted(steps, key=lambda step: step[1])
    first = ordered[0][1] if ordered else 0
    before = [first, *(when for _, when in ordered)]
    return [
        (name, (when - first) / 1e6, (when - previous) / 1e6)
        for (name, when), previous in zip(ordered, before, strict=False)
    ]
