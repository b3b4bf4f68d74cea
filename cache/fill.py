"""Get an entry or make it, once across all processes of the node.

Laws: one lock per key, held by a file descriptor, so the kernel frees it when its holder dies; waiters look
again after they got it; no lock is global and none has to expire; a disk that fails costs the sharing, not
the start: the code is then made into a sealed memory file (design.md section 5); what the compiler refused is
not tried again for a while.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cache.aot import CODE, BadEntry, Opened
from cache.entries import Store
from cache.key import Key
from cache.refused import Refused, check_refused, remember_refusal
from cache.store import StoreUnusable

Compute = Callable[[Key, Path], None]

SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Filled:
    """What a get-or-fill came to: the code, and whether it had to be compiled here."""

    opened: Opened
    compiled: bool


def get_or_fill(store: Store, key: Key, compute: Compute) -> Filled:
    """The code for `key`, from `store` or made by `compute(key, output path)`; blocks.

    Raises what `compute` raises, and Refused while its last refusal is remembered. Never fails because of the
    store.
    """
    found = _usable(store, key)
    if found:
        return Filled(found, compiled=False)
    try:
        with locked(store, key):
            found = _usable(store, key)
            if found:
                return Filled(found, compiled=False)
            check_refused(store, key)
            store.put(key, lambda output: _remembering(store, key, lambda: compute(key, output)))
            fresh = store.open(key)
    except (StoreUnusable, BadEntry, OSError) as error:
        log.warning("the cache cannot be used, compiling for this start only: %s", error)
        return Filled(in_memory(key, compute), compiled=True)
    return Filled(fresh or in_memory(key, compute), compiled=True)


def _usable(store: Store, key: Key) -> Opened | None:
    """The entry, or None; one that must not be used is set aside and said so."""
    try:
        return store.open(key)
    except StoreUnusable as error:
        log.warning("the cache cannot be read: %s", error)
        return None
    except BadEntry as error:
        log.warning("quarantining a bad cache entry: %s", error)
    try:
        store.set_aside(key)
    except StoreUnusable as error:
        log.warning("%s", error)
    return None


def _remembering(store: Store, key: Key, work: Callable[[], None]) -> None:
    try:
        work()
    except Refused as error:
        remember_refusal(store, key, str(error))
        raise


@contextmanager
def locked(store: Store, key: Key) -> Iterator[None]:
    """Holds the key's lock; waits for whoever has it. The lock file goes with its last holder."""
    path = store.private("locks") / key.name
    descriptor = _acquire(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _acquire(path: Path) -> int:
    """A descriptor that holds the lock on the file that `path` names now, not on one already removed."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            message = f"lock {path} cannot be made: {error.strerror}"
            raise StoreUnusable(message) from error
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except FileNotFoundError:
            log.debug("lock %s was removed by its last holder", path)
        os.close(descriptor)


def in_memory(key: Key, compute: Compute) -> Opened:
    """Compiles into a sealed memory file that only this start will use."""
    with tempfile.TemporaryDirectory(dir=_scratch_root(), prefix="spinwheel-") as scratch:
        output = Path(scratch) / CODE
        compute(key, output)
        descriptor = os.memfd_create(key.name[:16], os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        with output.open("rb") as source, os.fdopen(os.dup(descriptor), "wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    os.fchmod(descriptor, 0o444)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
    return Opened(descriptor, os.fstat(descriptor).st_size, hashed=False)


def _scratch_root() -> str:
    """Memory-backed where possible: the disk is what has just failed."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir()  # noqa: S108  # a probe
