"""The house's numbers, as tests: sizes of functions and files, docstrings, layers of both languages' plan."""

import ast
import statistics
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_FUNCTION, MAX_FILE, MEDIAN = 60, 400, 10


def tracked(*patterns: str) -> list[Path]:
    """Files that git tracks, without generated ones."""
    listed = subprocess.run(
        ["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [ROOT / name for name in listed.stdout.split() if not name.startswith("shim/pb/")]


def functions(path: Path) -> Iterator[tuple[str, int, ast.AST]]:
    """Name, lines and node of each function in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1, node


@pytest.mark.parametrize("pattern", ["shim", "cache", "bench", "proto", "tests"])
def test_functions_are_short(pattern: str) -> None:
    """At most 60 lines each; of the product's, half have at most 10."""
    lengths = {}
    for path in tracked(f"{pattern}/**.py"):
        for name, length, _ in functions(path):
            lengths[f"{path.relative_to(ROOT)}:{name}"] = length
    assert {name: length for name, length in lengths.items() if length > MAX_FUNCTION} == {}
    if pattern in ("shim", "cache", "bench"):
        assert statistics.median(lengths.values()) <= MEDIAN


def test_files_are_short() -> None:
    """At most 400 lines, in every language."""
    long = {}
    for path in tracked("*.py", "*.rs", "*.sh"):
        count = len(path.read_text().splitlines())
        if count > MAX_FILE:
            long[str(path.relative_to(ROOT))] = count
    assert long == {}


def test_every_test_says_what_it_shows() -> None:
    """Each test's docstring is a sentence."""
    silent = [
        f"{path.name}:{name}"
        for path in tracked("tests/**/test_*.py")
        for name, _, node in functions(path)
        if name.startswith("test_") and not (ast.get_docstring(node) or "").endswith(".")  # type: ignore[arg-type]
    ]
    assert silent == []
