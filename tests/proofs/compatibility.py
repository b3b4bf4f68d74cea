"""Writes docs/compatibility.md: each row of the feature table, and the tests that prove it.

    python -m tests.proofs.compatibility [--check]

Laws: a row is proven by a test that cites it, or is left out for a reason in `tests/left_out.toml`, or is
missing and says so; a row that is proven is not also left out. `--check` writes nothing, and fails when the
file is not what the tests say.
"""

from __future__ import annotations

import sys
import tomllib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.proofs.citations import ROOT, citations

TARGET = ROOT / "docs" / "compatibility.md"
ROWS = ROOT / "tests" / "fixtures" / "proofs" / "features.toml"
LEFT_OUT = ROOT / "tests" / "left_out.toml"
SHOWN = 3

HEAD = """\
# What we take over from Spin and from its shim

Made by `just proofs` from the sentences of the tests; do not edit. Rows are those of the project's feature
table. A row names the tests that prove it, or says in one line why it is left out, or that it is missing.

{counts}
"""
SECTIONS = {"S": "The shim's environment", "O": "Artifacts", "H": "The runtime"}
TAIL = """\
Two differences in artifacts are on purpose. Files are in the order of their paths, where Spin takes the order
of the file system, so that equal input gives equal digests. The vectors in `tests/fixtures/artifacts` were
written from the feature table and checked field by field; no artifact of Spin's own was at hand.
"""

Proofs = Mapping[str, Sequence[str]]


def main(words: Sequence[str]) -> int:
    """Writes the file, or compares it; returns 1 when `--check` finds a difference."""
    text = render(tomllib.loads(ROWS.read_text()), proofs(), left_out())
    if "--check" not in words:
        TARGET.write_text(text)
        return 0
    if TARGET.read_text() == text:
        return 0
    sys.stderr.write(f"{TARGET} is not what the tests say. Run: just proofs\n")
    return 1


def proofs() -> Proofs:
    """Row → tests that cite it, as `file.py::test`."""
    found: dict[str, list[str]] = defaultdict(list)
    for citation in citations():
        for row in citation.features:
            found[row].append(f"`{Path(citation.file).name}::{citation.test}`")
    return found


def left_out(path: Path = LEFT_OUT) -> dict[str, str]:
    """Row → why it is left out; the file's sections only order it."""
    tables = tomllib.loads(path.read_text()) if path.exists() else {}
    return {row: reason for table in tables.values() for row, reason in table.items()}


def render(rows: Mapping[str, str], proven: Proofs, reasons: Mapping[str, str]) -> str:
    """The whole document.

    Raises:
        ValueError: A row is proven and left out, or is no row at all.

    """
    if both := sorted(set(proven) & set(reasons)):
        message = f"proven by a test, yet in {LEFT_OUT.name}: {', '.join(both)}. Take them out of it"
        raise ValueError(message)
    if unknown := sorted(set(reasons) - set(rows)):
        message = f"{LEFT_OUT.name} names rows that the feature table has not: {', '.join(unknown)}"
        raise ValueError(message)
    counts = _counts(rows, proven, reasons)
    tables = [_table(letter, title, rows, proven, reasons) for letter, title in SECTIONS.items()]
    return "\n".join([HEAD.format(counts=counts), *tables, TAIL])


def _counts(rows: Mapping[str, str], proven: Proofs, reasons: Mapping[str, str]) -> str:
    done = sum(row in proven for row in rows)
    out = sum(row in reasons for row in rows)
    return f"{len(rows)} rows: {done} proven, {out} left out, {len(rows) - done - out} missing."


def _table(
    letter: str, title: str, rows: Mapping[str, str], proven: Proofs, reasons: Mapping[str, str]
) -> str:
    lines = [f"## {title}", "", "| row | what | proof |", "|---|---|---|"]
    for row, what in rows.items():
        if row.startswith(letter):
            lines.append(f"| {row} | {what.removeprefix('HTTP: ')} | {_proof(row, proven, reasons)} |")
    return "\n".join([*lines, ""])


def _proof(row: str, proven: Proofs, reasons: Mapping[str, str]) -> str:
    if row in reasons:
        return f"left out: {reasons[row]}"
    tests = proven.get(row, ())
    if not tests:
        return "**missing**"
    more = len(tests) - SHOWN
    return ", ".join(tests[:SHOWN]) + (f" and {more} more" if more > 0 else "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
