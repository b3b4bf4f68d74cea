"""Root filesystems that are more than one plain mount: shifted owners, very many layers."""

from pathlib import Path

import pytest

from tests.harness.node import RUNTIME, Node
from tests.native import pack_busybox

MAPPED = ("--uidmap", "0:200000:65536", "--gidmap", "0:200000:65536")
# Copied with new owners by the client, or shifted at mount by the shim: the latter is what Kubernetes does.
WAYS = {"copied": MAPPED, "shifted": (*MAPPED, "--remap-labels")}
MANY = 90


@pytest.mark.parametrize("words", WAYS.values(), ids=WAYS)
def test_user_namespaces_hold_for_apps(node: Node, p2: str, words: tuple[str, ...]) -> None:
    """Root in the app's container is nobody outside, and the app answers."""
    node.run("mapped", p2, words=words)
    assert node.get("mapped").status == 200
    process = Path(f"/proc/{node.pid('mapped')}")
    assert process.stat().st_uid == 200_000
    assert (process / "uid_map").read_text().split() == ["0", "200000", "65536"]
    node.remove("mapped")


@pytest.mark.parametrize("words", WAYS.values(), ids=WAYS)
def test_user_namespaces_hold_for_native_containers(node: Node, busybox: str, words: tuple[str, ...]) -> None:
    """The image's files are root's in the container, and what it writes is nobody's outside."""
    script = "stat() { /bin/busybox stat -c %u $1; }; id -u; stat /bin/busybox; echo > /new && stat /new"
    done = node.ctr("run", "--rm", "--runtime", RUNTIME, *words, busybox, "mapped", "sh", "-c", script)
    assert done.stdout.split() == ["0", "0", "0"]


@pytest.fixture(scope="session")
def many_layers(node: Node) -> str:
    """The reference of an image of very many layers, unpacked."""
    tar = pack_busybox(node.containerd.base_dir / "many.tar", "test.local/many:1", more_layers=MANY)
    node.ctr("images", "import", tar)
    tar.unlink()
    node.ctr("run", "--rm", "--runtime", "io.containerd.runc.v2", "test.local/many:1", "unpack", "true")
    return "test.local/many:1"


def test_an_image_of_very_many_layers(node: Node, many_layers: str) -> None:
    """Ninety lower folders are more than mount(2) takes as one string, and all of them are there."""
    script = f"cat /more/0 /more/{MANY - 1}; /bin/busybox ls /more | /bin/busybox wc -l"
    done = node.ctr("run", "--rm", "--runtime", RUNTIME, many_layers, "many", "sh", "-c", script)
    assert done.stdout.split() == ["0", str(MANY - 1), str(MANY)]
