"""The files behind a process's stdin, stdout and stderr, from the strings of a request (wire.md 2.12).

Laws: a process gets the client's FIFO or file itself, so that no byte of output goes through Python; a
reader handle of ours stays open until Delete, so that a client that leaves costs no EPIPE and one that comes
late still finds what was written; end of file on stdin arrives when CloseIO closes our writer handle, and
not before; a reader that stalls stops an ordinary process, as it does everywhere, and costs a Spin app lines
and not time; an unknown scheme is an error.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from shim.errors import InvalidArgument

FIFO_BYTES = 1 << 20  # what a late or slow reader may miss before lines are dropped
LOGGERS = ("binary", "binary-v2")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a Create or an Exec asks for."""

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    terminal: bool = False

    @property
    def logger(self) -> str:
        """The URI of the program that takes the output, empty for none."""
        return self.stdout if urlsplit(self.stdout).scheme in LOGGERS else ""


@dataclass(slots=True)
class Stdio:
    """Open descriptors: `fds` for the process (0, 1, 2), `kept` and `stdin_writer` for us."""

    fds: list[int] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    stdin_writer: list[int] = field(default_factory=list)

    def close_fds(self) -> None:
        """Gives up the process's ends, once it has its own copies."""
        close_all(self.fds)

    def close_stdin(self) -> None:
        """Lets the process see the end of its input, once the client has closed it too."""
        close_all(self.stdin_writer)

    def close(self) -> None:
        """Gives up everything."""
        for descriptors in (self.fds, self.kept, self.stdin_writer):
            close_all(descriptors)


def open_stdio(wanted: Wanted, *, lossy: bool) -> Stdio:
    """Opens the three; `lossy` output never blocks its writer. Raises InvalidArgument, nothing left open."""
    streams = Stdio()
    try:
        open_input(wanted.stdin, streams)
        for uri in (wanted.stdout, wanted.stderr or (wanted.stdout if is_file(wanted.stdout) else "")):
            open_output(uri, streams, lossy=lossy)
    except BaseException:
        streams.close()
        raise
    return streams


def open_input(uri: str, streams: Stdio) -> None:
    """Appends the process's end of `uri` to `fds`, and keeps the writer that holds end of file back."""
    path = path_of(uri)
    if not path:
        streams.fds.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        return
    try:
        # Neither end of a FIFO opens without the other, unless asked not to wait.
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            streams.stdin_writer.append(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
            streams.fds.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        finally:
            os.close(reader)
    except OSError as error:
        message = f"cannot open {path} for the process's input: {error.strerror}"
        raise InvalidArgument(message) from error


def open_output(uri: str, streams: Stdio, *, lossy: bool) -> None:
    """Appends the process's end of `uri` to `fds`; raises InvalidArgument."""
    path = path_of(uri)
    if not path:
        streams.fds.append(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC))
        return
    try:
        if is_file(uri):
            streams.fds.append(_open_file(path))
        else:
            streams.kept.append(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
            # Lossy: where nobody reads, a full FIFO costs lines and not the app (faults.md G15).
            flags = os.O_NONBLOCK if lossy else 0
            streams.fds.append(os.open(path, os.O_WRONLY | os.O_CLOEXEC | flags))
            with contextlib.suppress(OSError):
                fcntl.fcntl(streams.fds[-1], fcntl.F_SETPIPE_SZ, FIFO_BYTES)
    except OSError as error:
        message = f"cannot open {path} for the process's output: {error.strerror}"
        raise InvalidArgument(message) from error


def _open_file(path: str) -> int:
    Path(path).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)


def is_file(uri: str) -> bool:
    """True for output that is appended to a file, both streams to the same."""
    return uri.startswith("file://")


def path_of(uri: str) -> str:
    """The file system path that `uri` names, empty for none; raises InvalidArgument for other schemes."""
    if not uri or "://" not in uri:
        return uri
    parts = urlsplit(uri)
    if parts.scheme in ("fifo", "file"):
        return unquote(parts.path)
    message = f"unknown STDIO scheme {parts.scheme}:// in {uri}; wanted a path, fifo://, file:// or binary://"
    raise InvalidArgument(message)


def logger_argv(uri: str) -> list[str]:
    """The command line in a binary:// URI: its path, then each first key and value of the query."""
    parts = urlsplit(uri)
    pairs: dict[str, str] = {}
    for key, value in parse_qsl(parts.query, keep_blank_values=True):
        pairs.setdefault(key, value)
    words = [word for pair in pairs.items() for word in pair if word]
    return [unquote(parts.path), *words]


def close_all(descriptors: list[int]) -> None:
    """Closes and forgets each."""
    while descriptors:
        os.close(descriptors.pop())
