"""A store of compiled code in memory: what the contract says, and nothing else."""

import os
from pathlib import Path

from cache.aot import Opened
from cache.entries import Build
from cache.key import Key


class MemoryEntries:
    """Entries as memory files, by key."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._entries: dict[str, bytes] = {}

    def open(self, key: Key) -> Opened | None:
        """A descriptor of the code, or None."""
        data = self._entries.get(key.name)
        if data is None:
            return None
        descriptor = os.memfd_create("entry")
        os.write(descriptor, data)
        return Opened(descriptor, len(data), hashed=False)

    def put(self, key: Key, build: Build) -> None:
        """Keeps what `build` writes; the first one wins."""
        output = self.private("scratch") / key.name
        try:
            build(output)
            self._entries.setdefault(key.name, output.read_bytes())
        finally:
            output.unlink(missing_ok=True)

    def set_aside(self, key: Key) -> None:
        """Forgets the entry."""
        self._entries.pop(key.name, None)

    def private(self, name: str) -> Path:
        """A folder."""
        folder = self._scratch / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder
