"""The change to containerd's configuration: one marked block, or one file of our own where that is imported.

Knows: TOML, which table names a runtime handler in which version of the format, and Go templates only so far
that they are no TOML. Must not know: files. Laws: pure; nothing outside the block changes, not a byte, and
taking the block out again gives the very text from before; a text that does not parse, or whose handler is
somebody else's, is refused with the lines to add by hand; what comes out has been parsed and compared. Text
is put in and no TOML rewritten (tomlkit was looked at): a template is no TOML, and nothing else may move.

Measured on containerd 1.7.35, 2.2.9 and 2.4.2 with `config dump`: 1.7 replaces a plugin's whole section by an
imported one, so a file of our own needs a configuration of version 3 (containerd 2) or later, and it must
not state a later version than the main file; 1.7 forgets its built-in runc handler as soon as any handler is
configured, so the block brings it along; a file without a version is of version 1, whose tables differ.
"""

from __future__ import annotations

import posixpath
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shim.errors import FailedPrecondition, InvalidArgument
from shim.node.layouts import Layout, Tree

RUNTIME = "io.containerd.spin.v2"
BEGIN = "# BEGIN spinwheel: made by `spinwheel node install`, taken out by `spinwheel node uninstall`"
END = "# END spinwheel"
BLOCK = re.compile(rf"(?:\A|\n){re.escape(BEGIN)}\n.*?{re.escape(END)}\n", re.DOTALL)
DROP_IN = "50-spinwheel.toml"
HANDLER = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?\Z")  # a Kubernetes label and a bare TOML key
CRI_V2, CRI_V3 = "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"
CRI_NAMES = frozenset({"cri", CRI_V2, CRI_V3})
CRI_V3_SINCE, KNOWN_VERSIONS = 3, (2, 3, 4)
BASE_TEMPLATE = '{{ template "base" . }}\n'


@dataclass(frozen=True, slots=True, kw_only=True)
class Handler:
    """What pods ask for by their RuntimeClass."""

    name: str = "spin"
    launcher: str = ""  # its path, where it is not on containerd's PATH
    oci_runtime: str = ""  # its path, where none is on the path that we search


@dataclass(frozen=True, slots=True)
class Edit:
    """One file before (None: there is none) and after, and what its operator should know."""

    path: str
    before: str | None
    after: str
    version: int  # of the format
    notes: tuple[str, ...] = ()

    @property
    def added(self) -> str:
        """Our lines alone."""
        block = BLOCK.search(self.after)
        return block.group().strip("\n") if block else ""


def decide(tree: Tree, layout: Layout, handler: Handler, default_version: int = 0) -> Edit:
    """The change that installs `handler`; raises InvalidArgument, FailedPrecondition.

    `default_version` is the format of a configuration that does not exist yet, 0 where that is not known.
    """
    if not HANDLER.match(handler.name):
        message = f"--handler: wanted letters, digits and '-', found {handler.name!r}"
        raise InvalidArgument(message)
    main = layout.config if layout.is_go_template or not tree.exists(layout.template) else layout.template
    text = tree.read(main)
    table = parsed(text or "", main)
    version = version_of(table, main, default_version)
    target, is_drop_in = _target(layout, main, table, version)
    before = tree.read(target)
    free = _without_ours(tree, table, target, main, version)
    if handler.name in free:
        message = (
            f"{main} has a runtime handler {handler.name} of type {free[handler.name]!r} already; nothing is "
            "changed. Take that one out, or give another name: --handler NAME"
        )
        raise FailedPrecondition(message)
    block = block_of(version, handler, with_runc=version < CRI_V3_SINCE and "runc" not in free)
    if not is_drop_in and layout.is_go_template:
        after = _after(BASE_TEMPLATE if before is None else before, block)
    else:
        states_version = is_drop_in or "version" not in parsed(without_block(text or ""), main)
        after = _after(before or "", _versioned(block, version) if states_version else block)
        _check(target, after)
    return Edit(target, before, after, version, _notes(table))


def parsed(text: str, path: str) -> dict[str, Any]:
    """The tables in `text`; raises InvalidArgument that says where it stops being TOML."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = (
            f"{path}: wanted TOML, found: {error}; nothing is changed. Repair it first "
            f"(`containerd --config {path} config dump` must succeed), then run this again"
        )
        raise InvalidArgument(message) from error


def version_of(table: Mapping[str, Any], path: str, default: int) -> int:
    """The format's version; raises FailedPrecondition for one whose tables we do not know."""
    version = table.get("version", 0 if table else default)
    if version in KNOWN_VERSIONS:
        return int(version)
    found = f"version {version}" if version else "none"
    step = (
        "state it with --config-version 2 (containerd 1.x) or 3 (containerd 2.x)"
        if not table
        else f"bring the file up to date, e.g. with `containerd --config {path} config migrate`"
    )
    message = (
        f"{path}: wanted a configuration of version 2, 3 or 4, found {found}; nothing is changed: {step}"
    )
    raise FailedPrecondition(message)


