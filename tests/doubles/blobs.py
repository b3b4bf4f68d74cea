"""A BlobSource in memory: an artefact is written as values, then read as containerd would give it."""

import json
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from shim.errors import NotFound
from shim.image.manifest import LOCKED_APP, WASM_LAYER, Descriptor
from tests.apps import digest_of

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


@dataclass
class MemoryBlobs:
    """Blobs by digest; `reads` counts what was asked for."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    reads: list[str] = field(default_factory=list)

    def add(self, data: bytes, media_type: str) -> dict[str, Any]:
        """Keeps *data* and returns its descriptor as JSON."""
        digest = digest_of(data)
        self.blobs[digest] = data
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def manifest(
        self, config: dict[str, Any], *layers: dict[str, Any], media_type: str = MANIFEST
    ) -> Descriptor:
        """Keeps a manifest of these descriptors."""
        return self.document({"mediaType": media_type, "config": config, "layers": list(layers)}, media_type)

    def document(self, document: dict[str, Any], media_type: str) -> Descriptor:
        """Keeps any JSON document."""
        found = self.add(json.dumps(document).encode(), media_type)
        return Descriptor(found["mediaType"], found["digest"], found["size"])

    def read(self, digest: str, limit: int) -> bytes:
        """At most `limit` + 1 bytes."""
        self.reads.append(digest)
        if digest not in self.blobs:
            message = f"content {digest}: not found"
            raise NotFound(message)
        return self.blobs[digest][: limit + 1]

    def copy(self, digest: str, out: BinaryIO, limit: int) -> int:
        """As `read`, into a file."""
        return out.write(self.read(digest, limit))


def spin_push(blobs: MemoryBlobs, app: dict[str, Any], *wasm: bytes) -> Descriptor:
    """Today's `spin registry push`: wasm layers, the locked app last."""
    config = blobs.add(b'{"architecture":"wasm"}', "application/vnd.oci.image.config.v1+json")
    layers = [blobs.add(code, WASM_LAYER) for code in wasm]
    return blobs.manifest(config, *layers, blobs.add(json.dumps(app).encode(), LOCKED_APP))
