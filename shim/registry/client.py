"""A repository of a registry: pull verified, push what is not there yet.

Laws: every byte is compared with its digest here before anybody uses it, whichever endpoint it came from
(design.md D8); nothing is sized from a claim; a manifest asked for by tag has the digest that we computed.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import BinaryIO, Self, TypeVar

from shim.errors import NotFound, ShimError, Unavailable
from shim.image.manifest import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    MAX_DOCUMENT,
    BadArtifact,
    Descriptor,
    checked_digest,
    verified,
)
from shim.manifest.pack import Blob, Package
from shim.registry.challenge import joined, may_follow
from shim.registry.credentials import Credentials
from shim.registry.hosts import Endpoint
from shim.registry.reference import Reference
from shim.registry.transport import Answer, Patience, Transport

ACCEPT = ", ".join(sorted(MANIFEST_TYPES) + sorted(INDEX_TYPES))
PARALLEL = 4

Progress = Callable[[str], None]
T = TypeVar("T")


class Repository:
    """A BlobSource for `shim.image.artifact`, and where `push` puts things; a context manager."""

    def __init__(
        self,
        reference: Reference,
        endpoints: Sequence[Endpoint],
        credentials: Credentials | None,
        patience: Patience | None = None,
    ) -> None:
        self._reference = reference
        self._path = f"v2/{reference.repository}"
        wait = patience or Patience()
        try:
            # A mirror is another host: it never sees the registry's credentials.
            self._pull = [
                Transport(end, credentials if end is endpoints[-1] else None, wait) for end in endpoints
            ]
        except (OSError, ssl.SSLError) as error:
            message = f"{reference.host}: its CA file cannot be used: {error}"
            raise Unavailable(message) from error

    def __enter__(self) -> Self:
        """Nothing is opened before it is needed."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the connections."""
        for transport in self._pull:
            transport.close()

    def check(self) -> None:
        """Asks the registry whether it takes our credentials; raises InvalidArgument, Unavailable."""
        self._pull[-1].ask("GET", "v2/")

    def target(self) -> Descriptor:
        """The descriptor of what the reference names; raises NotFound, Unavailable, BadArtifact."""
        return self._anywhere(self._target)

    def _target(self, transport: Transport) -> Descriptor:
        path = f"{self._path}/manifests/{self._reference.selector}"
        answer = transport.ask("GET", path, limit=MAX_DOCUMENT, accept=ACCEPT)
        found = f"sha256:{hashlib.sha256(answer.body).hexdigest()}"
        if self._reference.digest and found != self._reference.digest:
            message = f"{self._reference}: the registry gave content with digest {found}"
            raise BadArtifact(message)
        claimed = answer.headers.get("Docker-Content-Digest")
        if claimed and checked_digest(claimed, "Docker-Content-Digest") != found:
            message = f"{self._reference}: the registry names {claimed}, its content has digest {found}"
            raise BadArtifact(message)
        kind = answer.headers.get("Content-Type", "").partition(";")[0].strip()
        return Descriptor(kind, found, len(answer.body))

    def read(self, digest: str, limit: int) -> bytes:
        """A blob or manifest of at most `limit` bytes; raises NotFound, Unavailable, BadArtifact."""
        return self._anywhere(lambda transport: self._blob(transport, digest, limit))

    def copy(self, digest: str, out: BinaryIO, limit: int) -> int:
        """Appends the blob to `out`, verified; returns its size."""
        return out.write(self.read(digest, limit))

    def _blob(self, transport: Transport, digest: str, limit: int) -> bytes:
        try:
            answer = transport.ask("GET", f"{self._path}/blobs/{digest}", limit=limit)
        except NotFound:
            path = f"{self._path}/manifests/{digest}"
            answer = transport.ask("GET", path, limit=limit, accept=ACCEPT)
        if len(answer.body) > limit:
            message = f"blob {digest}: wanted at most {limit} bytes, found more"
            raise BadArtifact(message)
        return verified(answer.body, Descriptor("", digest, len(answer.body)))

    def _anywhere(self, get: Callable[[Transport], T]) -> T:
        """The first endpoint's answer; the last is the registry itself, whose error is the one to show."""
        for transport in self._pull[:-1]:
            try:
                return get(transport)
            except ShimError:
                continue
        return get(self._pull[-1])

    def push(self, package: Package, progress: Progress) -> str:
        """Uploads what the registry lacks, then the manifest; returns its digest.

        Run again after a failure it goes on where it stopped: blobs that are there are not sent twice.
        """
        with ThreadPoolExecutor(PARALLEL) as pool:
            for line in pool.map(self._upload, package.blobs):
                progress(line)
        path = f"{self._path}/manifests/{self._reference.tag}"
        self._pull[-1].ask("PUT", path, body=package.manifest.data, accept=package.manifest.media_type)
        return package.manifest.digest

    def _upload(self, blob: Blob) -> str:
        transport = self._pull[-1]
        what = f"{blob.digest[:19]} {len(blob.data):>12,} bytes  {blob.media_type}"
        try:
            transport.ask("HEAD", f"{self._path}/blobs/{blob.digest}")
        except NotFound:
            where = _location(transport.ask("POST", f"{self._path}/blobs/uploads/", body=b""), transport)
            mark = "&" if "?" in where else "?"
            transport.ask("PUT", f"{where}{mark}digest={blob.digest}", body=blob.data)
            return f"pushed  {what}"
        return f"exists  {what}"


def _location(answer: Answer, transport: Transport) -> str:
    where = answer.headers.get("Location", "")
    if not where:
        message = f"{transport.base}: wanted a place for the upload, found no Location in its answer"
        raise Unavailable(message)
    if not may_follow(transport.base, joined(f"{transport.base}/", where)):
        message = f"{transport.base}: it wants the upload at {where}, where we do not go"
        raise Unavailable(message)
    return where
