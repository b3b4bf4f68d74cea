"""The name of an artifact in a registry: `host/repository:tag@digest`, as Docker and containerd read it.

Laws: pure; what is parsed here is the only part of a URL that a user names, so nothing in it can be a path
step, a query or another host.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from shim.errors import InvalidArgument
from shim.image.manifest import DIGEST, shown

MAX_LENGTH = 512
DOCKER_HUB = "docker.io"
PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
REPOSITORY = re.compile(rf"{PART}(?:/{PART})*\Z")
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z")
HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?\Z")


@dataclass(frozen=True, slots=True)
class Reference:
    """Where an artifact is; `digest` wins over `tag` when both are there."""

    host: str
    repository: str
    tag: str
    digest: str = ""

    def __str__(self) -> str:
        return f"{self.host}/{self.repository}" + (f"@{self.digest}" if self.digest else f":{self.tag}")

    @property
    def selector(self) -> str:
        """What a manifest is asked for by."""
        return self.digest or self.tag


def parse_reference(text: str) -> Reference:
    """The reference in `text`; raises InvalidArgument."""
    if len(text) > MAX_LENGTH:
        raise _bad(text, f"at most {MAX_LENGTH} characters")
    name, _, digest = text.partition("@")
    if digest and not DIGEST.match(digest):
        raise _bad(text, "sha256:<64 hex digits> after '@'")
    if "@" in text and not digest:
        raise _bad(text, "a digest after '@'")
    host, rest = _split_host(name)
    repository, colon, tag = rest.partition(":")
    if not HOST.match(host) or not REPOSITORY.match(repository):
        raise _bad(text, "HOST/REPOSITORY[:TAG][@DIGEST] in lower case")
    if colon and not TAG.match(tag):
        raise _bad(text, "a tag of letters, digits, '_', '.', '-' after ':'")
    if host == DOCKER_HUB and "/" not in repository:
        repository = f"library/{repository}"
    return Reference(host, repository, tag or "latest", digest)


def names_registry(text: str) -> bool:
    """True when a user's word is a reference rather than a folder: it has a registry or a tag (O32)."""
    try:
        found = parse_reference(text)
    except InvalidArgument:
        return False
    return found.host != DOCKER_HUB or ":" in text or bool(found.digest)


def _split_host(name: str) -> tuple[str, str]:
    """The first part is a host if it looks like one, as every client decides it."""
    first, slash, rest = name.partition("/")
    if slash and (first == "localhost" or "." in first or ":" in first):
        return ("docker.io" if first == "index.docker.io" else first), rest
    return DOCKER_HUB, name


def _bad(text: str, wanted: str) -> InvalidArgument:
    return InvalidArgument(f"reference {shown(text)}: wanted {wanted}, e.g. ghcr.io/me/app:1.0")
