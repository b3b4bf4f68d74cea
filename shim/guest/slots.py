"""Turns for the compiler: so many at once on a node, and at most half of them for one tenant (faults.md A13).

Laws: a turn is a lock on a file, so the kernel gives it back when its holder dies; a tenant that queues a
hundred components waits behind its own; where no lock can be made, nobody waits.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

POLL_SECONDS = 0.02


@contextmanager
def turn(folder: Path, tenant: str) -> Iterator[None]:
    """Waits for a turn of `tenant` and holds it; `folder` is of this node and does not outlive a boot."""
    total = max(2, os.cpu_count() or 1)
    mine = hashlib.sha256(tenant.encode()).hexdigest()[:16]
    with _held(folder, f"tenant-{mine}", total // 2), _held(folder, "node", total):
        yield


@contextmanager
def _held(folder: Path, name: str, count: int) -> Iterator[None]:
    files = []
    try:
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            files += [os.open(folder / f"{name}.{at}", flags, 0o600) for at in range(count)]
        while files and not any(_try(file) for file in files):
            time.sleep(POLL_SECONDS)
        yield
    finally:
        for file in files:
            os.close(file)


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
