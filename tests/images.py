"""Spin apps as OCI-layout tars that `ctr images import` takes.

Knows: the artefact shapes of wire.md 5.1 and 5.3 (A, A-archive, B, C, H) and the OCI layout. Must
not know: containerd. Laws: the tar holds each blob once, under its digest; equal input gives an
equal tar; in shape A the locked app is the last layer (features.md O8).
"""

import gzip
import io
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from tests.apps import INLINE_LIMIT, App, Json, digest_of, encode, locked_app
from tests.broken import Breakage

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
WKG_CONFIG_TYPE = "application/vnd.wasm.config.v0+json"
APP_TYPE = "application/vnd.fermyon.spin.application.v1+config"
WASM_TYPE = "application/vnd.wasm.content.layer.v1+wasm"
WKG_WASM_TYPE = "application/wasm"
DATA_TYPE = "application/vnd.wasm.content.layer.v1+data"
ARCHIVE_TYPE = "application/vnd.wasm.content.bundle.v1.tar+gzip"
LOCKED_APP_LABEL = "com.fermyon.spin.lockedAppDigest"
LAYOUT = {"imageLayoutVersion": "1.0.0"}


class Shape(StrEnum):
    """What an artefact looks like, by the letters of wire.md 5.3."""

    SPIN = "A"
    SPIN_ARCHIVE = "A-archive"
    APP_AS_CONFIG = "B"
    WKG = "C"
    INDEX = "H"


@dataclass
class Blobs:
    """The content of one artefact; a descriptor is handed out for each blob put in."""

    by_digest: dict[str, bytes] = field(default_factory=dict)

    def add(self, media_type: str, content: bytes) -> Json:
        """Keep *content* and return its descriptor."""
        digest = digest_of(content)
        self.by_digest[digest] = content
        return {"mediaType": media_type, "digest": digest, "size": len(content)}


def pack(
    app: App,
    out: Path,
    *,
    reference: str = "test.local/spin/hello:1",
    shape: Shape = Shape.SPIN,
    breakage: Breakage | None = None,
) -> Path:
    """Write the tar of *app* to *out* and return it; *breakage* spoils the locked app."""
    blobs = Blobs()
    document = (breakage or encode)(locked_app(app))
    target = _target(app, document, shape, blobs)
    target["annotations"] = _names(reference)
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [target]}
    _write_layout(out, encode(index), blobs)
    return out


def _names(reference: str) -> dict[str, str]:
    tag = reference.rpartition(":")[2]
    return {"io.containerd.image.name": reference, "org.opencontainers.image.ref.name": tag}


def _target(app: App, document: bytes, shape: Shape, blobs: Blobs) -> Json:
    if shape is Shape.WKG:
        return _wkg(app, blobs)
    if shape is Shape.APP_AS_CONFIG:
        return _manifest(blobs, blobs.add(APP_TYPE, document), _content_layers(app, blobs))
    manifest = _spin(app, document, blobs, archive=shape is Shape.SPIN_ARCHIVE)
    return _index(blobs, manifest) if shape is Shape.INDEX else manifest


def _spin(app: App, document: bytes, blobs: Blobs, *, archive: bool) -> Json:
    layers = _content_layers(app, blobs, archive=archive)
    layers.append(blobs.add(APP_TYPE, document))
    return _manifest(blobs, blobs.add(OCI_CONFIG_TYPE, _oci_config(document)), layers)


def _oci_config(document: bytes) -> bytes:
    return encode(
        {
            "architecture": "wasm",
            "os": "Wasip1",
            "config": {"Labels": {LOCKED_APP_LABEL: digest_of(document)}},
            "rootfs": {"type": "layers", "diff_ids": []},
            "history": [],
        }
    )


def _content_layers(app: App, blobs: Blobs, *, archive: bool = False) -> list[Json]:
    layers: dict[str, Json] = {}
    for component in app.components:
        found = [blobs.add(WASM_TYPE, component.wasm)]
        found += _archive(component.files, blobs) if archive else _data(component.files, blobs)
        # Equal content is one layer (O9).
        layers |= {layer["digest"]: layer for layer in found}
    return list(layers.values())


def _data(files: Mapping[str, bytes], blobs: Blobs) -> list[Json]:
    return [blobs.add(DATA_TYPE, content) for content in files.values() if len(content) > INLINE_LIMIT]


def _archive(files: Mapping[str, bytes], blobs: Blobs) -> list[Json]:
    return [blobs.add(ARCHIVE_TYPE, archive_of(files))] if files else []


def archive_of(files: Mapping[str, bytes]) -> bytes:
    """The tar+gzip of *files*."""
    buffer = io.BytesIO()
    _write_tar(buffer, files.items())
    return gzip.compress(buffer.getvalue(), mtime=0)


def _wkg(app: App, blobs: Blobs) -> Json:
    (component,) = app.components
    layer = blobs.add(WKG_WASM_TYPE, component.wasm)
    config = {
        "created": "2026-01-01T00:00:00Z",
        "architecture": "wasm",
        "os": "wasip2",
        "layerDigests": [layer["digest"]],
        "component": {"exports": [], "imports": []},
    }
    return _manifest(blobs, blobs.add(WKG_CONFIG_TYPE, encode(config)), [layer])


def _manifest(blobs: Blobs, config: Json, layers: list[Json]) -> Json:
    header = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE}
    return blobs.add(MANIFEST_TYPE, encode({**header, "config": config, "layers": layers}))


def _index(blobs: Blobs, manifest: Json) -> Json:
    entry = {**manifest, "platform": {"architecture": "wasm", "os": "wasi"}}
    header = {"schemaVersion": 2, "mediaType": INDEX_TYPE}
    return blobs.add(INDEX_TYPE, encode({**header, "manifests": [entry]}))


def _write_layout(out: Path, index: bytes, blobs: Blobs) -> None:
    members = {f"blobs/{name.replace(':', '/')}": data for name, data in blobs.by_digest.items()}
    with out.open("wb") as file:
        _write_tar(file, [("oci-layout", encode(LAYOUT)), ("index.json", index), *members.items()])


def _write_tar(file: "io.BytesIO | io.BufferedWriter", members: Iterable[tuple[str, bytes]]) -> None:
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = 0o644
            tar.addfile(entry, io.BytesIO(content))
