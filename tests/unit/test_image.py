"""Manifests, locked apps and artefacts: what is taken, what is refused, and by which words."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.errors import NotFound, ShimError
from shim.image import manifest as m
from shim.image.app import App, is_safe_path, parse_app
from shim.image.artifact import copy_verified, read_verified, resolve
from shim.image.manifest import BadArtifact, Descriptor, NotSpin, parse_document, parse_manifest
from tests import apps
from tests.apps import digest_of, encode, locked_app
from tests.doubles.blobs import INDEX, MANIFEST, MemoryBlobs, spin_push

WASM = b"\0asm\x0d\0\x01\0"
HELLO = locked_app(apps.App([apps.Component(WASM)], variables={"greeting": "hi", "token": None}))


def parsed(app: dict[str, Any]) -> App:
    """The parsed form of a locked app given as JSON values."""
    return parse_app(json.dumps(app).encode())


def changed(path: str, value: object) -> dict[str, Any]:
    """HELLO with one value replaced; `path` is dotted, numbers index lists."""
    app: dict[str, Any] = json.loads(encode(HELLO))
    *parents, last = path.split(".")
    owner: Any = app
    for name in parents:
        owner = owner[int(name)] if name.isdigit() else owner[name]
    owner[last] = value
    return app


def test_a_locked_app_becomes_frozen_values() -> None:
    """Names, routes, sources and variables arrive as they were locked."""
    app = parsed(HELLO)
    assert (app.name, app.triggers[0].route, app.components[0].source) == ("hello", "/...", digest_of(WASM))
    assert {v.name: v.default for v in app.variables} == {"greeting": "hi", "token": None}


def test_outbound_hosts_come_from_the_components_metadata() -> None:
    """Spin locks `allowed_outbound_hosts` as metadata; none means nowhere (H63)."""
    hosts = ["https://example.com", "redis://{{ cache }}"]
    app = parsed(changed("components.0.metadata", {"allowed_outbound_hosts": hosts}))
    assert app.components[0].outbound == tuple(hosts)
    assert parsed(HELLO).components[0].outbound == ()


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("components.0.metadata", {"allowed_outbound_hosts": [1]}, "wanted text, found 1"),
        ("spin_lock_version", 2, "spin_lock_version 0 or 1, found 2"),
        ("must_understand", ["teleport"], 'must_understand names "teleport"'),
        ("host_requirements", {"middleware": "required"}, 'requires the host feature "middleware"'),
        ("triggers.0.trigger_type", "redis", 'type "redis" is not supported'),
        ("triggers.0.trigger_config.executor", {"type": "wagi"}, 'executor "wagi" is not supported'),
        ("triggers.0.trigger_config.static_response", {"body": "x"}, "exactly one of component and static"),
        ("triggers.0.trigger_config.route", "hello", "route that starts with '/'"),
        ("triggers.0.trigger_config.component", "other", '"other" is not in the app'),
        ("triggers", [], "at least one http trigger"),
        ("components.0.id", "../x", '"../x" is not a component id'),
        ("components.0.source.source", "file:///etc/passwd", "is a URL"),
        ("components.0.source.digest", "sha256:../../x", "wanted sha256:"),
        ("components.0.source.digest", "sha512:" + "0" * 64, "wanted sha256:"),
        ("components.0.dependencies", {"a:b": {}}, "not composed"),
        ("components.0.files", [{"path": "../x", "inline": ""}], "not a relative path"),
        ("components.0.files", [{"path": "a", "digest": digest_of(b""), "inline": "%%"}], "not base64"),
        ("components.0.env", {"A": 1}, "wanted text, found 1"),
        ("variables.greeting", "hi", "wanted an object"),
    ],
)
def test_bad_apps_are_refused_by_name(path: str, value: object, words: str) -> None:
    """Each fault names its place and its value."""
    with pytest.raises(BadArtifact, match=words.replace("[", r"\[")):
        parsed(changed(path, value))


def test_optional_host_features_are_let_pass() -> None:
    """Spin drops optional requirements, and so do we (O39)."""
    assert parsed(changed("host_requirements", {"middleware": "optional"})).name == "hello"


def test_unknown_fields_are_ignored_as_spin_does() -> None:
    """A newer Spin may add fields that need no understanding (O38)."""
    assert parsed(changed("something_new", {"a": 1})).name == "hello"


def test_private_routes_have_no_route() -> None:
    """They exist for service chaining only (H11)."""
    assert parsed(changed("triggers.0.trigger_config.route", {"private": True})).triggers[0].route is None


@pytest.mark.parametrize(
    "path", ["..", "a/../b", "/", "", ".", "a//b", "a/\0", "a/" * 33 + "b", "x" * 1025, "x" * 256, "a/./b"]
)
def test_unsafe_paths(path: str) -> None:
    """Nothing that leaves its mount or that a file system cannot hold."""
    assert not is_safe_path(path)


@given(st.binary(max_size=300) | st.text(max_size=100).map(str.encode))
def test_documents_are_taken_or_refused_but_never_crash(data: bytes) -> None:
    """Only BadArtifact escapes the parsers."""
    for parse in (lambda: parse_app(data), lambda: parse_manifest(data, MANIFEST)):
        try:
            parse()
        except BadArtifact as error:
            assert str(error)  # noqa: PT017  # any other exception fails the test


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1, "a": 2}', 'duplicate key "a"'),
        ("[1]", "wanted a JSON object"),
        ('{"a": NaN}', "NaN is not JSON"),
        ('{"a":' + "[" * 40 + "]" * 40 + "}", "levels deep"),
        ('{"a":' + "[" * 100_000 + "]" * 100_000 + "}", "not acceptable JSON"),
        ("\ufeff{}", "not acceptable JSON"),
        ('{"a": "\\ud800"}', "half of a surrogate pair"),
    ],
)
def test_ambiguous_json_is_refused(text: str, words: str) -> None:
    """Two readers must never see two documents (faults.md A10)."""
    with pytest.raises(BadArtifact, match=words):
        parse_document(text.encode(), "test")


def test_many_keys_take_no_time() -> None:
    """Looking for a duplicate among 200,000 keys is linear."""
    keys = ",".join(f'"k{n}":0' for n in range(200_000))
    with pytest.raises(BadArtifact, match='duplicate key "k7"'):
        parse_document(f'{{{keys},"k7":1}}'.encode(), "test")


def test_a_manifest_must_agree_with_its_descriptor() -> None:
    """An index that calls itself a manifest is refused."""
    with pytest.raises(BadArtifact, match="the descriptor says"):
        parse_manifest(json.dumps({"mediaType": INDEX, "manifests": []}).encode(), MANIFEST)


def test_too_many_layers_are_refused() -> None:
    """At most 500 (faults.md A10)."""
    layer = {"mediaType": "x", "digest": digest_of(b""), "size": 0}
    document = {"config": layer, "layers": [layer] * 501}
    with pytest.raises(BadArtifact, match="at most 500 layers"):
        parse_manifest(json.dumps(document).encode(), MANIFEST)


@pytest.mark.parametrize("size", [-1, 2**40, True, "1"])
def test_sizes_that_lie_or_are_none(size: object) -> None:
    """A size is a whole number; one above the limit is refused before a byte is read (faults.md A11)."""
    blobs = MemoryBlobs()
    layer = {"mediaType": m.LOCKED_APP, "digest": digest_of(b"x"), "size": size}
    with pytest.raises(BadArtifact):
        resolve(blobs, blobs.manifest(layer))
    assert digest_of(b"x") not in blobs.reads


def test_todays_push() -> None:
    """Shape A: the locked app is the last layer."""
    blobs = MemoryBlobs()
    artifact = resolve(blobs, spin_push(blobs, HELLO, WASM))
    assert set(artifact.code) == {digest_of(WASM)}
    assert digest_of(WASM) not in blobs.reads, "code is not read before it is needed"


def test_app_as_config() -> None:
    """Shape B: the locked app is the config blob."""
    blobs = MemoryBlobs()
    root = blobs.manifest(blobs.add(encode(HELLO), m.LOCKED_APP), blobs.add(WASM, m.WASM_LAYER))
    assert resolve(blobs, root).app.name == "hello"


def test_old_app_as_plain_config() -> None:
    """O28: the locked app in a config of another type is known by its version field."""
    blobs = MemoryBlobs()
    root = blobs.manifest(blobs.add(encode(HELLO), "application/json"), blobs.add(WASM, m.WASM_LAYER))
    assert resolve(blobs, root).app.name == "hello"


def test_wkg_package() -> None:
    """Shape C: one bare component gets the route /..."""
    blobs = MemoryBlobs()
    root = blobs.manifest(
        blobs.add(b"{}", "application/vnd.wasm.config.v0+json"), blobs.add(WASM, m.WKG_LAYER)
    )
    app = resolve(blobs, root).app
    assert (app.components[0].source, app.triggers[0].route) == (digest_of(WASM), "/...")


@pytest.mark.parametrize(
    "platform", [{"os": "wasi", "architecture": "wasm"}, None, {"os": "linux", "architecture": "amd64"}]
)
def test_index_entries(platform: dict[str, str] | None) -> None:
    """Shape H: the entry with wasm layers is found whatever its platform says."""
    blobs = MemoryBlobs()
    native = blobs.manifest(blobs.add(b"{}", "application/vnd.oci.image.config.v1+json"))
    spin = spin_push(blobs, HELLO, WASM)
    entries: list[dict[str, Any]] = [
        {"mediaType": d.media_type, "digest": d.digest, "size": d.size} for d in (native, spin)
    ]
    if platform:
        entries[1]["platform"] = platform
    artifact = resolve(blobs, blobs.document({"manifests": entries}, INDEX))
    assert artifact.digest == spin.digest


def test_nothing_hides_behind_a_long_index() -> None:
    """A Spin artifact after many others is found, and after too many is no native image (faults.md A3)."""
    blobs = MemoryBlobs()
    spin = spin_push(blobs, HELLO, WASM)
    last = {"mediaType": spin.media_type, "digest": spin.digest, "size": spin.size}
    other = {"mediaType": MANIFEST, "digest": digest_of(b"never pulled"), "size": 1}
    platform = {"os": "linux", "architecture": "riscv64"}
    for count in (63, 64):
        entries = [{**other, "platform": platform}] * count + [{**last, "platform": platform}]
        index = blobs.document({"manifests": entries}, INDEX)
        if count == 63:
            assert resolve(blobs, index).digest == spin.digest
            continue
        with pytest.raises(BadArtifact, match="65 manifests, above the limit of 64") as caught:
            resolve(blobs, index)
        assert not isinstance(caught.value, NotSpin), "which would let it run natively"


def test_a_container_image_is_named_as_such() -> None:
    """The message says what was found and what to do."""
    blobs = MemoryBlobs()
    layer = blobs.add(b"x", "application/vnd.oci.image.layer.v1.tar+gzip")
    root = blobs.manifest(blobs.add(b"{}", "application/vnd.oci.image.config.v1+json"), layer)
    with pytest.raises(BadArtifact, match="wanted a Spin artifact, found .*spin registry push"):
        resolve(blobs, root)


def test_code_must_be_a_wasm_layer_of_this_image() -> None:
    """A data layer is not code, whatever the app says (faults.md A2)."""
    blobs = MemoryBlobs()
    app = blobs.add(encode(HELLO), m.LOCKED_APP)
    root = blobs.manifest(blobs.add(b"{}", "x"), blobs.add(WASM, m.DATA_LAYER), app)
    with pytest.raises(BadArtifact, match="is not a wasm layer of this image"):
        resolve(blobs, root)


def test_content_that_is_not_what_it_names() -> None:
    """Wrong bytes and wrong lengths are both found (faults.md A12)."""
    blobs = MemoryBlobs({digest_of(b"good"): b"evil", digest_of(b"long"): b"longer"})
    for data in (b"good", b"long"):
        blob = Descriptor("x", digest_of(data), len(data))
        with pytest.raises(BadArtifact, match=digest_of(data)):
            read_verified(blobs, blob, 100)


def test_a_copy_is_verified_too(tmp_path: Path) -> None:
    """Large blobs are hashed on their way to disk."""
    blobs = MemoryBlobs({digest_of(b"good"): b"evil"})
    with (tmp_path / "out").open("wb") as out, pytest.raises(BadArtifact, match="is not what it names"):
        copy_verified(blobs, Descriptor("x", digest_of(b"good"), 4), out, 100)


def test_a_missing_blob_is_the_sources_error() -> None:
    """NotFound passes through with its digest."""
    with pytest.raises(NotFound) as caught:
        resolve(MemoryBlobs(), Descriptor(MANIFEST, digest_of(b"?"), 1))
    assert isinstance(caught.value, ShimError)
