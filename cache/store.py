"""The directory store: whole folders that appear at once and never change (design.md section 5).

Laws: an entry is built in a temporary folder of the same file system, made read-only, fsynced, renamed, and
its parent fsynced; after the rename nothing may fail; whoever loses the race to commit uses the winner's
entry; the root and everything in it belong to one user and are closed to all others (faults.md K1, K4).
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

LOST_RACE = (errno.EEXIST, errno.ENOTEMPTY)


class StoreUnusable(Exception):
    """The store cannot be written or does not belong to us; the message says which folder and why."""


class DirectoryStore:
    """Entries below `root`, by kind and name: `<root>/<kind>/<name>/`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __repr__(self) -> str:
        return f"<DirectoryStore {self.root}>"

    def path(self, kind: str, name: str) -> Path:
        """Where an entry is or would be; `kind` and `name` are ours, never taken from an artifact."""
        return self.root / kind / name

    def commit(self, kind: str, name: str, build: Callable[[Path], None]) -> Path:
        """Builds an entry with `build(folder)` and makes it appear; returns its path.

        Raises what `build` raises, with nothing left behind, and StoreUnusable for the disk's failures.
        """
        final = self.path(kind, name)
        scratch = self._scratch(final.parent)
        try:
            build(scratch)
            self._publish(scratch, final)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return final

    def discard(self, kind: str, name: str) -> None:
        """Removes an entry; whoever has it open or mapped keeps it."""
        with tempfile.TemporaryDirectory(dir=self.root, prefix=".gone-", ignore_cleanup_errors=True) as grave:
            try:
                self.path(kind, name).rename(Path(grave) / "entry")
            except FileNotFoundError:
                return

    def remove(self, folder: Path) -> None:
        """Deletes a folder that nobody is to find any more, as far as the disk lets us."""
        shutil.rmtree(folder, ignore_errors=True)

    def private(self, name: str) -> Path:
        """A folder of the store for its own use, made if need be and closed to others."""
        folder = self.root / name
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._check_owner(self.root)
        except OSError as error:
            message = f"cache folder {folder} cannot be made: {error.strerror}"
            raise StoreUnusable(message) from error
        return folder

    def _scratch(self, parent: Path) -> Path:
        self.private(parent.name)
        sweep(parent)
        try:
            return Path(tempfile.mkdtemp(dir=parent, prefix=f".new-{os.getpid()}-"))
        except OSError as error:
            message = f"cache folder {parent} cannot be written: {error.strerror}"
            raise StoreUnusable(message) from error

    def _check_owner(self, folder: Path) -> None:
        status = folder.stat()
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            message = (
                f"cache folder {folder}: wanted one that only uid {os.geteuid()} can write, "
                f"found uid {status.st_uid} and mode {status.st_mode & 0o777:o}"
            )
            raise StoreUnusable(message)

    def _publish(self, scratch: Path, final: Path) -> None:
        try:
            seal(scratch)
            scratch.rename(final)
        except OSError as error:
            if error.errno in LOST_RACE:
                return
            message = f"cache entry {final} cannot be written: {error.strerror}"
            raise StoreUnusable(message) from error
        sync_folder(final.parent)


def sweep(parent: Path) -> None:
    """Removes what builders that died left behind: scratch folders carry their builder's pid."""
    for scratch in parent.glob(".new-*"):
        pid = scratch.name.split("-")[1]
        if not Path("/proc", pid).exists():
            shutil.rmtree(scratch, ignore_errors=True)


def seal(folder: Path) -> None:
    """Makes every file below `folder` read-only and durable."""
    for current, _folders, files in os.walk(folder):
        for name in files:
            seal_file(Path(current, name))
        Path(current).chmod(0o755)
        sync_folder(Path(current))


def seal_file(path: Path) -> None:
    """Read-only for everybody (the folders above keep strangers out), and on disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchmod(descriptor, 0o444)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Makes a folder's entries durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
