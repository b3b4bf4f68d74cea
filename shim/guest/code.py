"""Compiled code for an app's components, from the cache or made for it: choices of the node, in one place.

Laws: who shares an entry is the operator's choice and part of its key; `task` shares nothing, so its code is
made into sealed memory each time; a setting that is none is an error, never a guess (faults.md R8).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from cache.aot import KIND
from cache.entries import AotContent, AotDirectory
from cache.fill import Compute, Filled, get_or_fill, in_memory, usable
from cache.key import Key
from cache.refused import Refused
from shim.errors import InvalidArgument
from shim.guest.compiler import NATIVE, TURNS, Compiler, fingerprint
from shim.image.artifact import Artifact, BlobSource
from shim.image.containerd import Containerd
from shim.image.content import LocalContent
from shim.image.manifest import BadArtifact
from shim.settings import Settings

STORES = ("containerd", "directory")
MACHINES = ("x86_64-linux", "aarch64-linux")
SHARES = ("node", "namespace", "task")
STAMPS = "verified"


def code_of(
    artifact: Artifact, source: Containerd, namespace: str, settings: Settings, target: str = NATIVE
) -> Iterator[Filled]:
    """Each component's code, in the app's order; raises BadArtifact in the compiler's words."""
    circle = domain_of(settings, namespace), target
    return codes_in(store_of(settings, source), artifact, source, settings, circle, namespace)


def codes_in(  # the two last are one caller's
    store: AotDirectory | None,
    artifact: Artifact,
    source: BlobSource,
    settings: Settings,
    circle: tuple[str, str] = ("node", NATIVE),
    tenant: str = "up",
) -> Iterator[Filled]:
    """As `code_of`, from a store of the caller's choice; `circle` is who shares it, and the target."""
    domain, target = circle
    engine = fingerprint(settings.host, target)
    compute = Compiler(settings.host, tenant, settings.run_dir / TURNS).compute_from(source, artifact)
    for component in artifact.app.components:
        key = Key(component.source, engine, target, domain)
        found = _carried(store, key, settings) if store and target == NATIVE else None
        yield found or _code(store, key, compute)


def _carried(store: AotDirectory, key: Key, settings: Settings) -> Filled | None:
    """Code for any machine of this architecture, which `cache warm --target` or `cache import` brought."""
    target = f"{os.uname().machine}-linux"
    if target not in MACHINES or store.folders.path(KIND, key.name).exists():
        return None
    opened = usable(store, replace(key, target=target, fingerprint=fingerprint(settings.host, target)))
    return Filled(opened, compiled=False) if opened else None


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
