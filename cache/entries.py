"""Where entries of compiled code live: the contract, and its two stores (design.md section 5).

Laws: whatever a store does, `open` hands out verified code or none; `put` makes an entry appear whole or not
at all; a bad entry is set aside, never used and never silently deleted; what an entry cost and how often it
was used is kept beside it, best effort. Both stores keep a record per entry below one root; they differ in
where the code lies. In containerd's content store it is tied to the component's layer by a label that its
garbage collection follows, so that it goes with the last image that has the layer, and is written under a
lease, so that it does not go before it is tied.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from cache.aot import CODE, KIND, BadEntry, Opened, hash_of, open_entry, read_record, record
from cache.key import Key
from cache.store import DirectoryStore, StoreUnusable

Build = Callable[[Path], None]

QUARANTINE = "quarantine"
USES = "uses"
MAX_QUARANTINED = 16  # the newest, for whoever looks into it
GC_REF = "containerd.io/gc.ref.content.spinwheel-"

log = logging.getLogger(__name__)


class Store(Protocol):
    """What `fill` needs of a store; one contract suite runs over every implementation."""

    def open(self, key: Key) -> Opened | None:
        """Verified code for `key`, or None; raises BadEntry for an entry that must not be used."""

    def put(self, key: Key, build: Build) -> None:
        """Makes the entry from what `build(path)` writes; raises what it raises, or StoreUnusable."""

    def set_aside(self, key: Key) -> None:
        """Takes a bad entry out of use; raises StoreUnusable."""

    def private(self, name: str) -> Path:
        """A folder for locks and the like; raises StoreUnusable."""


class Content(Protocol):
    """The seam to containerd's content store, one namespace of it; every method raises StoreUnusable."""

    name: str  # of this containerd and namespace, for this process's own notes

    def folder(self) -> Path | None:
        """Where blobs lie as files named by their sha256, or None when they are not on this machine."""

    def leased(self, name: str) -> AbstractContextManager[None]:
        """Keeps what is written meanwhile from being collected; `name` is unique per key."""

    def write(self, digest: str, descriptor: int, ref: str) -> None:
        """Makes the blob known, its bytes taken from `descriptor` where they are needed."""

    def label(self, digest: str, name: str, value: str) -> None:
        """Sets a label of a blob, or removes it with an empty value."""


class AotDirectory:
    """Entries whose code lies beside their record: for `spinwheel up`, and for remote content stores."""

    def __init__(self, root: Path, stamps: Path | None = None) -> None:
        self.folders = DirectoryStore(root)
        self.stamps = stamps

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.folders.root}>"

    def open(self, key: Key) -> Opened | None:
        """Verified code for `key`, or None; raises BadEntry."""
        opened = open_entry(self.folders, key, self.stamps)
        if opened:
            self._count_use(key.name)
        return opened

    def put(self, key: Key, build: Build) -> None:
        """Makes the entry; raises what `build` raises, or StoreUnusable."""

        def fill(folder: Path) -> None:
            build(folder / CODE)
            self._place(folder, key)

        self._forget_collected(key)
        self.folders.commit(KIND, key.name, fill)

    def set_aside(self, key: Key) -> None:
        """Moves the entry into quarantine, where only the newest are kept."""
        folder = self.private(QUARANTINE)
        try:
            self.folders.path(KIND, key.name).rename(folder / f"{time.time_ns()}-{key.name}")
        except FileNotFoundError:
            return
        except OSError as error:
            message = f"bad entry {key.name} stays: {error.strerror}"
            raise StoreUnusable(message) from error
        for old in sorted(folder.iterdir())[:-MAX_QUARANTINED]:
            self.folders.remove(old)

    def private(self, name: str) -> Path:
        """A folder of the store for its own use."""
        return self.folders.private(name)

    def _place(self, folder: Path, key: Key) -> None:
        record(folder, key, self.folders.root)

    def _forget_collected(self, key: Key) -> None:
        """A record whose code containerd has collected would be in the way of the new one."""
        with contextlib.suppress(BadEntry):
            meta = read_record(self.folders, key.name)
            if meta and meta.get("path") and not os.path.exists(meta["path"]):
                self.folders.discard(KIND, key.name)

    def _count_use(self, name: str) -> None:
        """A byte per use: the file's size is their count, its time the last one's."""
        with contextlib.suppress(OSError):
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            folder = self.folders.root / USES
            folder.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(folder / name, flags, 0o600)
            try:
                os.write(descriptor, b".")
            finally:
                os.close(descriptor)


class AotContent(AotDirectory):
    """Entries whose code lies in containerd's content store; beside the record where that cannot be."""

    def __init__(self, root: Path, content: Content, stamps: Path | None = None) -> None:
        super().__init__(root, stamps)
        self._content = content

    def open(self, key: Key) -> Opened | None:
        """Verified code for `key`; the first use in a namespace ties it to that namespace's layer too."""
        opened = super().open(key)
        if opened and not self._is_tied(key):
            try:
                self._tie_found(key, opened.descriptor)
            except (StoreUnusable, BadEntry) as error:
                log.warning("the code is used, but is not kept for this namespace's image: %s", error)
        return opened

    def _place(self, folder: Path, key: Key) -> None:
        path = None
        descriptor = os.open(folder / CODE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            path = self._adopt(key, descriptor)
        except StoreUnusable as error:
            log.warning("containerd does not take the code, keeping it in %s: %s", self.folders.root, error)
        finally:
            os.close(descriptor)
        record(folder, key, self.folders.root, path)
        if path:
            (folder / CODE).unlink()
            self._note_tie(key)

    def _adopt(self, key: Key, descriptor: int) -> Path | None:
        """Where containerd keeps the bytes behind `descriptor`, once it does and they are the same."""
        blobs = self._content.folder()
        if blobs is None:
            return None
        digest = hash_of(descriptor)
        self._tie(key, digest, descriptor)
        path = blobs / digest.removeprefix("sha256:")
        with path.open("rb") as file:
            if hash_of(file.fileno()) == digest:
                return path
        message = f"{path}: its content is not what it names"
        raise StoreUnusable(message)

    def _tie(self, key: Key, digest: str, descriptor: int) -> None:
        with self._content.leased(f"spinwheel-{key.name}"):
            self._content.write(digest, descriptor, f"spinwheel-{key.name}")
            self._content.label(key.component, label_of(key.name), digest)

    def _tie_found(self, key: Key, descriptor: int) -> None:
        meta = read_record(self.folders, key.name)
        if meta and meta.get("path"):
            self._tie(key, meta["digest"], descriptor)
        self._note_tie(key)

    def _is_tied(self, key: Key) -> bool:
        return self.stamps is not None and self._tie_note(key).exists()

    def _note_tie(self, key: Key) -> None:
        """Best effort, and gone with the next boot: without it the next use ties once more."""
        if self.stamps is None:
            return
        with contextlib.suppress(OSError):
            self._tie_note(key).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._tie_note(key).touch(mode=0o600)

    def _tie_note(self, key: Key) -> Path:
        place = hashlib.sha256(f"{key.name} {self._content.name}".encode()).hexdigest()
        return (
            self.folders.root / USES / f"tied-{place}"
            if self.stamps is None
            else self.stamps / f"tied-{place}"
        )


def label_of(name: str) -> str:
    """The label by which a layer keeps the code made from it; `name` is the key's."""
    return f"{GC_REF}{name[:32]}"


def entries(root: Path) -> Iterator[str]:
    """Names of all entries below `root`, scratch left out."""
    with contextlib.suppress(FileNotFoundError):
        yield from sorted(path.name for path in (root / KIND).iterdir() if not path.name.startswith("."))
