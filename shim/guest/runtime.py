"""The OCI runtime (crun or runc): which one, its command lines, and what its failures say.

Laws: containers are made, started and removed by it alone (design.md D6); it is spawned without a shell and
with an environment of our own; a call that does not end in CALL_SECONDS is killed; its error is the last line
of its JSON log, and nothing on the container's own stdio.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shim.bundle import Bundle
from shim.cgroup import ROOT, is_v2_host
from shim.errors import DeadlineExceeded, GuestFailed, Unavailable
from shim.guest.reaper import Reaper
from shim.options import Options
from shim.settings import Settings

CANDIDATES = ("crun", "runc")
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CALL_SECONDS = 60.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OciRuntime:
    """One runtime binary with its state folder; builds command lines."""

    binary: str
    root: str
    systemd: bool = False

    def command(self, bundle: Path, *words: str) -> list[str]:
        """The argv for one verb, with its log in the bundle."""
        driver = ["--systemd-cgroup"] if self.systemd else []
        logging_to = ["--log", str(bundle / "log.json"), "--log-format", "json"]
        return [self.binary, "--root", self.root, *logging_to, *driver, *words]

    def create(self, bundle: Bundle, container_id: str, extra_fds: int) -> list[str]:
        """Creates the container of `bundle.oci`; its init gets descriptors 3 to 3 + extra_fds - 1."""
        pid_file = str(bundle.path / "init.pid")
        words = ["create", "--bundle", str(bundle.oci), "--pid-file", pid_file]
        return self.command(bundle.path, *words, "--preserve-fds", str(extra_fds), container_id)

    def start(self, bundle: Bundle, container_id: str) -> list[str]:
        """Lets a created container run."""
        return self.command(bundle.path, "start", container_id)

    def delete(self, bundle: Bundle, container_id: str) -> list[str]:
        """Kills what is left of a container and forgets it; succeeds for one that is gone."""
        return self.command(bundle.path, "delete", "--force", container_id)


def choose(options: Options, settings: Settings, namespace: str) -> OciRuntime:
    """The runtime that an operator named, or the first that works here; raises Unavailable."""
    wanted = options.binary_name or settings.oci_runtime
    binary = find(wanted) if wanted else first_usable()
    root = options.root or str(settings.run_dir / Path(binary).name)
    return OciRuntime(binary, str(Path(root) / namespace), options.systemd_cgroup)


def find(name: str) -> str:
    """The absolute path of a runtime; raises Unavailable that lists where it was looked for."""
    path = shutil.which(name, path=SEARCH_PATH)
    if path is None:
        message = f"wanted the OCI runtime {name}, found none in {SEARCH_PATH}; install crun or runc"
        raise Unavailable(message)
    return path


def first_usable() -> str:
    """The first candidate that this node's cgroups suit, else the first there is; raises Unavailable."""
    found = [path for name in CANDIDATES if (path := shutil.which(name, path=SEARCH_PATH))]
    if not found:
        message = f"wanted an OCI runtime ({' or '.join(CANDIDATES)}), found none in {SEARCH_PATH}"
        raise Unavailable(message)
    return next((path for path in found if suits(path)), found[0])


def suits(binary: str, root: Path = ROOT) -> bool:
    """False for crun on a cgroup v1 host without the hugetlb hierarchy, which it insists on."""
    return Path(binary).name != "crun" or is_v2_host(root) or (root / "hugetlb").is_dir()


def spawn(argv: Sequence[str], fds: Sequence[int] = ()) -> int:
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
            {"PATH": SEARCH_PATH},
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


async def call(reaper: Reaper, argv: Sequence[str], bundle: Path, fds: Sequence[int] = ()) -> None:
    """Runs one verb to its end; raises GuestFailed with the runtime's own words, DeadlineExceeded."""
    (bundle / "log.json").unlink(missing_ok=True)
    since = time.time_ns()
    pid = spawn(argv, fds)
    ended = reaper.watch(pid, since)
    try:
        async with asyncio.timeout(CALL_SECONDS):
            status = (await asyncio.shield(ended)).status
    except TimeoutError as error:
        os.kill(pid, signal.SIGKILL)
        message = f"{verb_of(argv)} did not end within {CALL_SECONDS:.0f} s"
        raise DeadlineExceeded(message) from error
    if status != 0:
        message = f"{verb_of(argv)} failed: {last_error(bundle / 'log.json') or f'exit status {status}'}"
        raise GuestFailed(message)


def verb_of(argv: Sequence[str]) -> str:
    """`crun create` out of a whole command line."""
    verb = next((word for word in argv if word in ("create", "start", "delete")), "")
    return f"{Path(argv[0]).name} {verb}"


def last_error(log_file: Path) -> str:
    """The runtime's last error message, empty when it left none."""
    try:
        lines = log_file.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    messages = (message_of(line) for line in reversed(lines))
    return next((message for message in messages if message), "")


def message_of(line: str) -> str:
    """The message in one line of the log when it is an error."""
    try:
        entry = json.loads(line)
    except ValueError:
        return line.strip()
    return str(entry.get("msg", "")).strip() if entry.get("level") in ("error", "fatal") else ""
