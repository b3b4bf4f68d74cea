"""The private environment: a copy of what runs now, with nothing in it but spinwheel and what that needs.

Knows: installed distributions and virtual environments. Must not know: containerd, nodes. Laws: no network
and no pip; files come from the RECORD of the wheel and of each wheel that it requires, whatever else shares
the environment they lie in; a folder is named by its content and appears whole (rename) or not at all.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path

from shim import __version__
from shim.errors import FailedPrecondition

NAME = re.compile(r"[A-Za-z0-9._-]+")
SHEBANG = re.compile(rb"#!\S*/python[0-9.]*$")
NOT_COPIED = ("direct_url.json", "REQUESTED")  # how pip was called
PROGRAM = "containerd-shim-spin-v2"  # what containerd runs, by this name
LAUNCHER, HOST, SHIM = f"bin/{PROGRAM}", "bin/spinwheel-host", "bin/spinwheel-shim"


@dataclass(frozen=True)
class Environment:
    """The environment at `prefix`, that of this process."""

    prefix: Path = Path(sys.prefix)

    @property
    def interpreter(self) -> str:
        """The Python below the environment: what the node must have."""
        base: str = sys._base_executable  # type: ignore[attr-defined]  # noqa: SLF001  # as venv does
        return str(Path(base).resolve())

    @cached_property
    def files(self) -> dict[str, str]:
        """Paths below `prefix`, and the digest of each; raises FailedPrecondition without a wheel."""
        found = {}
        for distribution in _closure("spinwheel"):
            for file in distribution.files or ():
                path = Path(os.path.normpath(str(distribution.locate_file(file))))
                if path.is_relative_to(self.prefix) and path.is_file() and path.name not in NOT_COPIED:
                    found[str(path.relative_to(self.prefix))] = file.hash.value if file.hash else ""
        missing = [name for name in (LAUNCHER, HOST, SHIM) if name not in found]
        if missing:
            message = (
                f"wanted spinwheel installed from its wheel in {self.prefix}, found no {', '.join(missing)}; "
                "run ./install.sh node, or install the wheel into an environment of its own"
            )
            raise FailedPrecondition(message)
        return found

    @cached_property
    def version(self) -> str:
        """The name of its folder: the release, and a digest of all that is in it wherever it was installed.

        Compiled modules have no digest, and a script that names its own Python has one for every place.
        """
        scripts = {name for name in self.files if _names_python(self.prefix / name)}
        named = sorted(
            (path, digest) for path, digest in self.files.items() if digest and path not in scripts
        )
        lines = [self.interpreter, sys.version, *(f"{path} {digest}" for path, digest in named)]
        digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        return f"{__version__}-{digest[:12]}"

    def copy_to(self, folder: Path, path: str) -> None:
        """Makes `folder`, which the node will see at `path`; raises OSError."""
        part = folder.with_name(f".{folder.name}.{os.getpid()}")
        shutil.rmtree(part, ignore_errors=True)
        try:
            for name in self.files:
                (part / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(self.prefix / name, part / name)
                if name.startswith("bin/"):
                    _adopt_script(part / name, path)
            self._make_interpreter(part)
            part.replace(folder)
        except OSError:
            shutil.rmtree(part, ignore_errors=True)
            raise

    def _make_interpreter(self, folder: Path) -> None:
        (folder / "bin" / "python").symlink_to(self.interpreter)
        (folder / "bin" / "python3").symlink_to("python")
        home = Path(self.interpreter).parent
        (folder / "pyvenv.cfg").write_text(f"home = {home}\ninclude-system-site-packages = false\n")


def _names_python(file: Path) -> bool:
    with file.open("rb") as script:
        return file.parent.name == "bin" and bool(SHEBANG.match(script.readline(256)))


def _adopt_script(file: Path, path: str) -> None:
    """A script's first line names the Python of the environment that it was installed in."""
    if _names_python(file):
        rest = file.read_bytes().partition(b"\n")[2]
        file.write_bytes(f"#!{path}/bin/python\n".encode() + rest)


def _closure(name: str, seen: set[str] | None = None) -> Iterator[metadata.Distribution]:
    """A distribution and what it requires here: what a marker leaves out is not installed, or not needed."""
    seen = set() if seen is None else seen
    key = re.sub(r"[-_.]+", "-", name).lower()
    if key in seen:
        return
    seen.add(key)
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return
    yield distribution
    for requirement in distribution.requires or ():
        wanted = NAME.match(requirement)
        if wanted and "extra ==" not in requirement:
            yield from _closure(wanted.group(), seen)
