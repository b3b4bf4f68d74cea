"""A containerd of the test's own, from start to the last unmount.

Knows: the daemon's configuration, its command line `ctr`, and what either can leave behind. Must
not know: Spin, or our shim. Laws:

* nothing outside `base_dir` is shared with a containerd of the machine, but for the folders that
  containerd itself fixes for shims (`/run/containerd/s`, `/run/containerd/fifo`);
* no TCP port is opened;
* on exit every process that this object caused is ended by its pid, every mount below `base_dir`
  is undone, and then the folder is gone; cleaning up never hides the error of the test.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

# UNIX socket paths end at 107 bytes, and shims put theirs below ours.
SHORT_BASE = "/tmp"
START_SECONDS = 30.0
STOP_SECONDS = 15.0
CTR_SECONDS = 120.0
# The CRI plugins want CNI and pull a pause image; tests that need them pass cri=True.
CRI_PLUGINS = (
    "io.containerd.grpc.v1.cri",
    "io.containerd.cri.v1.images",
    "io.containerd.cri.v1.runtime",
)

# On a cgroup v1 host every `ctr` would warn on stderr, where tests look for the shim's words.
QUIET = {"CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS": "1"}

CONFIG = """\
version = {version}
root = "{base}/root"
state = "{base}/state"
disabled_plugins = [{disabled}]

[grpc]
address = "{base}/c.sock"

[ttrpc]
address = "{base}/c.sock.ttrpc"

[debug]
level = "debug"

[plugins."io.containerd.internal.v1.opt"]
path = "{base}/opt"

