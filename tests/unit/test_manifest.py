"""spin.toml to an artifact: the vectors, the faults and their places (features.md O1-O16, O37-O60)."""

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest

from shim.errors import NotFound
from shim.image.app import parse_app
from shim.image.artifact import resolve
from shim.image.manifest import BadArtifact, Descriptor
from shim.manifest.assets import gather, load
from shim.manifest.document import BadManifest
from shim.manifest.pack import Assets, Package, digest_of, pack
from shim.manifest.schema import Manifest, read
from tests.doubles.blobs import MemoryBlobs

HELLO = Path(__file__).parents[1] / "fixtures" / "artifacts" / "hello"
CREATED = "2026-01-02T03:04:05+00:00"
WASM = b"\0asm\x0d\0\x01\0" + bytes(200)
HEAD = 'spin_manifest_version = 2\n[application]\nname = "a"\n'
ROUTE = '[[trigger.http]]\nroute = "/"\ncomponent = "c"\n[component.c]\nsource = "c.wasm"\n'


def no_fetch(url: str, limit: int) -> bytes:
    """For apps that name no URL."""
    raise AssertionError(url)


def packed(*, archive: bool = False) -> Package:
    """The artifact of the fixture."""
    manifest = load(HELLO / "spin.toml")
    return pack(manifest, gather(manifest, HELLO, no_fetch), {}, CREATED, archive=archive)


def test_an_artifact_is_the_vector_byte_for_byte() -> None:
    """Manifest, config and locked app equal the vectors, with every digest (O1-O4, O6, O8-O11, O16)."""
    package = packed()
    *_, app, config = package.blobs
    for name, blob in (("manifest", package.manifest), ("config", config), ("locked-app", app)):
        wanted = json.loads((HELLO / f"{name}.json").read_bytes())
        assert blob.data == json.dumps(wanted, separators=(",", ":")).encode(), name


def test_layers_and_their_order() -> None:
    """Equal wasm is one layer, small files have none, the locked app is last (O8, O9, O11)."""
    document = json.loads(packed().manifest.data)
    kinds = [layer["mediaType"].rsplit(".", 1)[-1] for layer in document["layers"]]
    assert kinds == ["v1+wasm", "v1+data", "v1+config"]
    app = json.loads(packed().blobs[-2].data)
    small = next(file for file in app["components"][0]["files"] if file["path"] == "small.txt")
    assert base64.b64decode(small["inline"]) == b"small\n"
    assert [file["path"] for file in app["components"][0]["files"]] == ["large.txt", "small.txt"]


def test_archives_on_demand_and_by_count() -> None:
    """One archive a component when asked for (O12), and above 499 layers (O13); files stay listed (O14)."""
    kinds = [blob.media_type for blob in packed(archive=True).blobs]
    assert "application/vnd.wasm.content.bundle.v1.tar+gzip" in kinds
    files = {f"{n}.txt": b"x" * 200 + str(n).encode() for n in range(499)}
    manifest = read(HEAD + ROUTE)
    package = pack(manifest, {"c": Assets(WASM, files)}, {}, CREATED)
    assert len(package.blobs) == 4
    assert len(parse_app(package.blobs[-2].data).components[0].files) == 499


def test_given_annotations_win() -> None:
    """What the user says is not overridden by what is inferred (O16)."""
    manifest = read(HEAD + ROUTE)
    title = "org.opencontainers.image.title"
    document = json.loads(pack(manifest, {"c": Assets(WASM, {})}, {title: "mine"}, CREATED).manifest.data)
    assert document["annotations"] == {"org.opencontainers.image.created": CREATED, title: "mine"}


def test_our_own_reader_takes_what_we_pack() -> None:
    """The shim's parser reads the packed artifact, and every blob that it names is there."""
    package = packed()
    blobs = MemoryBlobs({blob.digest: blob.data for blob in (*package.blobs, package.manifest)})
    root = Descriptor(package.manifest.media_type, package.manifest.digest, len(package.manifest.data))
    artifact = resolve(blobs, root)
    assert [component.id for component in artifact.app.components] == ["hello", "twin"]
    assert set(artifact.code) == {digest_of(WASM)}


def test_no_path_of_this_machine_leaks() -> None:
    """O10: nothing in the artifact says where it was made."""
    package = packed()
    assert str(HELLO).encode() not in b"".join(blob.data for blob in (*package.blobs, package.manifest))


def test_native_code_is_never_packed() -> None:
    """What is no wasm is refused by the component's name (O18)."""
    with pytest.raises(BadArtifact, match="component c: wanted WebAssembly.*never pushed"):
        pack(read(HEAD + ROUTE), {"c": Assets(b"\x7fELF....", {})}, {}, CREATED)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("spin_manifest_version = 3\n", "spin.toml:1: spin_manifest_version: wanted 2"),
        ("a = 1\nb = ?\n", "spin.toml: wanted TOML, found a fault: .*line 2"),
        (HEAD + "nmae = 1\n" + ROUTE, "spin.toml:4: application.nmae: wanted one of the keys name"),
        (HEAD + ROUTE.replace('"c.wasm"', "3"), "spin.toml:8: component.c.source: wanted a table, found 3"),
        (
            HEAD + ROUTE.replace('component = "c"', 'component = "d"'),
            'spin.toml:6: .*components c, found "d"',
        ),
        (HEAD + ROUTE.replace("component.c", "component.c_d"), "kebab-case instead of c_d"),
        (HEAD + ROUTE + 'files = ["a/.."]\n', "spin.toml:9: component.c.files.0: wanted a pattern"),
        (
            HEAD + ROUTE + "[variables]\nA = { default = '' }\n",
            "spin.toml:10: variables.A: .*lower_snake_case",
        ),
        (HEAD + ROUTE + "[variables]\na = { secret = true }\n", "either required = true or a default"),
        (HEAD + ROUTE + 'dependencies = { "a:b" = "1" }\n', "without dependencies .*wac plug"),
        (
            HEAD + ROUTE.replace('"c.wasm"', '{ url = "http://x/", digest = "sha256:12" }'),
            "spin.toml:8: component.c.source.digest: wanted sha256:<64 hex digits>",
        ),
        ("spin_manifest_version = 2\n", "application = a table"),
    ],
)
def test_faults_have_a_place(text: str, words: str) -> None:
    """Each fault names file, line and keys, what was wanted and what was found."""
    with pytest.raises(BadManifest, match=words):
        read(text)


