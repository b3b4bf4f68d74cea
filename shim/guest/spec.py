"""containerd's OCI spec, rewritten so that the container's init is our host process; pure.

Laws: namespaces, cgroups, seccomp, user, capabilities and mounts stay as the pod asked; the process's own
environment is cleared to what the host itself reads (secrets travel in the plan); the guest's image brings
neither the program nor its arguments (faults.md R3, A3); the version stated is one that crun 1.8 accepts.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shim.errors import InvalidArgument
from shim.guest.plan import PLAN_FD

OCI_VERSION = "1.0.2"
HOST_PATH = "/.spinwheel/host"
FILES_PATH = "/.spinwheel/files/{index}"
HOST_ENV_PREFIXES = ("SPIN_WASMTIME_", "SPIN_MAX_INSTANCE_COUNT=", "RUST_BACKTRACE")
READ_ONLY = ["bind", "ro", "nosuid", "nodev"]


def rewrite(
    spec: Mapping[str, Any], rootfs: Path, host: Path, trees: Sequence[Path | None]
) -> dict[str, Any]:
    """The spec for the OCI runtime; `trees` are the components' static files, in the app's order.

    Raises InvalidArgument when the spec has no process.
    """
    process = spec.get("process")
    if not isinstance(process, dict):
        message = "config.json: wanted a process, found none"
        raise InvalidArgument(message)
    new = copy.deepcopy(dict(spec))
    new["ociVersion"] = OCI_VERSION
    new["root"] = {**new.get("root", {}), "path": str(rootfs)}
    new["process"].update(
        args=[HOST_PATH, "serve", "--plan-fd", str(PLAN_FD)],
        cwd="/",
        noNewPrivileges=True,
        env=[entry for entry in process.get("env", []) if entry.startswith(HOST_ENV_PREFIXES)],
    )
    new["mounts"] = [*new.get("mounts", []), _bind(host, HOST_PATH, []), *_file_mounts(trees)]
    return new


def restated(spec: Mapping[str, Any], rootfs: Path) -> dict[str, Any]:
    """A native container's spec for a runtime that an operator chose and that refuses its version.

    Nothing but the version it states is another, and the root is absolute because the file moves.
    """
    return {**spec, "ociVersion": OCI_VERSION, "root": {**(spec.get("root") or {}), "path": str(rootfs)}}


def _file_mounts(trees: Sequence[Path | None]) -> list[dict[str, Any]]:
    return [
        _bind(tree, FILES_PATH.format(index=index), ["noexec"])
        for index, tree in enumerate(trees)
        if tree is not None
    ]


def _bind(source: Path, destination: str, options: list[str]) -> dict[str, Any]:
    return {
        "destination": destination,
        "type": "bind",
        "source": str(source),
        "options": READ_ONLY + options,
    }
