"""Does a node run apps? The smallest one, started through containerd, asked over HTTP, and cleared away.

Knows: an OCI layout, ctr's words. Laws: the app is real (it is compiled, started by the OCI runtime and
answers); it has a namespace of containerd's to itself, listens on loopback only, and leaves nothing behind,
whatever happens.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import re
import secrets
import tarfile
import tempfile
import time
from importlib import resources
from pathlib import Path
from urllib.parse import urlsplit

from shim.errors import Unavailable
from shim.manifest.pack import Assets, Package, pack
from shim.manifest.schema import read
from shim.node.service import Containerd

IMAGE = "spinwheel.local/probe:1"
LISTEN = "SPIN_HTTP_LISTEN_ADDR=127.0.0.1:0"
SERVING = re.compile(r"Serving (http://\S+)")
SECONDS = 30.0
MANIFEST = """\
spin_manifest_version = 2
[application]
name = "spinwheel-probe"
[[trigger.http]]
route = "/..."
component = "probe"
[component.probe]
source = "probe.wasm"
"""


def run(containerd: Containerd, runtime: str) -> float:
    """Seconds from `ctr run` to an answer; raises Unavailable with what went wrong.

    `runtime` is the name that containerd finds our launcher by, or its path.
    """
    namespace = f"spinwheel-probe-{secrets.token_hex(4)}"
    with tempfile.TemporaryDirectory(prefix="spinwheel-probe-") as folder:
        (Path(folder) / "image.tar").write_bytes(archive())
        try:
            containerd.ctr("-n", namespace, "images", "import", f"{folder}/image.tar")
            return _answered(containerd, namespace, runtime, Path(folder) / "log")
        finally:
            _clear(containerd, namespace)


def archive() -> bytes:
    """The app as an OCI layout, as `ctr images import` takes it."""
    wasm = resources.files("shim.node").joinpath("probe.wasm").read_bytes()
    package = pack(read(MANIFEST), {"probe": Assets(wasm, {})}, {}, created="")
    names = {"io.containerd.image.name": IMAGE, "org.opencontainers.image.ref.name": "1"}
    index = {"schemaVersion": 2, "manifests": [{**package.manifest.descriptor, "annotations": names}]}
    files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": json.dumps(index).encode()}
    return _tar(files | _blobs(package))


def _blobs(package: Package) -> dict[str, bytes]:
    blobs = (*package.blobs, package.manifest)
    return {f"blobs/{blob.digest.replace(':', '/')}": blob.data for blob in blobs}


def _tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def _answered(containerd: Containerd, namespace: str, runtime: str, log: Path) -> float:
    began = time.monotonic()
    flags = ("--net-host", "--runtime", runtime, "--env", LISTEN, "--log-uri", f"file://{log}", "--detach")
    containerd.ctr("-n", namespace, "run", *flags, IMAGE, "probe", "/")
    status = _get(_address(log))
    if status != http.client.OK:
        message = f"the probe: wanted its answer 200, found {status}; its log: {log.read_text().strip()}"
        raise Unavailable(message)
    return time.monotonic() - began


def _address(log: Path) -> str:
    deadline = time.monotonic() + SECONDS
    while True:
        text = log.read_text() if log.exists() else ""
        if found := SERVING.search(text):
            return found[1]
        if time.monotonic() > deadline:
            message = f"the probe: wanted its address within {SECONDS:.0f} s, found this log: {text.strip()}"
            raise Unavailable(message)
        time.sleep(0.02)


def _get(url: str) -> int:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=SECONDS)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        message = f"the probe at {url}: {error}"
        raise Unavailable(message) from error
    finally:
        connection.close()


def _clear(containerd: Containerd, namespace: str) -> None:
    """Best effort: the error of the probe itself must not be hidden by one of these."""
    for words in (
        ("tasks", "rm", "--force", "probe"),
        ("containers", "rm", "probe"),
        ("images", "rm", "--sync", IMAGE),
    ):
        with contextlib.suppress(Unavailable):
            containerd.ctr("-n", namespace, *words, check=False)
    with contextlib.suppress(Unavailable):
        containerd.ctr("namespaces", "rm", namespace, check=False)
