"""A task's bundle folder: containerd's config.json, and the files we keep beside it (wire.md 2.6).

Laws: `address` and `spinwheel.json` are replaced whole (temp file, rename); config.json is containerd's and
is never changed: what the OCI runtime gets is written to `oci/`; nothing is written below rootfs/.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shim.errors import InvalidArgument

GROUP_ANNOTATIONS = ("io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id")
KIND_ANNOTATION = "io.kubernetes.cri.container-type"
RECORD = "spinwheel.json"


@dataclass(frozen=True, slots=True)
class Record:
    """What `delete` needs to know when no pod server is left to ask."""

    binary: str
    root: str
    systemd: bool


class Bundle:
    """The folder at `path`; every method does its I/O at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rootfs = path / "rootfs"
        self.oci = path / "oci"

    def config(self) -> dict[str, Any]:
        """The OCI spec containerd wrote; raises InvalidArgument when it is missing or not JSON."""
        file = self.path / "config.json"
        try:
            spec = json.loads(file.read_bytes())
        except (OSError, ValueError) as error:
            message = f"wanted an OCI spec in {file}, found none that can be read: {error}"
            raise InvalidArgument(message) from error
        if not isinstance(spec, dict):
            message = f"wanted an OCI spec in {file}, found {type(spec).__name__}"
            raise InvalidArgument(message)
        return spec

    def write_oci(self, spec: Mapping[str, Any]) -> None:
        """Writes the bundle that the OCI runtime will read."""
        self.oci.mkdir(mode=0o700, exist_ok=True)
        replace(self.oci / "config.json", json.dumps(spec).encode())

    def write_address(self, address: str) -> None:
        """Leaves the socket's URI for a containerd that restarts."""
        replace(self.path / "address", address.encode())

    def write_record(self, record: Record) -> None:
        """Leaves what `delete` will need."""
        replace(self.path / RECORD, json.dumps(asdict(record)).encode())

    def record(self) -> Record | None:
        """What Create left, or None when it did not get that far."""
        try:
            return Record(**json.loads((self.path / RECORD).read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def pid(self, name: str = "init.pid") -> int | None:
        """A pid as the OCI runtime wrote it, the init's or an exec's, or None."""
        try:
            return int((self.path / name).read_text())
        except (OSError, ValueError):
            return None

    def clear(self) -> None:
        """Removes what we wrote, and strays below an unmounted rootfs that would block containerd.

        Never fails: containerd may be removing the same folder, and another `delete` may run beside us.
        """
        for folder in (self.oci, self.path / "files"):
            shutil.rmtree(folder, ignore_errors=True)
        for name in (RECORD, "init.pid", "timeline.json"):
            remove(self.path / name)
        with contextlib.suppress(OSError):
            for pattern in ("log-*.json", "exec-*"):
                for path in list(self.path.glob(pattern)):
                    remove(path)
            if self.rootfs.is_dir() and not os.path.ismount(self.rootfs):
                for stray in list(self.rootfs.iterdir()):
                    remove(stray)


def notes_of(spec: Mapping[str, Any]) -> Mapping[str, str]:
    """The spec's annotations, empty when there are none."""
    found = spec.get("annotations")
    return found if isinstance(found, dict) else {}


def group_of(spec: Mapping[str, Any], container_id: str) -> str:
    """The id of the pod that shares one server process (wire.md 2.8)."""
    notes = notes_of(spec)
    return next((notes[key] for key in GROUP_ANNOTATIONS if notes.get(key)), container_id)


def remove(path: Path) -> None:
    """Removes a file or a folder, as far as it is there and can be removed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        path.unlink()


def replace(path: Path, data: bytes) -> None:
    """Writes `data` to `path` so that a reader sees the old file or the new one."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(data)
        scratch.rename(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
