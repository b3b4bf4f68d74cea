"""`spinwheel doctor`: would an app start on this node? It looks and changes nothing.

Knows what a start needs of the node, and the step that mends each lack. Laws: every check is made, whatever
the others say; a check is one line with what was found; the exit code is 1 when one would stop an app.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from shim.cgroup import ROOT, is_v2_host
from shim.cli import checkup
from shim.cli.checkup import Finding
from shim.cli.tables import human_size
from shim.guest import runtime
from shim.guest.spawn import SEARCH_PATH
from shim.node.layouts import SYSTEM_SOCKET, Layout, named
from shim.settings import Settings

LITTLE_SPACE = 256 << 20


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb."""
    parser = verbs.add_parser("doctor", help="check that this node can run apps, and say what to do")
    parser.add_argument("--json", action="store_true", help="print the findings as a JSON list")
    parser.add_argument(
        "--address", type=Path, help=f"containerd's socket (the distribution's, {SYSTEM_SOCKET})"
    )
    parser.add_argument("--config", default="", help="containerd's configuration (the distribution's)")
    parser.add_argument("--programs", default="", help="the folder of containerd's own programs")
    parser.add_argument("--bin-dir", default="", help="the folder on containerd's PATH that has the launcher")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Prints every finding; returns 1 when one of them would stop an app."""
    layout = checkup.layout_of(arguments.config)
    words = {key: value for key in ("programs", "bin_dir") if (value := getattr(arguments, key))}
    layout = replace(layout, **words) if layout else None
    address = arguments.address or Path(layout.address if layout else SYSTEM_SOCKET)
    findings = examine(Settings.from_env(os.environ), address, layout)
    show = _print_json if arguments.json else _print_lines
    show(findings)
    return int(any(finding.todo for finding in findings))


def examine(settings: Settings, address: Path, layout: Layout | None, cgroups: Path = ROOT) -> list[Finding]:
    """All findings, in the order in which a start needs the things."""
    programs = layout or named("")
    runtimes = runtime.installed()
    checks: tuple[Callable[[], Finding], ...] = (
        lambda: checkup.kernel(os.uname().release),
        lambda: containerd(address),
        lambda: checkup.containerd_version(checkup.ask_version(programs, address)),
        lambda: checkup.handler(layout),
        lambda: checkup.launcher(layout),
        lambda: cgroup_layout(cgroups),
        lambda: oci_runtime(settings.oci_runtime, runtimes, cgroups),
        lambda: checkup.native_runtimes(programs, runtimes, cgroups),
        lambda: host_program(settings.host),
        lambda: cache_folder(settings.cache_dir),
        lambda: checkup.sockets(settings),
    )
    return [check() for check in checks]


def containerd(address: Path) -> Finding:
    """Whether something listens on containerd's socket."""
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(address))
    except OSError as error:
        todo = "start containerd, or name its socket with --address"
        return Finding("containerd", f"{address}: {error.strerror or error}", todo)
    return Finding("containerd", f"{address} answers")


def cgroup_layout(root: Path) -> Finding:
    """Whether a cgroup hierarchy is there for containers."""
    if is_v2_host(root):
        return Finding("cgroups", "version 2")
    if (root / "memory").is_dir():
        return Finding("cgroups", "version 1")
    return Finding("cgroups", f"no hierarchy in {root}", f"mount cgroup2 on {root}")


def oci_runtime(wanted: str, installed: list[str], cgroups: Path) -> Finding:
    """Whether there is a runtime that this node's cgroups suit (design.md section 8)."""
    if wanted:
        installed = [path for path in (shutil.which(wanted, path=SEARCH_PATH),) if path]
    if not installed:
        return Finding("OCI runtime", f"no {wanted or 'crun or runc'}", "install crun or runc")
    usable = [path for path in installed if runtime.suits(path, cgroups)]
    if not usable:
        todo = "install runc, or mount the hugetlb hierarchy, which crun wants on cgroup version 1"
        return Finding("OCI runtime", ", ".join(installed), todo)
    return Finding("OCI runtime", usable[0])


def host_program(path: Path) -> Finding:
    """Whether the data plane's program is there."""
    if os.access(path, os.X_OK):
        return Finding("spinwheel-host", str(path))
    return Finding("spinwheel-host", f"{path} cannot be executed", "install the spinwheel wheel again")


def cache_folder(folder: Path) -> Finding:
    """Whether compiled code can be written, now or once the folder is made."""
    there, writable = checkup.nearest(folder)
    if writable:
        free = shutil.disk_usage(there).free
        todo = "free some space: compiled code has tens of MiB a component" if free < LITTLE_SPACE else ""
        return Finding("cache", f"{folder}, {human_size(free)} free", todo)
    todo = "run as root, or set SPINWHEEL_CACHE_DIR in containerd's unit to a folder that can be written"
    return Finding("cache", f"{there} cannot be written", todo)


def _print_json(findings: list[Finding]) -> None:
    print(json.dumps([asdict(finding) for finding in findings], indent=2))


def _print_lines(findings: list[Finding]) -> None:
    for finding in findings:
        print(f"{'FAIL' if finding.todo else 'ok':4}  {finding.name}: {finding.found}")
        if finding.todo:
            print(f"      to do: {finding.todo}")
