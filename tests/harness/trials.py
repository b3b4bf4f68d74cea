"""How often a test repeats itself: briefly in CI, longer when a person asks.

`SPINWHEEL_TRIALS` is set by `just fault ID --n N` and `just cycles N`.
"""

from __future__ import annotations

import os

VARIABLE = "SPINWHEEL_TRIALS"


def trials(default: int) -> int:
    """What was asked for, else `default`."""
    return int(os.environ.get(VARIABLE, default))
