"""The node's files below its root, and changes to them that can be taken back.

Knows: files, links, modes. Must not know: containerd. Laws: symlinks of the node are followed inside its
root; a file is replaced whole (rename) and keeps its mode and owner; a change is written to the journal
before it is made, so that a killed installer is undone by `uninstall`; taking a change back never touches
what somebody else has put there since.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath

from shim.errors import FailedPrecondition
from shim.node.edit import without_block

MAX_LINKS = 40  # the kernel's own limit
DIGEST = "sha256:"


@dataclass(frozen=True, slots=True)
class Root:
    """A `Tree` (shim.node.layouts): the node as seen from here."""

    path: Path = Path("/")

    @property
    def is_here(self) -> bool:
        """Whether the node is this very system, whose programs can be run."""
        return self.path == Path("/")

    def at(self, path: str, *, follow: bool = True) -> Path:
        """Where `path` of the node is; its last part is left as it is unless `follow`."""
        done, left, links = self.path, list(PurePosixPath(path).parts[1:]), 0
        while left:
            part = left.pop(0)
            found = done.parent if part == ".." and done != self.path else done / part
            if found.is_symlink() and (left or follow) and links < MAX_LINKS:
                target = PurePosixPath(os.readlink(found))
                links += 1
                done = self.path if target.is_absolute() else done
                left = [each for each in target.parts if each != "/"] + left
            elif part != ".." or done != self.path:
                done = found
        return done

    def exists(self, path: str) -> bool:
        """Whether there is anything at `path`."""
        return bool(path) and self.at(path).exists()

    def read(self, path: str) -> str | None:
        """The text of a file; None when there is none; raises FailedPrecondition when it is not UTF-8."""
        file = self.at(path)
        try:
            return file.read_bytes().decode() if path and file.is_file() else None
        except UnicodeDecodeError as error:
            message = f"{path}: wanted text in UTF-8, found {error}; nothing is changed. Repair it first"
            raise FailedPrecondition(message) from error

    def can_write(self, path: str) -> bool:
        """Whether a file could be made at `path`: the nearest folder that exists is not read-only."""
        there = self.at(path).parent
        while not there.exists():
            there = there.parent
        return there.is_dir() and os.access(there, os.W_OK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One thing that is made, and what taking it back needs.

    `kind` is `folder`, `link` (to `text`), `file` (of `text`, with a copy of what was there in `backup`), or
    `state` (what comes to be there while we are installed goes with us). The journal has a file's digest in
    the place of its text, for a configuration may have secrets in it.
    """

    kind: str
    path: str
    text: str = ""
    backup: str = ""

    @property
    def digest(self) -> str:
        """A file's text, as the journal has it."""
        return self.text if self.text.startswith(DIGEST) else digest_of(self.text)

    def noted(self) -> dict[str, str]:
        """Its fields for the journal."""
        return asdict(self) | ({"text": self.digest} if self.kind == "file" else {})

    def describe(self) -> str:
        """In words for people."""
        match self.kind:
            case "folder":
                return f"folder {self.path}"
            case "link":
                return f"link {self.path} -> {self.text}"
            case "state":
                return f"{self.path}, ours alone"
        return f"file {self.path}" + (f" (before: {self.backup})" if self.backup else "")

    def make(self, root: Root) -> None:
        """Makes it; raises OSError."""
        match self.kind:
            case "folder":
                root.at(self.path).mkdir(mode=0o755)
            case "link":
                link(root.at(self.path, follow=False), self.text)
            case "file":
                self._write(root)

    def _write(self, root: Root) -> None:
        target = root.at(self.path)
        if self.backup:
            copy = root.at(self.backup)
            copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _copy(target, copy)
        write(target, self.text.encode())

    def take_back(self, root: Root) -> str:
        """Undoes it, also where it was made in part or never; returns what was left in place, if anything."""
        match self.kind:
            case "folder":
                with contextlib.suppress(OSError):  # somebody else uses it
                    root.at(self.path).rmdir()
            case "state":
                remove(root.at(self.path, follow=False))
            case "link":
                _unlink(root.at(self.path, follow=False), self.text)
            case "file":
                return self._restore(root)
        return ""

    def _restore(self, root: Root) -> str:
        target, before = root.at(self.path), root.at(self.backup) if self.backup else None
        found = target.read_text(errors="surrogateescape") if target.is_file() else ""
        if digest_of(found) == self.digest:
            if before:
                replace(before, target)
            else:
                target.unlink()
        elif found != (others := without_block(found)):
            write(target, others.encode(errors="surrogateescape"))
            return f"{self.path}: changed by others since; only our lines are gone"
        return ""


