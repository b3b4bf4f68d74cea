"""Where passwords are kept: Spin's own file, Docker's, and Docker's credential helpers (features.md O33-O35).

Laws: in that order; a file is written whole, by rename, closed to others; a password is never in argv, an
environment or a message. A Kubernetes pull secret (`.dockerconfigjson`) is a Docker config by another name:
DOCKER_CONFIG names its folder.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shim.errors import Unavailable

HELPER_SECONDS = 30
HUB_KEYS = ("https://index.docker.io/v1/", "index.docker.io", "docker.io")


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user and a password, which no repr shows."""

    user: str
    password: str = field(repr=False)

    @property
    def basic(self) -> str:
        """The value of an Authorization header."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


def spin_file() -> Path:
    """Spin's auth file (O34)."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "fermyon" / "registry-auth.json"


def docker_file() -> Path:
    """Docker's config file."""
    return Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"


def find(host: str) -> Credentials | None:
    """The credentials for a registry, or None; raises Unavailable for a file or helper that is broken."""
    keys = HUB_KEYS if host == "docker.io" else (host, f"https://{host}", f"https://{host}/v1/")
    auths = _read(spin_file()).get("auths") or {}
    for key in keys:
        if isinstance(auths.get(key), str):
            return _decoded(auths[key], spin_file())
    return _from_docker(_read(docker_file()), keys)


def _from_docker(config: dict[str, Any], keys: tuple[str, ...]) -> Credentials | None:
    helpers = config.get("credHelpers") or {}
    auths = config.get("auths") or {}
    for key in keys:
        if helper := helpers.get(key) or config.get("credsStore"):
            found = _ask(str(helper), key)
            if found:
                return found
        if isinstance(entry := auths.get(key), dict) and entry.get("auth"):
            return _decoded(entry["auth"], docker_file())
    return None


def store(host: str, credentials: Credentials) -> Path:
    """Keeps credentials in Spin's file; returns its path."""
    key = "index.docker.io" if host == "docker.io" else host
    document = _read(spin_file())
    pair = f"{credentials.user}:{credentials.password}".encode()
    auths = {**(document.get("auths") or {}), key: base64.b64encode(pair).decode()}
    _write(spin_file(), {**document, "auths": auths})
    return spin_file()


def forget(host: str) -> bool:
    """Removes what `store` kept; returns whether there was anything."""
    document = _read(spin_file())
    auths = dict(document.get("auths") or {})
    keys = HUB_KEYS if host == "docker.io" else (host,)
    found = [key for key in keys if auths.pop(key, None) is not None]
    if found:
        _write(spin_file(), {**document, "auths": auths})
    return bool(found)


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        message = f"{path}: wanted a JSON file with credentials, found a fault: {error}; mend or remove it"
        raise Unavailable(message) from error
    return document if isinstance(document, dict) else {}


def _write(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, scratch = tempfile.mkstemp(dir=path.parent, prefix=".auth-")  # 0600
    with os.fdopen(descriptor, "w") as out:
        json.dump(document, out, indent=2)
    Path(scratch).rename(path)


def _decoded(text: str, path: Path) -> Credentials:
    try:
        user, colon, password = base64.b64decode(text, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError) as error:
        message = f"{path}: an entry is not base64 of user:password; log in again"
        raise Unavailable(message) from error
    if not colon:
        message = f"{path}: an entry is not base64 of user:password; log in again"
        raise Unavailable(message)
    return Credentials(user, password)


def _ask(helper: str, key: str) -> Credentials | None:
    """What `docker-credential-HELPER get` answers; None when it knows of nothing."""
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run(
            [program, "get"], input=key.encode(), capture_output=True, timeout=HELPER_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        message = f"{docker_file()} names the credential helper {program}, which cannot be run: {error}"
        raise Unavailable(message) from error
    if done.returncode:
        return None
    try:
        answer = json.loads(done.stdout)
        return Credentials(str(answer["Username"]), str(answer["Secret"]))
    except (ValueError, TypeError, KeyError):
        message = f"{program}: wanted JSON with Username and Secret, found something else; log in again"
        raise Unavailable(message) from None  # the cause would show what it printed
