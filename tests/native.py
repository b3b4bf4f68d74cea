"""An ordinary container image: busybox, as an OCI-layout tar that `ctr images import` takes.

Knows: Debian's busybox-static. Must not know: Spin. Law: equal input gives an equal tar.
"""

import gzip
import io
import shutil
import tarfile
from pathlib import Path

from tests.apps import digest_of, encode
from tests.images import INDEX_TYPE, OCI_CONFIG_TYPE, Blobs, _manifest, _write_layout

LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
APPLETS = ("sh", "sleep", "cat", "echo", "true", "tty", "stty", "kill", "ps", "dd", "head", "id", "wget")
REFERENCE = "test.local/busybox:1"


def pack_busybox(
    out: Path, reference: str = REFERENCE, entrypoint: tuple[str, ...] = (), more_layers: int = 0
) -> Path:
    """Write the image to *out* and return it; each of *more_layers* is one file, `/more/NUMBER`."""
    layers = [_layer(), *map(_small_layer, range(more_layers))]
    blobs = Blobs()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Entrypoint": list(entrypoint)},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]},
        "history": [{"created_by": "tests/native.py"} for _ in layers],
    }
    packed = [blobs.add(LAYER_TYPE, gzip.compress(layer, mtime=0)) for layer in layers]
    target = _manifest(blobs, blobs.add(OCI_CONFIG_TYPE, encode(config)), packed)
    tag = reference.rpartition(":")[2]
    names = {"io.containerd.image.name": reference, "org.opencontainers.image.ref.name": tag}
    index = {
        "schemaVersion": 2,
        "mediaType": INDEX_TYPE,
        "manifests": [{**target, "annotations": names}],
    }
    _write_layout(out, encode(index), blobs)
    return out


def _layer() -> bytes:
    busybox = shutil.which("busybox")
    assert busybox, "wanted busybox, found none: apt-get install busybox-static"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        program = tarfile.TarInfo("bin/busybox")
        program.mode = 0o755
        content = Path(busybox).read_bytes()
        program.size = len(content)
        tar.addfile(program, io.BytesIO(content))
        for name in APPLETS:
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        for name in ("tmp", "etc", "proc", "dev", "sys"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(folder)
    return buffer.getvalue()


def _small_layer(number: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        content = f"{number}\n".encode()
        file = tarfile.TarInfo(f"more/{number}")
        file.size = len(content)
        tar.addfile(file, io.BytesIO(content))
    return buffer.getvalue()
