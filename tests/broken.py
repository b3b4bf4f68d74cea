"""Locked apps that must be refused: each function spoils a good document in one way.

Knows: what `features.md` O37-O60 and `faults.md` A4-A17 forbid. Laws: a breakage takes a good
document and returns the bytes to publish; it changes nothing else; the artefact still imports
into containerd, so that it is the shim that has to refuse it.
"""

from collections.abc import Callable

from tests.apps import Json, digest_of, encode

Breakage = Callable[[Json], bytes]


def newer_lock_version(document: Json) -> bytes:
    """Claim a lock version from the future (O37)."""
    return encode({**document, "spin_lock_version": 2})


def unknown_must_understand(document: Json) -> bytes:
    """Demand a feature nobody has (O38)."""
    return encode({**document, "spin_lock_version": 1, "must_understand": ["time_travel"]})


def unmet_host_requirement(document: Json) -> bytes:
    """Require something of the host that it cannot give (O39)."""
    needs = {"must_understand": ["host_requirements"], "host_requirements": {"moon": "required"}}
    return encode({**document, "spin_lock_version": 1, **needs})


def unknown_trigger(document: Json) -> bytes:
    """Use a trigger type that is not served."""
    document["triggers"][0]["trigger_type"] = "gopher"
    return encode(document)


def unknown_executor(document: Json) -> bytes:
    """Use an HTTP executor that does not exist."""
    document["triggers"][0]["trigger_config"]["executor"] = {"type": "teapot"}
    return encode(document)


def missing_component(document: Json) -> bytes:
    """Route requests to a component that is not in the app."""
    document["triggers"][0]["trigger_config"]["component"] = "nobody"
    return encode(document)


def missing_layer(document: Json) -> bytes:
    """Name a wasm digest that the manifest does not list."""
    document["components"][0]["source"]["digest"] = digest_of(b"not in this artefact")
    return encode(document)


def wrong_inline_content(document: Json) -> bytes:
    """Inline bytes that do not have the digest beside them."""
    document["components"][0]["files"].append(
        {"inline": "aGVsbG8=", "digest": digest_of(b"other"), "path": "hello.txt"}
    )
    return encode(document)


def missing_variable(document: Json) -> bytes:
    """Declare a variable that somebody must give and nobody does (O41)."""
    document["variables"]["required"] = {"secret": False}
    document["components"][0]["config"]["required"] = "{{ required }}"
    return encode(document)


def undeclared_variable(document: Json) -> bytes:
    """Use a variable in a template that the app does not declare."""
    document["components"][0]["config"]["greeting"] = "{{ nowhere }}"
    return encode(document)


def bad_component_id(document: Json, name: str = "../evil") -> bytes:
    """Give a component an id that would be a path, everywhere the id is used (O60)."""
    document["components"][0]["id"] = name
    document["triggers"][0]["trigger_config"]["component"] = name
    return encode(document)


def file_traversal(document: Json, path: str = "../../etc/passwd") -> bytes:
    """Give a file a path that leads out of the component's folder (O49)."""
    content = {"inline": "aGVsbG8=", "digest": digest_of(b"hello"), "path": path}
    document["components"][0]["files"].append(content)
    return encode(document)


def duplicate_keys(document: Json) -> bytes:
    """Say `components` twice, so that two readers could see two apps."""
    return b'{"components":[],' + encode(document).removeprefix(b"{")


def deep_nesting(document: Json, depth: int = 100_000) -> bytes:
    """Nest arrays deeper than a recursive parser can follow."""
    nested = b"[" * depth + b"]" * depth
    return encode(document).removesuffix(b"}") + b',"deep":' + nested + b"}"


def not_json(document: Json) -> bytes:
    """Publish a document cut in the middle."""
    whole = encode(document)
    return whole[: len(whole) // 2]


BREAKAGES: dict[str, Breakage] = {
    "newer-lock-version": newer_lock_version,
    "unknown-must-understand": unknown_must_understand,
    "unmet-host-requirement": unmet_host_requirement,
    "unknown-trigger": unknown_trigger,
    "unknown-executor": unknown_executor,
    "missing-component": missing_component,
    "missing-layer": missing_layer,
    "wrong-inline-content": wrong_inline_content,
    "missing-variable": missing_variable,
    "undeclared-variable": undeclared_variable,
    "bad-component-id": bad_component_id,
    "file-traversal": file_traversal,
    "duplicate-keys": duplicate_keys,
    "deep-nesting": deep_nesting,
    "not-json": not_json,
}
