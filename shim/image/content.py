"""containerd's content store as a place for compiled code: leases, writes, labels over gRPC (wire.md 5.4).

Laws: used only where `image.containerd` is (docs/adr/0010); nothing is written outside a lease; what is
already there is not sent again; a content store that is not on this machine is found out by asking, and then
not used.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cache.entries import GC_REF
from cache.store import StoreUnusable
from shim.errors import ShimError
from shim.image.containerd import CONTENT, Answered, Containerd
from shim.pb.content_pb2 import (
    InfoRequest,
    InfoResponse,
    UpdateRequest,
    UpdateResponse,
    WriteAction,
    WriteContentRequest,
    WriteContentResponse,
)
from shim.pb.introspection_service_pb2 import PluginsRequest, PluginsResponse
from shim.pb.leases_pb2 import CreateRequest, CreateResponse, DeleteRequest

LEASES = "/containerd.services.leases.v1.Leases"
INTROSPECTION = "/containerd.services.introspection.v1.Introspection"
CONTENT_PLUGIN = "io.containerd.content.v1"
LOCAL_ID = "content"
EXPIRE_LABEL = "containerd.io/gc.expire"
LEASE_SECONDS = 3600  # only for a writer that died: everybody else deletes the lease
CHUNK = 1 << 20
LEASE_HEADER = "containerd-lease"


class LocalContent:
    """One namespace of the content store behind `containerd`; the cache's `Content`."""

    def __init__(self, containerd: Containerd) -> None:
        self.name = f"{containerd.address} {containerd.namespace}"
        self._containerd = containerd
        self._lease: tuple[tuple[str, str], ...] = ()

    def folder(self) -> Path | None:
        """Where blobs are files; None for a remote store, or a containerd that does not say (before 2.1)."""
        request = PluginsRequest(filters=[f"type=={CONTENT_PLUGIN}"])
        with unusable():
            answer = self._containerd.call(
                f"{INTROSPECTION}/Plugins", request, Answered("plugins", PluginsResponse)
            )
        loaded = [plugin for plugin in answer.plugins if not plugin.init_err.message]
        if [plugin.id for plugin in loaded] != [LOCAL_ID]:
            return None
        root = loaded[0].exports.get("root")
        folder = Path(root) / "blobs" / "sha256" if root else None
        return folder if folder and folder.is_dir() else None

    @contextmanager
    def leased(self, name: str) -> Iterator[None]:
        """Holds the lease `name`; one that a dead writer left is replaced: its key's lock is ours."""
        expires = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + LEASE_SECONDS))
        with unusable():
            self._end_lease(name)
            request = CreateRequest(id=name, labels={EXPIRE_LABEL: expires})
            self._containerd.call(f"{LEASES}/Create", request, Answered(f"lease {name}", CreateResponse))
        self._lease = ((LEASE_HEADER, name),)
        try:
            yield
        finally:
            self._lease = ()
            with unusable():
                self._end_lease(name)

    def _end_lease(self, name: str) -> None:
        self._containerd.call(
            f"{LEASES}/Delete", DeleteRequest(id=name), Answered(f"lease {name}", absent_ok=True)
        )

    def write(self, digest: str, descriptor: int, ref: str) -> None:
        """Makes the blob known to the namespace; its bytes are sent only if no namespace has it."""
        size = os.fstat(descriptor).st_size
        what = Answered(f"content {digest}", WriteContentResponse, existing_ok=True)
        with unusable():
            self._containerd.stream(
                f"{CONTENT}/Write", _requests(digest, size, descriptor, ref), what, self._lease
            )

    def label(self, digest: str, name: str, value: str) -> None:
        """Sets one label, leaving the others."""
        request = UpdateRequest()
        request.info.digest = digest
        request.info.labels[name] = value
        request.update_mask.paths.append(f"labels.{name}")
        with unusable():
            self._containerd.call(
                f"{CONTENT}/Update", request, Answered(f"content {digest}", UpdateResponse), self._lease
            )

    def labels(self, digest: str) -> dict[str, str]:
        """The labels of ours that a blob has: label name to the digest it keeps."""
        with unusable():
            answer = self._containerd.call(
                f"{CONTENT}/Info", InfoRequest(digest=digest), Answered(f"content {digest}", InfoResponse)
            )
        return {name: value for name, value in answer.info.labels.items() if name.startswith(GC_REF)}


@contextmanager
def unusable() -> Iterator[None]:
    """The cache's word for whatever containerd does not do."""
    try:
        yield
    except ShimError as error:
        raise StoreUnusable(str(error)) from error


def _requests(digest: str, size: int, descriptor: int, ref: str) -> Iterator[WriteContentRequest]:
    """The write as containerd wants it: a look first, which ends it when the blob is there, then the bytes.

    What an earlier writer left under `ref` is overwritten from its start: the key's lock makes it nobody's.
    """
    yield WriteContentRequest(action=WriteAction.STAT, ref=ref, total=size, expected=digest)
    offset = 0
    while chunk := os.pread(descriptor, CHUNK, offset):
        yield WriteContentRequest(
            action=WriteAction.WRITE, ref=ref, total=size, expected=digest, offset=offset, data=chunk
        )
        offset += len(chunk)
    yield WriteContentRequest(action=WriteAction.COMMIT, ref=ref, total=size, expected=digest, offset=size)
