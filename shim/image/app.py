"""Spin's locked application, parsed into frozen values (features.md O37-O48), with no I/O.

Laws: the document is hostile until it went through here; a URL as content source is refused (faults.md A6);
what we do not support is refused by name and never skipped; fields that Spin itself ignores are ignored.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from shim.image.manifest import BadArtifact, checked_digest, parse_document, shown

COMPONENT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}\Z")
MAX_PATH, MAX_PATH_DEPTH = 1024, 32
LOCK_VERSION = 1
UNDERSTOOD = frozenset({"host_requirements", "component_host_requirements"})
EXECUTORS = frozenset({"http", "spin"})
TRIGGER_KEYS = frozenset({"component", "executor", "route", "static_response"})
STATIC_KEYS = frozenset({"body", "headers", "status_code"})
MIN_STATUS, MAX_STATUS = 200, 599


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes by digest, or inline when they are few (O11)."""

    digest: str
    inline: bytes | None = None


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file that a component sees below `/`; `path` is relative, normal and short."""

    path: str
    content: Content


@dataclass(frozen=True, slots=True)
class Component:
    """One component: its wasm by digest, its environment and files, templates, and what it may open (O44)."""

    id: str
    source: str
    env: tuple[tuple[str, str], ...] = ()
    files: tuple[StaticFile, ...] = ()
    config: tuple[tuple[str, str], ...] = ()
    outbound: tuple[str, ...] = ()
    stores: tuple[str, ...] = ()
    databases: tuple[str, ...] = ()
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StaticResponse:
    """What a route without a component answers (H17)."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: str = ""


@dataclass(frozen=True, slots=True)
class Trigger:
    """One HTTP route; `route` None is a private one, reachable by service chaining only (H11).

    Exactly one of `component` and `static` is there (H10).
    """

    id: str
    component: str | None
    route: str | None
    static: StaticResponse | None = None


@dataclass(frozen=True, slots=True)
class Variable:
    """A declared application variable; `default` None makes it required (O41)."""

    name: str
    default: str | None
    secret: bool


@dataclass(frozen=True, slots=True)
class App:
    """A whole application."""

    name: str
    version: str
    description: str
    variables: tuple[Variable, ...]
    triggers: tuple[Trigger, ...]
    components: tuple[Component, ...]


def bare_app(wasm_digest: str, name: str) -> App:
    """The app around a single component that came without one, as Spin makes it (O30)."""
    component = Component(id=name, source=wasm_digest)
    return App(name, "", "", (), (Trigger(f"{name}-http-trigger", name, "/..."),), (component,))


def parse_app(data: bytes) -> App:
    """The application in a verified locked-app blob; raises BadArtifact naming the place."""
    document = parse_document(data, "locked app")
    _check_understood(document)
    metadata = _mapping(document.get("metadata"), "locked app metadata")
    components = tuple(_component(item) for item in _list(document, "components"))
    _unique((component.id for component in components), "component id")
    triggers = tuple(_trigger(item) for item in _list(document, "triggers"))
    _check_triggers(triggers, {component.id for component in components})
    return App(
        name=_text(metadata.get("name", ""), "app name"),
        version=_text(metadata.get("version", ""), "app version"),
        description=_text(metadata.get("description", ""), "app description"),
        variables=_variables(document.get("variables")),
        triggers=triggers,
        components=components,
    )


def _check_understood(document: Mapping[str, Any]) -> None:
    version = document.get("spin_lock_version")
    if version not in (0, LOCK_VERSION):
        message = f"locked app: wanted spin_lock_version 0 or {LOCK_VERSION}, found {shown(version)}"
        raise BadArtifact(message)
    for name in document.get("must_understand") or ():
        if name not in UNDERSTOOD:
            message = f"locked app: must_understand names {shown(name)}, which this shim does not know"
            raise BadArtifact(message)
    _check_host_requirements(document, "the app")


