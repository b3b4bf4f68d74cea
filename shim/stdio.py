"""A container's stdin, stdout and stderr from the strings of a Create (wire.md 2.12).

Laws: the container gets the client's FIFO or file itself, so that no byte of output goes through Python; a
reader handle of ours stays open until Delete, so that a client that leaves costs no EPIPE and one that comes
late still finds what was written; a reader that stalls costs lines, not time; an unknown scheme is an error.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from shim.errors import InvalidArgument, Unimplemented

FIFO_BYTES = 1 << 20  # what a late or slow reader may miss before lines are dropped


@dataclass(slots=True)
class Stdio:
    """Open descriptors: `fds` for the container (0, 1, 2), `kept` for us."""

    fds: list[int] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)

    def close_fds(self) -> None:
        """Gives up the container's ends, once it has its own copies."""
        _close(self.fds)

    def close(self) -> None:
        """Gives up everything."""
        _close(self.fds)
        _close(self.kept)


def open_stdio(stdin: str, stdout: str, stderr: str) -> Stdio:
    """Opens the three; raises InvalidArgument or Unimplemented with nothing left open.

    A Spin component reads no standard input, so `stdin` is only checked.
    """
    streams = Stdio()
    try:
        _path_of(stdin)
        streams.fds.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        for uri in (stdout, stderr or (stdout if _is_file(stdout) else "")):
            _open_output(uri, streams)
    except BaseException:
        streams.close()
        raise
    return streams


def _open_output(uri: str, streams: Stdio) -> None:
    path = _path_of(uri)
    if not path:
        streams.fds.append(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC))
        return
    try:
        if _is_file(uri):
            Path(path).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            streams.fds.append(os.open(path, flags, 0o644))
        else:
            streams.kept.append(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
            # Not blocking: where nobody reads, a full FIFO costs lines and not the app (faults.md G15).
            streams.fds.append(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
            with contextlib.suppress(OSError):
                fcntl.fcntl(streams.fds[-1], fcntl.F_SETPIPE_SZ, FIFO_BYTES)
    except OSError as error:
        message = f"cannot open {path} for the container's output: {error.strerror}"
        raise InvalidArgument(message) from error


def _is_file(uri: str) -> bool:
    return uri.startswith("file://")


def _path_of(uri: str) -> str:
    """The file system path that `uri` names, empty for none."""
    if not uri or "://" not in uri:
        return uri
    parts = urlsplit(uri)
    if parts.scheme in ("fifo", "file"):
        return unquote(parts.path)
    if parts.scheme in ("binary", "binary-v2"):
        message = f"log driver {parts.scheme}:// is not supported yet; use a FIFO or file:// ({uri})"
        raise Unimplemented(message)
    message = f"unknown STDIO scheme {parts.scheme}:// in {uri}; wanted a path, fifo:// or file://"
    raise InvalidArgument(message)


def _close(descriptors: list[int]) -> None:
    while descriptors:
        os.close(descriptors.pop())
