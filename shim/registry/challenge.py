"""What a registry asks for in `WWW-Authenticate`, and who may see a password (faults.md RG1), with no I/O.

Laws: credentials go to the registry itself, or over https to a token service that its own domain runs (as
`auth.docker.io` for `registry-1.docker.io`); any other realm gets an anonymous request at most.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, urljoin, urlsplit

from shim.errors import Unavailable

PARAMETER = re.compile(r'([A-Za-z]+)="([^"\\]*)"')
MAX_CHALLENGE = 4096


@dataclass(frozen=True, slots=True)
class Challenge:
    """`basic`, or `bearer` with where to fetch a token and for what."""

    scheme: str
    realm: str = ""
    service: str = ""
    scope: str = ""


def parse_challenge(header: str) -> Challenge:
    """The challenge in a header; raises Unavailable for one that nobody here can answer."""
    scheme, _, rest = header[:MAX_CHALLENGE].strip().partition(" ")
    values = dict(PARAMETER.findall(rest))
    if scheme.lower() == "basic":
        return Challenge("basic")
    if scheme.lower() == "bearer" and _split(values.get("realm", "")).scheme in ("http", "https"):
        return Challenge("bearer", values["realm"], values.get("service", ""), values.get("scope", ""))
    message = f"the registry asks for authentication by {header[:80]!r}; wanted Basic, or Bearer with a realm"
    raise Unavailable(message)


def may_have_credentials(base: str, realm: str) -> bool:
    """True when a password for the registry at URL `base` may be sent to URL `realm`."""
    registry, service = _split(base), _split(realm)
    if (registry.scheme, registry.netloc) == (service.scheme, service.netloc):
        return True
    if service.scheme != "https" or registry.scheme != "https" or _is_address(service.hostname or ""):
        return False
    domain = (registry.hostname or "").partition(".")[2]
    host = service.hostname or ""
    return "." in domain and (host == domain or host.endswith(f".{domain}"))


def may_follow(origin: str, target: str) -> bool:
    """True when a redirect may be followed: no fall to plain http, no address that only this machine has."""
    ours, theirs = _split(origin), _split(target)
    if (ours.scheme, ours.netloc) == (theirs.scheme, theirs.netloc):
        return True
    if theirs.scheme not in ("http", "https") or (ours.scheme == "https" and theirs.scheme != "https"):
        return False
    host = theirs.hostname or ""
    if host == ours.hostname:
        return True
    if not _is_address(host):
        return host != "localhost"
    return ipaddress.ip_address(host).is_global


def joined(base: str, where: str) -> str:
    """The URL that `where` means as seen from `base`; empty, and so followed by nobody, for what is none."""
    try:
        return urljoin(base, where)
    except ValueError:
        return ""


def _split(url: str) -> SplitResult:
    """The parts of a URL; none at all for what is not one."""
    try:
        return urlsplit(url)
    except ValueError:
        return SplitResult("", "", "", "", "")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
