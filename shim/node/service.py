"""The node's containerd as a service: restarting it without ending a pod, asking it, and our own unit.

Knows: systemd's and ctr's command lines. Must not know: what is installed. Laws: a restart that would end
the shims with containerd (any KillMode but `process`) is refused before anything is changed; after a restart
containerd is waited for.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shim.errors import FailedPrecondition, Unavailable
from shim.guest.spawn import SEARCH_PATH
from shim.node.files import Root
from shim.node.layouts import Layout

BOOTED = "/run/systemd/system"  # sd_booted(3)
UNIT = "spinwheel-zygote.service"
CALL_SECONDS, RESTART_SECONDS = 120.0, 180.0


@dataclass(frozen=True, slots=True)
class Containerd:
    """A containerd that can be asked and restarted."""

    address: str
    ctr_path: str
    restart_words: tuple[str, ...]

    def ctr(self, *words: str, check: bool = True, timeout: float = CALL_SECONDS) -> str:
        """What `ctr` prints; with `check`, raises Unavailable with its own words when it fails."""
        return call([self.ctr_path, "--address", self.address, *words], check=check, timeout=timeout)

    def version(self) -> str:
        """The running daemon's version; raises Unavailable."""
        server = self.ctr("version", timeout=10.0).partition("Server:")[2]
        found = (line.split()[1] for line in server.splitlines() if line.strip().startswith("Version:"))
        return next(found, "").removeprefix("v")

    def restart(self) -> None:
        """Restarts it and waits until it answers; raises Unavailable."""
        call(self.restart_words, timeout=RESTART_SECONDS)
        deadline = time.monotonic() + RESTART_SECONDS
        while True:
            try:
                self.version()
            except Unavailable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
            else:
                return


def call(argv: Sequence[str], *, check: bool = True, timeout: float = CALL_SECONDS) -> str:
    """Standard output of a program; raises Unavailable."""
    words = " ".join(argv)
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        message = f"`{words}`: {error}"
        raise Unavailable(message) from error
    if check and done.returncode:
        message = f"`{words}` failed with {done.returncode}: {done.stderr.strip() or done.stdout.strip()}"
        raise Unavailable(message)
    return done.stdout


def program(layout: Layout, name: str) -> str:
    """The path of one of containerd's programs; raises FailedPrecondition."""
    path = shutil.which(name, path=f"{layout.programs}:{SEARCH_PATH}" if layout.programs else SEARCH_PATH)
    if path is None:
        folders = f"{layout.programs} or {SEARCH_PATH}" if layout.programs else SEARCH_PATH
        message = f"wanted {name}, found none in {folders}. Name its folder: --programs DIR"
        raise FailedPrecondition(message)
    return path


def restart_words(root: Root, layout: Layout, command: str) -> tuple[str, ...]:
    """What restarts containerd and spares its shims; raises FailedPrecondition when nothing does."""
    if command:
        return tuple(shlex.split(command))
    if not root.exists(BOOTED):
        message = (
            "wanted systemd, to restart containerd, found a node that was not booted by it; nothing is "
            "changed. Give what restarts it and spares the shims: --restart-command 'WORDS'"
        )
        raise FailedPrecondition(message)
    unit = _active(layout.services)
    mode = call(["systemctl", "show", "--property=KillMode", "--value", unit]).strip()
    if mode != "process":
        message = (
            f"{unit} has KillMode={mode}: a restart would end every pod; nothing is changed. Set "
            f"KillMode=process in a drop-in (`systemctl edit {unit}`), then run this again"
        )
        raise FailedPrecondition(message)
    return ("systemctl", "restart", unit)


def _active(services: Sequence[str]) -> str:
    for unit in services:
        if call(["systemctl", "is-active", unit], check=False).strip() == "active":
            return unit
    message = (
        f"wanted a running {' or '.join(services)}, found none; nothing is changed. Start it, or name the "
        "unit: --service UNIT"
    )
    raise FailedPrecondition(message)


def unit_text(prefix: str, address: str) -> str:
    """The zygote's unit. It forks into containerd's cgroup, so stopping it ends nothing but itself."""
    return f"""\
[Unit]
Description=spinwheel's preloaded shim (docs/adr/0004 of spinwheel)
After=containerd.service k3s.service k3s-agent.service rke2-server.service rke2-agent.service

[Service]
ExecStart={prefix}/current/bin/spinwheel-shim -address {address} zygote
KillMode=process
Restart=on-failure
OOMScoreAdjust=-999

[Install]
WantedBy=multi-user.target
"""


def reload_units(verb: str) -> None:
    """Tells systemd of our unit, then starts, restarts or stops it; raises Unavailable."""
    if verb == "stop":
        call(["systemctl", "stop", UNIT], check=False)
    call(["systemctl", "daemon-reload"])
    if verb != "stop":
        call(["systemctl", verb, UNIT])


def using(folder: Path, proc: Path = Path("/proc")) -> list[int]:
    """The processes that have files below `folder` mapped, but for this one."""
    return [
        pid for pid in _pids(proc) if pid != os.getpid() and f"{folder}/" in _text(proc / str(pid) / "maps")
    ]


def is_zygote(pid: int, proc: Path = Path("/proc")) -> bool:
    """Whether a process says that it is one."""
    return _text(proc / str(pid) / "cmdline").startswith("spinwheel-zygote")


def _pids(proc: Path) -> list[int]:
    return [int(entry.name) for entry in proc.iterdir() if entry.name.isdigit()]


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""
