"""What the compiler refused, remembered for a while with its message (faults.md A13).

Laws: a refusal is the compiler's verdict on one key, so a new engine or another domain asks again; it holds
for REFUSED_SECONDS, because a limit that was hit on a busy machine need not be hit again; a memory that
cannot be read or written is none.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Protocol

from cache.key import Key

REFUSED_SECONDS = 300.0
MAX_WORDS = 16 << 10
FOLDER = "refused"


class Refused(Exception):
    """The compiler will not have this component; the message is the compiler's."""


class Private(Protocol):
    """Whoever keeps folders for us."""

    def private(self, name: str) -> Path:
        """A folder; raises StoreUnusable."""


def check_refused(store: Private, key: Key) -> None:
    """Raises Refused with the remembered words if `key` was refused not long ago."""
    try:
        descriptor = os.open(store.private(FOLDER) / key.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    with os.fdopen(descriptor, errors="replace") as file:
        left = os.fstat(descriptor).st_mtime + REFUSED_SECONDS - time.time()
        words = file.read(MAX_WORDS)
    if 0 < left <= REFUSED_SECONDS:
        message = f"{words} (remembered; the compiler is asked again in {left:.0f} s)"
        raise Refused(message)


def remember_refusal(store: Private, key: Key, words: str) -> None:
    """Best effort."""
    folder = store.private(FOLDER)
    scratch = folder / f".{key.name}.{os.getpid()}"
    with contextlib.suppress(OSError):
        forget_old(folder)
        scratch.write_text(words[:MAX_WORDS], errors="replace")
        scratch.rename(folder / key.name)


def forget_old(folder: Path) -> None:
    """Removes what no longer holds, so that hostile images cannot fill the disk with refusals."""
    for path in folder.iterdir():
        if time.time() - path.stat().st_mtime > REFUSED_SECONDS:
            path.unlink(missing_ok=True)
