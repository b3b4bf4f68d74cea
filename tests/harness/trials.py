"""How often a test repeats itself: briefly in CI, longer when a person asks.

`SPINWHEEL_TRIALS` is set by `just fault ID N` and `just soak`.
"""

from __future__ import annotations

import os

VARIABLE = "SPINWHEEL_TRIALS"


def trials(default: int, most: int | None = None) -> int:
    """`default`, or what was asked for, at most `most` (a test whose N has a meaning of its own gives it)."""
    asked = int(os.environ.get(VARIABLE, default))
    return asked if most is None else min(asked, most)
