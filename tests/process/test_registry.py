"""push, pull, inspect, login and logout against a real registry: with a password, with a private CA."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.registry import PASSWORD, USER, Registry

HELLO = Path(__file__).parents[1] / "fixtures" / "artifacts" / "hello"
SPINWHEEL = Path(sys.prefix) / "bin" / "spinwheel"


class Person:
    """Somebody with a home of their own at a command line."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def does(
        self, *words: str | Path, check: bool = True, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Runs `spinwheel`."""
        env = {"HOME": str(self.home), "PATH": f"{self.home}/bin:/usr/bin:/bin"}
        done = subprocess.run([SPINWHEEL, *words], env=env, input=stdin, capture_output=True, text=True)
        assert not check or done.returncode == 0, done.stderr
        return done


@pytest.fixture
def person(tmp_path: Path) -> Person:
    """A person with an empty home."""
    return Person(tmp_path)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry that asks nobody anything."""
    with Registry(tmp_path_factory.mktemp("plain")) as registry:
        yield registry


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry with a password, behind TLS from a private CA."""
    with Registry(tmp_path_factory.mktemp("guarded"), password=True, tls=True) as registry:
        yield registry


def trusting(registry: Registry, person: Person) -> list[str | Path]:
    """The words that make a person trust the registry's CA, in containerd's layout."""
    folder = person.home / "certs.d" / registry.host
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hosts.toml").write_text(f'server = "https://{registry.host}"\nca = "{registry.ca}"\n')
    return ["--hosts-dir", person.home / "certs.d"]


def test_what_was_pushed_is_pulled_and_inspected(plain: Registry, person: Person) -> None:
    """Pushed, inspected and pulled have one digest; a second push sends nothing again (O22, O23, O25)."""
    reference = f"{plain.host}/team/hello:1"
    pushed = person.does("push", "-k", reference, "-f", HELLO / "spin.toml")
    digest = pushed.stdout.strip().removeprefix("Pushed with digest ")
    assert pushed.stderr.count("pushed ") == 4
    again = person.does("push", "-k", reference, "-f", HELLO / "spin.toml")
    assert (again.stderr.count("exists "), again.stderr.count("pushed ")) == (4, 0)
    facts = json.loads(person.does("inspect", "-k", "--json", f"{plain.host}/team/hello@{digest}").stdout)
    assert (facts["digest"], facts["version"]) == (digest, "1.2.3")
    assert [component["id"] for component in facts["components"]] == ["hello", "twin"]
    assert facts["components"][0]["asks_for"]["variables"]
    person.does("pull", "-k", f"{plain.host}/team/hello@{digest}", "-o", person.home / "layout")
    index = json.loads((person.home / "layout" / "index.json").read_text())
    assert index["manifests"][0]["digest"] == digest
    assert len(list((person.home / "layout" / "blobs" / "sha256").iterdir())) == 5


def test_what_was_pushed_is_the_vector(plain: Registry, person: Person) -> None:
    """The registry has the vector's config and layers, digest for digest; only `created` differs."""
    person.does("push", "-k", f"{plain.host}/v:1", "-f", HELLO / "spin.toml")
    person.does("pull", "-k", f"{plain.host}/v:1", "-o", person.home / "layout")
    blobs = person.home / "layout" / "blobs" / "sha256"
    index = json.loads((person.home / "layout" / "index.json").read_text())
    found = json.loads((blobs / index["manifests"][0]["digest"].removeprefix("sha256:")).read_bytes())
    wanted = json.loads((HELLO / "manifest.json").read_text())
    created = "org.opencontainers.image.created"
    assert found["annotations"].pop(created) != wanted["annotations"].pop(created)
    assert found == wanted


def test_login_is_checked_kept_and_forgotten(guarded: Registry, person: Person) -> None:
    """A wrong password is refused and not kept; the right one pushes; logout forgets it (O33, O34)."""
    trust = trusting(guarded, person)
    words = ("login", guarded.host, "-u", USER, "--password-stdin", *trust)
    wrong = person.does(*words, check=False, stdin="wrong\n")
    kept = person.home / ".config" / "fermyon" / "registry-auth.json"
    assert wrong.returncode == 1
    assert f"refuses us as {USER}" in wrong.stderr
    assert not kept.exists()
    push = ("push", f"{guarded.host}/a:1", "-f", HELLO / "spin.toml", *trust)
    assert "run `spinwheel login` first" in person.does(*push, check=False).stderr
    person.does(*words, stdin=f"{PASSWORD}\n")
    assert kept.stat().st_mode & 0o077 == 0
    assert "Pushed with digest sha256:" in person.does(*push).stdout
    person.does("logout", guarded.host)
    assert person.does(*push, check=False).returncode == 1
    assert person.does("logout", guarded.host, check=False).returncode == 1


def test_dockers_config_and_helpers_are_used(guarded: Registry, person: Person) -> None:
    """Credentials come from Docker's config, written there or asked of a helper (O35)."""
    inspect = ("inspect", f"{guarded.host}/none:1", *trusting(guarded, person))
    config = person.home / ".docker" / "config.json"
    config.parent.mkdir()
    config.write_text(json.dumps({"credHelpers": {guarded.host: "test"}}))
    assert "cannot be run" in person.does(*inspect, check=False).stderr
    helper = person.home / "bin" / "docker-credential-test"
    helper.parent.mkdir()
    answer = json.dumps({"Username": USER, "Secret": PASSWORD})
    helper.write_text(f"#!/bin/sh\necho '{answer}'\n")
    helper.chmod(0o755)
    good = helper.read_text()
    helper.write_text("#!/bin/sh\necho s3cret\n")
    broken = person.does(*inspect, check=False).stderr
    assert "wanted JSON with Username" in broken
    assert "s3cret" not in broken
    helper.write_text(good)
    assert "has no such thing" in person.does(*inspect, check=False).stderr


def test_an_unknown_certificate_is_refused_at_once(guarded: Registry, person: Person) -> None:
    """Without the CA nothing is sent, and the message says where CAs belong."""
    done = person.does("inspect", f"{guarded.host}/a:1", check=False)
    assert done.returncode == 1
    assert "not to be trusted" in done.stderr
    assert "certs.d" in done.stderr


def test_a_mirror_is_asked_first_and_the_registry_after_it(plain: Registry, person: Person) -> None:
    """A mirror that is down costs nothing but time, and gets no credentials."""
    person.does("push", "-k", f"{plain.host}/m:1", "-f", HELLO / "spin.toml")
    folder = person.home / "certs.d" / "example.org"
    folder.mkdir(parents=True)
    (folder / "hosts.toml").write_text(
        f'server = "https://localhost:1"\n[host."http://{plain.host}"]\ncapabilities = ["pull", "resolve"]\n'
    )
    done = person.does("inspect", "example.org/m:1", "--hosts-dir", person.home / "certs.d")
    assert done.stdout.startswith("hello 1.2.3")


@pytest.mark.parametrize(
    "words", [("push", "UPPER/a"), ("pull", "a:b:c", "-o", "x"), ("push", "a.b/c@sha256:1")]
)
def test_bad_references(person: Person, words: tuple[str, ...]) -> None:
    """One line that says what a reference is."""
    done = person.does(*words, check=False)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "wanted" in done.stderr
