"""Entries carried from node to node in one file, signed with a key that the receiving node trusts.

Laws: the signature is over the list of entries and is checked before anything else of the list is looked at;
every code is compared with the digest in that list while it is copied; names in the file are never used as
paths. The receiver marks what it took with its own key.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from cache.aot import BadEntry
from cache.catalog import Row
from cache.entries import AotDirectory
from cache.key import Key

FORMAT = "spinwheel-parcel-1"
LIST, SIGNATURE = "list.json", "list.sig"
MAX_LIST = 16 << 20
MAX_CODE = 1 << 30
CHUNK = 1 << 20


class BadParcel(Exception):
    """A parcel or a key that must not be used; the message says why."""


def write(rows: Iterable[Row], out: Path, private_key: bytes) -> int:
    """Writes `rows` to the new file `out`, signed with an Ed25519 key in PEM; returns their count."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    with _key_errors("private key"):
        key = load_pem_private_key(private_key, None)
    if not isinstance(key, Ed25519PrivateKey):
        raise BadParcel("private key: wanted Ed25519, as `openssl genpkey -algorithm ed25519` makes")
    chosen = [row for row in rows if row.key]
    items = [{**asdict(row.key), "digest": row.digest, "size": row.size} for row in chosen if row.key]
    listed = json.dumps({"format": FORMAT, "entries": items}).encode()
    with out.open("xb") as file, tarfile.open(fileobj=file, mode="w") as tar:
        _add(tar, LIST, listed)
        _add(tar, SIGNATURE, key.sign(listed))
        for row in chosen:
            tar.add(row.path, arcname=row.name, recursive=False)
    return len(chosen)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def read(store: AotDirectory, parcel: Path, public_key: bytes) -> list[Key]:
    """Takes the parcel's entries into `store`; returns their keys; raises BadParcel."""
    try:
        with parcel.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            items = _signed_list(tar, public_key)
            return [_take(store, tar, item) for item in items]
    except (tarfile.TarError, EOFError, BadEntry) as error:
        message = f"parcel {parcel}: {error}"
        raise BadParcel(message) from error


def _signed_list(tar: tarfile.TarFile, public_key: bytes) -> list[dict[str, Any]]:
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    listed, signature = _next(tar, LIST).read(MAX_LIST), _next(tar, SIGNATURE).read(128)
    with _key_errors("public key"):
        key = load_pem_public_key(public_key)
    if not isinstance(key, Ed25519PublicKey):
        raise BadParcel("public key: wanted Ed25519; take it with `openssl pkey -pubout`")
    try:
        key.verify(signature, listed)
    except InvalidSignature as error:
        message = "parcel: it is not signed with the key that this node trusts; nothing was taken"
        raise BadParcel(message) from error
    document = json.loads(listed)
    if document.get("format") != FORMAT:
        message = f"parcel: wanted format {FORMAT}, found {document.get('format')!r}"
        raise BadParcel(message)
    return list(document["entries"])


def _take(store: AotDirectory, tar: tarfile.TarFile, item: dict[str, Any]) -> Key:
    key = Key(item["component"], item["fingerprint"], item["target"], item["domain"])
    source = _next(tar, key.name)

    def build(output: Path) -> None:
        digest = hashlib.sha256()
        with output.open("xb") as out:
            while chunk := source.read(CHUNK):
                digest.update(chunk)
                out.write(chunk)
        if f"sha256:{digest.hexdigest()}" != item["digest"]:
            message = f"parcel: the code of {key.component} is not what the signed list says"
            raise BadParcel(message)

    store.put(key, build)
    return key


def _next(tar: tarfile.TarFile, name: str) -> IO[bytes]:
    entry = tar.next()
    content = tar.extractfile(entry) if entry and entry.isreg() and entry.size <= MAX_CODE else None
    if entry is None or content is None or entry.name != name:
        message = f"parcel: wanted {name}, found {entry.name if entry else 'its end'}"
        raise BadParcel(message)
    return content


@contextmanager
def _key_errors(what: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError) as error:
        message = f"{what}: wanted Ed25519 in PEM, found something else ({error})"
        raise BadParcel(message) from error
