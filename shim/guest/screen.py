"""Refuses compiled code that comes in as a file of an app (faults.md A2, R1).

Laws: a file can never become code here, so this is a second wall; it looks for what every artefact of
wasmtime holds, wherever in the file it lies and once gunzipped, within a bound; it says what it found and
what to push instead.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import IO, cast

from shim.image.manifest import BadArtifact

SECTION, ELF, GZIP = b".wasmtime.engine", b"\x7fELF", b"\x1f\x8b"
CHUNK = 1 << 20
MAX_UNPACKED = 256 << 20


def check_not_compiled(path: Path, shown: str) -> None:
    """Raises BadArtifact if the file holds code that wasmtime compiled."""
    with path.open("rb") as file:
        found = _is_compiled(file)
        file.seek(0)
        if not found and file.read(2) == GZIP:
            file.seek(0)
            with gzip.open(file) as unpacked:
                found = _is_compiled(cast("IO[bytes]", unpacked))
    if found:
        message = (
            f"file {shown}: wanted content, found native code that wasmtime compiled; only this node's own "
            "compiler makes code here: push the .wasm file as a component"
        )
        raise BadArtifact(message)


def _is_compiled(source: IO[bytes]) -> bool:
    """True when both marks are there; a stream that does not unpack is content like any other."""
    elf = section = False
    tail, left = b"", MAX_UNPACKED
    try:
        while left > 0 and (chunk := source.read(CHUNK)):
            window = tail + chunk
            elf, section = elf or ELF in window, section or SECTION in window
            if elf and section:
                return True
            tail, left = window[-len(SECTION) :], left - len(chunk)
    except (OSError, EOFError, zlib.error):
        return False
    return False
