"""What the operator's runtime configuration grants to one app: the file found, read and cut to the app.

Laws: in a container the file is one that the pod mounted, never one of the image's (faults.md A17), and is
opened inside its volume, whatever links the volume holds; a label that a component asks for and nobody
configured ends the start (features.md H89); what no component asked for does not reach the host.
"""

from __future__ import annotations

import ctypes
import os
import posixpath
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from shim.errors import InvalidArgument
from shim.image.app import App, Component
from shim.image.manifest import shown
from shim.manifest.document import MAX_BYTES
from shim.manifest.runtime_config import RuntimeConfig, defaults, read

IN_CONTAINER = "/runtime-config.toml"  # where Spin's shim and operator put it (S91, P43)
FILE_VARIABLE = "RUNTIME_CONFIG_FILE"  # as `spin up` has it (H112): a path inside the container
OPENAT2 = 437  # on every architecture
RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS = 0x10, 0x02


def in_container(spec: Mapping[str, Any], env: Mapping[str, str]) -> RuntimeConfig:
    """The configuration that a pod mounted, or the defaults; raises BadManifest, InvalidArgument."""
    named = env.get(FILE_VARIABLE)
    path = posixpath.normpath(posixpath.join("/", named or IN_CONTAINER))
    descriptor = _open_mounted(spec.get("mounts") or [], path)
    if descriptor is not None:
        return read(_text(descriptor, path), path, "/")
    if named:
        message = (
            f"{FILE_VARIABLE} names {shown(named)}, which no volume of the container holds; mount it there"
        )
        raise InvalidArgument(message)
    return defaults("/")


def from_file(path: Path | None, home: Path) -> RuntimeConfig:
    """The configuration in `path`, for an app in the folder `home`; raises BadManifest, InvalidArgument."""
    if path is None:
        return defaults(str(home.resolve()))
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        message = f"runtime configuration: wanted the file {path}, found: {error.strerror}"
        raise InvalidArgument(message) from error
    return read(_text(descriptor, str(path)), str(path.resolve()), str(home.resolve()))


def document(app: App, config: RuntimeConfig) -> dict[str, Any]:
    """The plan's section `runtime`; raises InvalidArgument for a label that is not configured."""
    return {
        "file": config.file or None,
        "key_value_stores": _wanted(app, "stores", config.stores, "key_value_store"),
        "sqlite_databases": _wanted(app, "databases", config.databases, "sqlite_database"),
        "llm_compute": config.llm if any(component.models for component in app.components) else None,
    }


def _wanted(
    app: App, kind: str, configured: Mapping[str, Mapping[str, Any]], table: str
) -> dict[str, Mapping[str, Any]]:
    found = {}
    for component in app.components:
        for label in _labels(component, kind):
            if label not in configured:
                message = (
                    f"component {component.id} wants the {table} {shown(label)}, which is not configured; "
                    f"add [{table}.{label}] to the runtime configuration"
                )
                raise InvalidArgument(message)
            found[label] = configured[label]
    return found


def _labels(component: Component, kind: str) -> tuple[str, ...]:
    labels: tuple[str, ...] = getattr(component, kind)
    return labels


def _open_mounted(mounts: Iterable[Mapping[str, Any]], path: str) -> int | None:
    """A descriptor of what the innermost bind mount over `path` has there; None when there is nothing."""
    wanted = PurePosixPath(path)
    binds = [
        (PurePosixPath(posixpath.normpath(mount["destination"])), mount["source"])
        for mount in mounts
        if mount.get("type") == "bind" and mount.get("source") and mount.get("destination")
    ]
    over = [bind for bind in binds if wanted.is_relative_to(bind[0])]
    if not over:
        return None
    destination, source = max(over, key=lambda bind: len(bind[0].parts))
    return _open_below(source, str(wanted.relative_to(destination)))


def _open_below(source: str, rest: str) -> int | None:
    try:
        if rest == ".":
            return os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        folder = os.open(source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    how = (ctypes.c_uint64 * 3)(
        os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
    )
    try:
        found = ctypes.CDLL(None).syscall(OPENAT2, folder, rest.encode(), how, ctypes.sizeof(how))
    finally:
        os.close(folder)
    return found if found >= 0 else None


def _text(descriptor: int, path: str) -> str:
    """All of a regular file of UTF-8; closes the descriptor."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        message = f"{path}: wanted a file, found something else; mount the file itself (subPath)"
        raise InvalidArgument(message)
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(MAX_BYTES + 1)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        message = f"{path}: wanted TOML in UTF-8, found byte {error.start} that is not"
        raise InvalidArgument(message) from error
