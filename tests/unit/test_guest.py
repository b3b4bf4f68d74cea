"""Variables, plan, spec and static files: pure decisions and the folders they lead to."""

import gzip
import io
import json
import resource
import tarfile
from pathlib import Path
from typing import Any

import pytest

from cache.store import DirectoryStore
from shim.errors import InvalidArgument, Unavailable
from shim.guest import files, plan, spec, variables
from shim.image.app import App, Component, Content, StaticFile, Trigger, Variable, bare_app
from shim.image.artifact import Artifact
from shim.image.manifest import ARCHIVE_LAYER, BadArtifact, Descriptor
from shim.manifest.tuning import Tuning
from tests.apps import digest_of
from tests.doubles.blobs import MemoryBlobs

GOLDEN = Path(__file__).parents[1] / "fixtures" / "plan" / "golden.json"
REQUIRED = Variable("db_url", None, secret=True)
OPTIONAL = Variable("greeting", "hi", secret=False)


def test_prefixed_bare_default_in_that_order() -> None:
    """SPIN_VARIABLE_X wins over X, X over the default (S87, S88)."""
    env = {"SPIN_VARIABLE_DB_URL": "a", "DB_URL": "b", "GREETING": "hello"}
    assert variables.resolve([REQUIRED, OPTIONAL], env) == {"db_url": "a", "greeting": "hello"}
    assert variables.resolve([OPTIONAL], {}) == {"greeting": "hi"}


def test_all_missing_variables_are_listed() -> None:
    """One message for all of them, with what to set and no values."""
    with pytest.raises(BadArtifact, match="db_url .set SPIN_VARIABLE_DB_URL or DB_URL.* other"):
        variables.resolve([REQUIRED, Variable("other", None, secret=False)], {})


def test_an_empty_value_is_a_value() -> None:
    """An empty environment variable satisfies a required one."""
    assert variables.resolve([REQUIRED], {"DB_URL": ""}) == {"db_url": ""}


def test_templates() -> None:
    """Spaces are trimmed, several may stand in one text (H76)."""
    component = Component("c", digest_of(b""), config=(("url", "{{ a }}/{{b}}"),))
    assert variables.component_values(component, {"a": "x", "b": "y"}) == {"url": "x/y"}


def test_outbound_hosts_are_templates() -> None:
    """The host gets addresses, not templates; an unknown name is an error that says where (H63, H66)."""
    component = Component("c", digest_of(b""), outbound=("https://{{ api }}:443", "redis://cache"))
    assert variables.outbound_hosts(component, {"api": "a.example"}) == [
        "https://a.example:443",
        "redis://cache",
    ]
    with pytest.raises(BadArtifact, match="component c allowed_outbound_hosts.*api .* is not a variable"):
        variables.outbound_hosts(component, {})


@pytest.mark.parametrize(
    ("text", "words"), [("{{ nope }}", "nope .* is not a variable"), ("{{ a", "without")]
)
def test_bad_templates(text: str, words: str) -> None:
    """Unknown names and open braces name the component."""
    component = Component("c", digest_of(b""), config=(("url", text),))
    with pytest.raises(BadArtifact, match=f"component c variable url.*{words}"):
        variables.component_values(component, {"a": "x"})


def built_plan() -> dict[str, Any]:
    """A plan with every field in use."""
    component = Component("hello", digest_of(b"w"), env=(("K", "V"),))
    app = App("a", "1", "d", (), (Trigger("t", "hello", "/..."),), (component,))
    piece = plan.Piece(plan.FIRST_AOT_FD, {"name": "value"}, "/.spinwheel/files/0")
    document: dict[str, Any] = json.loads(plan.build(app, digest_of(b"m"), [piece], "0.0.0.0:80", Tuning()))
    return document


def test_the_plan_has_the_fields_of_the_golden_file() -> None:
    """The same file is read by the Rust side's test: neither side can drift alone."""
    golden = json.loads(GOLDEN.read_text())
    ours = built_plan()
    assert ours.keys() == golden.keys()
    for key in ("app", "limits", "http"):
        assert ours[key].keys() == golden[key].keys()
    for key in ("components", "triggers"):
        assert ours[key][0].keys() == golden[key][0].keys()


