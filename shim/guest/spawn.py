"""Starts a program: no shell, an environment of our own, descriptors by number, and nothing else of ours."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Mapping, Sequence

from shim.errors import Unavailable

SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CLEAN_ENV = {"PATH": SEARCH_PATH}


def spawn(argv: Sequence[str], fds: Sequence[int] = (), env: Mapping[str, str] = CLEAN_ENV) -> int:
    """Starts `argv` with descriptors 0, 1, 2, … taken from `fds` (/dev/null where short); returns the pid."""
    high: list[int] = []
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(len(fds), 3)
    ]
    try:
        for number, fd in enumerate(fds):
            # A copy above the targets, so that no source is overwritten before it was taken.
            high.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3 + len(fds)))
            actions.append((os.POSIX_SPAWN_DUP2, high[-1], number))
        return os.posix_spawn(
            argv[0],
            list(argv),
            dict(env),
            file_actions=actions,
            setpgroup=0,
            setsigmask=[],
            setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGCHLD],
        )
    except OSError as error:
        message = f"cannot run {argv[0]}: {error.strerror}"
        raise Unavailable(message) from error
    finally:
        for descriptor in high:
            os.close(descriptor)
