"""Bad artefacts and bad settings: named on `ctr run`'s stderr, non-zero, and nothing left (see conftest)."""

import socket
from pathlib import Path

import pytest

from tests.apps import App, Component
from tests.broken import BREAKAGES
from tests.guests.bad import all_bad
from tests.harness.node import LISTEN, RUNTIME, Node

WORDS = {
    "newer-lock-version": "wanted spin_lock_version 0 or 1, found 2",
    "unknown-must-understand": '"time_travel", which this shim does not know',
    "unmet-host-requirement": 'requires the host feature "moon"',
    "unknown-trigger": 'type "gopher" is not supported',
    "unknown-executor": 'executor "teapot" is not supported',
    "missing-component": '"nobody" is not in the app',
    "missing-layer": "is not a wasm layer of this image",
    "wrong-inline-content": "wanted inline content with digest",
    "missing-variable": "required variables have no value: required (set SPIN_VARIABLE_REQUIRED or REQUIRED)",
    "undeclared-variable": "{{ nowhere }} is not a variable of the app",
    "bad-component-id": '"../evil" is not a component id',
    "file-traversal": '"../../etc/passwd" is not a relative path',
    "duplicate-keys": 'duplicate key "components"',
    "deep-nesting": "not acceptable JSON",
    "not-json": "not acceptable JSON",
}


BAD_CODE = list(all_bad(b""))


def refused(node: Node, image: str, **settings: object) -> str:
    """What `ctr run` says of an image that must not run."""
    done = node.run("bad", image, check=False, detach=False, **settings)  # type: ignore[arg-type]  # as run takes them
    assert done.returncode != 0
    assert node.status("bad") == ""
    return done.stderr


@pytest.mark.parametrize("name", BREAKAGES)
def test_broken_apps(node: Node, guest_bytes: bytes, name: str) -> None:
    """Each way to spoil a locked app is named."""
    app = App([Component(guest_bytes)])
    image = node.add(app, f"test.local/bad/{name}:1", breakage=BREAKAGES[name])
    assert WORDS[name] in refused(node, image)
    node.ctr("images", "rm", image)


@pytest.mark.parametrize("name", BAD_CODE)
def test_code_that_is_none(node: Node, name: str, guest_bytes: bytes) -> None:
    """Not wasm, native code, core modules, no handler: the compiler's words reach the user."""
    image = node.add(App([Component(all_bad(guest_bytes)[name])]), f"test.local/bad/{name}:1")
    said = refused(node, image)
    assert any(word in said for word in ("wanted", "found", "is damaged")), said
    node.ctr("images", "rm", image)


def test_port_in_use(node: Node, p2: str) -> None:
    """The answer of Start names address and reason."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        said = refused(node, p2, env={LISTEN: address})
    assert address in said
    assert "in use" in said.lower()


def test_bad_listen_address(node: Node, p2: str) -> None:
    """What was found is shown."""
    assert "nonsense" in refused(node, p2, env={LISTEN: "nonsense"})


def test_missing_oci_runtime(node: Node, p2: str) -> None:
    """The message says what was looked for and where."""
    said = refused(node, p2, options={"BinaryName": "no-such-runtime"})
    assert "wanted the OCI runtime no-such-runtime, found none in" in said


def test_native_code_in_a_spin_image(node: Node, p2: str) -> None:
    """What the container's own arguments name is never executed: the app runs (faults.md A3)."""
    node.run("elf", p2, words=("--env", "X=y"))
    assert Path(f"/proc/{node.pid('elf')}/cmdline").read_bytes().startswith(b"/.spinwheel/host")
    node.remove("elf")


def test_ordinary_images_may_be_forbidden(node: Node, busybox: str) -> None:
    """A handler that is for Spin only says so."""
    file = node.containerd.base_dir / "spin-only.toml"
    file.write_text("NativeContainers = false\n")
    words = ("--runtime", RUNTIME, "--runtime-config-path", str(file))
    said = node.ctr("run", "--rm", *words, busybox, "forbidden", "true", check=False)
    assert said.returncode != 0
    assert "wanted a Spin artifact, found an ordinary image" in said.stderr
    node.remove("forbidden")


def test_a_failed_start_leaves_its_name_free(node: Node, p2: str) -> None:
    """The same id works at once after a refusal."""
    refused(node, p2, env={LISTEN: "nonsense"})
    node.run("bad", p2)
    assert node.get("bad").status == 200
    node.remove("bad")


def test_a_host_that_is_not_there(node: Node, p2: str, tmp_path: Path) -> None:
    """An OCI runtime that fails is quoted: here it cannot mount what it should."""
    said = refused(node, p2, words=("--mount", f"type=bind,src={tmp_path}/none,dst=/x,options=bind"))
    assert "create failed" in said
