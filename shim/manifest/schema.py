"""Spin's manifest, version 2 (and 1 by way of `legacy`), as frozen values (features.md O53-O60).

Laws: pure; what Spin refuses is refused here with its place; what we do not do yet is refused by name;
generated ids are Spin's own (O59).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from shim.image.manifest import DIGEST
from shim.manifest import legacy
from shim.manifest.document import Node, parse

KEBAB = re.compile(r"[a-zA-Z][a-zA-Z0-9]*(-[a-zA-Z0-9]+)*\Z")
SNAKE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*\Z")
COMPONENT_KEYS = (
    *("source", "description", "variables", "environment", "files", "exclude_files", "allowed_http_hosts"),
    *("allowed_outbound_hosts", "key_value_stores", "sqlite_databases", "ai_models", "targets", "build"),
    *("tool", "dependencies_inherit_configuration", "dependencies", "profile"),
)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a component's wasm is: a path, a URL with its digest, or a package of a registry (O53)."""

    path: str = ""
    url: str = ""
    digest: str = ""
    registry: str = ""
    package: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class Mount:
    """Files of a component: a pattern, or a source and where it goes (O51)."""

    source: str
    destination: str | None = None


@dataclass(frozen=True, slots=True)
class Build:
    """How a component is built."""

    commands: tuple[str, ...]
    workdir: str = ""
    watch: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Component:
    """One component as its author wrote it."""

    id: str
    source: Source
    description: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    exclude: tuple[str, ...] = ()
    lists: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    build: Build | None = None
    raw_build: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Trigger:
    """One trigger; `config` is its own business, with `component` in it."""

    id: str
    kind: str
    config: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Manifest:
    """A whole app as its author wrote it, ids filled in."""

    name: str
    version: str
    description: str
    authors: tuple[str, ...]
    settings: Mapping[str, Any]
    variables: Mapping[str, Mapping[str, Any]]
    triggers: tuple[Trigger, ...]
    components: tuple[Component, ...]


def read(text: str, file: str = "spin.toml", profile: str = "") -> Manifest:
    """The manifest in `text`; raises BadManifest."""
    root = parse(text, file)
    root.table()
    if legacy.is_v1(root.value):
        root = replace(root, value=legacy.to_v2(root))
    version = root.need("spin_manifest_version", "2")
    if version.value != 2 or isinstance(version.value, bool):
        raise version.fault("2 (or 1)")
    root.only("spin_manifest_version", "application", "variables", "trigger", "component")
    return _manifest(root, profile)


def _manifest(root: Node, profile: str) -> Manifest:
    application = root.need("application", "a table")
    application.only("name", "version", "description", "authors", "targets", "trigger", "tool")
    components = {
        name: _component(name, node, profile) for name, node in _table(root.get("component")).items()
    }
    triggers = _triggers(root.need("trigger", "at least one trigger"), components, profile)
    return Manifest(
        name=application.need("name", "the app's name").text(),
        version=_text(application.get("version")),
        description=_text(application.get("description")),
        authors=_texts(application.get("authors")),
        settings={key: node.value for key, node in _table(application.get("trigger")).items()},
        variables={key: _variable(key, node) for key, node in _table(root.get("variables")).items()},
        triggers=triggers,
        components=tuple(components.values()),
    )


def _variable(name: str, node: Node) -> Mapping[str, Any]:
    if not SNAKE.match(name):
        message = f"a name in lower_snake_case instead of {name}"
        raise node.fault(message)
    node.only("required", "default", "description", "secret")
    required = node.get("required")
    default = node.get("default")
    if (required is not None and required.flag()) == (default is not None):
        raise node.fault("either required = true or a default")
    fields: dict[str, Any] = {}
    for key in ("description", "default"):
        if (given := node.get(key)) is not None:
            fields[key] = given.text()
    secret = node.get("secret")
    return {**fields, "secret": True} if secret is not None and secret.flag() else fields


def _component(name: str, node: Node, profile: str) -> Component:
    if not KEBAB.match(name):
        message = f"a component id in kebab-case instead of {name}"
        raise node.fault(message)
    node.only(*COMPONENT_KEYS)
    chosen = _profile(node, profile)
    if _table(chosen.get("dependencies")):
        raise chosen.need("dependencies", "").fault(
            "a component without dependencies (composing is not supported yet: compose it with `wac plug`)"
        )
    build = chosen.get("build")
    return Component(
        id=name,
        source=_source(chosen.need("source", "a path, or { url, digest }")),
        description=_text(chosen.get("description")),
        variables=_variables(chosen.get("variables")),
        environment=chosen.need("environment", "").pairs() if chosen.get("environment") else {},
        mounts=tuple(_mount(item) for item in _items(chosen.get("files"))),
        exclude=_texts(chosen.get("exclude_files")),
        lists={
            "allowed_outbound_hosts": _hosts(chosen),
            "key_value_stores": _texts(chosen.get("key_value_stores")),
            "databases": _texts(chosen.get("sqlite_databases")),
            "ai_models": _texts(chosen.get("ai_models")),
        },
        build=_build(build) if build else None,
        raw_build=build.value if build else None,
    )