def test_generated_ids() -> None:
    """Triggers and inline components are named as Spin names them (O59)."""
    inline = '[[trigger.http]]\nroute = "/x"\n[trigger.http.component]\nsource = "x.wasm"\n'
    again = '[[trigger.http]]\nroute = "/y"\ncomponent = "c"\n'
    manifest = read(HEAD + ROUTE + again + inline)
    assert [trigger.id for trigger in manifest.triggers] == [
        "c-http-trigger",
        "http-trigger1",
        "http-trigger2",
    ]
    assert [component.id for component in manifest.components] == ["c", "http-trigger2-component"]


def test_profiles() -> None:
    """A profile's words replace the component's own, its environment adds to it (O58)."""
    text = HEAD + ROUTE + 'environment = { A = "1" }\n[component.c.profile.debug]\nsource = "d.wasm"\n'
    text += 'environment = { B = "2" }\n'
    component = read(text, profile="debug").components[0]
    assert (component.source.path, component.environment) == ("d.wasm", {"A": "1", "B": "2"})
    assert read(text).components[0].source.path == "c.wasm"


def test_service_chaining_is_a_host_requirement() -> None:
    """A component that calls another of its app says so in what must be understood (O37-O39)."""
    manifest = read(HEAD + ROUTE + 'allowed_outbound_hosts = ["http://other.spin.internal"]\n')
    app = json.loads(pack(manifest, {"c": Assets(WASM, {})}, {}, CREATED).blobs[-2].data)
    assert (app["spin_lock_version"], app["must_understand"]) == (1, ["component_host_requirements"])
    assert app["components"][0]["host_requirements"] == {"local_service_chaining": "required"}


def old(extra: str = "") -> Manifest:
    """A manifest of version 1."""
    head = 'spin_version = "1"\nname = "old"\ntrigger = { type = "http", base = "/" }\nversion = "1.0.0"\n'
    return read(
        f'{head}[[component]]\nid = "my_App"\nsource = "a.wasm"\n{extra}[component.trigger]\nroute = "/"\n'
    )


def test_version_1() -> None:
    """Ids become kebab-case, databases are granted unless hosts are named, http hosts are spelt out (O54)."""
    manifest = old('allowed_http_hosts = ["example.org"]\n')
    assert manifest.triggers[0].id == "trigger-my-app"
    hosts = manifest.components[0].lists["allowed_outbound_hosts"]
    assert hosts[:1] == ("redis://*:*",)
    assert hosts[-2:] == ("http://example.org", "https://example.org")
    assert old("allowed_outbound_hosts = []\n").components[0].lists["allowed_outbound_hosts"] == ()


def test_files_outside_the_app_are_refused(tmp_path: Path) -> None:
    """Neither `..` nor a link leads out of the app's folder (O51)."""
    app = tmp_path / "app"
    app.mkdir()
    (app / "c.wasm").write_bytes(WASM)
    (tmp_path / "secret").write_text("s")
    (app / "link").symlink_to(tmp_path / "secret")
    for mount in ('"../secret"', '"link"', '"*"', '{ source = "..", destination = "/" }'):
        manifest = read(HEAD + ROUTE + f"files = [{mount}]\n")
        with pytest.raises(BadManifest, match="outside the app's folder"):
            gather(manifest, app, no_fetch)


def test_a_source_that_is_not_built_names_the_build(tmp_path: Path) -> None:
    """The next step is in the message."""
    manifest = read(HEAD + ROUTE + 'build = { command = "make" }\n')
    with pytest.raises(NotFound, match="component c: .*c.wasm, found no file; run `spinwheel build`"):
        gather(manifest, tmp_path, no_fetch)


def test_pod_servers_carry_none_of_this() -> None:
    """What only people at a command line need costs a pod server no memory (design.md D9)."""
    code = "import sys, shim.podserver, shim.lifecycle, shim.zygote; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    mine = {"urllib3", "shim.registry", "shim.manifest.schema", "shim.manifest.pack", "shim.up", "shim.cli"}
    assert mine & set(loaded.split()) == set()


def test_a_download_is_verified(tmp_path: Path) -> None:
    """A URL's content is compared with its digest before it is used (O53)."""
    source = f'{{ url = "https://x.test/c.wasm", digest = "{digest_of(WASM)}" }}'
    manifest = read(HEAD + ROUTE.replace('"c.wasm"', source))
    assert gather(manifest, tmp_path, lambda url, limit: WASM)["c"].wasm == WASM
    with pytest.raises(BadArtifact, match="its content has digest"):
        gather(manifest, tmp_path, lambda url, limit: b"evil")
