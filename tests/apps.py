"""Spin apps as test data: from components to the locked app that `spin registry push` writes.

Knows: the locked app JSON (features.md O37-O48) and the blobs that it names. Must not know: OCI.
Laws: content of at most 128 bytes is inlined and still carries its digest (O11); wasm never is;
equal input gives equal bytes.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

INLINE_LIMIT = 128


@dataclass(frozen=True)
class Component:
    """One wasm component, and everything that the manifest grants it."""

    wasm: bytes
    id: str = "hello"
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    config: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    route: str = "/..."


@dataclass(frozen=True)
class App:
    """A Spin app before it is locked. A variable without a default (None) is a required one."""

    components: Sequence[Component]
    name: str = "hello"
    version: str = "0.1.0"
    variables: Mapping[str, str | None] = field(default_factory=dict)


def locked_app(app: App) -> Json:
    """Return the document of `application/vnd.fermyon.spin.application.v1+config`."""
    return {
        "spin_lock_version": 0,
        "metadata": {"name": app.name, "version": app.version},
        "variables": {name: _variable(value) for name, value in app.variables.items()},
        "triggers": [_trigger(component) for component in app.components],
        "components": [_component(component) for component in app.components],
    }


def encode(document: Json) -> bytes:
    """Return the bytes of a document, the same on every run."""
    return json.dumps(document, separators=(",", ":")).encode()


def digest_of(content: bytes) -> str:
    """Return the OCI digest of *content*."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _variable(default: str | None) -> Json:
    given = {} if default is None else {"default": default}
    return {**given, "secret": False}


def _trigger(component: Component) -> Json:
    return {
        "id": f"{component.id}-http-trigger",
        "trigger_type": "http",
        "trigger_config": {"component": component.id, "route": component.route},
    }


def _component(component: Component) -> Json:
    return {
        "id": component.id,
        "metadata": dict(component.metadata),
        "source": {"content_type": "application/wasm", "digest": digest_of(component.wasm)},
        "env": dict(component.env),
        "files": [_file(path, content) for path, content in component.files.items()],
        "config": dict(component.config),
    }


def _file(path: str, content: bytes) -> Json:
    inline: Json = {}
    if len(content) <= INLINE_LIMIT:
        inline = {"inline": base64.b64encode(content).decode()}
    return {**inline, "digest": digest_of(content), "path": path}
