"""What a folder is, to the last bit that an uninstallation must give back."""

import os
import stat
from pathlib import Path


def snapshot(*folders: Path) -> dict[str, tuple[object, ...]]:
    """Path -> mode, owner, and bytes or link target; of folders and everything in them."""
    return {str(path): _fact(path) for folder in folders for path in (folder, *folder.rglob("*"))}


def _fact(path: Path) -> tuple[object, ...]:
    status = path.lstat()
    content: object = None
    if stat.S_ISREG(status.st_mode):
        content = path.read_bytes()
    elif stat.S_ISLNK(status.st_mode):
        content = os.readlink(path)
    return oct(status.st_mode), status.st_uid, status.st_gid, content


def differences(before: dict[str, tuple[object, ...]], after: dict[str, tuple[object, ...]]) -> list[str]:
    """The paths that came, went or changed."""
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