def handlers(table: Mapping[str, Any], version: int) -> dict[str, str]:
    """Runtime handlers and their types."""
    found: Any = table.get("plugins", {})
    for key in (CRI_V3 if version >= CRI_V3_SINCE else CRI_V2, "containerd", "runtimes"):
        found = found.get(key, {}) if isinstance(found, Mapping) else {}
    return {name: str(each.get("runtime_type", "")) for name, each in found.items()}


def block_of(version: int, handler: Handler, *, with_runc: bool = False) -> str:
    """The lines between the marks, marks included."""
    plugin = CRI_V3 if version >= CRI_V3_SINCE else CRI_V2
    runtimes = f'plugins."{plugin}".containerd.runtimes'
    lines = [BEGIN]
    if with_runc:
        lines += [f"[{runtimes}.runc]", '  runtime_type = "io.containerd.runc.v2"']
    lines += [f"[{runtimes}.{handler.name}]", f'  runtime_type = "{RUNTIME}"']
    if handler.launcher:
        lines.append(f'  runtime_path = "{handler.launcher}"')
    if handler.oci_runtime:
        lines += [f"[{runtimes}.{handler.name}.options]", f'  BinaryName = "{handler.oci_runtime}"']
    return "\n".join([*lines, END, ""])


def without_block(text: str) -> str:
    """`text` as it was before the block came."""
    return BLOCK.sub("", text)


def runtime_class(handler: Handler) -> str:
    """The Kubernetes object that names the handler (features.md S6)."""
    return (
        "apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata:\n  name: wasmtime-spin-v2\n"
        f"handler: {handler.name}\n"
    )


def _target(layout: Layout, main: str, table: Mapping[str, Any], version: int) -> tuple[str, bool]:
    """The file to write (in an imported folder, a template, or the main file), and if it is all ours."""
    folder = _imported_folder(table, main) if version >= CRI_V3_SINCE else ""
    if folder:
        return posixpath.join(folder, DROP_IN), True
    if layout.is_go_template:
        # k3s takes the newest of the templates it finds, and makes a configuration of that version.
        name = "config-v3.toml.tmpl" if version >= CRI_V3_SINCE else posixpath.basename(layout.template)
        return posixpath.join(posixpath.dirname(layout.template), name), False
    return main, False


def _imported_folder(table: Mapping[str, Any], main: str) -> str:
    globs = (each for each in table.get("imports", ()) if posixpath.basename(each) == "*.toml")
    folders = (posixpath.dirname(posixpath.join(posixpath.dirname(main), each)) for each in globs)
    return next(folders, "")


def _without_ours(
    tree: Tree, table: Mapping[str, Any], target: str, main: str, version: int
) -> dict[str, str]:
    """The handlers that others configured. A generated file repeats what our block in its template says."""
    if target == main:
        return handlers(parsed(without_block(tree.read(main) or ""), main), version)
    block = BLOCK.search(tree.read(target) or "")
    ours = handlers(parsed(block.group(), target), version) if block else {}
    return {name: kind for name, kind in handlers(table, version).items() if name not in ours}


def _after(before: str, block: str) -> str:
    # A line of its own for the first mark, whether or not the text before it ends with one.
    return f"{before}\n{block}" if (before := without_block(before)) else block


def _versioned(block: str, version: int) -> str:
    """For a file that says nothing else: the format's version must come first."""
    return block.replace(f"{BEGIN}\n", f"{BEGIN}\nversion = {version}\n")


def _check(path: str, text: str) -> None:
    """Nothing but our tables may be new; raises FailedPrecondition with the lines to add by hand."""
    plain = without_block(text)
    lines = text.removeprefix(plain).strip()
    message = (
        f"{path} cannot take our lines at its end (its handlers are in an inline table?); nothing is "
        f"changed. Add them by hand:\n{lines}"
    )
    try:
        fits = tomllib.loads(text) == _merged(tomllib.loads(plain), tomllib.loads(lines))
    except tomllib.TOMLDecodeError as error:
        raise FailedPrecondition(message) from error
    if not fits:
        raise FailedPrecondition(message)


def _merged(base: Any, more: Any) -> Any:  # noqa: ANN401  # TOML in, TOML out
    if not (isinstance(base, Mapping) and isinstance(more, Mapping)):
        return more
    return {**base, **{key: _merged(base.get(key), value) for key, value in more.items()}}


def _notes(table: Mapping[str, Any]) -> tuple[str, ...]:
    if CRI_NAMES.isdisjoint(table.get("disabled_plugins", ())):
        return ()
    return ("this containerd has CRI switched off (disabled_plugins): `ctr run` works, Kubernetes does not",)
