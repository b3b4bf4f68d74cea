"""Spin's manifest, version 1, rewritten as version 2 (features.md O54).

Laws: pure; what version 1 granted without saying so (databases) is said in the result, no more and no less.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from shim.manifest.document import Node

DATABASES = ("redis://*:*", "mysql://*:*", "postgres://*:*")
EVERYWHERE = ("http://*:*", "https://*:*", "http://self")
ALL = "insecure:allow-all"
KEPT = (
    *("source", "description", "environment", "files", "exclude_files"),
    *("key_value_stores", "sqlite_databases", "ai_models", "build"),
)


def is_v1(document: dict[str, Any]) -> bool:
    """True when the document says that it is of version 1."""
    return "1" in (document.get("spin_version"), document.get("spin_manifest_version"))


def to_v2(root: Node) -> dict[str, Any]:
    """The document of a version 1 manifest in the shape of version 2; raises BadManifest."""
    trigger = root.need("trigger", "{ type, ... }")
    kind = trigger.need("type", "http").text()
    settings = {key: node.value for key, node in trigger.table().items() if key != "type"}
    application = {
        key: root.value[key] for key in ("name", "version", "description", "authors") if key in root.value
    }
    components, triggers = {}, []
    for item in root.need("component", "at least one [[component]]").items():
        name = item.need("id", "the component's id").text().replace("_", "-").lower()
        components[name] = _component(item)
        own = item.need("trigger", "the trigger's settings").table()
        config = {key: node.value for key, node in own.items()}
        triggers.append({"id": f"trigger-{name}", "component": name, **config})
    return {
        "spin_manifest_version": 2,
        "application": {**application, "trigger": {kind: settings}},
        "variables": root.value.get("variables", {}),
        "trigger": {kind: triggers},
        "component": components,
    }


def _component(item: Node) -> dict[str, Any]:
    fields = {key: item.value[key] for key in KEPT if key in item.value}
    hosts = item.get("allowed_outbound_hosts")
    http = item.get("allowed_http_hosts")
    given = hosts.texts() if hosts else DATABASES
    return {
        **fields,
        "variables": item.value.get("config", {}),
        "allowed_outbound_hosts": [*given, *outbound_of(http.texts() if http else ())],
    }


def outbound_of(hosts: Iterable[str]) -> tuple[str, ...]:
    """What `allowed_http_hosts` means in the words of `allowed_outbound_hosts`."""
    hosts = tuple(hosts)
    if ALL in hosts:
        return EVERYWHERE
    named = []
    for host in hosts:
        bare = host.removeprefix("https://").removeprefix("http://").rstrip("/")
        named += ["http://self"] if bare == "self" else [f"http://{bare}", f"https://{bare}"]
    return tuple(named)