@dataclass(slots=True)
class Journal:
    """What was made, in order; kept in a file on the node."""

    root: Root
    file: str
    facts: dict[str, str] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)

    @classmethod
    def load(cls, root: Root, file: str) -> Journal:
        """The journal in `file`, empty when there is none; raises FailedPrecondition for another's file."""
        text = root.read(file)
        if text is None:
            return cls(root, file)
        try:
            document = json.loads(text)
            return cls(root, file, document["facts"], [Change(**each) for each in document["changes"]])
        except (ValueError, TypeError, KeyError) as error:
            message = f"{file}: wanted the journal of an installation, found {error!r}; move it away"
            raise FailedPrecondition(message) from error

    def make(self, changes: Iterable[Change]) -> None:
        """Makes changes, each noted first."""
        for change in changes:
            self.changes.append(change)
            if self.root.at(self.file).parent.is_dir():
                self.save()
            change.make(self.root)

    def take_back(self, down_to: int = 0) -> list[str]:
        """Undoes all but the first `down_to` changes, newest first; returns what was left in place."""
        left = []
        while len(self.changes) > down_to:
            if all(change.kind == "folder" for change in self.changes):
                self.root.at(self.file).unlink(missing_ok=True)  # the last thing in the prefix
            left.append(self.changes[-1].take_back(self.root))
            self.changes.pop()
        if self.changes:
            self.save()
        return [each for each in left if each]

    def save(self) -> None:
        """Writes the file."""
        document = {"facts": self.facts, "changes": [change.noted() for change in self.changes]}
        write(self.root.at(self.file), json.dumps(document, indent=1).encode())


def missing_folders(root: Root, path: str) -> list[Change]:
    """The folders to make so that `path` is one, outermost first."""
    parts = [path, *map(str, PurePosixPath(path).parents)]
    return [Change(kind="folder", path=each) for each in reversed(parts) if not root.exists(each)]


def write(target: Path, data: bytes) -> None:
    """Replaces or makes a file at once; a new one is readable by all."""
    part = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            _like(target, part)
        else:
            part.chmod(0o644)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def digest_of(text: str) -> str:
    """What tells texts apart."""
    return DIGEST + hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def link(path: Path, target: str) -> None:
    """Makes or replaces a link at once."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.unlink(missing_ok=True)
    part.symlink_to(target)
    part.replace(path)


def remove(path: Path) -> None:
    """Removes a folder with all in it, or a link; what is gone already is no error."""
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def replace(source: Path, target: Path) -> None:
    """Puts a copy of `source` in the place of `target`, with its mode, owner and times."""
    part = target.with_name(f".{target.name}.{os.getpid()}")
    _copy(source, part)
    part.replace(target)


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    shutil.copystat(source, target)
    owner = source.stat()
    os.chown(target, owner.st_uid, owner.st_gid)


def _like(source: Path, target: Path) -> None:
    owner = source.stat()
    os.chown(target, owner.st_uid, owner.st_gid)
    shutil.copymode(source, target)


def _unlink(path: Path, target: str) -> None:
    if path.is_symlink() and os.readlink(path) == target:
        path.unlink()
