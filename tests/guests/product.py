"""Build products in a cache, made once for all processes.

Knows: where the cache is, how inputs become a key, and the commit protocol. Must not know: what
is built. Laws:

* a product's folder name holds a hash of everything that went into it, so it is never stale;
* it appears whole, by rename, or not at all;
* two processes that want the same product build it once (flock), and a killed one leaves only a
  `.partial` folder, which the next holder of the lock removes.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class BuildError(Exception):
    """A product cannot be built: what was wanted, what was found, and the next step."""


def cache_root() -> Path:
    """Return the folder that outlives a checkout: `SPINWHEEL_CACHE`, or the user's cache."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spinwheel"
    return Path(os.environ.get("SPINWHEEL_CACHE") or default)


def key_of(files: Iterable[Path], *facts: str) -> str:
    """Hash names and contents of *files* (folders are walked), and *facts* such as a version."""
    digest = hashlib.sha256()
    for path in sorted(found for given in files for found in _walk(given)):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    for fact in facts:
        digest.update(f"\0{fact}".encode())
    return digest.hexdigest()[:16]


def _walk(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for found in path.rglob("*"):
        if found.is_file() and "__pycache__" not in found.parts:
            yield found


def produce(kind: str, name: str, key: str, make: Callable[[Path], None]) -> Path:
    """Return the folder of a product; *make* fills an empty folder if there is none yet."""
    product = cache_root() / kind / f"{name}-{key}"
    if product.is_dir():
        return product
    with locked(kind, name):
        if not product.is_dir():
            _build(product, make)
    return product


@contextmanager
def locked(kind: str, name: str) -> Iterator[None]:
    """Hold the one lock of *name*; the kernel frees it if we die."""
    folder = cache_root() / kind
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(product: Path, make: Callable[[Path], None]) -> None:
    partial = product.with_name(f"{product.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        make(partial)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    partial.rename(product)
