"""A component's static files as a folder of the cache, shared read-only by every pod that has the same.

Laws: the folder's name comes from the paths and digests of its files, so equal trees are one; every byte is
verified on its way in; archives are read as streams, regular files only, found again by their own digest,
within bounds (faults.md A8, A9); paths were checked in image.app and are created one by one, never followed.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, cast

from cache.store import DirectoryStore, StoreUnusable
from shim.errors import Unavailable
from shim.guest.screen import check_not_compiled
from shim.image.app import Component, StaticFile
from shim.image.artifact import MAX_DATA, Artifact, BlobSource, copy_verified
from shim.image.manifest import BadArtifact, Descriptor

KIND = "files"
MAX_ENTRIES = 20_000
MAX_UNPACKED = 512 << 20
MAX_TREE = 2 << 30
MAX_RATIO = 100
CHUNK = 1 << 20

log = logging.getLogger(__name__)


def tree_of(
    store: DirectoryStore, source: BlobSource, artifact: Artifact, component: Component, spare: Path
) -> Path | None:
    """The folder with the component's files, made if need be; None when it has none.

    A cache that cannot be written costs the sharing and not the start: the tree is then made at `spare`.
    Raises BadArtifact, and Unavailable when there is no room there either.
    """
    if not component.files:
        return None
    check_size(artifact, component)
    name = tree_name(component.files)
    path = store.path(KIND, name)
    if path.is_dir():
        return path
    try:
        return store.commit(KIND, name, lambda folder: _build(folder, source, artifact, component))
    except (StoreUnusable, OSError) as error:
        log.warning("the cache cannot be used, placing files for this start only: %s", error)
    return _build_spare(spare, source, artifact, component)


def _build_spare(spare: Path, source: BlobSource, artifact: Artifact, component: Component) -> Path:
    try:
        spare.mkdir(parents=True)
        _build(spare, source, artifact, component)
    except OSError as error:
        message = f"component {component.id}: cannot place its files in {spare}: {error.strerror}"
        raise Unavailable(message) from error
    return spare


def check_size(artifact: Artifact, component: Component) -> None:
    """Raises BadArtifact for a tree of more files or bytes than one may have, before anything is written."""
    sizes = (
        artifact.data[file.content.digest].size if file.content.digest in artifact.data else 0
        for file in component.files
        if file.content.inline is None
    )
    total = sum(sizes)
    if len(component.files) > MAX_ENTRIES or total > MAX_TREE:
        message = (
            f"component {component.id}: {len(component.files)} files of {total} bytes; "
            f"the limits are {MAX_ENTRIES} and {MAX_TREE}"
        )
        raise BadArtifact(message)


def tree_name(files: tuple[StaticFile, ...]) -> str:
    """64 hex digits for a set of files, whatever their order."""
    rows = sorted((file.path, file.content.digest) for file in files)
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _build(folder: Path, source: BlobSource, artifact: Artifact, component: Component) -> None:
    with _unpacked(source, artifact, component) as archived:
        for file in component.files:
            _place(folder, file, source, artifact, archived)


def _place(folder: Path, file: StaticFile, source: BlobSource, artifact: Artifact, archived: Path) -> None:
    target = folder / file.path
    target.parent.mkdir(parents=True, exist_ok=True)
    with _create(target) as out:
        if file.content.inline is not None:
            out.write(file.content.inline)
        elif file.content.digest in artifact.data:
            copy_verified(source, artifact.data[file.content.digest], out, MAX_DATA)
        else:
            _copy_from_archive(archived, file, artifact, out)
    check_not_compiled(target, file.path)


def _create(path: Path) -> BinaryIO:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return cast("BinaryIO", os.fdopen(os.open(path, flags, 0o444), "wb"))


def _copy_from_archive(archived: Path, file: StaticFile, artifact: Artifact, out: BinaryIO) -> None:
    try:
        with (archived / file.content.digest.removeprefix("sha256:")).open("rb") as found:
            shutil.copyfileobj(found, out, CHUNK)
    except FileNotFoundError as error:
        message = (
            f"file {file.path}: its content {file.content.digest} is in none of the "
            f"{len(artifact.archives)} archives of this image"
        )
        raise BadArtifact(message) from error


@contextmanager
def _unpacked(source: BlobSource, artifact: Artifact, component: Component) -> Iterator[Path]:
    """A scratch folder with the archives' regular files, each named by its own digest."""
    wanted = {
        file.content.digest
        for file in component.files
        if file.content.inline is None and file.content.digest not in artifact.data
    }
    with tempfile.TemporaryDirectory(prefix="spinwheel-") as scratch:
        for archive in artifact.archives if wanted else ():
            unpack(source, archive, Path(scratch), wanted)
        yield Path(scratch)


def unpack(source: BlobSource, archive: Descriptor, folder: Path, wanted: set[str]) -> None:
    """Stores those regular files of `archive` whose digest is wanted; raises BadArtifact."""
    with tempfile.TemporaryFile() as packed:
        copy_verified(source, archive, packed, MAX_DATA)
        packed.seek(0)
        budget = min(MAX_UNPACKED, archive.size * MAX_RATIO)
        try:
            with gzip.open(packed) as raw:
                bounded = cast("IO[bytes]", Bounded(raw, budget))
                with tarfile.open(fileobj=bounded, mode="r|") as tar:
                    _unpack_entries(tar, folder, wanted)
        except (tarfile.TarError, OSError, EOFError, ValueError, zlib.error) as error:
            message = f"archive {archive.digest}: not a readable tar+gzip: {error}"
            raise BadArtifact(message) from error


class Bounded:
    """A stream that ends in an error after so many bytes.

    Around the unpacked stream and not the entries, because tarfile reads a header of any claimed size
    before it shows an entry; and in small steps, so that what is read at once is bounded too.
    """

    def __init__(self, source: gzip.GzipFile, left: int) -> None:
        self._source = source
        self._left = left

    def read(self, size: int) -> bytes:
        """At most `size` bytes; raises BadArtifact past the limit."""
        data = self._source.read(size)
        self._left -= len(data)
        if self._left < 0:
            message = f"archive: unpacks to more than {MAX_UNPACKED} bytes or {MAX_RATIO} x packed"
            raise BadArtifact(message)
        return data


def _unpack_entries(tar: tarfile.TarFile, folder: Path, wanted: set[str]) -> None:
    for count, entry in enumerate(tar):
        if count >= MAX_ENTRIES:
            message = f"archive: more than {MAX_ENTRIES} entries"
            raise BadArtifact(message)
        if entry.isreg():
            _keep_if_wanted(tar.extractfile(entry), folder, wanted)


def _keep_if_wanted(content: IO[bytes] | None, folder: Path, wanted: set[str]) -> None:
    if content is None:
        return
    digest = hashlib.sha256()
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as scratch:
        while chunk := content.read(CHUNK):
            digest.update(chunk)
            scratch.write(chunk)
    if f"sha256:{digest.hexdigest()}" in wanted:
        Path(scratch.name).rename(folder / digest.hexdigest())
    else:
        Path(scratch.name).unlink()
