"""runtime-config.toml: Spin's names, strictness, and which file of a pod counts (features.md H71-H103)."""

import os
from pathlib import Path

import pytest

from shim.errors import InvalidArgument
from shim.guest import granted
from shim.image.app import App, Component
from shim.manifest.document import BadManifest
from shim.manifest.runtime_config import RuntimeConfig, defaults, read
from tests.apps import digest_of

FILE = "/etc/spin/runtime-config.toml"
EVERYTHING = """\
state_dir = "state"
log_dir = ""
max_instance_memory = 1048576
variables_provider = [
    { type = "vault", url = "http://v", token = "t", mount = "secret" },
    { type = "env", prefix = "APP" },
    { type = "static", values = { a = "1" } },
    { type = "files", path = "/run/secrets" },
]
[key_value_store.cache]
type = "redis"
url = "redis://cache:6379"
[key_value_store.own]
type = "spin"
path = "data/own.db"
[sqlite_database.shared]
type = "spin"
allow_attach_file = true
[llm_compute]
type = "remote_http"
url = "http://llm"
auth_token = "t"
[outbound_networking]
block_networks = ["private"]
[[client_tls]]
component_ids = ["a"]
hosts = ["b"]
ca_roots_file = "ca.pem"
[outbound_http]
max_connections = 7
[outbound_mqtt]
max_payload_size_bytes = 9
"""


def parsed(text: str) -> RuntimeConfig:
    """A file in /etc/spin, for an app in /app."""
    return read(text, FILE, "/app")


def refusal(text: str) -> str:
    """The message about a file."""
    with pytest.raises(BadManifest) as caught:
        parsed(text)
    return str(caught.value)


def test_every_table_of_spins_is_read() -> None:
    """Each name of Spin's is known, and paths count from the file's folder (H85, H86, H92, H100)."""
    config = parsed(EVERYTHING)
    assert (config.state_dir, config.log_dir) == ("/etc/spin/state", None)
    assert config.tuning == {"max_instance_memory": "1048576"}
    assert [provider["type"] for provider in config.providers] == ["vault", "env", "static", "files"]
    assert config.providers[0]["prefix"] is None
    assert config.stores["cache"] == {"type": "redis", "url": "redis://cache:6379"}
    assert config.stores["own"]["path"] == "/etc/spin/data/own.db"
    assert config.databases["shared"] == {"type": "spin", "path": None, "allow_attach_file": True}
    assert config.llm is not None
    assert config.llm["api_type"] == "default"
    assert config.networking["block_networks"] == ["private"]
    assert config.outbound["outbound_mqtt"] == {"max_payload_size_bytes": 9, "max_connections": None}


def test_a_table_without_pooling_keeps_it_on() -> None:
    """As Spin documents it; Spin itself turns pooling off when the key is absent (H103)."""
    assert parsed("").outbound["outbound_http"]["connection_pooling"] is True
    assert (
        parsed("[outbound_http]\nmax_connections = 1").outbound["outbound_http"]["connection_pooling"] is True
    )


def test_the_default_store_and_database_need_no_table() -> None:
    """They lie in the state folder, which an empty text unsets (H84, H91, H102)."""
    config = defaults("/app")
    assert config.stores["default"] == {"type": "spin", "path": "/app/.spin/sqlite_key_value.db"}
    assert config.databases["default"]["path"] == "/app/.spin/sqlite_db.db"
    assert config.databases["default"]["allow_attach_file"] is False
    assert config.log_dir == "/app/.spin/logs"
    assert parsed('state_dir = ""').stores["default"]["path"] is None


def test_roots_of_client_tls() -> None:
    """Platform roots, unless a file is named or one of the two flags is set (H71)."""
    head = '[[client_tls]]\ncomponent_ids = ["a"]\nhosts = ["b"]\n'

    def roots(rest: str) -> tuple[bool, bool]:
        table = parsed(head + rest).client_tls[0]
        return table["ca_use_platform_roots"], table["ca_use_webpki_roots"]

    assert roots("") == (True, False)
    assert roots('ca_roots_file = "ca.pem"') == (False, False)
    assert roots("ca_use_webpki_roots = true") == (False, True)
    assert "client_private_key_file" in refusal(head + 'client_cert_file = "c.pem"')
    assert ":2: client_tls.0.component_ids" in refusal('[[client_tls]]\ncomponent_ids = []\nhosts = ["b"]')


def test_keys_that_nothing_reads_are_listed() -> None:
    """All of them in one error, each with its line (H101)."""
    message = refusal('colour = 1\n[key_value_store.a]\ntype = "redis"\nurl = "u"\nulr = "x"\n[nets]\n')
    assert message.startswith(f"{FILE}: ")
    assert "colour (line 1), nets (line 6), key_value_store.a.ulr (line 5)" in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("state_dir = 7", ":1: state_dir: wanted text, found a number"),
        ("\nmax_instance_memory = 0", ":2: max_instance_memory: wanted a number above 0"),
        (
            '[key_value_store.a]\ntype = "azure"',
            ':2: key_value_store.a.type: wanted one of spin, redis, found "azure"',
        ),
        ("[sqlite_database.a]\nurl = 1", ":1: sqlite_database.a: wanted type = one of spin"),
        ('[llm_compute]\ntype = "spin"', ":2: llm_compute.type: wanted one of remote_http"),
        (
            '[[config_provider]]\ntype = "env"\n[[variables_provider]]\ntype = "env"',
            "under the name variables_provider",
        ),
        ('state_dir = "s3cret', "wanted TOML, found a fault"),
    ],
)
def test_a_fault_has_file_line_and_key(text: str, words: str) -> None:
    """A wrong type, a missing key and a provider that there is not (H101)."""
    message = refusal(text)
    assert message.startswith(FILE)
    assert words in message