def _check_host_requirements(owner: Mapping[str, Any], whose: str) -> None:
    for name, need in _mapping(owner.get("host_requirements"), "host_requirements").items():
        if need != "optional":
            message = f"locked app: {whose} requires the host feature {shown(name)}, which is not supported"
            raise BadArtifact(message)


def _component(item: object) -> Component:
    fields = _mapping(item, "locked component")
    name = fields.get("id")
    if not isinstance(name, str) or not COMPONENT_ID.match(name):
        message = f"locked app: {shown(name)} is not a component id ({COMPONENT_ID.pattern})"
        raise BadArtifact(message)
    where = f"component {name}"
    _check_host_requirements(fields, where)
    for kind in ("dependencies", "trigger_dependencies"):
        if fields.get(kind):
            message = f"{where} has {kind}, which are not composed: push the app with `--compose`"
            raise BadArtifact(message)
    source = _content(_mapping(fields.get("source"), f"{where} source"), f"{where} source")
    files = tuple(_file(entry, where) for entry in _list(fields, "files"))
    _check_files(files, where)
    metadata = _mapping(fields.get("metadata"), f"{where} metadata")
    return Component(
        name,
        source.digest,
        _pairs(fields.get("env"), where),
        files,
        _pairs(fields.get("config"), where),
        # Templates, which the host judges once they are filled in (H63).
        outbound=_granted(metadata, "allowed_outbound_hosts", where),
        stores=_granted(metadata, "key_value_stores", where),
        databases=_granted(metadata, "databases", where),
        models=_granted(metadata, "ai_models", where),
    )


