"""The node's own key, with which the cache marks what it wrote itself.

Laws: 32 random bytes in a file of ours with mode 0600, made once and never printed; two processes that make
it at once end with the same one; whoever can read it can already write the cache, so it guards against bytes
that came from elsewhere (another node, a backup, a bit that fell over), not against root.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from cache.store import StoreUnusable

FILE = "node.key"
KEY_BYTES = 32


def node_key(root: Path) -> bytes:
    """The key below `root`, made if need be; raises StoreUnusable."""
    path = root / FILE
    try:
        return _read(path) if path.exists() else _make(path)
    except OSError as error:
        message = f"node key {path}: {error.strerror}"
        raise StoreUnusable(message) from error


def _read(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        key = file.read(KEY_BYTES + 1)
    if status.st_uid != os.geteuid() or status.st_mode & 0o077 or len(key) != KEY_BYTES:
        message = (
            f"node key {path}: wanted {KEY_BYTES} bytes that only uid {os.geteuid()} can read, found "
            f"{len(key)} of uid {status.st_uid} with mode {status.st_mode & 0o777:o}; remove it and the "
            "cache makes a new one"
        )
        raise StoreUnusable(message)
    return key


def _make(path: Path) -> bytes:
    scratch = path.with_name(f".{FILE}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(descriptor)
        os.link(scratch, path)  # unlike rename, it leaves a key that came first in place
    except FileExistsError:
        return _read(path)
    finally:
        scratch.unlink(missing_ok=True)
    return _read(path)


def mac_of(key: bytes, record: Mapping[str, object]) -> str:
    """The mark of an entry's record: HMAC-SHA256 in hex over its fields, but for the mark itself."""
    fields = {name: value for name, value in record.items() if name != "mac"}
    text = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    return hmac.new(key, text, hashlib.sha256).hexdigest()
