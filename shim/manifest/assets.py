"""An app's bytes on this machine: each component's wasm and files, read (features.md O51, O53).

Laws: nothing outside the app's folder is read, links followed; a source that is not here yet names the build
that makes it; a download is compared with its digest before a byte of it is used.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from shim.errors import NotFound, ResourceExhausted
from shim.image.app import is_safe_path
from shim.image.artifact import MAX_DATA, MAX_WASM
from shim.image.manifest import BadArtifact, Descriptor, verified
from shim.manifest.document import BadManifest
from shim.manifest.pack import Assets
from shim.manifest.schema import Component, Manifest, Mount, read

Fetch = Callable[[str, int], bytes]  # URL and most bytes to the content


def load(path: Path, profile: str = "") -> Manifest:
    """The manifest in a file; raises BadManifest, NotFound."""
    try:
        return read(path.read_text(encoding="utf-8"), str(path), profile)
    except OSError as error:
        message = f"wanted Spin's manifest at {path}, found none ({error.strerror}); try -f PATH/spin.toml"
        raise NotFound(message) from error
    except UnicodeDecodeError as error:
        message = f"{path}: wanted UTF-8, found {error}"
        raise BadManifest(message) from error


def gather(manifest: Manifest, root: Path, fetch: Fetch) -> dict[str, Assets]:
    """Every component's bytes; raises NotFound, BadManifest, BadArtifact."""
    root = root.resolve()
    return {
        component.id: Assets(_wasm(component, root, fetch), _files(component, root))
        for component in manifest.components
    }


def _wasm(component: Component, root: Path, fetch: Fetch) -> bytes:
    source = component.source
    if source.url:
        data = fetch(source.url, MAX_WASM)
        return verified(data, Descriptor("application/wasm", source.digest, len(data)))
    if source.package:
        message = (
            f"component {component.id}: packages ({source.package} {source.version}) are not fetched yet; "
            f"run `wkg get {source.package}@{source.version}` and name the file"
        )
        raise BadArtifact(message)
    path = root / source.path
    if not path.is_file():
        hint = "run `spinwheel build`" if component.build else "check its source"
        message = f"component {component.id}: wanted its wasm at {path}, found no file; {hint}"
        raise NotFound(message)
    return _read(path, MAX_WASM)


def _files(component: Component, root: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for mount in component.mounts:
        for guest, path in _placed(mount, root, component.exclude):
            if not is_safe_path(guest):
                message = f"component {component.id}: {guest!r} is no path for a guest; rename the file"
                raise BadManifest(message)
            found[guest] = _read(path, MAX_DATA)
    return found


def _placed(mount: Mount, root: Path, exclude: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    """Guest path and file of everything that one entry of `files` names; raises BadManifest, NotFound."""
    path = root / mount.source
    if mount.destination is not None and path.is_file():
        yield mount.destination.lstrip("/"), _inside(path, root)
        return
    if path.is_file():
        yield mount.source, _inside(path, root)
        return
    pattern = str(path / "**" / "*") if path.is_dir() else str(path)
    if not path.is_dir() and (mount.destination is not None or not any(c in mount.source for c in "*?[")):
        message = f"files: wanted {mount.source} below {root}, found nothing there"
        raise NotFound(message)
    base = path if mount.destination is not None else root
    for name in sorted(glob.glob(pattern, recursive=True, include_hidden=True)):
        file = Path(name)
        if not file.is_file() or _excluded(file, root, exclude):
            continue
        inner = _inside(file, root) and file.relative_to(base).as_posix()
        yield f"{(mount.destination or '').strip('/')}/{inner}".lstrip("/"), file


def _excluded(file: Path, root: Path, exclude: tuple[str, ...]) -> bool:
    return any(fnmatchcase(file.relative_to(root).as_posix(), pattern) for pattern in exclude)


def _inside(path: Path, root: Path) -> Path:
    if not path.resolve().is_relative_to(root):
        message = f"files: {path} is outside the app's folder {root}; copy it there"
        raise BadManifest(message)
    return path


def _read(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        message = f"{path}: more than {limit} bytes"
        raise ResourceExhausted(message)
    return data
