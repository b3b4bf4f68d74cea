"""The error vocabulary of the shim, named by what a caller can do, and the one table to wire status.

Laws: every failure that may reach containerd is one of these classes; a message says what was wanted,
what was found and the next step; codes are those of google.rpc.Status (wire.md 1.8).
"""

from __future__ import annotations

from enum import IntEnum

MAX_MESSAGE = 16 * 1024  # characters of a message on the wire; 1.6 dies of answers above 4 MiB (wire.md 1.4)


class Code(IntEnum):
    """The google.rpc.Status codes that containerd tells apart."""

    OK = 0
    CANCELED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


class ShimError(Exception):
    """Base of all failures that have a place on the wire."""

    code = Code.UNKNOWN


class InvalidArgument(ShimError):
    """The caller's request, or the artifact it names, is wrong; asking again will not help."""

    code = Code.INVALID_ARGUMENT


class NotFound(ShimError):
    """The named container, process or blob is not here."""

    code = Code.NOT_FOUND


class AlreadyExists(ShimError):
    """The id is taken."""

    code = Code.ALREADY_EXISTS


class FailedPrecondition(ShimError):
    """Right request, wrong moment: the task is in a state that does not allow it."""

    code = Code.FAILED_PRECONDITION


class Unimplemented(ShimError):
    """Not supported (yet). A v3 shim must not say so in Create or Connect (wire.md 3.4); we announce v2."""

    code = Code.UNIMPLEMENTED


class Unavailable(ShimError):
    """Somebody we depend on (containerd, the OCI runtime) did not answer; trying again may help."""

    code = Code.UNAVAILABLE


class ResourceExhausted(ShimError):
    """A size or count limit was passed."""

    code = Code.RESOURCE_EXHAUSTED


class DeadlineExceeded(ShimError):
    """The caller's time ran out."""

    code = Code.DEADLINE_EXCEEDED


class GuestFailed(ShimError):
    """The app or its host could not be started: the operator's or the author's fault, not ours."""

    code = Code.UNKNOWN


BY_CODE: dict[int, type[ShimError]] = {
    cls.code: cls
    for cls in (
        InvalidArgument,
        NotFound,
        AlreadyExists,
        FailedPrecondition,
        Unimplemented,
        Unavailable,
        ResourceExhausted,
        DeadlineExceeded,
    )
}


def status_of(error: BaseException) -> tuple[int, str]:
    """The wire status of `error`: (code, message of at most MAX_MESSAGE characters)."""
    if isinstance(error, ShimError):
        return int(error.code), shortened(str(error))
    if isinstance(error, TimeoutError):
        return int(Code.DEADLINE_EXCEEDED), "the call's deadline passed"
    return int(Code.INTERNAL), shortened(f"bug in the shim: {type(error).__name__}: {error}")


def error_from(code: int, message: str) -> ShimError:
    """The exception for a status that came over the wire or out of a child process."""
    return BY_CODE.get(code, GuestFailed)(message)


def shortened(message: str) -> str:
    """`message` as text that UTF-8 can carry, cut to MAX_MESSAGE characters, saying how much is gone."""
    message = message.encode("utf-8", "replace").decode()
    if len(message) <= MAX_MESSAGE:
        return message
    return f"{message[:MAX_MESSAGE]} … ({len(message) - MAX_MESSAGE} more characters)"