def test_private_routes_are_not_in_the_plan() -> None:
    """What is not reachable from outside is not routed."""
    app = App("a", "", "", (), (Trigger("t", "app", None),), bare_app(digest_of(b""), "app").components)
    document = json.loads(plan.build(app, "", [plan.Piece(5)], "x", Tuning()))
    assert document["triggers"] == []


def oci_spec() -> dict[str, Any]:
    """A spec as containerd 2.2 writes it, shortened."""
    process = {"args": ["/"], "cwd": "/app", "env": ["PATH=/bin", "SECRET=x", "SPIN_WASMTIME_POOLING=0"]}
    return {
        "ociVersion": "1.3.0",
        "process": {**process, "user": {"uid": 1000}, "capabilities": {"bounding": ["CAP_KILL"]}},
        "root": {"path": "rootfs", "readonly": True},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {"namespaces": [{"type": "network", "path": "/proc/7/ns/net"}], "seccomp": {"x": 1}},
        "annotations": {"a": "b"},
        "hooks": {"createRuntime": [{"path": "/bin/true"}]},
    }


def test_the_spec_keeps_what_the_pod_asked_for() -> None:
    """Namespaces, user, seccomp, hooks and mounts pass through; the process is ours."""
    original = oci_spec()
    new = spec.rewrite(original, Path("/b/rootfs"), Path("/usr/bin/host"), [None, Path("/cache/t")])
    assert new["process"]["args"] == ["/.spinwheel/host", "serve", "--plan-fd", "3"]
    assert new["process"]["user"] == {"uid": 1000}
    assert new["process"]["noNewPrivileges"] is True
    assert (new["ociVersion"], new["root"]) == ("1.0.2", {"path": "/b/rootfs", "readonly": True})
    assert (new["linux"], new["hooks"]) == (original["linux"], original["hooks"])
    assert [mount["destination"] for mount in new["mounts"]] == [
        "/proc",
        "/.spinwheel/host",
        "/.spinwheel/files/1",
    ]
    assert all("ro" in mount["options"] for mount in new["mounts"][1:])
    assert original == oci_spec(), "containerd's spec is not changed in place"


def test_no_secret_reaches_the_hosts_environment() -> None:
    """Variables travel in the plan, not where /proc/<pid>/environ shows them."""
    new = spec.rewrite(oci_spec(), Path("/r"), Path("/h"), [])
    assert new["process"]["env"] == ["SPIN_WASMTIME_POOLING=0"]


def test_a_spec_without_process_is_refused() -> None:
    """The message says what was wanted."""
    with pytest.raises(InvalidArgument, match="wanted a process"):
        spec.rewrite({}, Path("/r"), Path("/h"), [])


def artifact_with(*archives: Descriptor, data: dict[str, Descriptor] | None = None) -> Artifact:
    """An artefact around static files only."""
    return Artifact(digest_of(b"m"), bare_app(digest_of(b""), "app"), {}, data or {}, archives)


def static(path: str, content: bytes, *, inline: bool = False) -> StaticFile:
    """A static file with the digest of its content."""
    return StaticFile(path, Content(digest_of(content), content if inline else None))


