"""A node with our shim on it: a private containerd, our programs on its PATH, its own run and cache folders.

Knows: how an app becomes an image, a task, and a URL. Must not know: what is asserted. Laws: everything is
below the containerd's base folder; a task started here is removed by `remove`, or by the test's own words.
"""

import functools
import os
import re
import secrets
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.apps import App, Component
from tests.broken import Breakage
from tests.guests.build import guest_path
from tests.harness.containerd import PrivateContainerd
from tests.images import Shape, pack

RUNTIME = "io.containerd.spin.v2"
LISTEN = "SPIN_HTTP_LISTEN_ADDR"
SERVING = re.compile(r"Serving (http://\S+)")


@dataclass(frozen=True)
class Answer:
    """What a request came to."""

    status: int
    body: str


class Node:
    """Our runtime on one containerd."""

    def __init__(self, containerd: PrivateContainerd, bin_dir: Path, run_dir: Path) -> None:
        self.containerd = containerd
        # Of its own: cgroups are named by namespace and id, and two nodes of a machine must not meet there.
        self.namespace = f"sw{secrets.token_hex(4)}"
        self.bin = bin_dir
        self.run_dir = run_dir
        self.logs = containerd.base_dir / "logs"
        self.logs.mkdir(exist_ok=True)
        self.ctr = functools.partial(containerd.ctr, namespace=self.namespace)

    def add(
        self,
        app: App,
        reference: str,
        shape: Shape = Shape.SPIN,
        breakage: Breakage | None = None,
    ) -> str:
        """Imports *app* into containerd; returns its reference."""
        tar = self.containerd.base_dir / "image.tar"
        pack(app, tar, reference=reference, shape=shape, breakage=breakage)
        self.ctr("images", "import", tar)
        tar.unlink()
        return reference

    def add_guest(self, name: str, **settings: object) -> str:
        """Imports one of tests/guests as an app of its own."""
        component = Component(wasm=guest_path(name).read_bytes(), **settings)  # type: ignore[arg-type]
        return self.add(App([component]), f"test.local/guests/{name}:1")

    def run(  # noqa: PLR0913  # the words of one `ctr run`
        self,
        task: str,
        image: str,
        *,
        env: Mapping[str, str] | None = None,
        options: Mapping[str, str] | None = None,
        words: tuple[str, ...] = (),
        detach: bool = True,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """`ctr run` of *image* on the host's network, on a free loopback port.

        Not detached, ctr removes task and container itself, also when Start fails.
        """
        settings = {LISTEN: "127.0.0.1:0", **(env or {})}
        flags = [f"--env={key}={value}" for key, value in settings.items()]
        self.log(task).unlink(missing_ok=True)
        flags += ["--log-uri", f"file://{self.log(task)}", *words]
        if options:
            flags += ["--runtime-config-path", str(self._options_file(task, options))]
        flags.append("--detach" if detach else "--rm")
        return self.ctr("run", "--net-host", "--runtime", RUNTIME, *flags, image, task, "/", check=check)

    def _options_file(self, task: str, options: Mapping[str, str]) -> Path:
        path = self.containerd.base_dir / f"{task}.toml"
        path.write_text("".join(f'{key} = "{value}"\n' for key, value in options.items()))
        return path

    def log(self, task: str) -> Path:
        """Where the container's output goes."""
        return self.logs / f"{task}.log"

    def url(self, task: str, seconds: float = 5.0) -> str:
        """The address that the task said it serves on."""
        deadline = time.monotonic() + seconds
        while not (found := SERVING.search(self.log(task).read_text())):
            assert time.monotonic() < deadline, f"no address in {self.log(task).read_text()!r}"
            time.sleep(0.01)
        return found[1]

    def get(self, task: str, path: str = "/", data: bytes | None = None) -> Answer:
        """One request to the task."""
        request = urllib.request.Request(self.url(task) + path, data=data)  # noqa: S310  # http to loopback
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310  # the same
                return Answer(answer.status, answer.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.read().decode())

    def remove(self, task: str) -> None:
        """Kills and removes the task and its container."""
        self.ctr("tasks", "rm", "--force", task, check=False)
        self.ctr("containers", "rm", task, check=False)

    def status(self, task: str) -> str:
        """The task's status as `ctr tasks ls` has it, empty when there is none."""
        lines = self.ctr("tasks", "ls").stdout.splitlines()[1:]
        return next((line.split()[2] for line in lines if line.split()[0] == task), "")

    def pid(self, task: str) -> int:
        """The task's pid as `ctr tasks ls` has it."""
        lines = self.ctr("tasks", "ls").stdout.splitlines()[1:]
        return next(int(line.split()[1]) for line in lines if line.split()[0] == task)

    def wait_status(self, task: str, wanted: str, seconds: float = 5.0) -> None:
        """Returns once the task has the status."""
        deadline = time.monotonic() + seconds
        while (found := self.status(task)) != wanted:
            assert time.monotonic() < deadline, f"task {task}: wanted {wanted}, found {found!r}"
            time.sleep(0.02)

    def bundle(self, task: str) -> Path:
        """The task's bundle folder."""
        tasks = self.containerd.base_dir / "state/io.containerd.runtime.v2.task"
        return tasks / self.namespace / task

    def timeline(self, task: str) -> str:
        """What `spinwheel timeline` prints for the task."""
        state = self.containerd.base_dir / "state"
        words = [str(self.bin / "spinwheel"), "timeline", task, "-n", self.namespace, "--state", str(state)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        return done.stdout

    def popen_ctr(self, *words: str) -> "subprocess.Popen[str]":
        """A `ctr` that goes on; the caller ends it."""
        return self.containerd.popen_ctr(*words, namespace=self.namespace)

    def socket(self, task: str) -> Path:
        """The pod server's socket."""
        return Path((self.bundle(task) / "address").read_text().removeprefix("unix://"))

    def server_pid(self, task: str) -> int:
        """The pod server's process: the parent of the container's init."""
        status = Path(f"/proc/{self.pid(task)}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("PPid:")))

    def compilations(self) -> int:
        """How often the compiler ran, by the shim's own log."""
        return self.containerd.log_path.read_text(errors="replace").count('msg="compiled sha256:')

    def stop_zygotes(self) -> None:
        """Ends the zygotes of this node by pid."""
        for file in (self.run_dir / "zygote").glob("*.pid"):
            try:
                os.kill(int(file.read_text()), 15)
            except (OSError, ValueError):
                continue
