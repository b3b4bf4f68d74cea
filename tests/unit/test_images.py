"""What the packer of test artefacts promises to the tests that use it."""

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.apps import App, Component, digest_of, locked_app
from tests.broken import BREAKAGES
from tests.images import APP_TYPE, ARCHIVE_TYPE, DATA_TYPE, Shape, pack

SMALL = b"x" * 128
LARGE = b"y" * 129
HELLO = App([Component(b"\0asm", files={"small.txt": SMALL, "a/large.txt": LARGE})])


def read_blobs(path: Path) -> dict[str, bytes]:
    """Return every member of a tar by name."""
    with tarfile.open(path) as tar:
        members = {member.name: tar.extractfile(member) for member in tar}
        return {name: member.read() for name, member in members.items() if member}


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the manifest that the layout's index points at."""
    members = read_blobs(path)
    digest = json.loads(members["index.json"])["manifests"][0]["digest"]
    manifest: dict[str, Any] = json.loads(members[f"blobs/{digest.replace(':', '/')}"])
    return manifest


@pytest.mark.parametrize("shape", Shape)
def test_every_blob_is_stored_under_its_own_digest(shape: Shape, tmp_path: Path) -> None:
    """No shape may hold a blob whose name is not its hash."""
    members = read_blobs(pack(HELLO, tmp_path / "a.tar", shape=shape))
    names = {name: data for name, data in members.items() if name.startswith("blobs/")}
    assert names
    assert names == {f"blobs/{digest_of(d).replace(':', '/')}": d for d in names.values()}


@pytest.mark.parametrize("shape", Shape)
def test_equal_apps_pack_to_equal_bytes(shape: Shape, tmp_path: Path) -> None:
    """An image's digest is stable over runs."""
    first = pack(HELLO, tmp_path / "a.tar", shape=shape)
    second = pack(HELLO, tmp_path / "b.tar", shape=shape)
    assert first.read_bytes() == second.read_bytes()


def test_the_locked_app_is_the_last_layer(tmp_path: Path) -> None:
    """Shape A ends with the locked app, whatever comes before."""
    layers = read_manifest(pack(HELLO, tmp_path / "a.tar"))["layers"]
    assert [layer["mediaType"] for layer in layers[1:]] == [DATA_TYPE, APP_TYPE]


def test_an_archive_replaces_the_data_layers(tmp_path: Path) -> None:
    """The archive shape holds all files of a component in one layer."""
    path = pack(HELLO, tmp_path / "a.tar", shape=Shape.SPIN_ARCHIVE)
    layers = read_manifest(path)["layers"]
    assert [layer["mediaType"] for layer in layers[1:]] == [ARCHIVE_TYPE, APP_TYPE]


def test_content_is_inlined_up_to_128_bytes() -> None:
    """The limit itself is inlined; one byte more is a layer of its own."""
    small, large = locked_app(HELLO)["components"][0]["files"]
    assert "inline" in small
    assert "inline" not in large
    assert (digest_of(SMALL), digest_of(LARGE)) == (small["digest"], large["digest"])


@pytest.mark.parametrize("name", BREAKAGES)
def test_a_breakage_changes_the_document_and_still_packs(name: str, tmp_path: Path) -> None:
    """A broken artefact is a well-formed image with another locked app."""
    good = read_manifest(pack(HELLO, tmp_path / "a.tar"))
    bad = read_manifest(pack(HELLO, tmp_path / "b.tar", breakage=BREAKAGES[name]))
    assert good["layers"][:-1] == bad["layers"][:-1]
    assert good["layers"][-1] != bad["layers"][-1]
