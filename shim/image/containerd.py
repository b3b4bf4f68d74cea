"""Reads a container's image and blobs through containerd's gRPC API (wire.md 5.4).

Laws: used only in the short-lived child that prepares a Create, so that no pod server ever carries gRPC
threads (docs/adr/0010); grpc is imported when first needed; a call that containerd does not answer within
CALL_SECONDS is an error, and an answer is verified by whoever asked for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

from shim.errors import NotFound, ShimError, Unavailable
from shim.image.manifest import Descriptor, checked_digest
from shim.pb.containers_pb2 import GetContainerRequest, GetContainerResponse
from shim.pb.content_pb2 import ReadContentRequest, ReadContentResponse
from shim.pb.images_pb2 import GetImageRequest, GetImageResponse

if TYPE_CHECKING:
    import grpc

CALL_SECONDS = 10.0
READ_SECONDS = 120.0
CONTAINERS = "/containerd.services.containers.v1.Containers"
IMAGES = "/containerd.services.images.v1.Images"
CONTENT = "/containerd.services.content.v1.Content"
# A pod server talks to one local daemon: no proxies, no name lookups, no service config.
CHANNEL_OPTIONS = [("grpc.enable_http_proxy", 0), ("grpc.service_config_disable_resolution", 1)]


class Containerd:
    """One namespace of the containerd at a UNIX socket; a BlobSource, and the way to a container's image."""

    def __init__(self, address: str, namespace: str) -> None:
        import grpc  # noqa: PLC0415  # see the file's laws

        self._grpc = grpc
        self._metadata = (("containerd-namespace", namespace),)
        self._channel = grpc.insecure_channel(f"unix://{address}", options=CHANNEL_OPTIONS)

    def close(self) -> None:
        """Ends the connection."""
        self._channel.close()

    def image_of(self, container_id: str) -> str:
        """The image reference in the container's record, empty for one made from a plain folder."""
        request = GetContainerRequest(id=container_id)
        call = self._channel.unary_unary(
            f"{CONTAINERS}/Get",
            request_serializer=GetContainerRequest.SerializeToString,
            response_deserializer=GetContainerResponse.FromString,
        )
        with self._errors(f"container {container_id}"):
            answer = call(request, timeout=CALL_SECONDS, metadata=self._metadata)
        return str(answer.container.image)

    def target_of(self, image: str) -> Descriptor:
        """The descriptor that the image's name stands for; raises NotFound."""
        request = GetImageRequest(name=image)
        call = self._channel.unary_unary(
            f"{IMAGES}/Get",
            request_serializer=GetImageRequest.SerializeToString,
            response_deserializer=GetImageResponse.FromString,
        )
        with self._errors(f"image {image}"):
            target = call(request, timeout=CALL_SECONDS, metadata=self._metadata).image.target
        digest = checked_digest(target.digest, f"image {image}")
        return Descriptor(target.media_type, digest, target.size)

    def read(self, digest: str, limit: int) -> bytes:
        """At most `limit` + 1 bytes of a blob; raises NotFound, Unavailable."""
        return b"".join(self._chunks(digest, limit + 1))

    def copy(self, digest: str, out: BinaryIO, limit: int) -> int:
        """Appends at most `limit` + 1 bytes of a blob to `out`; returns their count."""
        return sum(out.write(chunk) for chunk in self._chunks(digest, limit + 1))

    def _chunks(self, digest: str, most: int) -> Iterator[bytes]:
        request = ReadContentRequest(digest=digest)
        call = self._channel.unary_stream(
            f"{CONTENT}/Read",
            request_serializer=ReadContentRequest.SerializeToString,
            response_deserializer=ReadContentResponse.FromString,
        )
        with self._errors(f"content {digest}"):
            for answer in call(request, timeout=READ_SECONDS, metadata=self._metadata):
                yield answer.data[:most]
                most -= len(answer.data)
                if most <= 0:
                    return

    def _errors(self, what: str) -> GrpcErrors:
        return GrpcErrors(self._grpc, what)


class GrpcErrors:
    """Turns grpc's errors into ours at the one place where we call it."""

    def __init__(self, module: grpc, what: str) -> None:  # type: ignore[valid-type]  # the module itself
        self._grpc = module
        self._what = what

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Raises NotFound or Unavailable in place of an RpcError."""
        if not isinstance(error, self._grpc.RpcError):  # type: ignore[attr-defined]
            return
        raise self._translated(error) from error

    def _translated(self, error: grpc.RpcError) -> ShimError:
        code, details = error.code(), error.details()
        if code == self._grpc.StatusCode.NOT_FOUND:  # type: ignore[attr-defined]
            return NotFound(f"{self._what}: not found in containerd ({details})")
        return Unavailable(f"{self._what}: containerd answered {code.name}: {details}")
