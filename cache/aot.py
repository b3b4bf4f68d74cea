"""Entries that hold compiled code: opened once, verified on that descriptor, used through it.

Laws: no byte is handed out before size and sha256 of the very descriptor were compared with the entry's own
record (faults.md R6); a full hash is taken at most once per boot and file identity, remembered in `stamps`
on a tmpfs; a file that is not a plain, single-linked, read-only file of ours is no entry at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from cache.key import Key
from cache.store import DirectoryStore

KIND = "aot"
CODE, META = "code", "meta.json"
CHUNK = 1 << 20


class BadEntry(Exception):
    """An entry that exists but must not be used; the message says why."""


@dataclass(slots=True)
class Opened:
    """Verified code: a descriptor that the caller owns, its size, whether it was hashed just now."""

    descriptor: int
    size: int
    hashed: bool


def record(folder: Path, key: Key) -> None:
    """Writes the entry's own record beside the code; called while the entry is being built."""
    descriptor = os.open(folder / CODE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        digest, size = hash_of(descriptor), os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)
    meta = {"digest": digest, "size": size, "component": key.component, "target": key.target}
    (folder / META).write_text(json.dumps(meta))


def open_entry(store: DirectoryStore, key: Key, stamps: Path | None) -> Opened | None:
    """The code for `key`, or None when there is none; raises BadEntry for one that must not be used."""
    folder = store.path(KIND, key.name)
    try:
        descriptor = os.open(folder / CODE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        message = f"{folder}: {error.strerror}"
        raise BadEntry(message) from error
    try:
        return _verified(descriptor, folder, key, stamps)
    except BaseException:
        os.close(descriptor)
        raise


def _verified(descriptor: int, folder: Path, key: Key, stamps: Path | None) -> Opened:
    meta = _meta(folder)
    if (meta.get("component"), meta.get("target")) != (key.component, key.target):
        message = f"{folder}: its record is of another component or target"
        raise BadEntry(message)
    status = os.fstat(descriptor)
    _check_file(status, folder)
    if status.st_size != meta["size"]:
        message = f"{folder}: wanted {meta['size']} bytes, found {status.st_size}"
        raise BadEntry(message)
    identity = f"{meta['digest']} {_identity(status)}"
    stamp = stamps / folder.name if stamps else None
    if stamp and _read(stamp) == identity:
        return Opened(descriptor, status.st_size, hashed=False)
    found = hash_of(descriptor)
    if found != meta["digest"]:
        message = f"{folder}: wanted content {meta['digest']}, found {found}"
        raise BadEntry(message)
    if stamp:
        _remember(stamp, identity)
    return Opened(descriptor, status.st_size, hashed=True)


def _meta(folder: Path) -> dict[str, object]:
    try:
        meta = json.loads((folder / META).read_bytes())
    except (OSError, ValueError) as error:
        message = f"{folder}: no readable record: {error}"
        raise BadEntry(message) from error
    if not isinstance(meta, dict) or not {"digest", "size"} <= meta.keys():
        message = f"{folder}: its record lacks digest or size"
        raise BadEntry(message)
    return meta


def _check_file(status: os.stat_result, folder: Path) -> None:
    plain = stat.S_ISREG(status.st_mode) and status.st_nlink == 1
    if not plain or status.st_uid != os.geteuid() or status.st_mode & 0o222:
        message = (
            f"{folder}: wanted a read-only file of uid {os.geteuid()} with one link, found mode "
            f"{stat.filemode(status.st_mode)}, uid {status.st_uid}, {status.st_nlink} links"
        )
        raise BadEntry(message)


def _identity(status: os.stat_result) -> str:
    fields = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return ":".join(str(field) for field in fields)


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None


def _remember(stamp: Path, identity: str) -> None:
    """Best effort: without the stamp the next start hashes again."""
    scratch = stamp.with_name(f".{stamp.name}.{os.getpid()}")
    try:
        stamp.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        scratch.write_text(identity)
        scratch.rename(stamp)
    except OSError:
        return


def hash_of(descriptor: int) -> str:
    """The sha256 of all bytes behind `descriptor`, whose position does not matter or move."""
    digest = hashlib.sha256()
    offset = 0
    while chunk := os.pread(descriptor, CHUNK, offset):
        digest.update(chunk)
        offset += len(chunk)
    return f"sha256:{digest.hexdigest()}"
