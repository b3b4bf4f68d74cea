"""The runtimes by which the same native container can be run: our shim over crun and runc, and runc's own.

Knows: `ctr run` and what each runtime needs of its words. Must not know: what is asserted. Law: what was run
here is removed by `clean`.
"""

import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tests.harness.node import RUNTIME, Node
from tests.native import REFERENCE

RUNC = "io.containerd.runc.v2"
WAYS = {
    "ours-crun": (RUNTIME, "/usr/bin/crun"),
    "ours-runc": (RUNTIME, "/usr/sbin/runc"),
    "runc-shim": (RUNC, ""),
}
# One row of tests/matrix.py; runc's own shim stands beside ours over runc.
CHOSEN = [name for name in WAYS if os.environ.get("SPINWHEEL_OCI_RUNTIME", "") in name]


@dataclass
class Way:
    """One runtime to run native containers by."""

    node: Node
    runtime: str
    binary: str
    ids: list[str] = field(default_factory=list)

    @property
    def words(self) -> list[str]:
        """What `ctr run` needs to use it."""
        if not self.binary:
            return ["--runtime", self.runtime]
        file = self.node.containerd.base_dir / f"{Path(self.binary).name}.toml"
        file.write_text(f'BinaryName = "{self.binary}"\n')
        return ["--runtime", self.runtime, "--runtime-config-path", str(file)]

    def run(
        self, task: str, *command: str, words: tuple[str, ...] = (), detach: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """`ctr run`, in the background or to its end."""
        self.ids.append(task)
        how = ["--detach", "--null-io"] if detach else ["--rm"]
        return self.node.ctr("run", *self.words, *how, *words, REFERENCE, task, *command, check=detach)

    def exec(self, task: str, exec_id: str, *command: str) -> subprocess.CompletedProcess[str]:
        """`ctr tasks exec`, to its end."""
        return self.node.ctr("tasks", "exec", "--exec-id", exec_id, task, *command, check=False)

    def socket(self, task: str) -> Path:
        """Where the task's shim listens, as containerd 2.x remembers it, else as the shim wrote it."""
        known = self.node.bundle(task) / "bootstrap.json"
        if not known.exists():
            return self.node.socket(task)
        return Path(json.loads(known.read_text())["address"].removeprefix("unix://"))

    def clean(self) -> None:
        """Removes what is left."""
        for task in self.ids:
            self.node.remove(task)
