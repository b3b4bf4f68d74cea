"""Code that wasmtime compiled, valid for our very engine, at every door of an artefact (faults.md A1, A2).

Six doors, twenty variants each: as it is, gzipped, with leading or trailing bytes, cut, patched.
"""

import gzip
import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from cache.entries import AotDirectory
from cache.fill import get_or_fill
from cache.key import Key
from cache.refused import Refused
from shim.guest.compiler import Compiler
from shim.guest.files import tree_of
from shim.image.app import App, Component, Content, StaticFile, parse_app
from shim.image.artifact import Artifact
from shim.image.manifest import ARCHIVE_LAYER, DATA_LAYER, WASM_LAYER, WKG_LAYER, BadArtifact, Descriptor
from tests.apps import digest_of
from tests.doubles.blobs import MemoryBlobs
from tests.guests.build import guest_path

HOST = Path(os.environ.get("SPINWHEEL_BIN") or Path(sys.prefix) / "bin") / "spinwheel-host"


def patched(code: bytes, at: float) -> bytes:
    """The code with 16 bytes of its text replaced: the canary of an attacker."""
    place = int(len(code) * at)
    return code[:place] + b"\xcc" * 16 + code[place + 16 :]


VARIANTS: dict[str, Callable[[bytes], bytes]] = {
    "as it is": lambda code: code,
    **{f"gzip {level}": lambda code, level=level: gzip.compress(code, level) for level in (0, 1, 9)},  # type: ignore[misc]
    **{f"{n} leading": lambda code, n=n: bytes(n) + code for n in (1, 4, 8, 512, 4096)},  # type: ignore[misc]
    **{f"{n} trailing": lambda code, n=n: code + b"x" * n for n in (1, 100_000)},  # type: ignore[misc]
    **{f"patched at {at}": lambda code, at=at: patched(code, at) for at in (0.2, 0.4, 0.6, 0.8)},  # type: ignore[misc]
    "a wasm preamble before it": lambda code: b"\0asm\x0d\0\x01\0" + code,
    "a module preamble before it": lambda code: b"\0asm\x01\0\0\0" + code,
    "text before it": lambda code: b"#!/bin/sh\n" + code,
    "twice": lambda code: code + code,
    "gzip of leading": lambda code: gzip.compress(bytes(64) + code),
}


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What our own compiler makes of the guest: valid for our very engine."""
    output = tmp_path_factory.mktemp("code") / "code"
    subprocess.run([HOST, "compile", guest_path("hello-p2"), output], check=True, capture_output=True)
    return output.read_bytes()


def as_component(tmp_path: Path, data: bytes, media_type: str) -> None:
    """The component's layer is *data*."""
    blobs, digest = MemoryBlobs({digest_of(data): data}), digest_of(data)
    app = App("", "", "", (), (), (Component("c", digest),))
    artifact = Artifact(digest, app, {digest: Descriptor(media_type, digest, len(data))}, {}, ())
    compute = Compiler(HOST, "test", tmp_path / "turns").compute_from(blobs, artifact)
    get_or_fill(AotDirectory(tmp_path / "cache"), Key(digest, "f" * 64, "native"), compute)


def as_file(tmp_path: Path, data: bytes, how: str) -> None:
    """A component's static file is *data*, inline, a layer, or in an archive."""
    blobs, digest, archives = MemoryBlobs({digest_of(data): data}), digest_of(data), ()
    known = {digest: Descriptor(DATA_LAYER, digest, len(data))} if how == "data" else {}
    if how == "archive":
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            entry = tarfile.TarInfo("member")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
        packed = buffer.getvalue()
        found = blobs.add(packed, ARCHIVE_LAYER)
        archives = (Descriptor(ARCHIVE_LAYER, found["digest"], len(packed)),)  # type: ignore[assignment]
    file = StaticFile("f", Content(digest, data if how == "inline" else None))
    component = Component("c", digest, files=(file,))
    artifact = Artifact(digest, App("", "", "", (), (), (component,)), {}, known, archives)
    store = AotDirectory(tmp_path / "cache").folders
    tree_of(store, blobs, artifact, component, tmp_path / "spare")


def as_dependency(data: bytes) -> None:
    """A locked app whose component depends on *data*."""
    digest = digest_of(data)
    source = f'{{"digest":"{digest}"}}'
    dependency = f'{{"a:b/c":{{"source":{source}}}}}'
    component = f'{{"id":"c","source":{source},"dependencies":{dependency}}}'
    parse_app(f'{{"spin_lock_version":1,"components":[{component}],"triggers":[]}}'.encode())


DOORS: dict[str, Callable[[Path, bytes], None]] = {
    "wasm layer": lambda path, data: as_component(path, data, WASM_LAYER),
    "wkg layer": lambda path, data: as_component(path, data, WKG_LAYER),
    "data layer": lambda path, data: as_file(path, data, "data"),
    "archive member": lambda path, data: as_file(path, data, "archive"),
    "inline file": lambda path, data: as_file(path, data, "inline"),
    "dependency": lambda _path, data: as_dependency(data),
}


@pytest.mark.parametrize("door", DOORS)
def test_compiled_code_is_refused_at_every_door(tmp_path: Path, code: bytes, door: str) -> None:
    """Each of twenty variants is refused in words, and nothing of it is kept (A1, A2)."""
    assert len(VARIANTS) == 20
    for at, (name, variant) in enumerate(VARIANTS.items()):
        folder = tmp_path / str(at)
        with pytest.raises((BadArtifact, Refused)) as refused:
            DOORS[door](folder, variant(code))
        assert str(refused.value), name
        kept = [path for kind in ("aot", "files") for path in folder.glob(f"cache/{kind}/*")]
        assert kept == [], name