def test_no_value_gets_into_a_message() -> None:
    """Any value may be a secret, wherever the mistake was made (faults.md E1)."""
    for text in (
        'token = "s3cret"',
        '[llm_compute]\ntype = "remote_http"\nurl = ["s3cret"]\nauth_token = "s3cret"',
    ):
        assert "s3cret" not in refusal(text)


def test_what_no_component_asks_for_stays_out_of_the_plan() -> None:
    """The host learns of granted labels only; an unknown one ends the start (H89)."""
    app = App("a", "", "", (), (), (Component("c", digest_of(b""), stores=("own",)),))
    section = granted.document(app, parsed(EVERYTHING))
    assert list(section["key_value_stores"]) == ["own"]
    assert (section["sqlite_databases"], section["llm_compute"], section["file"]) == ({}, None, FILE)
    with pytest.raises(
        InvalidArgument, match=r'component c wants the key_value_store "own".*\[key_value_store.own\]'
    ):
        granted.document(app, defaults("/"))


def test_the_file_is_one_that_the_pod_mounted(tmp_path: Path) -> None:
    """A bind mount on the path or above it counts, and the innermost one wins (S91, P43)."""
    (tmp_path / "outer").mkdir()
    (tmp_path / "outer" / "runtime-config.toml").write_text('state_dir = "/outer"')
    (tmp_path / "file").write_text('state_dir = "/file"')
    folder = {"type": "bind", "destination": "/conf", "source": str(tmp_path / "outer")}
    file = {"type": "bind", "destination": "/conf/runtime-config.toml", "source": str(tmp_path / "file")}
    env = {"RUNTIME_CONFIG_FILE": "/conf/runtime-config.toml"}
    assert granted.in_container({"mounts": [folder]}, env).state_dir == "/outer"
    assert granted.in_container({"mounts": [file, folder]}, env).state_dir == "/file"
    mounted = {"type": "bind", "destination": "/runtime-config.toml", "source": str(tmp_path / "file")}
    assert granted.in_container({"mounts": [mounted]}, {}).file == "/runtime-config.toml"


def test_without_a_mount_the_images_own_file_does_not_count(tmp_path: Path) -> None:
    """Nothing of the rootfs is read (A17), and a file that was asked for must be there (H101)."""
    (tmp_path / "runtime-config.toml").write_text('state_dir = "/evil"')
    spec = {"root": {"path": str(tmp_path)}, "mounts": []}
    assert granted.in_container(spec, {}).state_dir == "/.spin"
    with pytest.raises(InvalidArgument, match="/conf.toml.*no volume"):
        granted.in_container(spec, {"RUNTIME_CONFIG_FILE": "/conf.toml"})


def test_a_link_leads_nowhere_outside_its_volume(tmp_path: Path) -> None:
    """Kubernetes' own links inside a volume work, one to the node's files finds nothing (A17)."""
    (tmp_path / "secret").write_text('state_dir = "/node"')
    volume = tmp_path / "volume"
    (volume / "..data").mkdir(parents=True)
    (volume / "..data" / "a.toml").write_text('state_dir = "/pod"')
    (volume / "a.toml").symlink_to("..data/a.toml")
    (volume / "b.toml").symlink_to(tmp_path / "secret")
    spec = {"mounts": [{"type": "bind", "destination": "/conf", "source": str(volume)}]}
    assert granted.in_container(spec, {"RUNTIME_CONFIG_FILE": "/conf/a.toml"}).state_dir == "/pod"
    with pytest.raises(InvalidArgument, match="no volume"):
        granted.in_container(spec, {"RUNTIME_CONFIG_FILE": "/conf/b.toml"})


def test_a_folder_or_a_fifo_is_no_file(tmp_path: Path) -> None:
    """A whole volume mounted where the file should be is said, and nothing waits for a writer."""
    os.mkfifo(tmp_path / "fifo")
    for source in (tmp_path, tmp_path / "fifo"):
        spec = {"mounts": [{"type": "bind", "destination": "/runtime-config.toml", "source": str(source)}]}
        with pytest.raises(InvalidArgument, match="subPath"):
            granted.in_container(spec, {})


def test_a_file_named_on_the_command_line(tmp_path: Path) -> None:
    """`spinwheel up --runtime-config-file`: paths count from the file, state from the app (H102)."""
    (tmp_path / "conf").mkdir()
    given = tmp_path / "conf" / "rc.toml"
    given.write_text('[key_value_store.own]\ntype = "spin"\npath = "own.db"')
    config = granted.from_file(given, tmp_path / "app")
    assert config.stores["own"]["path"] == str(tmp_path / "conf" / "own.db")
    assert config.state_dir == str(tmp_path / "app" / ".spin")
    with pytest.raises(InvalidArgument, match="wanted the file .*none.toml"):
        granted.from_file(tmp_path / "none.toml", tmp_path)
