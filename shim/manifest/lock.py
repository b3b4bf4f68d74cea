"""The locked app that `spin registry push` writes for a manifest, byte for byte (features.md O10, O37-O48).

Laws: pure; keys are in the order of Spin's own serializer, and sorted where that sorts; what is empty is left
out; no path of this machine is in it (O10).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shim.manifest.schema import Component, Manifest, Trigger

INLINE_LIMIT = 128  # bytes (O11)
CHAINING = ".spin.internal"


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes by digest; `data` only where they are few enough to be inlined."""

    digest: str
    size: int
    data: bytes | None = None


@dataclass(frozen=True, slots=True)
class Resolved:
    """A component's wasm and its files by guest path, found and hashed."""

    wasm: Content
    files: Mapping[str, Content]


def locked_app(manifest: Manifest, resolved: Mapping[str, Resolved]) -> dict[str, Any]:
    """The document; `resolved` has every component by id."""
    components = [_component(item, resolved[item.id]) for item in manifest.components]
    needs = ["component_host_requirements"] if any("host_requirements" in c for c in components) else []
    return {
        "spin_lock_version": 1 if needs else 0,
        **({"must_understand": needs} if needs else {}),
        "metadata": _metadata(manifest),
        **({"variables": _sorted(manifest.variables)} if manifest.variables else {}),
        "triggers": [_trigger(trigger) for trigger in manifest.triggers],
        "components": components,
    }


def encode(document: Mapping[str, Any]) -> bytes:
    """The document's bytes as Spin writes them: UTF-8, no spaces."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def _metadata(manifest: Manifest) -> dict[str, Any]:
    kinds = {trigger.kind for trigger in manifest.triggers}
    fields: dict[str, Any] = {
        "authors": list(manifest.authors),
        "description": manifest.description,
        "name": manifest.name,
        "version": manifest.version,
    }
    found = {key: value for key, value in fields.items() if value}
    found["triggers"] = manifest.settings
    if len(kinds) == 1:
        (kind,) = kinds
        found["trigger"] = {**manifest.settings.get(kind, {}), "type": kind}
    return dict(sorted(found.items())) | {key: _sorted(found[key]) for key in found}


def _trigger(trigger: Trigger) -> dict[str, Any]:
    return {
        "id": trigger.id,
        "trigger_type": trigger.kind,
        "trigger_config": _sorted(trigger.config),
    }


def _component(component: Component, resolved: Resolved) -> dict[str, Any]:
    metadata: dict[str, Any] = {key: list(value) for key, value in component.lists.items() if value}
    if component.description:
        metadata["description"] = component.description
    if component.raw_build is not None:
        metadata["build"] = component.raw_build
    fields: dict[str, Any] = {
        "metadata": _sorted(metadata),
        "source": {"content_type": "application/wasm", **_reference(resolved.wasm)},
        "env": _sorted(component.environment),
        "files": _files(resolved.files),
        "config": _sorted(component.variables),
        "host_requirements": _requirements(component),
    }
    return {"id": component.id} | {key: value for key, value in fields.items() if value}


def _files(files: Mapping[str, Content]) -> Sequence[dict[str, Any]]:
    return [{**_reference(files[path]), "path": path} for path in sorted(files)]


def _reference(content: Content) -> dict[str, Any]:
    inline = {} if content.data is None else {"inline": base64.b64encode(content.data).decode()}
    return {**inline, "digest": content.digest}


def _requirements(component: Component) -> dict[str, str]:
    """A component that calls others of its app needs a host that can (O39)."""
    hosts = component.lists.get("allowed_outbound_hosts", ())
    chained = any(host.split("://")[-1].split(":")[0].rstrip("/").endswith(CHAINING) for host in hosts)
    return {"local_service_chaining": "required"} if chained else {}


def _sorted(value: Any) -> Any:  # noqa: ANN401  # JSON in, JSON out
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value
