"""Entries that hold compiled code: opened once, verified on that descriptor, used through it.

Laws: no byte is handed out before the entry's record was found to carry this node's mark and this very key,
and size and sha256 of the very descriptor were compared with the record (faults.md R6); a full hash is taken
at most once per boot and file identity, remembered in `stamps` on a tmpfs; a file that is not a plain,
single-linked, read-only file of ours is no entry at all. The code lies beside its record, or where `path` in
the record says: there containerd may collect it, and then there is no entry.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cache.key import Key
from cache.mac import mac_of, node_key
from cache.store import DirectoryStore

KIND = "aot"
CODE, META = "code", "meta.json"
CHUNK = 1 << 20
MAX_RECORD = 64 << 10


class BadEntry(Exception):
    """An entry that exists but must not be used; the message says why."""


@dataclass(slots=True)
class Opened:
    """Verified code: a descriptor that the caller owns, its size, whether it was hashed just now."""

    descriptor: int
    size: int
    hashed: bool


def record(folder: Path, key: Key, root: Path, path: Path | None = None) -> None:
    """Writes the entry's own record beside the code (or its `path`), while the entry is being built."""
    descriptor = os.open(path or folder / CODE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        meta: dict[str, object] = {"digest": hash_of(descriptor), "size": os.fstat(descriptor).st_size}
    finally:
        os.close(descriptor)
    meta |= asdict(key)
    if path:
        meta["path"] = str(path)
    meta["mac"] = mac_of(node_key(root), meta)
    (folder / META).write_text(json.dumps(meta))


def open_entry(store: DirectoryStore, key: Key, stamps: Path | None) -> Opened | None:
    """The code for `key`, or None when there is none; raises BadEntry for one that must not be used."""
    folder = store.path(KIND, key.name)
    meta = read_record(store, key.name)
    if meta is None:
        return None
    if any(meta.get(name) != value for name, value in asdict(key).items()):
        message = f"{folder}: its record is of another component, engine, target or domain"
        raise BadEntry(message)
    descriptor = _open_code(folder, meta)
    if descriptor is None:
        return None
    try:
        return _verified(descriptor, meta, folder, stamps)
    except BaseException:
        os.close(descriptor)
        raise


def read_record(store: DirectoryStore, name: str) -> dict[str, Any] | None:
    """The record of the entry `name`, its mark checked; None when there is none; raises BadEntry."""
    folder = store.path(KIND, name)
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        message = f"{folder}: {error.strerror}"
        raise BadEntry(message) from error
    try:
        meta = _parsed(descriptor, folder)
    finally:
        os.close(descriptor)
    if not hmac.compare_digest(str(meta.get("mac")).encode(), mac_of(node_key(store.root), meta).encode()):
        message = f"{folder}: its record does not carry this node's mark"
        raise BadEntry(message)
    return meta


def _parsed(folder: int, shown: Path) -> dict[str, Any]:
    try:
        descriptor = os.open(META, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        with os.fdopen(descriptor, "rb") as file:
            meta = json.loads(file.read(MAX_RECORD))
    except (OSError, ValueError, RecursionError) as error:
        message = f"{shown}: no readable record: {error}"
        raise BadEntry(message) from error
    if not isinstance(meta, dict) or not {"digest", "size"} <= meta.keys():
        message = f"{shown}: its record lacks digest or size"
        raise BadEntry(message)
    return meta


def _open_code(folder: Path, meta: Mapping[str, Any]) -> int | None:
    """A descriptor of the code, None when containerd has collected it; never follows a link or waits."""
    path = meta.get("path")
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(path or folder / CODE, flags)
    except FileNotFoundError as error:
        if path:
            return None
        message = f"{folder}: its code is gone"
        raise BadEntry(message) from error
    except OSError as error:
        message = f"{folder}: {error.strerror}"
        raise BadEntry(message) from error


def _verified(descriptor: int, meta: Mapping[str, Any], folder: Path, stamps: Path | None) -> Opened:
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
