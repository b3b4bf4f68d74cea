"""What `spinwheel doctor` asks of the kernel, of containerd and of each OCI runtime.

Knows which versions work and why, and where our handler has to stand. Laws: looks and changes nothing; what
cannot be looked at is a finding too; a finding says what was found and, where an app would not start, the
step.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shim.cgroup import ROOT
from shim.errors import ShimError
from shim.guest import runtime
from shim.guest.spawn import SEARCH_PATH
from shim.node import edit, service
from shim.node.environment import PROGRAM
from shim.node.files import Root
from shim.node.layouts import Layout, detect, named
from shim.node.service import Containerd
from shim.settings import Settings

OLDEST_KERNEL = (5, 4)  # waitid() on a pidfd
INSTALL = "run `spinwheel node install`"


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check; `todo` is empty where all is well."""

    name: str
    found: str
    todo: str = ""


def kernel(release: str) -> Finding:
    """Whether the kernel has what the shim relies on."""
    found = re.match(r"(\d+)\.(\d+)", release)
    if found and (int(found[1]), int(found[2])) < OLDEST_KERNEL:
        wanted = ".".join(map(str, OLDEST_KERNEL))
        return Finding("kernel", release, f"upgrade it to {wanted} or newer, which can wait for a pidfd")
    return Finding("kernel", release)


def layout_of(config: str, root: Root = Root()) -> Layout | None:  # noqa: B008  # frozen
    """The node's layout; None where it is not known."""
    if config:
        return named(config)
    try:
        return detect(root)
    except ShimError:
        return None


def containerd_version(version: str) -> Finding:
    """Whether this containerd can unpack Spin artifacts (design.md section 8)."""
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    numbers = tuple(map(int, found.groups())) if found else ()
    if not found:
        return Finding(
            "containerd version", version or "none", "start containerd, and see that ctr reaches it"
        )
    if numbers < (1, 6, 25) or (1, 7) <= numbers < (1, 7, 7):
        todo = (
            'upgrade to 1.6.25, 1.7.7 or newer: this one says "mismatched image rootfs and manifest layers"'
        )
        return Finding("containerd version", version, todo)
    return Finding("containerd version", version)


def ask_version(layout: Layout, address: Path) -> str:
    """The running containerd's version, by its own ctr; the reason in its place where that fails."""
    try:
        return Containerd(str(address), service.program(layout, "ctr"), ()).version()
    except ShimError as error:
        return str(error)


def handler(layout: Layout | None, root: Root = Root()) -> Finding:  # noqa: B008  # frozen
    """Whether a runtime handler of ours stands in the table that this version of the format reads."""
    name = "containerd configuration"
    if layout is None:
        return Finding(name, "of an unknown distribution: not looked at", "name the file with --config")
    try:
        text = root.read(layout.config)
        own = edit.parsed(text or "", layout.config)
    except ShimError as error:
        return Finding(name, str(error), "repair it; `containerd config dump` says where")
    if text is None:
        return Finding(name, f"no {layout.config}", f"{INSTALL}, or name the file with --config")
    version, whole = int(own.get("version", 1)), _dumped(layout, root) or own
    known = edit.handlers(whole, int(whole.get("version", 1)))
    if ours := [key for key, kind in known.items() if kind == edit.RUNTIME]:
        return Finding(name, f"{layout.config}, version {version}: handler {', '.join(ours)}")
    other = [each for each in edit.KNOWN_VERSIONS if edit.RUNTIME in edit.handlers(own, each).values()]
    if other:
        found = (
            f"{layout.config} is of version {version}, but our handler is in a table of version {other[0]}"
        )
        return Finding(name, found, f"move it into the table of version {version}, or {INSTALL}")
    return Finding(name, f"{layout.config}, version {version}: no handler of type {edit.RUNTIME}", INSTALL)


def _dumped(layout: Layout, root: Root) -> dict[str, Any]:
    """The configuration with all that it imports, as containerd reads it; empty where that cannot be run."""
    if not root.is_here:
        return {}
    try:
        argv = [service.program(layout, "containerd"), "--config", layout.config, "config", "dump"]
        return tomllib.loads(service.call(argv, timeout=10.0))
    except (ShimError, tomllib.TOMLDecodeError):
        return {}


def launcher(layout: Layout | None) -> Finding:
    """Whether containerd would find our launcher by the runtime's name."""
    folders = f"{layout.bin_dir}:{SEARCH_PATH}" if layout and layout.bin_dir else SEARCH_PATH
    path = shutil.which(PROGRAM, path=folders)
    if path is None:
        return Finding("launcher", f"no {PROGRAM} in {folders}", INSTALL)
    return Finding("launcher", f"{path} -> {os.path.realpath(path)}")


def native_runtimes(layout: Layout, paths: list[str], cgroups: Path = ROOT) -> Finding:
    """Which OCI runtimes accept the specs that this containerd writes (design.md section 8).

    Apps run on any that suits the node: their specs are rewritten, and state a version of ours.
    """
    name = "OCI version"
    try:
        wanted = str(json.loads(service.call([service.program(layout, "ctr"), "oci", "spec"]))["ociVersion"])
    except (ShimError, ValueError, KeyError) as error:
        return Finding(name, f"containerd's is not known: {error}", "name the folder of ctr with --programs")
    said = [f"{path} {_release(path)}: {_verdict(path, wanted, cgroups)}" for path in paths]
    found = f"containerd writes {wanted}; {'; '.join(said) or 'no runtime'}"
    if any(runtime.suits(path, cgroups) and runtime.accepts(path, wanted) for path in paths):
        return Finding(name, found)
    return Finding(name, found, "install runc, or a newer crun: pause containers and sidecars need one")


def _verdict(path: str, wanted: str, cgroups: Path) -> str:
    if not runtime.suits(path, cgroups):
        return "wants the hugetlb hierarchy"
    return "accepts it" if runtime.accepts(path, wanted) else "refuses it, and is used for apps only"


def _release(path: str) -> str:
    try:
        words = service.call([path, "--version"], timeout=5.0).split()
    except ShimError:
        return "(does not run)"
    return words[2] if len(words) > 2 else ""


def nearest(folder: Path) -> tuple[Path, bool]:
    """The folder, or the nearest above it that is there; and whether something can be made in it."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return there, there.is_dir() and os.access(there, os.W_OK)


def sockets(settings: Settings) -> Finding:
    """Whether the folders of sockets are root's alone, or can still be made."""
    for folder in (settings.run_dir, settings.socket_dir):
        there, writable = nearest(folder)
        if not writable:
            return Finding(
                "sockets", f"{there} cannot be written", "run as root, and look at its mount and mode"
            )
        if there == folder and stat.S_IMODE(folder.stat().st_mode) & stat.S_IWOTH:
            return Finding("sockets", f"{folder} can be written by all", f"chmod o-w {folder}")
    return Finding("sockets", f"{settings.socket_dir}, {settings.run_dir}")