[plugins."io.containerd.nri.v1.nri"]
disable = true
{extra}
"""


class ContainerdError(Exception):
    """The daemon or `ctr` did not do what was wanted; the message has their own words."""


class PrivateContainerd:
    """A running containerd, as a context manager.

    Args:
        bin_dir: The folder of `containerd`, `ctr` and the runc shim (`tools/build.sh` prints it).
        base_dir: Where root, state, sockets and log go; made below /tmp if not given.
        env: Environment variables for the daemon, and so for the shims that it starts.
        path_prepend: Folders that come first on its PATH: where our own shim is.
        cri: Whether the CRI plugins run.
        extra_config: TOML appended to the configuration; may be changed until it starts.

    """

    def __init__(
        self,
        bin_dir: Path,
        base_dir: Path | None = None,
        env: Mapping[str, str] | None = None,
        path_prepend: Sequence[Path] = (),
        *,
        cri: bool = False,
        extra_config: str = "",
    ) -> None:
        self.bin_dir = bin_dir
        self.base_dir = base_dir or Path(tempfile.mkdtemp(prefix="sw-", dir=SHORT_BASE))
        self.address = self.base_dir / "c.sock"
        self.log_path = self.base_dir / "containerd.log"
        self.is_v1 = "containerd v1." in _version(bin_dir)
        self._cri = cri
        self.extra_config = extra_config
        path = os.pathsep.join(map(str, (*path_prepend, bin_dir, os.environ["PATH"])))
        self._env = {**os.environ, **(env or {}), **QUIET, "PATH": path}
        self._daemon: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start the daemon and wait until it answers."""
        self.base_dir.mkdir(parents=True, exist_ok=True)
        self.base_dir.chmod(0o711)  # a user namespace's root passes through
        self._write_config()
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Undo everything, also after a failed test."""
        self.stop()

    @property
    def pid(self) -> int:
        """The daemon's process id."""
        if self._daemon is None:
            message = "wanted a running containerd, found none. Use it inside its `with` block"
            raise ContainerdError(message)
        return self._daemon.pid

    def ctr(
        self,
        *args: str | Path,
        check: bool = True,
        namespace: str = "default",
        timeout: float = CTR_SECONDS,
    ) -> subprocess.CompletedProcess[str]:
        """Run `ctr`; with *check*, a failure is a ContainerdError with its words."""
        command = [*self._ctr_command(), "--namespace", namespace, *args]
        done = subprocess.run(
            command, env=self._env, capture_output=True, text=True, timeout=timeout, check=False
        )
        if check and done.returncode != 0:
            words = f"{done.stderr.strip()}\n{self.log_tail()}"
            message = f"`ctr {' '.join(map(str, args))}` failed with {done.returncode}: {words}"
            raise ContainerdError(message)
        return done

    def popen_ctr(self, *args: str, namespace: str = "default") -> "subprocess.Popen[str]":
        """Start a `ctr` that goes on, such as `ctr events`; the caller ends it."""
        command = [*self._ctr_command(), "--namespace", namespace, *args]
        return subprocess.Popen(
            command, env=self._env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def namespaces(self) -> list[str]:
        """Return every namespace that exists now."""
        return self.ctr("namespaces", "ls", "--quiet").stdout.split()

    def restart(
        self,
        how: signal.Signals = signal.SIGTERM,
        *,
        down: float = 0.0,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> None:
        """End the daemon with a signal, do something, leave it down for a while, and start it again."""
        self._end_daemon(how)
        meanwhile()
        time.sleep(down)
        self._start()

    def stop(self) -> None:
        """Remove tasks, containers, processes, mounts and files; safe to call twice."""
        if self._answers():
            self._remove_all_objects()
        self._end_daemon(signal.SIGTERM)
        self._end_leftovers()
        for mount in reversed(mounts_below(self.base_dir)):
            subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)
        shutil.rmtree(self.base_dir, ignore_errors=True)

    def log_tail(self, lines: int = 20) -> str:
        """Return the last words of the daemon."""
        with contextlib.suppress(FileNotFoundError):
            return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])
        return ""

    def _ctr_command(self) -> list[str | Path]:
        return [self.bin_dir / "ctr", "--address", self.address]

    def _write_config(self) -> None:
        disabled = () if self._cri else CRI_PLUGINS
        text = CONFIG.format(
            version=2 if self.is_v1 else 3,  # 1.7 knows no version 3
            base=self.base_dir,
            disabled=", ".join(f'"{name}"' for name in disabled),
            extra=self.extra_config,
        )
        (self.base_dir / "config.toml").write_text(text)

    def _start(self) -> None:
        config = self.base_dir / "config.toml"
        with self.log_path.open("ab") as log:
            self._daemon = subprocess.Popen(
                [self.bin_dir / "containerd", "--config", config],
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if not self._is_running() or time.monotonic() > deadline:
                message = (
                    f"wanted containerd to answer on {self.address} within {START_SECONDS:.0f} s, "
                    f"found this in its log:\n{self.log_tail()}"
                )
                raise ContainerdError(message)
            time.sleep(0.05)

    def _is_running(self) -> bool:
        return self._daemon is not None and self._daemon.poll() is None

    def _answers(self) -> bool:
        if not self._is_running() or not self.address.exists():
            return False
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.ctr("version", check=False, timeout=5.0).returncode == 0
        return False

    def _end_daemon(self, how: signal.Signals) -> None:
        if self._daemon is None:
            return
        self._daemon.send_signal(how)
        try:
            self._daemon.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._daemon.kill()
            self._daemon.wait()
        self._daemon = None

    def _remove_all_objects(self) -> None:
        # A shim that hangs must not keep the rest from being cleaned.
        with contextlib.suppress(subprocess.TimeoutExpired, ContainerdError):
            for namespace in self.namespaces():
                self._remove_objects(namespace)

    def _remove_objects(self, namespace: str) -> None:
        def run(*args: str) -> str:
            return self.ctr(*args, namespace=namespace, check=False, timeout=15.0).stdout

        for task in run("tasks", "ls", "--quiet").split():
            run("tasks", "rm", "--force", task)
        for container in run("containers", "ls", "--quiet").split():
            run("containers", "rm", container)

    def _end_leftovers(self) -> None:
        for pid in processes_of(self.base_dir):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _version(bin_dir: Path) -> str:
    """`containerd --version`, its module's path left out: "containerd v1.7.35"."""
    done = subprocess.run([bin_dir / "containerd", "--version"], capture_output=True, text=True, check=True)
    said = done.stdout.split()
    return f"{said[0]} {said[2]}"


def mounts_below(folder: Path) -> list[str]:
    """Return the mount points at or below *folder*, in the order they were mounted."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [line.split()[4].encode().decode("unicode_escape") for line in lines]
    return [point for point in points if Path(point).is_relative_to(folder)]


def processes_of(folder: Path) -> Iterator[int]:
    """Yield the processes that name *folder* in their arguments or have their root below it.

    A shim carries `-address <folder>/c.sock`; a container's processes have a root filesystem there.
    """
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            argv = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            named = any(f"{folder}/" in argument for argument in argv)
            if named or (entry / "root").readlink().is_relative_to(folder):
                yield int(entry.name)
