"""Hostile artifacts, by the tables A4 to A14 of faults.md: each kind is refused in one line that names it."""

import base64
import itertools
import json
import resource
import time
from typing import Any

import pytest

from shim.image import manifest as m
from shim.image.app import parse_app
from shim.image.artifact import read_verified, resolve
from shim.image.manifest import BadArtifact, Descriptor, parse_document, parse_manifest
from tests.apps import digest_of, encode
from tests.doubles.blobs import INDEX, MANIFEST, MemoryBlobs, spin_push
from tests.unit.test_image import HELLO, WASM, changed, parsed

HEX = "0123456789abcdef" * 4
CLIMBS = (
    "..",
    "../..",
    "a/..",
    "a/../../b",
    "./a",
    ".",
    "/",
    "//",
    "/..",
    "a//b",
    "a/./b",
    "..\0",
    "a/" * 40,
)
DISGUISES = (
    "",
    "%2e%2e",
    "..%2f",
    "..\\a",
    "\\\\server",
    "\u2024\u2024",
    "..",
    "a\0b",
    "a\nb",
    " a",
    "x" * 4096,
)
IDS = (
    *CLIMBS,
    *DISGUISES,
    "-a",
    "_a",
    "a b",
    "a.b",
    "ä",
    "a\uff21",
    "x" * 129,
    "con:",
    "~",
    "$(id)",
    "`id`",
    "a;b",
)
DIGESTS = (
    *(f"sha256:{name}" for name in (*CLIMBS, *DISGUISES)),
    *("/etc/passwd", "../../etc/passwd", "file:///etc/passwd", HEX, f"sha512:{HEX * 2}", f"md5:{HEX[:32]}"),
    *(f"sha256:{HEX.upper()}", f"SHA256:{HEX}", f"sha256:{HEX}0", f"sha256:{HEX[:-1]}", f"sha256:{HEX}\n"),
    *(f" sha256:{HEX}", f"sha256:{HEX[:-2]}/.", f"sha256:{HEX[:-1]}g", f"sha256:{HEX[:-1]}\uff11", "sha256"),
)
URLS = (
    *("file:///etc/passwd", "file://localhost/x", "http://169.254.169.254/", "https://evil.test/x.wasm"),
    *(
        "ftp://x/y",
        "data:application/wasm;base64,AA==",
        "unix:///run/containerd/containerd.sock",
        "//x/y",
        "",
    ),
    *("/etc/passwd", "../x", "oci://x/y:1", "HTTP://X", "javascript:1", "containerd://x"),
)
PATHS = (
    *(path for path in CLIMBS if path != "a/" * 40),
    *("a/" * 33 + "b", "x" * 256, "x/" * 512 + "y", "ä" * 128, "a\0b", "", "a/", "a/\0/b", "/a/../b", "/./a"),
)
PLACES = ("components.0.source", "components.0.files.0")


def with_file(name: str = "a.txt", **content: object) -> dict[str, Any]:
    """HELLO with one file."""
    inline = {"inline": base64.b64encode(b"x").decode(), "digest": digest_of(b"x")}
    return changed("components.0.files", [{**(content or inline), "path": name}])


def refused(app: dict[str, Any], *words: str) -> None:
    """The app is refused in one line with the words in it."""
    with pytest.raises(BadArtifact) as caught:
        parse_app(json.dumps(app).encode())
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    assert all(word in message for word in words), message


@pytest.mark.parametrize("name", IDS)
def test_ids_that_are_paths(name: str) -> None:
    """An id is letters, digits, `-` and `_`, whether or not a trigger uses it (faults.md A4, O60)."""
    refused(changed("components.0.id", name), "component id")
    twin = {**json.loads(encode(HELLO))["components"][0], "id": name}
    app = json.loads(encode(HELLO))
    app["components"].append(twin)
    refused(app, "component id")


@pytest.mark.parametrize(("digest", "place"), list(itertools.product(DIGESTS, PLACES)))
def test_digests_that_are_paths(digest: str, place: str) -> None:
    """A digest is 64 small hex digits behind `sha256:`, of code and of files (faults.md A5)."""
    app = with_file()
    part = app["components"][0]
    content = part["source"] if place.endswith("source") else part["files"][0]
    content.pop("inline", None)
    content["digest"] = digest
    refused(app, "wanted sha256:")


