"""What hostile bytes reach, one function a parser: each takes any bytes and may only end in our own errors.

Knows: which errors a parser may raise. Laws: a target makes nothing outside the folder it was given and keeps
nothing between two inputs; what it lets out is a bug (faults.md T5, A4-A12, rule R4).
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from shim import lifecycle
from shim.errors import ShimError
from shim.guest import files, spec, variables
from shim.image.app import parse_app
from shim.image.artifact import resolve
from shim.image.manifest import Descriptor, parse_document, parse_manifest
from shim.manifest.schema import read
from shim.options import parse_bootstrap, parse_options
from shim.pb import shim_pb2 as pb
from shim.pb.runtimeoptions_pb2 import Options as RuntimeOptions
from shim.registry.challenge import joined, may_follow, may_have_credentials, parse_challenge
from shim.registry.reference import parse_reference
from shim.task.requests import parsed
from shim.ttrpc.wire import Frame, FrameReader, MessageType, encode_request, make_request, parse_request
from tests.apps import App, Component, digest_of, encode, locked_app
from tests.doubles.blobs import MANIFEST, MemoryBlobs
from tests.images import archive_of

SPIN_TOML = b"""spin_manifest_version = 2
application.name = "a"
[variables]
v = { default = "x" }
[[trigger.http]]
route = "/..."
component = "c"
[component.c]
source = "c.wasm"
files = [{ source = "s", destination = "/" }]
build.command = "make"
"""
Target = Callable[[bytes], None]
REQUESTS = (
    pb.CreateTaskRequest,
    pb.ExecProcessRequest,
    pb.UpdateTaskRequest,
    pb.KillRequest,
    pb.StateRequest,
)


def frame(data: bytes) -> None:
    """One connection's bytes, in two pieces."""
    reader = FrameReader()
    cut = data[0] % (len(data) + 1) if data else 0
    for piece in (data[:cut], data[cut:]):
        reader.feed(piece)
        while (event := reader.next_event()) is not None:
            if isinstance(event, Frame) and event.type == MessageType.REQUEST:
                parse_request(event.payload)


def task(data: bytes) -> None:
    """A request of the task service."""
    for kind in REQUESTS:
        with contextlib.suppress(ShimError):
            parsed(kind, data)


def bootstrap(data: bytes) -> None:
    """The stdin of `start`, and the options in it."""
    parse_options(parse_bootstrap(data, "fuzz", "default").options)


def toml(data: bytes) -> None:
    """The options of a runtime handler as CRI hands them over."""
    from google.protobuf.any_pb2 import Any as AnyMessage  # noqa: PLC0415  # only here

    body = RuntimeOptions(config_body=data).SerializeToString()
    parse_options(AnyMessage(type_url="runtimeoptions.v1.Options", value=body))


def manifest(data: bytes) -> None:
    """A manifest or an index."""
    parse_manifest(data, MANIFEST)


def app(data: bytes) -> None:
    """A locked app."""
    parse_app(data)


def artifact(data: bytes) -> None:
    """A whole artifact whose manifest is `data`: blobs that are not there included."""
    blobs = MemoryBlobs()
    digest = digest_of(data)
    blobs.blobs[digest] = data
    resolve(blobs, Descriptor(MANIFEST, digest, len(data)))


def archive(data: bytes) -> None:
    """A layer with static files: every member is wanted."""
    blobs = MemoryBlobs()
    layer = blobs.add(data, "application/vnd.wasm.content.bundle.v1.tar+gzip")
    with tempfile.TemporaryDirectory() as folder:
        descriptor = Descriptor(layer["mediaType"], layer["digest"], layer["size"])
        files.unpack(blobs, descriptor, Path(folder), {digest_of(b"hello")})


def config(data: bytes) -> None:
    """A config.json on its way to the OCI runtime."""
    document = parse_document(data, "config.json")
    spec.rewrite(document, Path("/rootfs"), Path("/host"), [None, Path("/files")])


def template(data: bytes) -> None:
    """A component variable with templates."""
    variables.fill(data.decode(errors="replace"), {"a": "1", "b": "2"}, "fuzz")


def spin_toml(data: bytes) -> None:
    """A spin.toml, of either version."""
    read(data.decode(errors="replace"))


def reference(data: bytes) -> None:
    """The name of an artifact; what is taken must read the same when it is written out."""
    found = parse_reference(data.decode(errors="replace"))
    assert parse_reference(str(found)).repository == found.repository


def challenge(data: bytes) -> None:
    """What a registry asks for."""
    found = parse_challenge(data.decode(errors="replace"))
    may_have_credentials("https://a.test", found.realm)
    may_follow("https://a.test", joined("https://a.test", found.realm))


def argv(data: bytes) -> None:
    """The words of a command line."""
    flags, _ = lifecycle.parse_argv(data.decode(errors="replace").split("\0"))
    lifecycle.identifier(flags.get("id", ""), "-id")


TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (
        *(frame, task, bootstrap, toml, manifest, app, artifact, archive, config, template, argv),
        *(spin_toml, reference, challenge),
    )
}


def allowed(target: Target, data: bytes) -> None:
    """Runs `target`; its own errors are answers, anything else is a finding."""
    with contextlib.suppress(ShimError):
        target(data)


def seeds(name: str) -> Iterator[bytes]:
    """Inputs that get far, for the mutations to begin with."""
    locked = encode(locked_app(App([Component(b"\0asm", files={"a.txt": b"hello"})])))
    request = make_request("containerd.task.v2.Task", "State", pb.StateRequest(id="a").SerializeToString())
    layer = {"mediaType": "application/vnd.wasm.content.layer.v1+wasm", "digest": digest_of(b"x"), "size": 1}
    known: dict[str, list[bytes]] = {
        "frame": [b"\x05" + encode_request(1, request)],
        "task": [pb.CreateTaskRequest(id="a", bundle="/b", stdout="/o").SerializeToString()],
        "bootstrap": [pb.StateRequest(id="runtimeoptions.v1.Options").SerializeToString()],
        "toml": [b'BinaryName = "crun"\nRoot = "/r"\nSystemdCgroup = true\n'],
        "manifest": [json.dumps({"config": layer, "layers": [layer]}).encode()],
        "artifact": [json.dumps({"config": layer, "layers": [layer]}).encode()],
        "app": [locked],
        "archive": [archive_of({"a": b"hello"})],
        "config": [b'{"ociVersion":"1.0.2","process":{"args":["/"],"env":["A=b"]},"mounts":[],"root":{}}'],
        "template": [b"x {{ a }} y {{b}}"],
        "spin_toml": [SPIN_TOML],
        "reference": [b"localhost:5000/a/b:1", b"ghcr.io/me/app@" + digest_of(b"x").encode()],
        "challenge": [b'Bearer realm="https://a.test/token",service="s",scope="repository:a:pull"'],
        "argv": [b"-namespace\0default\0-id\0a\0start"],
    }
    yield from known[name]


if __name__ == "__main__":
    print(*TARGETS)
