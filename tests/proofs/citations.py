"""Reads which ids each test cites: Python docstrings and the `///` comments of Rust tests.

Knows the two id spaces: rows of the feature table (O, S8x, H) and tests of the fault list (F, K, A, G, ...).
Laws: H and S mean features, unless the word `faults` or `faults.md` stands before them; every other letter
means one thing only. Nothing is imported or run: the text of a test is enough.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

_ID = r"(?:RG|LG|[ADEFGHKOPST])\d+b?"
_RANGE = re.compile(rf"\b({_ID})(?:-({_ID}))?(?!\w|\.\d)")
_LIST = re.compile(rf"faults(?:\.md)?[ (]+((?:{_ID}(?:-{_ID})?(?:, | and |,)?)+)")
_FEATURE = re.compile(r"[HO]\d+|S8\d")
_RUST = re.compile(
    r"((?:^[ \t]*///[^\n]*\n)+)(?:^[ \t]*#\[[^\n]*\n)*?^[ \t]*#\[(?:tokio::)?test[^\n]*\n"
    r"(?:^[ \t]*#\[[^\n]*\n)*[ \t]*(?:async )?fn (\w+)",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Citation:
    """A test, where it is, and the ids it says it proves."""

    file: str
    test: str
    features: frozenset[str]
    faults: frozenset[str]


def citations(root: Path = ROOT) -> list[Citation]:
    """Every test below `tests/` and `host/` that cites an id, in the order of files."""
    python = (c for path in sorted((root / "tests").rglob("test_*.py")) for c in _of_python(root, path))
    rust = (c for path in sorted((root / "host").rglob("*.rs")) for c in _of_rust(root, path))
    return [citation for citation in (*python, *rust) if citation.features or citation.faults]


def ids(text: str) -> tuple[frozenset[str], frozenset[str]]:
    """(features, faults) that a sentence cites; a range `O1-O4` is each of its members."""
    faults = {i for match in _LIST.finditer(text) for i in _expand(match[1])}
    rest = set(_expand(_LIST.sub(" ", text)))
    features = {i for i in rest if _FEATURE.fullmatch(i)}
    return frozenset(features), frozenset(faults | {i for i in rest if i[0] not in "HOS"})


def _expand(text: str) -> Iterator[str]:
    for first, last in _RANGE.findall(text):
        letters = re.match(r"[A-Z]+", first)
        if not last or not letters or not last.startswith(letters[0]):
            yield from filter(None, (first, last))
            continue
        numbers = range(int(first[len(letters[0]) :]), int(last[len(letters[0]) :]) + 1)
        yield from (f"{letters[0]}{number}" for number in numbers)


def _of_python(root: Path, path: Path) -> Iterator[Citation]:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield Citation(str(path.relative_to(root)), node.name, *ids(ast.get_docstring(node) or ""))


def _of_rust(root: Path, path: Path) -> Iterator[Citation]:
    for comment, name in _RUST.findall(path.read_text()):
        yield Citation(str(path.relative_to(root)), name, *ids(comment.replace("///", " ")))
