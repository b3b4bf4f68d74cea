"""What an installation needs of the node, found out before anything is changed.

Knows: the operator's flags and what is on the node. Laws: reads only; the first thing that is missing is one
message that says what was wanted, what was found, and the step; flags win over what is found.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from shim.errors import FailedPrecondition
from shim.guest import runtime
from shim.guest.spawn import SEARCH_PATH
from shim.node import edit, layouts
from shim.node.edit import CRI_V3_SINCE, RUNTIME, Edit, Handler
from shim.node.environment import LAUNCHER, PROGRAM, Environment
from shim.node.files import Root
from shim.node.layouts import Layout
from shim.node.service import Containerd, call, program, restart_words
from shim.settings import Settings

COMMANDS = (PROGRAM, "spinwheel")  # what is linked into a folder on PATH
HERE = Root()


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The operator's words; empty ones are found out."""

    root: Root = HERE
    prefix: str = ""
    handler: str = "spin"
    config: str = ""
    config_version: int = 0
    address: str = ""
    service: str = ""
    programs: str = ""
    bin_dir: str = ""
    restart_command: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node that can be installed on; `containerd` is None where the root is not this system's."""

    root: Root
    layout: Layout
    prefix: str
    edit: Edit
    handler: Handler
    environment: Environment
    containerd: Containerd | None
    links: dict[str, str]
    settings: Settings

    @property
    def runtime(self) -> str:
        """What `ctr run --runtime` is given: the name where PATH leads to the launcher, else its path."""
        return RUNTIME if self.links else f"{self.prefix}/current/{LAUNCHER}"


def layout_of(request: Request) -> Layout:
    """The layout with the operator's words put in; raises FailedPrecondition."""
    found = layouts.named(request.config) if request.config else layouts.detect(request.root)
    words = {
        "address": request.address,
        "programs": request.programs,
        "bin_dir": request.bin_dir,
        "services": (request.service,) if request.service else (),
        "prefix": request.prefix,
    }
    return replace(found, **{key: value for key, value in words.items() if value})  # type: ignore[arg-type]


def look(request: Request, env: Mapping[str, str]) -> Node:
    """All that is needed; raises ShimError, and nothing was changed."""
    if os.geteuid() != 0:
        message = f"wanted root, which owns containerd's files; found uid {os.geteuid()}. Run this with sudo"
        raise FailedPrecondition(message)
    root, layout = request.root, layout_of(request)
    environment = Environment()
    check_interpreter(root, environment.interpreter)
    links = {} if layout.by_hand else _links(root, layout)
    settings = Settings.from_env(env)
    containerd = _containerd(request, layout)
    bundled = oci_runtime(root, layout, settings.oci_runtime)
    launcher = "" if links else f"{layout.prefix}/current/{LAUNCHER}"
    handler = Handler(name=request.handler, launcher=launcher, oci_runtime=bundled)
    change = edit.decide(root, layout, handler, request.config_version or _default_version(root, layout))
    _check_options(change, handler)
    if not layout.by_hand and not root.can_write(change.path):
        message = (
            f"{change.path} is on a read-only file system; nothing is changed. Bring these lines there by "
            f"the system's own means:\n{change.added}"
        )
        raise FailedPrecondition(message)
    return Node(
        root=root,
        layout=layout,
        prefix=layout.prefix,
        edit=change,
        handler=handler,
        environment=environment,
        containerd=containerd,
        links=links,
        settings=settings,
    )


def check_interpreter(root: Root, interpreter: str) -> None:
    """The private environment is a thin layer over a Python of the node; raises FailedPrecondition."""
    if not root.exists(interpreter):
        message = (
            f"wanted {interpreter} on the node, found none; nothing is changed. Install that Python there, "
            "or run the installer with one that the node has"
        )
        raise FailedPrecondition(message)


def oci_runtime(root: Root, layout: Layout, wanted: str) -> str:
    """Empty where the shim will find a runtime by itself, else a bundled one; raises FailedPrecondition."""
    names = (wanted,) if wanted else runtime.CANDIDATES
    folders = SEARCH_PATH.split(":")
    found = [path for name in names for folder in folders if root.exists(path := os.path.join(folder, name))]
    if any(not root.is_here or runtime.suits(path) for path in found):
        return ""
    bundled = f"{layout.programs}/runc"
    if layout.programs and not wanted and root.exists(bundled):
        return bundled
    what = (
        f"{found[0]}, which wants the hugetlb hierarchy on cgroup v1" if found else f"none in {SEARCH_PATH}"
    )
    message = f"wanted an OCI runtime ({' or '.join(names)}), found {what}; nothing is changed. Install runc"
    raise FailedPrecondition(message)


def _links(root: Root, layout: Layout) -> dict[str, str]:
    """Links on PATH and where they lead; none where no folder there can be written to."""
    if not layout.bin_dir or not root.can_write(f"{layout.bin_dir}/spinwheel"):
        return {}
    links = {f"{layout.bin_dir}/{name}": f"{layout.prefix}/current/bin/{name}" for name in COMMANDS}
    for path, wanted in links.items():
        there = root.at(path, follow=False)
        target = os.readlink(there) if there.is_symlink() else "a file"
        if os.path.lexists(there) and target != wanted:
            message = (
                f"{path} is there already ({target}), and is not of this installation; nothing is changed. "
                "Move it away, or give another folder on containerd's PATH: --bin-dir DIR"
            )
            raise FailedPrecondition(message)
    return links


def _containerd(request: Request, layout: Layout) -> Containerd | None:
    """None for a root that is not this system's, whose programs cannot be run, and where others apply."""
    if not request.root.is_here or layout.by_hand:
        return None
    words = restart_words(request.root, layout, request.restart_command)
    found = Containerd(layout.address, program(layout, "ctr"), words)
    found.version()
    return found


def _default_version(root: Root, layout: Layout) -> int:
    """The format for a configuration that is not there yet: what the installed containerd reads."""
    if not root.is_here or root.exists(layout.config):
        return 0
    text = call([program(layout, "containerd"), "--version"])
    release = re.search(r" v?(\d+)\.\d+\.\d+", text)
    return CRI_V3_SINCE if release and int(release[1]) > 1 else CRI_V3_SINCE - 1


def _check_options(change: Edit, handler: Handler) -> None:
    """Options of a handler that is not runc's do not arrive on containerd 1.x (wire.md 4.2)."""
    if handler.oci_runtime and change.version < CRI_V3_SINCE:
        message = (
            f"wanted crun or runc in {SEARCH_PATH}, found only {handler.oci_runtime}, which a configuration "
            f"of version {change.version} cannot name; nothing is changed. Install runc"
        )
        raise FailedPrecondition(message)
