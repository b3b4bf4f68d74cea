"""containerd's content store in memory and a folder: blobs, labels, leases, garbage collection."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cache.entries import GC_REF
from cache.store import StoreUnusable


class MemoryContent:
    """One namespace; `roots` are the digests that images keep, `broken` makes every call fail."""

    def __init__(self, folder: Path | None) -> None:
        self.name = "double default"
        self._folder = folder
        self.labels: dict[str, dict[str, str]] = {}
        self.roots: set[str] = set()
        self.leases: dict[str, set[str]] = {}
        self.broken = ""
        self.leases_seen: list[str] = []

    def add_layer(self, digest: str) -> None:
        """A layer that an image keeps."""
        self.labels[digest] = {}
        self.roots.add(digest)

    def folder(self) -> Path | None:
        """Where the blobs lie."""
        self._check("folder")
        return self._folder

    @contextmanager
    def leased(self, name: str) -> Iterator[None]:
        """Keeps what is written meanwhile."""
        self._check("leased")
        self.leases_seen.append(name)
        self.leases[name] = set()
        try:
            yield
        finally:
            del self.leases[name]

    def write(self, digest: str, descriptor: int, ref: str) -> None:
        """Keeps the bytes; only ever under a lease."""
        self._check("write")
        assert self._folder
        assert self.leases, "written without a lease"
        for kept in self.leases.values():
            kept.add(digest)
        path = self._folder / digest.removeprefix("sha256:")
        if not path.exists():
            path.write_bytes(os.pread(descriptor, 1 << 20, 0))
            path.chmod(0o444)
        self.labels.setdefault(digest, {})

    def label(self, digest: str, name: str, value: str) -> None:
        """Sets or removes a label."""
        self._check("label")
        if digest not in self.labels:
            message = f"content {digest}: not found"
            raise StoreUnusable(message)
        self.labels[digest][name] = value

    def collect(self) -> None:
        """Removes what neither a root, nor a lease, nor a label of something kept refers to."""
        kept = self.roots.union(*self.leases.values())
        for root in list(kept):
            found = self.labels.get(root, {})
            kept |= {digest for name, digest in found.items() if name.startswith(GC_REF)}
        for digest in set(self.labels) - kept:
            del self.labels[digest]
            if self._folder:
                (self._folder / digest.removeprefix("sha256:")).unlink(missing_ok=True)

    def _check(self, step: str) -> None:
        if self.broken in (step, "all"):
            message = f"{step}: the double is broken"
            raise StoreUnusable(message)
