"""Reads a container's image and blobs through containerd's gRPC API (wire.md 5.4).

Laws: used only in the short-lived child that prepares a Create, so that no pod server ever carries gRPC
threads (docs/adr/0010); grpc is imported when first needed; a call that containerd does not answer within
CALL_SECONDS is an error, and an answer is verified by whoever asked for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Generic, TypeVar

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from shim.errors import NotFound, ShimError, Unavailable
from shim.image.manifest import Descriptor, checked_digest
from shim.pb.containers_pb2 import GetContainerRequest, GetContainerResponse
from shim.pb.content_pb2 import ReadContentRequest, ReadContentResponse
from shim.pb.images_pb2 import GetImageRequest, GetImageResponse

if TYPE_CHECKING:
    import grpc

M = TypeVar("M", bound=Message)
Metadata = tuple[tuple[str, str], ...]

CALL_SECONDS = 10.0
READ_SECONDS = 120.0
CONTAINERS = "/containerd.services.containers.v1.Containers"
IMAGES = "/containerd.services.images.v1.Images"
CONTENT = "/containerd.services.content.v1.Content"
# A pod server talks to one local daemon: no proxies, no name lookups, no service config.
CHANNEL_OPTIONS = [("grpc.enable_http_proxy", 0), ("grpc.service_config_disable_resolution", 1)]


@dataclass(frozen=True, slots=True)
class Answered(Generic[M]):
    """What a call is about, the kind of its answer, and which refusals are as good as done."""

    what: str
    kind: type[M] = Empty  # type: ignore[assignment]  # most answers of containerd are empty
    absent_ok: bool = False
    existing_ok: bool = False


class Containerd:
    """One namespace of the containerd at a UNIX socket; a BlobSource, and the way to a container's image."""

    def __init__(self, address: str, namespace: str) -> None:
        import grpc  # noqa: PLC0415  # see the file's laws

        self._grpc = grpc
        self.address, self.namespace = address, namespace
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

    def call(self, path: str, request: Message, answered: Answered[M], extra: Metadata = ()) -> M:
        """One call by its full path; raises NotFound, Unavailable."""
        method = self._channel.unary_unary(
            path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answered.kind.FromString,
        )
        with self._errors(answered):
            answer: M = method(request, timeout=CALL_SECONDS, metadata=(*self._metadata, *extra))
            return answer
        return answered.kind()

    def stream(
        self, path: str, requests: Iterator[Message], answered: Answered[M], extra: Metadata = ()
    ) -> None:
        """Sends all `requests` and waits for the end of the answers; raises NotFound, Unavailable."""
        method = self._channel.stream_stream(
            path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answered.kind.FromString,
        )
        with self._errors(answered):
            for _answer in method(requests, timeout=READ_SECONDS, metadata=(*self._metadata, *extra)):
                continue

    def _errors(self, what: str | Answered[Any]) -> GrpcErrors:
        return GrpcErrors(self._grpc, what)


class GrpcErrors:
    """Turns grpc's errors into ours at the one place where we call it."""

    def __init__(
        self,
        module: grpc,  # type: ignore[valid-type]  # the module itself
        answered: str | Answered[Any],
    ) -> None:
        self._grpc = module
        self._answered = Answered(answered) if isinstance(answered, str) else answered

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        """Raises NotFound or Unavailable for an RpcError; True for a refusal that is as good as done."""
        if not isinstance(error, self._grpc.RpcError):  # type: ignore[attr-defined]
            return False
        codes = self._grpc.StatusCode  # type: ignore[attr-defined]
        code = error.code()
        if (code == codes.NOT_FOUND and self._answered.absent_ok) or (
            code == codes.ALREADY_EXISTS and self._answered.existing_ok
        ):
            return True
        raise self._translated(error) from error

    def _translated(self, error: grpc.RpcError) -> ShimError:
        code, details = error.code(), error.details()
        what = self._answered.what
        if code == self._grpc.StatusCode.NOT_FOUND:  # type: ignore[attr-defined]
            return NotFound(f"{what}: not found in containerd ({details})")
        return Unavailable(f"{what}: containerd answered {code.name}: {details}")
