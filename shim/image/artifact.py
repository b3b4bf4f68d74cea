"""From an image's descriptor to a checked Spin artifact: every shape that registries hold (wire.md 5.1).

Knows: which blob is the app, which are code, which are files. Must not know where bytes come from: they
come from a BlobSource. Laws: every blob read here is verified; a component's code is a layer of this very
manifest with a wasm media type (faults.md A1, A2); a file's content is a layer, inline, or in an archive.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from shim.errors import NotFound
from shim.image.app import App, Component, StaticFile, bare_app, parse_app
from shim.image.manifest import (
    ARCHIVE_LAYER,
    INDEX_TYPES,
    LOCKED_APP,
    MANIFEST_TYPES,
    MAX_DOCUMENT,
    WASM_TYPES,
    WKG_LAYER,
    BadArtifact,
    Descriptor,
    Index,
    Manifest,
    NotSpin,
    candidates,
    is_spin,
    is_wasm_platform,
    parse_document,
    parse_manifest,
    verified,
)

MAX_WASM = 128 << 20  # bytes of one component (faults.md A13)
MAX_DATA = 1 << 30  # bytes of one static file
MAX_INDEX_ENTRIES = 64  # manifests of one index; a longer one is refused, as a Spin one might hide behind it
CHUNK = 1 << 20


class BlobSource(Protocol):
    """The seam to whoever keeps the bytes; containerd's content store, or a double in tests."""

    def read(self, digest: str, limit: int) -> bytes:
        """At most `limit` + 1 bytes of the blob; raises NotFound or Unavailable."""

    def copy(self, digest: str, out: BinaryIO, limit: int) -> int:
        """Appends at most `limit` + 1 bytes of the blob to `out`; returns their count."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A Spin app with the blobs it is made of."""

    digest: str
    app: App
    code: dict[str, Descriptor]
    data: dict[str, Descriptor]
    archives: tuple[Descriptor, ...]


def resolve(source: BlobSource, root: Descriptor) -> Artifact:
    """The artifact below `root` (a manifest or an index); raises BadArtifact or the source's errors."""
    digest, manifest = _manifest(source, root)
    app = _app(source, manifest)
    code = {blob.digest: blob for blob in manifest.layers if blob.media_type in WASM_TYPES}
    data = {blob.digest: blob for blob in manifest.layers if blob.media_type not in WASM_TYPES}
    archives = tuple(blob for blob in manifest.layers if blob.media_type == ARCHIVE_LAYER)
    artifact = Artifact(digest, app, code, data, archives)
    for component in app.components:
        _check_component(component, artifact)
    return artifact


def read_verified(source: BlobSource, blob: Descriptor, limit: int) -> bytes:
    """The blob's bytes, compared with its descriptor; raises BadArtifact above `limit`."""
    _check_size(blob, limit)
    return verified(source.read(blob.digest, blob.size), blob)


def copy_verified(source: BlobSource, blob: Descriptor, out: BinaryIO, limit: int) -> None:
    """Streams the blob into `out`, which is worthless unless this returns; raises BadArtifact."""
    _check_size(blob, limit)
    hashing = HashingWriter(out)
    size = source.copy(blob.digest, hashing, blob.size)  # type: ignore[arg-type]  # write() is all it uses
    if size != blob.size or hashing.digest != blob.digest:
        message = f"blob {blob.digest}: its content ({size} bytes, {hashing.digest}) is not what it names"
        raise BadArtifact(message)


class HashingWriter:
    """Passes bytes on and hashes them on the way."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._hash = hashlib.sha256()

    @property
    def digest(self) -> str:
        """The digest of all bytes so far."""
        return f"sha256:{self._hash.hexdigest()}"

    def write(self, data: bytes) -> int:
        """Hashes and passes `data` on."""
        self._hash.update(data)
        return self._out.write(data)


def _check_size(blob: Descriptor, limit: int) -> None:
    if blob.size > limit:
        message = f"blob {blob.digest} ({blob.media_type}): {blob.size} bytes, above the limit of {limit}"
        raise BadArtifact(message)


def _manifest(source: BlobSource, root: Descriptor) -> tuple[str, Manifest]:
    document = parse_manifest(read_verified(source, root, MAX_DOCUMENT), root.media_type)
    if isinstance(document, Manifest):
        return root.digest, document
    return _pick(source, document)


def _pick(source: BlobSource, index: Index) -> tuple[str, Manifest]:
    if len(index.manifests) > MAX_INDEX_ENTRIES:
        message = f"image index: {len(index.manifests)} manifests, above the limit of {MAX_INDEX_ENTRIES}"
        raise BadArtifact(message)
    platforms = []
    for entry in candidates(index):
        if entry.media_type in INDEX_TYPES or entry.media_type not in MANIFEST_TYPES:
            continue
        document = _manifest_of(source, entry)
        if document is not None and is_spin(document):
            return entry.digest, document
        platforms.append(entry.platform or "no platform")
    message = (
        f"image index: wanted a manifest with wasm layers, found {', '.join(platforms) or 'no manifest'}"
    )
    raise NotSpin(message)


def _manifest_of(source: BlobSource, entry: Descriptor) -> Manifest | None:
    """The manifest, or None when it is that of a machine which this node never pulled."""
    try:
        data = read_verified(source, entry, MAX_DOCUMENT)
    except NotFound:
        if is_wasm_platform(entry):
            raise
        return None
    document = parse_manifest(data, entry.media_type)
    return document if isinstance(document, Manifest) else None


def _app(source: BlobSource, manifest: Manifest) -> App:
    locked = [blob for blob in manifest.blobs if blob.media_type == LOCKED_APP]
    if locked:
        return parse_app(read_verified(source, locked[-1], MAX_DOCUMENT))
    if not is_spin(manifest):
        kinds = sorted({blob.media_type for blob in manifest.blobs})
        message = (
            f"image: wanted a Spin artifact, found {', '.join(kinds)}; "
            "push the app with `spin registry push` instead of building a container image"
        )
        raise NotSpin(message)
    config = read_verified(source, manifest.config, MAX_DOCUMENT)
    if "spin_lock_version" in parse_document(config, "image config"):
        return parse_app(config)
    return _package(manifest)


def _package(manifest: Manifest) -> App:
    layers = [blob for blob in manifest.layers if blob.media_type == WKG_LAYER]
    if len(layers) != 1:
        message = f"wasm package: wanted exactly one {WKG_LAYER} layer, found {len(layers)}"
        raise BadArtifact(message)
    return bare_app(layers[0].digest, "app")


def _check_component(component: Component, artifact: Artifact) -> None:
    if component.source not in artifact.code:
        message = (
            f"component {component.id}: its source {component.source} is not a wasm layer of this image; "
            f"found {', '.join(artifact.code) or 'no wasm layer'}"
        )
        raise BadArtifact(message)
    for file in component.files:
        _check_file(component, file, artifact)


def _check_file(component: Component, file: StaticFile, artifact: Artifact) -> None:
    known = file.content.inline is not None or file.content.digest in artifact.data or artifact.archives
    if not known:
        message = (
            f"component {component.id}: content {file.content.digest} of {file.path} is not in this image"
        )
        raise BadArtifact(message)