def _granted(metadata: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    return tuple(_text(entry, f"{where} {key}") for entry in _list(metadata, key))


def _content(fields: Mapping[str, Any], where: str) -> Content:
    if fields.get("source") is not None:
        message = f"{where}: {shown(fields['source'])} is a URL; an artifact may only name its own layers"
        raise BadArtifact(message)
    digest = checked_digest(fields.get("digest"), where)
    inline = fields.get("inline")
    if inline is None:
        return Content(digest)
    return Content(digest, _inline(_text(inline, where), digest, where))


def _inline(text: str, digest: str, where: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        message = f"{where}: inline content is not base64: {error}"
        raise BadArtifact(message) from error
    found = f"sha256:{hashlib.sha256(data).hexdigest()}"
    if found != digest:
        message = f"{where}: wanted inline content with digest {digest}, found {found}"
        raise BadArtifact(message)
    return data


def _file(item: object, where: str) -> StaticFile:
    fields = _mapping(item, f"{where} file")
    path = fields.get("path")
    if not isinstance(path, str) or not is_safe_path(path):
        message = f"{where}: {shown(path)} is not a relative path without '.' or '..'"
        raise BadArtifact(message)
    return StaticFile(path.lstrip("/"), _content(fields, f"{where} file {path}"))


def is_safe_path(path: str) -> bool:
    """True for guest paths that stay below their mount and that every file system can hold (A7)."""
    parts = path.lstrip("/").split("/")
    bad_part = any(part in ("", ".", "..") or len(part.encode()) > 255 for part in parts)
    return not bad_part and "\0" not in path and len(path) <= MAX_PATH and len(parts) <= MAX_PATH_DEPTH


def _check_files(files: tuple[StaticFile, ...], where: str) -> None:
    _unique((file.path for file in files), f"{where} file path")
    folders = {
        file.path.rsplit("/", depth)[0] for file in files for depth in range(1, file.path.count("/") + 1)
    }
    for file in files:
        if file.path in folders:
            message = f"{where}: {shown(file.path)} is both a file and a folder"
            raise BadArtifact(message)


def _trigger(item: object) -> Trigger:
    fields = _mapping(item, "locked trigger")
    kind, name = fields.get("trigger_type"), _text(fields.get("id", ""), "trigger id")
    if kind != "http":
        message = f"trigger {name}: type {shown(kind)} is not supported; this shim runs http triggers"
        raise BadArtifact(message)
    if fields.get("trigger_dependencies"):
        message = f"trigger {name} has dependencies, which are not composed: push the app with `--compose`"
        raise BadArtifact(message)
    config = _mapping(fields.get("trigger_config"), f"trigger {name} config")
    _check_keys(config, TRIGGER_KEYS, f"trigger {name}")
    _check_executor(config, name)
    component, static = config.get("component"), config.get("static_response")
    if (component is None) == (static is None):
        message = f"trigger {name}: wanted exactly one of component and static_response"
        raise BadArtifact(message)
    route = _route(config.get("route"), name)
    if static is not None:
        return Trigger(name, None, route, _static(static, f"trigger {name} static_response"))
    if not isinstance(component, str):
        message = f"trigger {name}: wanted the name of a component, found {shown(component)}"
        raise BadArtifact(message)
    return Trigger(name, component, route)


def _static(item: object, where: str) -> StaticResponse:
    fields = _mapping(item, where)
    _check_keys(fields, STATIC_KEYS, where)
    status = fields.get("status_code", 200)
    if not isinstance(status, int) or not MIN_STATUS <= status <= MAX_STATUS:
        message = f"{where}: wanted a status_code from {MIN_STATUS} to {MAX_STATUS}, found {shown(status)}"
        raise BadArtifact(message)
    return StaticResponse(status, _pairs(fields.get("headers"), where), _text(fields.get("body"), where))


def _check_keys(fields: Mapping[str, Any], known: frozenset[str], where: str) -> None:
    for name in fields.keys() - known:
        message = f"{where}: unknown field {shown(name)}; wanted {', '.join(sorted(known))}"
        raise BadArtifact(message)


def _check_executor(config: Mapping[str, Any], name: str) -> None:
    executor = config.get("executor")
    kind = executor.get("type") if isinstance(executor, dict) else executor
    if executor is not None and kind not in EXECUTORS:
        message = f"trigger {name}: executor {shown(kind)} is not supported; wanted http or spin"
        raise BadArtifact(message)


def _route(route: object, name: str) -> str | None:
    if isinstance(route, dict) and route.get("private") is True:
        return None
    if isinstance(route, str) and route.startswith("/"):
        return route
    message = f"trigger {name}: wanted a route that starts with '/', found {shown(route)}"
    raise BadArtifact(message)


def _check_triggers(triggers: tuple[Trigger, ...], components: set[str]) -> None:
    if not triggers:
        message = "locked app: wanted at least one http trigger, found none"
        raise BadArtifact(message)
    for trigger in triggers:
        if trigger.component is not None and trigger.component not in components:
            message = f"trigger {trigger.id}: component {shown(trigger.component)} is not in the app"
            raise BadArtifact(message)


def _variables(item: object) -> tuple[Variable, ...]:
    found = []
    for name, fields in _mapping(item, "locked app variables").items():
        settings = _mapping(fields, f"variable {name}")
        default = settings.get("default")
        if default is not None:
            default = _text(default, f"variable {name}")
        found.append(Variable(name, default, settings.get("secret") is True))
    return tuple(found)


def _mapping(value: object, where: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        message = f"{where}: wanted an object, found {shown(value)}"
        raise BadArtifact(message)
    return value


def _list(owner: Mapping[str, Any], key: str) -> list[Any]:
    value = owner.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        message = f"locked app {key}: wanted a list, found {shown(value)}"
        raise BadArtifact(message)
    return value


def _text(value: object, where: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        message = f"{where}: wanted text, found {shown(value)}"
        raise BadArtifact(message)
    return value


def _pairs(value: object, where: str) -> tuple[tuple[str, str], ...]:
    return tuple((key, _text(text, f"{where} {key}")) for key, text in _mapping(value, where).items())


def _unique(names: Iterable[str], what: str) -> None:
    seen = set()
    for name in names:
        if name in seen:
            message = f"locked app: {what} {shown(name)} appears twice"
            raise BadArtifact(message)
        seen.add(name)
