"""What is in the cache, for people: rows, verdicts, and what may go.

Laws: reads records, never code, but for `verdict`; an entry whose record cannot be trusted is shown as bad,
with the reason, and never left out.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from cache.aot import KIND, BadEntry, open_entry, read_record
from cache.entries import QUARANTINE, USES, AotDirectory, entries
from cache.key import Key
from cache.store import StoreUnusable

GOOD, BAD, COLLECTED = "good", "bad", "collected"


@dataclass(frozen=True, slots=True)
class Row:
    """One entry; `key` is None for one whose record is bad, `path` where the code lies, times in seconds."""

    name: str
    key: Key | None
    state: str
    reason: str = ""
    size: int = 0
    digest: str = ""
    path: str = ""
    in_containerd: bool = False
    uses: int = 0
    last_use: float = 0.0


def rows(store: AotDirectory) -> Iterator[Row]:
    """Every entry, by name; the code itself is not read."""
    for name in entries(store.folders.root):
        try:
            yield _row(store, name)
        except (BadEntry, StoreUnusable) as error:
            yield Row(name, None, BAD, str(error))


def _row(store: AotDirectory, name: str) -> Row:
    meta = read_record(store.folders, name)
    if meta is None:
        return Row(name, None, COLLECTED)
    key = Key(meta["component"], meta["fingerprint"], meta["target"], meta["domain"])
    if key.name != name:
        message = f"{name}: its record is of another entry"
        raise BadEntry(message)
    path = Path(meta.get("path") or store.folders.path(KIND, name) / "code")
    uses, last = _uses(store.folders.root, name)
    return Row(
        name=name,
        key=key,
        state=GOOD if path.exists() else COLLECTED,
        size=int(meta["size"]),
        digest=meta["digest"],
        path=str(path),
        in_containerd="path" in meta,
        uses=uses,
        last_use=last,
    )


def _uses(root: Path, name: str) -> tuple[int, float]:
    try:
        status = (root / USES / name).stat()
    except OSError:
        return 0, 0.0
    return status.st_size, status.st_mtime


def verdict(store: AotDirectory, row: Row) -> Row:
    """The row after its code was read and hashed in full."""
    if row.key is None or row.state != GOOD:
        return row
    try:
        opened = open_entry(store.folders, row.key, None)
    except BadEntry as error:
        return replace(row, state=BAD, reason=str(error))
    if opened:
        os.close(opened.descriptor)
    return row


def is_dead(row: Row, fingerprints: Collection[str]) -> bool:
    """True for what no engine of this release can use, and for what containerd has collected."""
    return row.state != GOOD or row.key is None or row.key.fingerprint not in fingerprints


def quarantined(store: AotDirectory) -> int:
    """How many bad entries were set aside and are still there."""
    try:
        return len(os.listdir(store.folders.root / QUARANTINE))
    except OSError:
        return 0
