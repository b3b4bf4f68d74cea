"""A containerd that a service manager keeps, as on a node, and `spinwheel node` on it.

Knows: the installer's flags. Must not know: what is asserted. Laws: everything lies below one folder, the
installation too; containerd finds our launcher only where the installer put it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from shim.node.edit import RUNTIME
from shim.node.probe import IMAGE, archive
from tests.harness.containerd import PrivateContainerd
from tests.harness.cri import Cri
from tests.harness.node import SERVING
from tests.harness.tools import containerd_folder
from tests.harness.trees import snapshot

OUR_HANDLER = re.compile(r'\[plugins\."[^"]*"\.containerd\]\n(.*\n){3}')
# Starts the daemon again whenever it ends; SIGTERM ends both.
MANAGER = """\
#!/bin/sh
[ $# = 2 ] || exec "{real}" "$@" # only `--config FILE` is the daemon
trap 'kill -TERM $child; wait $child; exit 0' TERM
while :; do
    "{real}" "$@" &
    child=$!
    echo $child > "{base}/containerd.pid"
    wait $child
done
"""
RESTART = """\
#!/bin/sh
old=$(cat "{base}/containerd.pid")
kill -TERM "$old"
while [ "$(cat "{base}/containerd.pid")" = "$old" ]; do sleep 0.05; done
"""


class ManagedContainerd(PrivateContainerd):
    """As its parent, under the manager, with CRI but without a handler of ours."""

    def __init__(self, base: Path, module: str, env: Mapping[str, str]) -> None:
        real = containerd_folder(module)
        programs = base / "programs"
        programs.mkdir(parents=True)
        for name in ("ctr", "containerd-shim-runc-v2"):
            (programs / name).symlink_to(real / name)
        for path, text in ((programs / "containerd", MANAGER), (base / "restart", RESTART)):
            path.write_text(text.format(real=real / "containerd", base=base))
            path.chmod(0o755)
        (base / "bin").mkdir()
        self._real = real / "containerd"
        config = OUR_HANDLER.sub("", Cri.config(base, v1=module == "v1"))
        super().__init__(programs, base, env, [base / "bin"], cri=True, extra_config=config)

    def config_dump(self) -> dict[str, Any]:
        """The configuration as containerd itself understands it now."""
        argv = [str(self._real), "--config", str(self.base_dir / "config.toml"), "config", "dump"]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        return tomllib.loads(done.stdout)

    def _write_config(self) -> None:
        super()._write_config()
        (self.base_dir / "config.toml").chmod(0o640)


class InstalledNode:
    """The installer, on a managed containerd."""

    def __init__(self, containerd: ManagedContainerd, env: Mapping[str, str]) -> None:
        self.containerd = containerd
        self.base = containerd.base_dir
        self.prefix = self.base / "prefix" / "spinwheel"  # containerd has an opt of its own
        self._env = {**os.environ, **env}

    def spinwheel(
        self, verb: str, *words: str, environment: Path = Path(sys.prefix), check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """`spinwheel node VERB`, from an environment; with *check*, a failure is an AssertionError."""
        program = (str(environment / "bin/python"), str(environment / "bin/spinwheel"))
        argv = [*program, "node", verb, "--prefix", str(self.prefix), *words]
        done = subprocess.run(argv, env=self._env, capture_output=True, text=True, timeout=170)
        assert not check or done.returncode == 0, f"{verb}: {done.stderr}\n{self.containerd.log_tail(8)}"
        return done

    def install(
        self, *words: str, verb: str = "install", environment: Path = Path(sys.prefix), check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Installs or upgrades, with the flags that describe this node."""
        flags = (*self._where(), "--restart-command", f"{self.base}/restart")
        return self.spinwheel(verb, *flags, *words, environment=environment, check=check)

    def doctor(self) -> list[dict[str, str]]:
        """What the installed `spinwheel doctor` finds."""
        argv = [f"{self.base}/bin/spinwheel", "doctor", "--json", *self._where()]
        done = subprocess.run(argv, env=self._env, capture_output=True, text=True)
        findings: list[dict[str, str]] = json.loads(done.stdout)
        return findings

    def _where(self) -> tuple[str, ...]:
        base = self.base
        return (
            *("--config", f"{base}/config.toml", "--address", str(self.containerd.address)),
            *("--programs", f"{base}/programs", "--bin-dir", f"{base}/bin"),
        )

    def start_app(self, name: str) -> str:
        """The smallest app, in a container of that name; returns its URL."""
        log = self.base / f"{name}.log"
        self.import_app()
        flags = ("--net-host", "--detach", "--env", "SPIN_HTTP_LISTEN_ADDR=127.0.0.1:0")
        words = ("--runtime", RUNTIME, "--log-uri", f"file://{log}", IMAGE, name, "/")
        self.containerd.ctr("run", *flags, *words)
        deadline = time.monotonic() + 10
        while not (found := SERVING.search(log.read_text())):
            assert time.monotonic() < deadline, f"no address in {log.read_text()!r}"
            time.sleep(0.01)
        return found[1]

    @contextlib.contextmanager
    def running(self, argv: list[str]) -> Iterator[int]:
        """The pid of a zygote that is up; stopped as its unit would be."""
        process = subprocess.Popen(argv, env=self._env)
        deadline = time.monotonic() + 10
        while not list((self.base / "run" / "zygote").glob("*.sock")):
            assert time.monotonic() < deadline, "no zygote within 10 s"
            time.sleep(0.01)
        yield process.pid
        process.terminate()
        assert process.wait(10) == 0

    def import_app(self, namespace: str = "default") -> None:
        """The image IMAGE."""
        tar = self.base / "app.tar"
        tar.write_bytes(archive())
        self.containerd.ctr("images", "import", tar, namespace=namespace)
        tar.unlink()

    def end_app(self, name: str) -> None:
        """Its task and container are gone after this."""
        self.containerd.ctr("tasks", "rm", "--force", name)
        self.containerd.ctr("containers", "rm", name)

    def files(self) -> dict[str, tuple[object, ...]]:
        """All that an installation may touch: everything but what containerd itself keeps."""
        own = ("root", "state", "opt", "containerd.log", "containerd.pid", "c.sock", "c.sock.ttrpc")
        kept = [path for path in self.base.iterdir() if path.name not in own and path.suffix != ".log"]
        return snapshot(*kept)

    @property
    def version(self) -> str:
        """The version that new pods get."""
        return (self.prefix / "current").resolve().name
