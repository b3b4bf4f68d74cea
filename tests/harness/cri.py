"""Pods by crictl: a private containerd with its CRI plugin, our runtime as a handler, host-network pods.

Knows: crictl's words and its JSON. Must not know: what is asserted. Laws: pods use the host's network, so no
CNI and no bridge is needed; the pause image is busybox that sleeps; cgroups lie below a folder of the test's
own.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.apps import App, Component
from tests.guests.build import guest_path
from tests.harness.containerd import PrivateContainerd
from tests.harness.tools import containerd_folder
from tests.images import pack
from tests.native import pack_busybox

PAUSE, SIDECAR, SPIN = "test.local/pause:1", "test.local/sidecar:1", "test.local/hello:1"
# Not every machine that runs tests may lower a score.
RUNTIME_PLUGIN = """
[plugins."{plugin}"]
restrict_oom_score_adj = true
{more}
[plugins."{plugin}".containerd]
default_runtime_name = "spin"
[plugins."{plugin}".containerd.runtimes.spin]
runtime_type = "io.containerd.spin.v2"
[plugins."{plugin}".cni]
bin_dir = "{base}/cni/bin"
conf_dir = "{base}/cni/conf"
"""
PINNED = f"""
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{PAUSE}"
"""


class Cri:
    """crictl over one containerd."""

    def __init__(self, containerd: PrivateContainerd) -> None:
        self.containerd = containerd
        self.folder = containerd.base_dir / "cri"
        self.folder.mkdir(exist_ok=True)
        self._crictl = containerd_folder("cri") / "crictl"
        self.parent = f"sw{secrets.token_hex(4)}"
        self._pod_files: dict[str, str] = {}

    @staticmethod
    def config(base: Path, *, v1: bool = False) -> str:
        """What containerd's configuration needs for it; 1.7 has one plugin for images and runtimes."""
        if v1:
            more = f'sandbox_image = "{PAUSE}"'
            return RUNTIME_PLUGIN.format(plugin="io.containerd.grpc.v1.cri", more=more, base=base)
        return PINNED + RUNTIME_PLUGIN.format(plugin="io.containerd.cri.v1.runtime", more="", base=base)

    def add_native(self, reference: str, *entrypoint: str) -> str:
        """Imports busybox under a name."""
        tar = pack_busybox(self.folder / "image.tar", reference, entrypoint)
        self.containerd.ctr("images", "import", tar, namespace="k8s.io")
        tar.unlink()
        return reference

    def run(self, *words: str, check: bool = True, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """`crictl`; with *check*, a failure is an AssertionError with its words."""
        endpoint = f"unix://{self.containerd.address}"
        argv = [str(self._crictl), "--runtime-endpoint", endpoint, "--image-endpoint", endpoint]
        argv += ["--timeout", "60s", *words]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, input=stdin)
        assert not check or done.returncode == 0, f"{words}: {done.stderr}\n{self.containerd.log_tail(8)}"
        return done

    def pod(self, name: str) -> str:
        """A sandbox on the host's network; returns its id."""
        document = {
            "metadata": {"name": name, "namespace": "default", "uid": secrets.token_hex(8), "attempt": 1},
            "log_directory": str(self.folder),
            "linux": {
                "cgroup_parent": f"/{self.parent}/{name}",
                "security_context": {"namespace_options": {"network": 2}},
            },
        }
        file = self._file(f"pod-{name}", document)
        made = self.run("runp", "--runtime", "spin", file).stdout.strip()
        self._pod_files[made] = file
        return made

    def create(
        self,
        pod: str,
        name: str,
        image: str,
        command: Sequence[str],
        env: dict[str, str] | None = None,
        linux: dict[str, Any] | None = None,
    ) -> str:
        """A container in a sandbox that was made by `pod`; returns its id. `linux` is CRI's own."""
        document: dict[str, Any] = {
            "metadata": {"name": name, "attempt": 0},
            "image": {"image": image},
            "command": list(command),
            "envs": [{"key": key, "value": value} for key, value in (env or {}).items()],
            "log_path": f"{name}.log",
            "linux": linux or {},
        }
        words = ("create", "--no-pull", pod, self._file(name, document), self._pod_files[pod])
        return self.run(*words).stdout.strip()

    def app(self, pod: str, name: str, linux: dict[str, Any] | None = None) -> tuple[str, str]:
        """A started Spin container on a free loopback port; returns its id and its URL."""
        address = f"127.0.0.1:{free_port()}"
        made = self.create(pod, name, SPIN, ["/"], {"SPIN_HTTP_LISTEN_ADDR": address}, linux)
        self.start(made)
        return made, f"http://{address}/"

    def start(self, *ids: str) -> None:
        """Starts containers."""
        for one in ids:
            self.run("start", one)

    def inspect(self, container: str) -> dict[str, Any]:
        """The container's status."""
        status: dict[str, Any] = json.loads(self.run("inspect", container).stdout)["status"]
        return status

    def log(self, name: str) -> str:
        """What CRI wrote of a container's output."""
        return (self.folder / f"{name}.log").read_text()

    def remove_all(self) -> None:
        """Stops and removes every pod."""
        for pod in self.run("pods", "-q").stdout.split():
            self.run("stopp", pod)
            self.run("rmp", pod)
        for file in self.folder.glob("*.json"):
            file.unlink()
        # A pod's own cgroup is kubelet's to make and to remove; here the OCI runtime made it on the way.
        for pattern in (f"*/{self.parent}/*/", f"*/{self.parent}/"):
            for folder in Path("/sys/fs/cgroup").glob(pattern):
                if folder.is_dir():
                    folder.rmdir()

    def _file(self, name: str, document: dict[str, Any]) -> str:
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps(document))
        return str(path)


def free_port() -> int:
    """A loopback port that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def cri_node(shim_only: Path) -> Iterator[Cri]:
    """A node with our handler, the pause and the sidecar's image, and an app that is compiled.

    `shim_only` is a folder with the shim's name.
    """
    base = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    env = {"SPINWHEEL_RUN_DIR": str(base / "run"), "SPINWHEEL_CACHE_DIR": str(base / "cache")}
    containerd = PrivateContainerd(containerd_folder(), base, env, [shim_only], cri=True)
    containerd.extra_config = Cri.config(base, v1=containerd.is_v1)
    with containerd:
        made = Cri(containerd)
        made.add_native(PAUSE, "/bin/sleep", "1000000")
        made.add_native(SIDECAR)
        tar = pack(App([Component(guest_path("hello-p2").read_bytes())]), base / "app.tar", reference=SPIN)
        containerd.ctr("images", "import", tar, namespace="k8s.io")
        made.app(made.pod("warm"), "warm")
        made.remove_all()
        yield made
        for file in (base / "run" / "zygote").glob("*.pid"):
            os.kill(int(file.read_text()), signal.SIGTERM)
    shutil.rmtree(base, ignore_errors=True)
