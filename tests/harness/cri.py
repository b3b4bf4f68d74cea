"""Pods by crictl: a private containerd with its CRI plugin, our runtime as a handler, host-network pods.

Knows: crictl's words and its JSON. Must not know: what is asserted. Laws: pods use the host's network, so no
CNI and no bridge is needed; the pause image is busybox that sleeps; cgroups lie below a folder of the test's
own.
"""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.harness.containerd import PrivateContainerd
from tests.harness.tools import containerd_folder
from tests.native import pack_busybox

PAUSE = "test.local/pause:1"
HANDLERS = """
[plugins."io.containerd.cri.v1.images"]
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{pause}"
# Not every machine that runs tests may lower a score.
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.spin]
runtime_type = "io.containerd.spin.v2"
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dir = "{base}/cni/bin"
conf_dir = "{base}/cni/conf"
"""


class Cri:
    """crictl over one containerd."""

    def __init__(self, containerd: PrivateContainerd) -> None:
        self.containerd = containerd
        self.folder = containerd.base_dir / "cri"
        self.folder.mkdir(exist_ok=True)
        self._crictl = containerd_folder("cri") / "crictl"
        self.parent = f"sw{secrets.token_hex(4)}"

    @staticmethod
    def config(base: Path) -> str:
        """What containerd's configuration needs for it."""
        return HANDLERS.format(pause=PAUSE, base=base)

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
        return self.run("runp", "--runtime", "spin", self._file(f"pod-{name}", document)).stdout.strip()

    def create(
        self,
        pod: str,
        name: str,
        image: str,
        command: Sequence[str],
        env: dict[str, str] | None = None,
        memory: int = 0,
    ) -> str:
        """A container in a sandbox that was made by `pod`; returns its id."""
        document: dict[str, Any] = {
            "metadata": {"name": name, "attempt": 0},
            "image": {"image": image},
            "command": list(command),
            "envs": [{"key": key, "value": value} for key, value in (env or {}).items()],
            "log_path": f"{name}.log",
            "linux": {"resources": {"memory_limit_in_bytes": memory}} if memory else {},
        }
        pod_file = next(self.folder.glob("pod-*.json"))
        words = ("create", "--no-pull", pod, self._file(name, document), str(pod_file))
        return self.run(*words).stdout.strip()

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
