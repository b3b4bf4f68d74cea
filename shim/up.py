"""`spinwheel up`: an app on this machine without containerd, by the same host program and the same cache.

Knows: from a folder or a registry to a running `spinwheel-host serve`. Laws: the app goes through the reader
that the shim uses, as an artifact, so that what runs here runs there; this process becomes the host, which so
gets every signal itself (Ctrl-C drains); nothing of this process's environment reaches a component.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from cache.entries import AotDirectory
from cache.store import DirectoryStore
from shim.errors import NotFound, Unavailable
from shim.guest import plan, variables
from shim.guest.code import STAMPS, codes_in
from shim.guest.files import tree_of
from shim.guest.prepare import memory_file
from shim.image.app import App
from shim.image.artifact import BlobSource, resolve
from shim.image.manifest import Descriptor
from shim.image.retain import retained
from shim.manifest.pack import Package
from shim.manifest.tuning import Tuning
from shim.settings import Settings

OUT_OF_THE_WAY = 1000  # descriptors are collected above this number, then put where the plan says


LISTEN = "127.0.0.1:3000"  # as `spin up` (H111)


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for."""

    listen: str = LISTEN
    env: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    quiet: bool = False
    retain: str = ""  # component ids, as SPIN_COMPONENTS_TO_RETAIN has them
    tuning: Tuning = field(default_factory=Tuning)


class Packed:
    """A packed app as a BlobSource: what was read from this machine a moment ago."""

    def __init__(self, package: Package) -> None:
        self._blobs = {blob.digest: blob.data for blob in (*package.blobs, package.manifest)}
        manifest = package.manifest
        self.root = Descriptor(manifest.media_type, manifest.digest, len(manifest.data))

    def read(self, digest: str, limit: int) -> bytes:
        """At most `limit` + 1 bytes; raises NotFound."""
        if digest not in self._blobs:
            message = f"content {digest}: not in the app"
            raise NotFound(message)
        return self._blobs[digest][: limit + 1]

    def copy(self, digest: str, out: BinaryIO, limit: int) -> int:
        """As `read`, into a file."""
        return out.write(self.read(digest, limit))


def user_settings(env: Mapping[str, str]) -> Settings:
    """The node's settings, with a cache that belongs to the user."""
    home = Path(env.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spinwheel"
    base = Settings.from_env(env)
    cache = base.cache_dir if env.get("SPINWHEEL_CACHE_DIR") else home / "up"
    return replace(base, cache_dir=cache, run_dir=home / "run")


def become_host(source: BlobSource, root: Descriptor, options: Options, settings: Settings) -> None:
    """Prepares the app and turns this process into its host; returns never. Raises ShimError before that."""
    artifact = resolve(source, root)
    app = retained(_with_env(artifact.app, options.env), options.retain)
    artifact = replace(artifact, app=app)
    given = {f"{variables.PREFIX}{name.upper()}": value for name, value in options.variables.items()}
    values = variables.resolve(app.variables, given)
    store = DirectoryStore(settings.cache_dir)
    entries = AotDirectory(settings.cache_dir, settings.run_dir / STAMPS)
    codes = [filled.opened.descriptor for filled in codes_in(entries, artifact, source, settings)]
    pieces = []
    for at, component in enumerate(app.components):
        tree = tree_of(store, source, artifact, component, settings.cache_dir / f"spare-{os.getpid()}-{at}")
        filled = variables.component_values(component, values)
        pieces.append(plan.Piece(plan.FIRST_AOT_FD + at, filled, str(tree) if tree else None))
    document = plan.build(app, artifact.digest, pieces, options.listen, options.tuning)
    _execute(
        settings.host, [memory_file("plan", document), os.open(os.devnull, os.O_WRONLY), *codes], options
    )


def _with_env(app: App, env: Mapping[str, str]) -> App:
    """`--env` reaches every component and wins over its own (H111)."""
    components = tuple(replace(item, env=tuple({**dict(item.env), **env}.items())) for item in app.components)
    return replace(app, components=components)


def _execute(host: Path, descriptors: list[int], options: Options) -> None:
    moved = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, OUT_OF_THE_WAY) for number in descriptors]
    os.closerange(plan.PLAN_FD, OUT_OF_THE_WAY)
    for at, number in enumerate(moved):
        os.dup2(number, plan.PLAN_FD + at, inheritable=True)
    if options.quiet:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    try:
        os.execve(host, [str(host), "serve", "--plan-fd", str(plan.PLAN_FD)], {})  # noqa: S606  # no shell is wanted
    except OSError as error:
        message = f"wanted the host program {host}, found: {error.strerror}; install spinwheel again"
        raise Unavailable(message) from error