def _profile(node: Node, profile: str) -> Node:
    """The component with the chosen profile's words in place of its own (O58)."""
    chosen = _table(node.get("profile")).get(profile)
    if chosen is None:
        return node
    chosen.only("source", "environment", "dependencies", "build")
    merged = {**node.value, **chosen.value}
    if "environment" in chosen.value:
        merged["environment"] = {**node.value.get("environment", {}), **chosen.value["environment"]}
    return replace(node, value=merged)


def _hosts(node: Node) -> tuple[str, ...]:
    old = _texts(node.get("allowed_http_hosts"))
    return (*_texts(node.get("allowed_outbound_hosts")), *legacy.outbound_of(old))


def _source(node: Node) -> Source:
    if isinstance(node.value, str):
        return Source(path=node.value)
    if "url" in node.table():
        node.only("url", "digest")
        digest = node.need("digest", '"sha256:..."')
        if not DIGEST.match(digest.text()):
            raise digest.fault("sha256:<64 hex digits>")
        return Source(url=node.need("url", "text").text(), digest=digest.text())
    node.only("registry", "package", "version")
    registry = _text(node.get("registry"))
    return Source(
        registry=registry,
        package=node.need("package", '"namespace:name"').text(),
        version=node.need("version", '"1.2.3"').text(),
    )


def _mount(node: Node) -> Mount:
    if isinstance(node.value, str):
        if node.value.rstrip("/").rsplit("/", 1)[-1] in (".", ".."):
            raise node.fault("a pattern that does not end in '.' or '..' (for a folder: source, destination)")
        return Mount(node.value)
    node.only("source", "destination")
    return Mount(node.need("source", "a path").text(), node.need("destination", "a guest path").text())


def _build(node: Node) -> Build:
    node.only("command", "workdir", "watch", "environment")
    command = node.need("command", "what to run")
    commands = (command.value,) if isinstance(command.value, str) else command.texts()
    return Build(commands, _text(node.get("workdir")), _texts(node.get("watch")))


def _variables(node: Node | None) -> Mapping[str, str]:
    found = _table(node)
    for name, value in found.items():
        if not SNAKE.match(name):
            message = f"a name in lower_snake_case instead of {name}"
            raise value.fault(message)
    return {name: value.text() for name, value in found.items()}


def _triggers(node: Node, components: dict[str, Component], profile: str) -> tuple[Trigger, ...]:
    rows = [(kind, row) for kind, rows in node.table().items() for row in rows.items()]
    taken = {_text(row.get("id")) for _, row in rows}
    triggers = []
    for kind, row in rows:
        name = _text(row.get("id")) or _trigger_id(kind, row, taken)
        taken.add(name)
        config = {key: value for key, value in row.value.items() if key not in ("id", "components")}
        if (component := row.get("component")) is not None:
            config["component"] = _component_of(component, name, components, profile)
        triggers.append(Trigger(name, kind, config))
    return tuple(triggers)


def _trigger_id(kind: str, row: Node, taken: set[str]) -> str:
    component = row.value.get("component")
    if isinstance(component, str) and f"{component}-{kind}-trigger" not in taken:
        return f"{component}-{kind}-trigger"
    return next(name for at in range(1, len(taken) + 2) if (name := f"{kind}-trigger{at}") not in taken)


def _component_of(node: Node, trigger: str, components: dict[str, Component], profile: str) -> str:
    if isinstance(node.value, str):
        if node.value not in components:
            message = f"one of the components {', '.join(components) or '(there are none)'}"
            raise node.fault(message)
        return node.value
    name = f"{trigger}-component"
    if not KEBAB.match(name) or name in components:
        name = next(new for at in range(1, 10_000) if (new := f"inline-component{at}") not in components)
    components[name] = _component(name, node, profile)
    return name


def _table(node: Node | None) -> dict[str, Node]:
    return node.table() if node else {}


def _items(node: Node | None) -> list[Node]:
    return node.items() if node else []


def _text(node: Node | None) -> str:
    return node.text() if node else ""


def _texts(node: Node | None) -> tuple[str, ...]:
    return node.texts() if node else ()