def packed(entries: dict[str, bytes]) -> bytes:
    """A tar+gzip of these files, with a link and a device that must be passed over."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, data in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for kind in (tarfile.SYMTYPE, tarfile.CHRTYPE):
            info = tarfile.TarInfo("../../evil")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    return out.getvalue()


def test_files_from_inline_layers_and_archives(tmp_path: Path) -> None:
    """One tree, whichever way each byte came; read-only, found again without reading anything."""
    blobs = MemoryBlobs()
    layer = blobs.add(b"L" * 200, "data")
    archive = blobs.add(packed({"../../x": b"A" * 300}), ARCHIVE_LAYER)
    artifact = artifact_with(
        Descriptor(**_names(archive)), data={layer["digest"]: Descriptor(**_names(layer))}
    )
    component = Component(
        "c",
        digest_of(b""),
        files=(
            static("in.txt", b"small", inline=True),
            static("a/l", b"L" * 200),
            static("a/b/x", b"A" * 300),
        ),
    )
    store = DirectoryStore(tmp_path / "cache")
    tree = files.tree_of(store, blobs, artifact, component, tmp_path / "spare")
    assert tree is not None
    assert {p.relative_to(tree).as_posix(): p.read_bytes() for p in tree.rglob("*") if p.is_file()} == {
        "in.txt": b"small",
        "a/l": b"L" * 200,
        "a/b/x": b"A" * 300,
    }
    assert (tree / "a/l").stat().st_mode & 0o222 == 0
    before = len(blobs.reads)
    assert files.tree_of(store, blobs, artifact, component, tmp_path / "spare") == tree
    assert len(blobs.reads) == before
    assert not list((tmp_path / "cache" / "files").glob(".new-*"))


def _names(descriptor: dict[str, Any]) -> dict[str, Any]:
    return {"media_type": descriptor["mediaType"], "digest": descriptor["digest"], "size": descriptor["size"]}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"not a tar", "not a readable tar"),
        (packed({"x": b"A" * 300})[:60], "not a readable tar|is in none"),
        (packed({"x": b"\0" * (8 << 20)}), "unpacks to more than"),
        (packed({"x": b"other"}), "is in none of the 1 archives"),
    ],
)
def test_bad_archives_leave_nothing(tmp_path: Path, data: bytes, words: str) -> None:
    """Garbage, truncation, bombs and missing files are named; no half-made tree stays (faults.md A8, A9)."""
    blobs = MemoryBlobs()
    archive = Descriptor(**_names(blobs.add(data, ARCHIVE_LAYER)))
    component = Component("c", digest_of(b""), files=(static("x", b"A" * 300),))
    store = DirectoryStore(tmp_path / "cache")
    with pytest.raises(BadArtifact, match=words):
        files.tree_of(store, blobs, artifact_with(archive), component, tmp_path / "spare")
    assert list((tmp_path / "cache" / "files").iterdir()) == []
    assert not (tmp_path / "spare").exists()


def test_a_header_bomb_is_bounded(tmp_path: Path) -> None:
    """A PAX header that claims 200 MiB is not read whole (faults.md A9)."""
    out = io.BytesIO()
    with gzip.open(out, "wb") as packed_bytes:
        header = tarfile.TarInfo("x")
        header.type, header.size = tarfile.XHDTYPE, 200 << 20
        packed_bytes.write(header.tobuf())
        packed_bytes.write(b"\0" * (200 << 20))
    blobs = MemoryBlobs()
    archive = Descriptor(**_names(blobs.add(out.getvalue(), ARCHIVE_LAYER)))
    component = Component("c", digest_of(b""), files=(static("x", b"A" * 300),))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadArtifact, match="unpacks to more than"):
        files.tree_of(
            DirectoryStore(tmp_path / "c"), blobs, artifact_with(archive), component, tmp_path / "s"
        )
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


def test_one_layer_under_many_names_is_bounded(tmp_path: Path) -> None:
    """A tree is counted before it is written."""
    layer = Descriptor("data", digest_of(b"big"), 1 << 30)
    same = tuple(StaticFile(f"f{n}", Content(layer.digest)) for n in range(3))
    artifact = artifact_with(data={layer.digest: layer})
    with pytest.raises(BadArtifact, match="3 files of 3221225472 bytes"):
        files.tree_of(
            DirectoryStore(tmp_path), MemoryBlobs(), artifact, Component("c", "", files=same), tmp_path
        )


def test_files_without_a_cache_are_placed_in_the_bundle(tmp_path: Path) -> None:
    """An unusable cache costs the sharing, not the start; with no room anywhere the folder is named."""
    (tmp_path / "cache").write_text("in the way")
    component = Component("c", digest_of(b""), files=(static("a/b", b"small", inline=True),))
    store, artifact = DirectoryStore(tmp_path / "cache"), artifact_with()
    tree = files.tree_of(store, MemoryBlobs(), artifact, component, tmp_path / "spare")
    assert tree == tmp_path / "spare"
    assert (tree / "a/b").read_bytes() == b"small"
    with pytest.raises(Unavailable, match="cannot place its files"):
        files.tree_of(store, MemoryBlobs(), artifact, component, tmp_path / "cache" / "spare")
