"""`./install.sh demo`: a real Spin app on a real containerd, shown step by step, then gone.

Knows: the words a person would type. Laws: a containerd that is installed and new enough (1.7) is used as a
program, never as a service; everything runs below one folder, which is removed at the end.
"""

import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.apps import App, Component
from tests.guests.build import guest_path
from tests.harness.containerd import PrivateContainerd
from tests.harness.node import RUNTIME, Node
from tests.harness.tools import containerd_folder

IMAGE = "demo.local/hello-python:1"
OLDEST = (1, 7, 7)  # older ones cannot unpack Spin artefacts (wire.md 5.3)


def containerd_programs() -> Path:
    """The folder of a containerd that will do: the installed one, else the one that tools/ builds."""
    found = shutil.which("containerd")
    if found and shutil.which("ctr", path=Path(found).parent):
        told = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
        version = re.search(r"v?(\d+)\.(\d+)\.(\d+)", told)
        if version and tuple(map(int, version.groups())) >= OLDEST:
            return Path(found).parent
    return containerd_folder()


def say(text: str) -> None:
    """One line of the story."""
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)


def start(node: Node, task: str, greeting: str) -> None:
    """Starts one task and shows the words, the time, the answers and the steps."""
    words = f"ctr run -d --net-host --runtime {RUNTIME} --env GREETING='{greeting}' {IMAGE} {task} /"
    say(f"$ {words}")
    began = time.monotonic()
    node.run(task, IMAGE, env={"GREETING": greeting})
    print(f"(answered after {1000 * (time.monotonic() - began):.0f} ms)")
    for path in ("/", "/greeting"):
        say(f"$ curl {node.url(task)}{path}")
        print(node.get(task, path).body, end="")
    say(f"$ spinwheel timeline {task}")
    print(node.timeline(task), end="")


def show(node: Node) -> None:
    """Two starts of the same app: the first compiles, the second does not."""
    component = Component(
        guest_path("hello-python").read_bytes(), id="hello-python", config={"greeting": "{{ greeting }}"}
    )
    say(f"$ ctr images import hello-python.tar   # {len(component.wasm) / 1e6:.1f} MB of Python, as wasm")
    node.add(App([component], name="hello-python", variables={"greeting": "good morning"}), IMAGE)
    for task, greeting in (("first", "good morning"), ("second", "good evening")):
        start(node, task, greeting)
    say(f"compiler runs for two starts: {node.compilations()}")
    for task in ("first", "second"):
        node.remove(task)


@contextlib.contextmanager
def private_node() -> Iterator[Node]:
    """A node with the shim of this environment; all of it is gone afterwards."""
    programs = Path(sys.prefix) / "bin"
    base = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))  # mkdtemp makes it, 0700
    (base / "bin").mkdir()
    (base / "bin" / "containerd-shim-spin-v2").symlink_to(programs / "containerd-shim-spin-v2")
    env = {"SPINWHEEL_RUN_DIR": str(base / "run"), "SPINWHEEL_CACHE_DIR": str(base / "cache")}
    with PrivateContainerd(
        containerd_programs(), base_dir=base, env=env, path_prepend=[base / "bin"]
    ) as containerd:
        node = Node(containerd, programs, base / "run")
        try:
            yield node
        finally:
            node.stop_zygotes()


def main() -> int:
    """Run the demo; the exit code is 0 when both starts answered."""
    with private_node() as node:
        show(node)
    return 0


if __name__ == "__main__":
    sys.exit(main())
