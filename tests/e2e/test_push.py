"""From spin.toml to a pod: what `spinwheel push` put into a registry is pulled and run by a real node."""

import subprocess
from pathlib import Path

from tests.guests.build import guest_path
from tests.harness.node import Node
from tests.harness.registry import Registry

MANIFEST = """\
spin_manifest_version = 2
[application]
name = "pushed"
[[trigger.http]]
route = "/..."
component = "pushed"
[component.pushed]
source = "app.wasm"
environment = { COLOUR = "blue" }
files = [{ source = "static", destination = "/" }]
"""
FILES = {"small.txt": "small\n", "large.txt": "L" * 4096}


def app_in(folder: Path) -> Path:
    """An app with a guest, a small file and a large one."""
    (folder / "static").mkdir()
    for name, content in FILES.items():
        (folder / "static" / name).write_text(content)
    (folder / "app.wasm").write_bytes(guest_path("hello-p2").read_bytes())
    (folder / "spin.toml").write_text(MANIFEST)
    return folder / "spin.toml"


def push(node: Node, home: Path, reference: str, manifest: Path, **env: str) -> str:
    """Pushes, and returns the digest that was printed."""
    words = [str(node.bin / "spinwheel"), "push", "-k", reference, "-f", str(manifest)]
    known = {"HOME": str(home), "PATH": "/usr/bin:/bin", **env}
    done = subprocess.run(words, env=known, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().removeprefix("Pushed with digest ")


def test_a_pushed_app_is_pulled_and_run(node: Node, tmp_path: Path) -> None:
    """As layers and as an archive (O4-O8, O12, O15): containerd takes it, and the app sees the same files."""
    manifest = app_in(tmp_path)
    with Registry(tmp_path / "registry") as registry:
        for tag, env in (("layers", {}), ("archive", {"SPIN_OCI_ARCHIVE_LAYERS": "1"})):
            image = f"{registry.host}/team/pushed:{tag}"
            digest = push(node, tmp_path, image, manifest, **env)
            node.ctr("images", "pull", "--plain-http", image)
            assert digest in node.ctr("images", "ls").stdout
            node.run(f"pushed-{tag}", image)
            for name, content in FILES.items():
                assert node.get(f"pushed-{tag}", f"/file/{name}").body == content
            assert "COLOUR=blue" in node.get(f"pushed-{tag}", "/env").body
            node.remove(f"pushed-{tag}")
