"""How answers look on a terminal: tables, sizes, progress."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")
WIDTH = 30


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell."""
    widths = [max(len(row[at]) for row in (head, *body)) for at in range(len(head))]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *body)
    )
    return "\n".join(line.rstrip() for line in lines)


def human_size(count: int) -> str:
    """A number of bytes in the unit that people would choose."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def progress(what: str, items: Sequence[T], weight: Callable[[T], int]) -> Iterator[T]:
    """Each of `items`, with a bar on stderr while they are worked on, if that is a terminal."""
    total, done = sum(weight(item) for item in items) or 1, 0
    for item in items:
        if sys.stderr.isatty():
            filled = WIDTH * done // total
            print(f"\r{what} [{'#' * filled}{'.' * (WIDTH - filled)}]", end="", file=sys.stderr, flush=True)
        yield item
        done += weight(item)
    if sys.stderr.isatty():
        print(f"\r{' ' * (len(what) + WIDTH + 3)}\r", end="", file=sys.stderr, flush=True)
