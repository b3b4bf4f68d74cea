"""An app as an artifact: layers, config and manifest exactly as `spin registry push` makes them (O1-O16).

Laws: pure; the locked app is the last layer; equal layers are one; content of at most 128 bytes has no layer;
above MAX_LAYERS - 1 layers files travel as one archive a component. Native code is never among them: what is
packed is wasm, checked here, because a node only loads what its own compiler wrote (docs/adr/0007).
"""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from shim.image.manifest import (
    ARCHIVE_LAYER,
    DATA_LAYER,
    LOCKED_APP,
    MAX_LAYERS,
    WASM_LAYER,
    BadArtifact,
)
from shim.manifest.lock import INLINE_LIMIT, Content, Resolved, encode, locked_app
from shim.manifest.schema import Manifest

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
APP_LABEL = "com.fermyon.spin.lockedAppDigest"
INFERRED = "org.opencontainers.image."


@dataclass(frozen=True, slots=True)
class Blob:
    """One thing to upload."""

    media_type: str
    data: bytes

    @property
    def digest(self) -> str:
        """Its name."""
        return digest_of(self.data)

    @property
    def descriptor(self) -> dict[str, Any]:
        """As the manifest has it."""
        return {"digest": self.digest, "mediaType": self.media_type, "size": len(self.data)}


@dataclass(frozen=True, slots=True)
class Package:
    """An artifact ready to go: blobs (layers in their order, then the config), and the manifest last."""

    blobs: tuple[Blob, ...]
    manifest: Blob


@dataclass(frozen=True, slots=True)
class Assets:
    """A component's bytes: its wasm, and its files by guest path."""

    wasm: bytes
    files: Mapping[str, bytes]


def digest_of(data: bytes) -> str:
    """The sha256 of `data` as OCI writes it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def pack(
    manifest: Manifest,
    assets: Mapping[str, Assets],
    annotations: Mapping[str, str],
    created: str,
    *,
    archive: bool = False,
) -> Package:
    """The artifact of an app; `created` is an RFC 3339 time, `annotations` win over inferred ones (O16).

    Raises BadArtifact for a source that is not wasm, and for more layers than an artifact may have.
    """
    for name, found in assets.items():
        _check_wasm(name, found.wasm)
    layers = _layers(manifest, assets, archive=archive)
    if not archive and len(layers) > MAX_LAYERS - 1:
        layers = _layers(manifest, assets, archive=True)
    if len(layers) > MAX_LAYERS - 1:
        message = (
            f"the app has {len(layers)} components with files, above the limit of {MAX_LAYERS - 1} layers"
        )
        raise BadArtifact(message)
    resolved = {name: _resolved(found) for name, found in assets.items()}
    app = Blob(LOCKED_APP, encode(locked_app(manifest, resolved)))
    layers.append(app)
    config = Blob(CONFIG_TYPE, encode(_config(app)))
    document = {
        "annotations": dict(sorted({**_inferred(manifest, created), **annotations}.items())),
        "config": config.descriptor,
        "layers": [layer.descriptor for layer in layers],
        "mediaType": MANIFEST_TYPE,
        "schemaVersion": 2,
    }
    return Package((*layers, config), Blob(MANIFEST_TYPE, encode(document)))


def _check_wasm(name: str, data: bytes) -> None:
    """Spin takes components, modules and WAT text (O18); our nodes run components, which compile says."""
    if not data.startswith(b"\0asm"):
        message = (
            f"component {name}: wanted WebAssembly as its source, found bytes that begin with {data[:4]!r}; "
            "build it again (compiled native code is never pushed)"
        )
        raise BadArtifact(message)


def _resolved(assets: Assets) -> Resolved:
    files = {path: _content(data) for path, data in assets.files.items()}
    return Resolved(_content(assets.wasm), files)


def _content(data: bytes) -> Content:
    """What is small is inlined, wasm too, as Spin does; wasm has its layer all the same (O11)."""
    return Content(digest_of(data), len(data), data if len(data) <= INLINE_LIMIT else None)


def _layers(manifest: Manifest, assets: Mapping[str, Assets], *, archive: bool) -> list[Blob]:
    found: dict[str, Blob] = {}
    for component in manifest.components:
        own = assets[component.id]
        files = _archive(own.files) if archive else _files(own.files)
        for layer in (Blob(WASM_LAYER, own.wasm), *files):
            found.setdefault(layer.digest, layer)
    return list(found.values())


def _files(files: Mapping[str, bytes]) -> Iterable[Blob]:
    return [Blob(DATA_LAYER, files[path]) for path in sorted(files) if len(files[path]) > INLINE_LIMIT]


def _archive(files: Mapping[str, bytes]) -> Iterable[Blob]:
    if not files:
        return []
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path in sorted(files):
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(files[path]), 0o644
            tar.addfile(entry, io.BytesIO(files[path]))
    return [Blob(ARCHIVE_LAYER, gzip.compress(buffer.getvalue(), mtime=0))]


def _config(app: Blob) -> dict[str, Any]:
    """Names the locked app, so that every app has an image id of its own (O2, O3)."""
    return {
        "architecture": "wasm",
        "os": "Wasip1",
        "config": {"Labels": {APP_LABEL: app.digest}},
        "rootfs": {"type": "layers", "diff_ids": []},
    }


def _inferred(manifest: Manifest, created: str) -> dict[str, str]:
    fields = {
        "authors": ", ".join(manifest.authors),
        "title": manifest.name,
        "description": manifest.description,
        "version": manifest.version,
        "created": created,
    }
    return {INFERRED + key: value for key, value in fields.items() if value}
