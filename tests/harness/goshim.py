"""A real Go ttrpc peer: containerd's own runc shim, started without containerd, ended by pid.

Knows: the shim's command line, and how `start` answers. Must not know: our shim.
"""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

SERVICE = "containerd.task.v3.Task"  # what the runc shim of containerd 2.x serves


@contextlib.contextmanager
def running(bin_dir: Path, bundle: Path, container_id: str = "go1") -> Iterator[Path]:
    """A runc shim that serves in *bundle*; yields the path of its socket."""
    (bundle / "config.json").write_text('{"ociVersion":"1.0.2","annotations":{}}')
    os.mkfifo(bundle / "log")
    log = os.open(bundle / "log", os.O_RDWR)
    path = Path(_start(bin_dir, bundle, container_id))
    try:
        yield path
    finally:
        os.close(log)
        _end(bundle, container_id)
        path.unlink(missing_ok=True)


def _start(bin_dir: Path, bundle: Path, container_id: str) -> str:
    words = ["-namespace", "contract", "-address", str(bundle / "c.sock"), "-publish-binary", "/bin/true"]
    env = {"TTRPC_ADDRESS": str(bundle / "none"), "MAX_SHIM_VERSION": "2", "PATH": os.environ["PATH"]}
    argv = [str(bin_dir / "containerd-shim-runc-v2"), *words, "-id", container_id, "start"]
    done = subprocess.run(
        argv, cwd=bundle, env=env, stdin=subprocess.DEVNULL, capture_output=True, check=True
    )
    address: str = json.loads(done.stdout)["address"]
    return address.removeprefix("unix://")


def _end(bundle: Path, container_id: str) -> None:
    """Ends the one process whose command line names our bundle's address and id."""
    wanted = [b"-id", container_id.encode(), b"-address", str(bundle / "c.sock").encode()]
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = entry.read_bytes().split(b"\0")
            if b"shim-runc" in words[0] and all(word in words for word in wanted):
                os.kill(int(entry.parent.name), signal.SIGKILL)