@pytest.mark.parametrize("kind", ["config", "layers"])
@pytest.mark.parametrize("digest", DIGESTS)
def test_digests_of_a_manifest_that_are_paths(digest: str, kind: str) -> None:
    """Neither config nor layer is asked for under another kind of name (faults.md A5)."""
    good = {"mediaType": m.WASM_LAYER, "digest": digest_of(WASM), "size": len(WASM)}
    document: dict[str, Any] = {"mediaType": MANIFEST, "config": dict(good), "layers": [dict(good)]}
    (document["config"] if kind == "config" else document["layers"][0])["digest"] = digest
    with pytest.raises(BadArtifact, match="wanted sha256:"):
        parse_manifest(json.dumps(document).encode(), MANIFEST)


def test_a_digest_of_another_image_is_not_ours() -> None:
    """Well-formed is not enough: code and files are blobs of this very manifest (faults.md A5)."""
    other = digest_of(b"another image's blob")
    blobs = MemoryBlobs({other: b"another image's blob"})
    for app in (changed("components.0.source.digest", other), with_file(digest=other)):
        with pytest.raises(BadArtifact, match="of this image|not in this image"):
            resolve(blobs, spin_push(blobs, app, WASM))
    assert other not in blobs.reads


@pytest.mark.parametrize(("url", "place"), list(itertools.product(URLS, PLACES)))
def test_sources_that_are_urls(url: str, place: str) -> None:
    """A URL beside or in place of a digest is refused, of code and of files (faults.md A6)."""
    for keep in (True, False):
        app = with_file()
        part = app["components"][0]
        content = part["source"] if place.endswith("source") else part["files"][0]
        if not keep:
            content.pop("digest")
        content["source"] = url
        refused(app, "is a URL")


@pytest.mark.parametrize("path", PATHS)
def test_paths_out_of_the_tree(path: str) -> None:
    """A guest path goes down only, has no odd part and fits every file system (faults.md A7, O46, O49)."""
    refused(with_file(path), "not a relative path")


@pytest.mark.parametrize(
    "names", [("a", "a"), ("a", "/a"), ("a", "a/b"), ("a/b", "a/b/c"), ("a/b/c", "a"), ("/x", "x")]
)
def test_paths_that_clash(names: tuple[str, str]) -> None:
    """No file is there twice, and none is a folder too (faults.md A7)."""
    files = [with_file(name)["components"][0]["files"][0] for name in names]
    refused(changed("components.0.files", files))


DEEP = (b'{"a":' * 40 + b"1" + b"}" * 40, b"[" * 100_000, b'{"a":' + b"[" * 33 + b"]" * 33 + b"}")
STRANGE = (
    *(
        b"",
        b"null",
        b"[]",
        b"1",
        b'"x"',
        b"{",
        b"{}x",
        b"{} {}",
        b"\xff\xfe{\0}\0",
        b"\xef\xbb\xbf{}",
        b"{'a':1}",
    ),
    *(b'{"a":1,}', b'{"a":NaN}', b'{"a":Infinity}', b'{"a":-Infinity}', b'{"a":01}', b'{"a":1,"a":1}'),
    *(b'{"a":{"b":1,"b":2}}', b'{"a":"\\ud800"}', b'{"\\udfff":1}', b'{"a":"\x01"}', b"\x00{}", b"{}//x"),
)


@pytest.mark.parametrize("data", [*DEEP, *STRANGE])
def test_documents_with_two_readings_or_none(data: bytes) -> None:
    """Refused at once, as app, manifest and config alike (faults.md A10)."""
    began = time.monotonic()
    for parse in (parse_app, lambda data: parse_manifest(data, MANIFEST), lambda d: parse_document(d, "x")):
        with pytest.raises(BadArtifact):
            parse(data)
    assert time.monotonic() - began < 1.0


@pytest.mark.parametrize(
    "document",
    [
        {"config": {}, "layers": []},
        {"config": None, "layers": []},
        {"layers": []},
        {"manifests": {}},
        {"manifests": [1]},
        {"config": 1, "layers": 2},
        {"mediaType": INDEX, "layers": []},
        {"mediaType": 7, "manifests": []},
        {"mediaType": "text/html", "manifests": []},
        {"manifests": [{"mediaType": MANIFEST, "digest": "x", "size": 1}]},
        {"config": {"mediaType": "x", "digest": digest_of(b""), "size": 0}, "layers": {}},
        {"config": {"mediaType": [], "digest": digest_of(b""), "size": 0}, "layers": []},
    ],
)
def test_manifests_that_are_none(document: dict[str, Any]) -> None:
    """A manifest has config and layers, an index has manifests, and says which it is (faults.md A10)."""
    with pytest.raises(BadArtifact):
        parse_manifest(json.dumps(document).encode(), MANIFEST)


