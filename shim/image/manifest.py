"""OCI descriptors, manifests and indexes: parsed, bounded and verified, with no I/O.

Laws: bytes are trusted only after `verified` compared size and sha256 with the descriptor; nothing is sized
from a claim; JSON with duplicate keys, too deep or too long is refused (faults.md A10-A12); digests are
sha256 in lower-case hex and nothing else (A5).
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

from shim.errors import InvalidArgument

MAX_DOCUMENT = 4 << 20  # bytes of a manifest, config or locked app
MAX_DEPTH = 32
MAX_LAYERS = 500
DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")

MANIFEST_TYPES = frozenset(
    {"application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"}
)
INDEX_TYPES = frozenset(
    {"application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"}
)
LOCKED_APP = "application/vnd.fermyon.spin.application.v1+config"
WASM_LAYER = "application/vnd.wasm.content.layer.v1+wasm"
DATA_LAYER = "application/vnd.wasm.content.layer.v1+data"
ARCHIVE_LAYER = "application/vnd.wasm.content.bundle.v1.tar+gzip"
WKG_LAYER = "application/wasm"
WASM_TYPES = frozenset({WASM_LAYER, WKG_LAYER})
SPIN_TYPES = WASM_TYPES | {LOCKED_APP, DATA_LAYER, ARCHIVE_LAYER}


class BadArtifact(InvalidArgument):
    """The artifact is not what a Spin artifact must be; the message says where."""


class NotSpin(BadArtifact):
    """A well-made image of something else, such as an ordinary container's."""


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A blob by name: what it is, its digest, and the size it claims."""

    media_type: str
    digest: str
    size: int
    platform: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """An image manifest: config and layers in their order."""

    config: Descriptor
    layers: tuple[Descriptor, ...]

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Config and layers: everything that the locked app may name."""
        return (self.config, *self.layers)


@dataclass(frozen=True, slots=True)
class Index:
    """A list of manifests, one per platform."""

    manifests: tuple[Descriptor, ...]


def verified(data: bytes, wanted: Descriptor) -> bytes:
    """`data` itself if it is the blob that `wanted` names; raises BadArtifact otherwise."""
    if len(data) != wanted.size:
        message = f"blob {wanted.digest}: wanted {wanted.size} bytes, found {len(data)}"
        raise BadArtifact(message)
    found = f"sha256:{hashlib.sha256(data).hexdigest()}"
    if found != wanted.digest:
        message = f"blob {wanted.digest}: its content has digest {found}; pull the image again"
        raise BadArtifact(message)
    return data


def checked_digest(text: object, where: str) -> str:
    """`text` if it is a sha256 digest; raises BadArtifact."""
    if not isinstance(text, str) or not DIGEST.match(text):
        message = f"{where}: wanted sha256:<64 hex digits>, found {shown(text)}"
        raise BadArtifact(message)
    return text


def shown(value: object) -> str:
    """`value` as it appears in messages: JSON, at most 80 characters."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."


def parse_document(data: bytes, what: str) -> dict[str, Any]:
    """The JSON object in `data`; raises BadArtifact on anything ambiguous, too long or too deep."""
    if len(data) > MAX_DOCUMENT:
        message = f"{what}: {len(data)} bytes, above the limit of {MAX_DOCUMENT}"
        raise BadArtifact(message)
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=_without_duplicates, parse_constant=_refused
        )
    except (ValueError, RecursionError) as error:
        message = f"{what}: not acceptable JSON: {error}"
        raise BadArtifact(message) from error
    if "\\ud" in data.decode().lower():
        _check_surrogates(value, what)
    if not isinstance(value, dict) or _depth(value) > MAX_DEPTH:
        message = f"{what}: wanted a JSON object at most {MAX_DEPTH} levels deep"
        raise BadArtifact(message)
    return value


def _check_surrogates(value: object, what: str) -> None:
    """JSON can spell half a character; no file, message or other program can hold it."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError) as error:
        message = f"{what}: not acceptable JSON: half of a surrogate pair is not text"
        raise BadArtifact(message) from error


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            message = f"duplicate key {shown(key)}"
            raise ValueError(message)
        seen.add(key)
    return dict(pairs)


def _refused(constant: str) -> float:
    message = f"{constant} is not JSON"
    raise ValueError(message)


def _depth(value: object) -> int:
    """Levels of nesting, counted without recursion so that hostile input cannot exhaust the stack."""
    deepest, level = 0, [value]
    while level and deepest <= MAX_DEPTH:
        deepest += 1
        level = [
            child
            for item in level
            if isinstance(item, (dict, list))
            for child in (item.values() if isinstance(item, dict) else item)
        ]
    return deepest


def parse_manifest(data: bytes, media_type: str) -> Manifest | Index:
    """The manifest or index in verified `data`; its own mediaType must agree with the descriptor's."""
    document = parse_document(data, "manifest")
    own = document.get("mediaType", media_type)
    if own != media_type and media_type in MANIFEST_TYPES | INDEX_TYPES:
        message = f"manifest: the descriptor says {media_type}, the document {shown(own)}"
        raise BadArtifact(message)
    if "manifests" in document:
        return Index(_descriptors(document, "manifests"))
    config = _descriptor(document.get("config"), "manifest config")
    return Manifest(config, _descriptors(document, "layers"))


def _descriptors(document: dict[str, Any], key: str) -> tuple[Descriptor, ...]:
    items = document.get(key)
    if not isinstance(items, list) or len(items) > MAX_LAYERS:
        message = f"manifest: wanted a list of at most {MAX_LAYERS} {key}, found {shown(items)}"
        raise BadArtifact(message)
    return tuple(_descriptor(item, f"manifest {key}[{at}]") for at, item in enumerate(items))


def _descriptor(item: object, where: str) -> Descriptor:
    if not isinstance(item, dict):
        message = f"{where}: wanted a descriptor, found {shown(item)}"
        raise BadArtifact(message)
    size, media_type = item.get("size"), item.get("mediaType")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0 or not isinstance(media_type, str):
        message = f"{where}: wanted mediaType and a size of 0 or more, found {shown(item)}"
        raise BadArtifact(message)
    return Descriptor(media_type, checked_digest(item.get("digest"), where), size, _platform(item))


def _platform(item: dict[str, Any]) -> str:
    platform = item.get("platform")
    if not isinstance(platform, dict):
        return ""
    return f"{platform.get('os', '')}/{platform.get('architecture', '')}"


def candidates(index: Index) -> tuple[Descriptor, ...]:
    """The index's manifests, likeliest Spin artifact first: wasm platforms, then unmarked, then the rest."""

    def rank(descriptor: Descriptor) -> int:
        if is_wasm_platform(descriptor):
            return 0
        return 1 if descriptor.platform in ("", "/", "unknown/unknown") else 2

    return tuple(sorted(index.manifests, key=rank))


def is_wasm_platform(descriptor: Descriptor) -> bool:
    """True for an index entry that says it is for a wasm machine."""
    return "wasm" in descriptor.platform or "wasi" in descriptor.platform.lower()


def is_spin(manifest: Manifest) -> bool:
    """True when config or layers carry a type that only wasm artifacts have."""
    return any(blob.media_type in SPIN_TYPES for blob in manifest.blobs)
