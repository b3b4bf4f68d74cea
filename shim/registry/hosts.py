"""Where a registry's bytes come from: containerd's `certs.d` layout of mirrors and certificates.

Laws: mirrors in the order of the file, the registry itself last, and pushed to only there;
a file that cannot be understood is an error and not the absence of one (rule R8).
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shim.errors import InvalidArgument

CERTS = Path("/etc/containerd/certs.d")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A base URL without `/v2`, and how its certificate is checked."""

    base: str
    ca: Path | None = None
    verify: bool = True
    push: bool = False


def endpoints(host: str, folder: Path = CERTS, *, insecure: bool = False) -> tuple[Endpoint, ...]:
    """The endpoints to try, in order, for a registry; raises InvalidArgument."""
    real = "registry-1.docker.io" if host == "docker.io" else host
    itself = Endpoint(f"{'http' if insecure else 'https'}://{real}", push=True)
    for name in (host, host.replace(":", "_"), "_default"):
        path = folder / name / "hosts.toml"
        if path.is_file():
            return _read(path, itself)
    return (itself,)


def _read(path: Path, itself: Endpoint) -> tuple[Endpoint, ...]:
    try:
        document = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        message = f"{path}: wanted containerd's hosts.toml, found a fault: {error}"
        raise InvalidArgument(message) from error
    hosts = document.get("host")
    mirrors = [_endpoint(path, base, settings) for base, settings in (hosts or {}).items()]
    server = str(document.get("server") or itself.base)
    last = _endpoint(path, server, {**document, "capabilities": ["pull", "resolve", "push"]})
    return (*mirrors, last)


def _endpoint(path: Path, base: str, settings: Mapping[str, Any]) -> Endpoint:
    base = base if "://" in base else f"https://{base}"
    ca = settings.get("ca")
    if isinstance(ca, list):
        ca = ca[0] if ca else None
    found = None if ca is None else path.parent / str(ca)
    can = settings.get("capabilities") or ["pull", "resolve", "push"]
    return Endpoint(base.rstrip("/"), found, not settings.get("skip_verify", False), "push" in can)
