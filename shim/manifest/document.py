"""A TOML document whose faults have a place: file, line, and the path of keys (features.md O55).

Laws: pure; bounded in bytes and depth; every value is asked for by the kind it must have, and an unknown key
is a fault, because a misspelt one would be a permission or a file that silently is not there.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from shim.errors import InvalidArgument
from shim.image.manifest import shown

MAX_BYTES = 1 << 20
MAX_LINES_LOCATED = 5000  # above, a fault names its keys but not its line
KINDS: dict[type, str] = {
    str: "text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    dict: "a table",
    list: "a list",
}


class BadManifest(InvalidArgument):
    """spin.toml is not what Spin's manifest must be; the message has the line."""


@dataclass(frozen=True, slots=True)
class Node:
    """One value of the document, and where it is."""

    value: Any
    file: str
    source: str
    path: tuple[str | int, ...] = ()
    secret: bool = False  # values stay out of messages; their kinds do not

    @property
    def line(self) -> int:
        """The line of the statement that made this value, from 1; 0 when it is not known."""
        return locate(self.source, self.path)

    @property
    def keys(self) -> str:
        """The path to this value as people write it."""
        return ".".join(map(str, self.path)) or "the document"

    def fault(self, wanted: str) -> BadManifest:
        """The error to raise when this value is not `wanted`."""
        line = self.line
        place = f"{self.file}:{line}" if line else self.file
        found = KINDS.get(type(self.value), "a date or time") if self.secret else shown(self.value)
        return BadManifest(f"{place}: {self.keys}: wanted {wanted}, found {found}")

    def get(self, key: str) -> Node | None:
        """The value below `key`, or None."""
        table = self.table()
        return table.get(key)

    def need(self, key: str, wanted: str) -> Node:
        """The value below `key`; raises BadManifest when there is none."""
        found = self.get(key)
        if found is None:
            message = f"{key} = {wanted}"
            raise self.fault(message)
        return found

    def table(self) -> dict[str, Node]:
        """The value as a table; raises BadManifest."""
        if not isinstance(self.value, dict):
            raise self.fault("a table")
        return {key: self._child(key, value) for key, value in self.value.items()}

    def items(self) -> list[Node]:
        """The value as a list; raises BadManifest."""
        if not isinstance(self.value, list):
            raise self.fault("a list")
        return [self._child(at, value) for at, value in enumerate(self.value)]

    def text(self) -> str:
        """The value as text; raises BadManifest."""
        if not isinstance(self.value, str):
            raise self.fault("text")
        return self.value

    def flag(self) -> bool:
        """The value as true or false; raises BadManifest."""
        if not isinstance(self.value, bool):
            raise self.fault("true or false")
        return self.value

    def texts(self) -> tuple[str, ...]:
        """The value as a list of text; raises BadManifest."""
        return tuple(item.text() for item in self.items())

    def pairs(self) -> dict[str, str]:
        """The value as a table of text; raises BadManifest."""
        return {key: node.text() for key, node in self.table().items()}

    def only(self, *known: str) -> None:
        """Raises BadManifest for a key that is none of `known`."""
        for key, node in self.table().items():
            if key not in known:
                message = f"one of the keys {', '.join(known)} instead of {key}"
                raise node.fault(message)

    def _child(self, key: str | int, value: object) -> Node:
        return Node(value, self.file, self.source, (*self.path, key), self.secret)


def parse(text: str, file: str, *, secret: bool = False) -> Node:
    """The document in `text`; raises BadManifest with the line of a fault in its syntax."""
    if len(text) > MAX_BYTES:
        message = f"{file}: {len(text)} characters, above the limit of {MAX_BYTES}"
        raise BadManifest(message)
    try:
        return Node(tomllib.loads(text), file, text, secret=secret)
    except (ValueError, RecursionError) as error:
        message = f"{file}: wanted TOML, found a fault: {error}"
        raise BadManifest(message) from error


def locate(source: str, path: tuple[str | int, ...]) -> int:
    """The line, from 1, of the statement that first gives `path` a value; 0 when none does.

    A beginning of the text that is TOML by itself ends with a whole statement; the first such beginning
    that has the path ends with the statement looked for.
    """
    if not path or source.count("\n") > MAX_LINES_LOCATED:
        return 0
    began = 1
    for line, beginning in _beginnings(source):
        if _has(beginning, path):
            return began
        began = line + 1
    return 0


def _beginnings(source: str) -> Iterator[tuple[int, dict[str, Any]]]:
    lines = source.splitlines(keepends=True)
    for count in range(1, len(lines) + 1):
        try:
            yield count, tomllib.loads("".join(lines[:count]))
        except (ValueError, RecursionError):
            continue


def _has(value: object, path: tuple[str | int, ...]) -> bool:
    for key in path:
        known = isinstance(key, str) and isinstance(value, dict) and key in value
        if not known and not (isinstance(key, int) and isinstance(value, list) and key < len(value)):
            return False
        value = value[key]  # type: ignore[index]  # one of the two above
    return True