def test_documents_that_are_too_large() -> None:
    """Above 4 MiB nothing is parsed, whatever is in it (faults.md A10)."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    data = b'{"a":"' + b"x" * (64 << 20) + b'"}'
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadArtifact, match="above the limit of 4194304"):
        parse_app(data)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held < 32 << 10
    assert held >= before


SIZES = (
    -1,
    -(2**63),
    1,
    2,
    len(WASM) - 1,
    len(WASM) + 1,
    2**31,
    2**32,
    2**40,
    2**53,
    2**63 - 1,
    2**64,
    2**100,
)
NO_SIZES: tuple[object, ...] = (None, True, False, "1", "", 1.5, 1e300, [], {}, [1])


@pytest.mark.parametrize("size", [*SIZES, *NO_SIZES, 0])
def test_sizes_that_lie(size: object) -> None:
    """Refused by its claim or by what was found; nothing is sized from a claim (faults.md A11)."""
    blobs = MemoryBlobs()
    app = blobs.add(encode(HELLO), m.LOCKED_APP)
    layer = {**blobs.add(WASM, m.WASM_LAYER), "size": size}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadArtifact):
        artifact = resolve(blobs, blobs.manifest(blobs.add(b"{}", "x"), layer, app))
        read_verified(blobs, artifact.code[digest_of(WASM)], 128 << 20)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 << 10


FLIPS = [bytes([*WASM[:at], WASM[at] ^ (1 << at % 8), *WASM[at + 1 :]]) for at in range(len(WASM))]


@pytest.mark.parametrize(
    "found", [*FLIPS, b"", WASM[:-1], WASM[1:], WASM + b"\0", b"\0" + WASM, WASM * 2, b"{}", WASM[::-1]]
)
@pytest.mark.parametrize("which", ["manifest", "app", "code"])
def test_blobs_that_are_not_their_digest(which: str, found: bytes) -> None:
    """Flipped, cut, longer, swapped: found out at every blob that is read (faults.md A12)."""
    blobs = MemoryBlobs()
    root = spin_push(blobs, HELLO, WASM)
    names = {"manifest": root.digest, "app": digest_of(json.dumps(HELLO).encode()), "code": digest_of(WASM)}
    blobs.blobs[names[which]] = found
    with pytest.raises(BadArtifact, match=names[which]):
        artifact = resolve(blobs, root)
        read_verified(blobs, artifact.code[names["code"]], 1 << 20)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *(("triggers.0.trigger_type", kind) for kind in ("sqs", "mqtt", "cron", "HTTP", "", None, 1)),
        *(("triggers.0.trigger_config.executor", {"type": kind}) for kind in ("", "teapot", "HTTP", 7)),
        *(("must_understand", names) for names in (["x"], ["host_requirements", "y"], [""], [None])),
        *(("host_requirements", {name: "required"}) for name in ("gpu", "", "HTTP", "filesystem")),
        *(("components.0.host_requirements", {name: "required"}) for name in ("gpu", "", "x.y")),
        *(("spin_lock_version", version) for version in (-1, 2, 2**64, "1", None)),
    ],
)
def test_what_the_host_does_not_have(path: str, value: object) -> None:
    """Triggers, executors, features and versions that are not ours end the start (faults.md A14, O37-O39)."""
    app = json.loads(encode(HELLO))
    if path.startswith(("host", "components.0.host")):
        app["spin_lock_version"] = 1
    *parents, last = path.split(".")
    owner: Any = app
    for name in parents:
        owner = owner[int(name)] if name.isdigit() else owner[name]
    owner[last] = value
    refused(app)


def test_unknown_layers_are_data() -> None:
    """A layer of a type that nobody knows can be a file's content, and never code (O29, O45)."""
    blobs = MemoryBlobs()
    strange = blobs.add(b"strange", "application/x-strange")
    app = blobs.add(json.dumps(with_file(digest=digest_of(b"strange"))).encode(), m.LOCKED_APP)
    artifact = resolve(
        blobs, blobs.manifest(blobs.add(b"{}", "x"), blobs.add(WASM, m.WASM_LAYER), strange, app)
    )
    assert artifact.data[digest_of(b"strange")] == Descriptor(
        "application/x-strange", digest_of(b"strange"), 7
    )
    assert digest_of(b"strange") not in artifact.code


def test_the_corpus_is_as_large_as_it_says() -> None:
    """The table of A4 to A7 has 500 cases at least (faults.md A4-A7)."""
    cases = 2 * len(IDS) + 4 * len(DIGESTS) + 4 * len(URLS) + len(PATHS)
    assert cases >= 300
    assert parsed(with_file()).components[0].files[0].path == "a.txt"
