"""Compiled code for an app's components, from the cache or made for it: choices of the node, in one place.

Laws: who shares an entry is the operator's choice and part of its key; `task` shares nothing, so its code is
made into sealed memory each time; a setting that is none is an error, never a guess (faults.md R8).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cache.entries import AotContent, AotDirectory
from cache.fill import Compute, Filled, get_or_fill, in_memory
from cache.key import Key
from cache.refused import Refused
from shim.errors import InvalidArgument
from shim.guest.compiler import NATIVE, compute_from, fingerprint
from shim.image.artifact import Artifact, BlobSource
from shim.image.containerd import Containerd
from shim.image.content import LocalContent
from shim.image.manifest import BadArtifact
from shim.settings import Settings

STORES = ("containerd", "directory")
SHARES = ("node", "namespace", "task")
STAMPS = "verified"


def code_of(
    artifact: Artifact, source: Containerd, namespace: str, settings: Settings, target: str = NATIVE
) -> Iterator[Filled]:
    """Each component's code, in the app's order; raises BadArtifact in the compiler's words."""
    circle = domain_of(settings, namespace), target
    return codes_in(store_of(settings, source), artifact, source, settings.host, circle)


def codes_in(
    store: AotDirectory | None,
    artifact: Artifact,
    source: BlobSource,
    host: Path,
    circle: tuple[str, str] = ("node", NATIVE),
) -> Iterator[Filled]:
    """As `code_of`, from a store of the caller's choice; `circle` is who shares it, and the target."""
    domain, target = circle
    engine = fingerprint(host, target)
    compute = compute_from(host, source, artifact)
    for component in artifact.app.components:
        yield _code(store, Key(component.source, engine, target, domain), compute)


def _code(store: AotDirectory | None, key: Key, compute: Compute) -> Filled:
    try:
        if store is None:
            return Filled(in_memory(key, compute), compiled=True)
        return get_or_fill(store, key, compute)
    except Refused as error:
        raise BadArtifact(str(error)) from error


def store_of(settings: Settings, source: Containerd) -> AotDirectory | None:
    """The node's store, None when nothing is shared; raises InvalidArgument."""
    _check("SPINWHEEL_CACHE_STORE", settings.cache_store, STORES)
    _check("SPINWHEEL_CACHE_SHARE", settings.cache_share, SHARES)
    if settings.cache_share == "task":
        return None
    stamps: Path = settings.run_dir / STAMPS
    if settings.cache_store == "directory":
        return AotDirectory(settings.cache_dir, stamps)
    return AotContent(settings.cache_dir, LocalContent(source), stamps)


def domain_of(settings: Settings, namespace: str) -> str:
    """The circle of trust that a namespace's pods are in."""
    return f"namespace {namespace}" if settings.cache_share == "namespace" else settings.cache_share


def _check(name: str, found: str, known: tuple[str, ...]) -> None:
    if found not in known:
        message = (
            f"wanted {name} to be one of {', '.join(known)}, found {found!r}; set it where containerd starts"
        )
        raise InvalidArgument(message)
