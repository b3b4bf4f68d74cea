"""Everything of a Create that is heavy or touches hostile bytes, in a child that lives for that one Create.

Knows: image to app to compiled code to plan to bundle, in that order. Laws: the child is forked from the
pod server, so that gRPC threads, parsed documents and their memory end with it (docs/adr/0010); it hands
back open descriptors, never paths of code; it dies with its parent; its answer is one message, with the
descriptors in the order of guest.plan.
"""

from __future__ import annotations

import ctypes
import gc
import json
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cache.store import DirectoryStore
from shim.bundle import KIND_ANNOTATION, Bundle, notes_of
from shim.errors import Unavailable, error_from, status_of
from shim.guest import granted, plan, spec, variables
from shim.guest.code import code_of
from shim.guest.files import tree_of
from shim.image.app import App
from shim.image.artifact import Artifact, resolve
from shim.image.containerd import Containerd
from shim.image.manifest import BadArtifact, NotSpin
from shim.image.retain import TO_RETAIN, retained
from shim.manifest import tuning
from shim.settings import Settings

PR_SET_PDEATHSIG = 1
MAX_ANSWER = 128 << 10  # an error of MAX_MESSAGE characters, escaped
MAX_COMPONENTS = 200  # descriptors of one message; the kernel's own limit is 253

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """What to prepare: one container of one containerd."""

    container_id: str
    namespace: str
    bundle: Path
    containerd: str
    settings: Settings


@dataclass(slots=True)
class Prepared:
    """What a Create goes on with: `fds` are the plan and the compiled components; `steps` (name, ns).

    A `native` container has no descriptors: it runs as its own spec says.
    """

    fds: list[int]
    steps: list[tuple[str, int]] = field(default_factory=list)
    native: bool = False

    def close(self) -> None:
        """Gives the descriptors up."""
        while self.fds:
            os.close(self.fds.pop())


def prepare(job: Job, source: Containerd) -> Prepared:
    """Resolves, compiles, plans and writes the bundle; raises ShimError. Blocks; runs in the child.

    What an image is decides alone whether it runs as an app: nothing in a Spin artifact is ever executed
    natively (faults.md A3).
    """
    steps: list[tuple[str, int]] = []

    def done(step: str) -> None:
        steps.append((step, time.monotonic_ns()))

    bundle = Bundle(job.bundle)
    original = bundle.config()
    artifact = _artifact(source, job.container_id)
    done("image resolved")
    if artifact is None:
        return Prepared([], steps, native=True)
    env = variables.environment((original.get("process") or {}).get("env") or [])
    config = granted.in_container(original, env)
    tuned = tuning.choose(
        tuning.from_annotations(notes_of(original)), tuning.from_env(env), tuning.from_table(config.tuning)
    )
    app = retained(artifact.app, env.get(TO_RETAIN, ""))
    artifact = replace(artifact, app=app)
    values = variables.resolve(app.variables, env)
    store = DirectoryStore(job.settings.cache_dir)
    codes, compiled = _code(artifact, source, job)
    done("code compiled" if compiled else "code found in cache")
    trees = [
        tree_of(store, source, artifact, component, bundle.path / "files" / str(at))
        for at, component in enumerate(app.components)
    ]
    pieces = _pieces(app, values, trees)
    listen = env.get("SPIN_HTTP_LISTEN_ADDR", plan.DEFAULT_LISTEN)
    document = plan.build(app, artifact.digest, pieces, listen, tuned)
    bundle.write_oci(spec.rewrite(original, bundle.rootfs, job.settings.host, trees))
    done("plan and bundle written")
    return Prepared([memory_file("plan", document), *codes], steps)


def is_sandbox(spec: Mapping[str, Any]) -> bool:
    """True for the container that holds a pod's namespaces (wire.md 4.4)."""
    return notes_of(spec).get(KIND_ANNOTATION) == "sandbox"


def _artifact(source: Containerd, container_id: str) -> Artifact | None:
    """The container's Spin artifact; None for one made from an ordinary image or from a plain folder."""
    image = source.image_of(container_id)
    if not image:
        return None
    try:
        return resolve(source, source.target_of(image))
    except NotSpin:
        return None


def _code(artifact: Artifact, source: Containerd, job: Job) -> tuple[list[int], int]:
    """Descriptors of each component's compiled code, and how many compilations that took."""
    components = artifact.app.components
    if len(components) > MAX_COMPONENTS:
        message = f"locked app: {len(components)} components, above the limit of {MAX_COMPONENTS}"
        raise BadArtifact(message)
    descriptors, compiled = [], 0
    for filled in code_of(artifact, source, job.namespace, job.settings):
        descriptors.append(filled.opened.descriptor)
        compiled += filled.compiled
    return descriptors, compiled


def _pieces(app: App, values: Mapping[str, str], trees: list[Path | None]) -> list[plan.Piece]:
    return [
        plan.Piece(
            aot_fd=plan.FIRST_AOT_FD + at,
            variables=variables.component_values(component, values),
            files=spec.FILES_PATH.format(index=at) if trees[at] else None,
            outbound=variables.outbound_hosts(component, values),
        )
        for at, component in enumerate(app.components)
    ]


def memory_file(name: str, data: bytes) -> int:
    """A descriptor, at its beginning, of a file in memory with `data`."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    with os.fdopen(os.dup(descriptor), "wb") as out:
        out.write(data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def fork(job: Job, work: Callable[[Job], Prepared]) -> tuple[int, socket.socket]:
    """Starts `work(job)` in a child; returns its pid and the socket its one answer will come on."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    parent = os.getpid()
    pid = os.fork()
    if pid:
        theirs.close()
        ours.setblocking(False)
        return pid, ours
    try:
        _become_child(parent, theirs)
        _answer(theirs, job, work)
    finally:
        os._exit(0)


def _become_child(parent: int, keep: socket.socket) -> None:
    """Cuts the ties to the parent's event loop: its descriptors, its signal handlers."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
    gc.disable()  # the child is short and its heap is shared with the parent: collecting would copy it
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    os.closerange(3, keep.fileno())
    os.closerange(keep.fileno() + 1, os.sysconf("SC_OPEN_MAX"))


def _answer(out: socket.socket, job: Job, work: Callable[[Job], Prepared]) -> None:
    try:
        prepared = work(job)
    except BaseException as error:  # whatever it is, the parent must hear of it
        code, message = status_of(error)
        if code not in (3, 5, 12):
            log.exception("preparing %s failed", job.container_id)
        out.sendall(json.dumps({"code": code, "message": message}).encode())
        return
    answer = {"steps": prepared.steps, "native": prepared.native}
    socket.send_fds(out, [json.dumps(answer).encode()], prepared.fds)


def run(job: Job) -> Prepared:
    """The work of the real child: `prepare` over containerd's own API."""
    return prepare(job, Containerd(job.containerd, job.namespace))


def receive(answer: socket.socket) -> Prepared:
    """The child's answer from a socket that is readable; raises the ShimError it tells of."""
    data, fds, _flags, _address = socket.recv_fds(answer, MAX_ANSWER, MAX_COMPONENTS + 1)
    for descriptor in fds:
        os.set_inheritable(descriptor, False)
    if not data:
        message = "the process that prepared the container died; see the shim's log"
        raise Unavailable(message)
    fields = json.loads(data)
    if "code" in fields:
        raise error_from(fields["code"], fields["message"])
    steps = [(name, when) for name, when in fields["steps"]]
    return Prepared(list(fds), steps, fields["native"])
