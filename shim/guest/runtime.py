"""The OCI runtime (crun or runc): which one, its command lines, and what its failures say.

Laws: containers are made, started, changed and removed by it alone (design.md D6); it is spawned without a
shell and with an environment of our own; a call that does not end in CALL_SECONDS is killed; its error is the
last line of its JSON log, which each call has for itself, and nothing on the container's own stdio.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import itertools
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shim.cgroup import ROOT, is_v2_host
from shim.errors import DeadlineExceeded, GuestFailed, Unavailable
from shim.guest.reaper import Reaper
from shim.guest.spawn import CLEAN_ENV, SEARCH_PATH, spawn
from shim.options import Options
from shim.settings import Settings

CANDIDATES = ("crun", "runc")
CALL_SECONDS = 60.0
SYSTEMD_PATH = re.compile(r"[^/:]*:[^/:]+:[^/:]+\Z")  # slice:prefix:name (wire.md 4.4)

log = logging.getLogger(__name__)
_calls = itertools.count()


@dataclass(frozen=True, slots=True)
class OciRuntime:
    """One runtime binary with its state folder; `create_words` are an operator's, for each `create`."""

    binary: str
    root: str
    systemd: bool = False
    create_words: tuple[str, ...] = ()

    def argv(self, log_file: Path, words: Sequence[str]) -> list[str]:
        """The whole command line of one verb, with its log in `log_file`."""
        driver = ["--systemd-cgroup"] if self.systemd else []
        logging_to = ["--log", str(log_file), "--log-format", "json"]
        return [self.binary, "--root", self.root, *logging_to, *driver, *words]

    @property
    def name(self) -> str:
        """`crun`, `runc`, or whatever an operator's binary is called."""
        return Path(self.binary).name


def choose(options: Options, settings: Settings, namespace: str, cgroups_path: str = "") -> OciRuntime:
    """The runtime that an operator named, or the first that works here; raises Unavailable.

    The cgroup driver is the operator's, else the one whose form the spec's cgroupsPath has.
    """
    wanted = options.binary_name or settings.oci_runtime
    binary = find(wanted) if wanted else first_usable()
    systemd = options.systemd_cgroup
    if systemd is None:
        systemd = bool(SYSTEMD_PATH.match(cgroups_path))
    return OciRuntime(binary, _root(binary, options, settings, namespace), systemd, _create_words(options))


def _create_words(options: Options) -> tuple[str, ...]:
    """What crun and runc have the same words for (wire.md 4.1)."""
    words = {"--no-pivot": options.no_pivot_root, "--no-new-keyring": options.no_new_keyring}
    return tuple(word for word, wanted in words.items() if wanted)


def choose_native(options: Options, settings: Settings, namespace: str, spec: Sequence[str]) -> OciRuntime:
    """As `choose`, for a container whose spec is not ours: `spec` is its (ociVersion, cgroupsPath).

    An operator's own choice stands; else it is a runtime that accepts the version (design.md section 8).
    """
    version, cgroups_path = spec
    chosen = choose(options, settings, namespace, cgroups_path)
    if options.binary_name or settings.oci_runtime or accepts(chosen.binary, version):
        return chosen
    other = next((path for path in installed() if suits(path) and accepts(path, version)), None)
    if other is None:
        log.warning("no OCI runtime here accepts OCI version %s; trying %s", version, chosen.binary)
        return chosen
    log.info("%s does not accept OCI version %s: using %s", chosen.name, version, other)
    root = _root(other, options, settings, namespace)
    return dataclasses.replace(chosen, binary=other, root=root)


def _root(binary: str, options: Options, settings: Settings, namespace: str) -> str:
    root = options.root or str(settings.run_dir / Path(binary).name)
    return str(Path(root) / namespace)


def find(name: str) -> str:
    """The absolute path of a runtime; raises Unavailable that lists where it was looked for."""
    path = shutil.which(name, path=SEARCH_PATH)
    if path is None:
        message = f"wanted the OCI runtime {name}, found none in {SEARCH_PATH}; install crun or runc"
        raise Unavailable(message)
    return path


def installed() -> list[str]:
    """The candidates that this node has, best first."""
    return [path for name in CANDIDATES if (path := shutil.which(name, path=SEARCH_PATH))]


def first_usable() -> str:
    """The first candidate that this node's cgroups suit, else the first there is; raises Unavailable."""
    found = installed()
    if not found:
        message = f"wanted an OCI runtime ({' or '.join(CANDIDATES)}), found none in {SEARCH_PATH}"
        raise Unavailable(message)
    return next((path for path in found if suits(path)), found[0])


def suits(binary: str, root: Path = ROOT) -> bool:
    """False for crun on a cgroup v1 host without the hugetlb hierarchy, which it insists on."""
    return Path(binary).name != "crun" or is_v2_host(root) or (root / "hugetlb").is_dir()


def accepts(binary: str, version: str) -> bool:
    """True when the runtime takes specs of this OCI version: crun compares, others do not."""
    if Path(binary).name != "crun":
        return True
    status = os.stat(binary)
    most = _newest_spec(binary, (status.st_ino, status.st_mtime_ns))
    return _minor(version) <= _minor(most)


@functools.cache
def _newest_spec(binary: str, _identity: tuple[int, int]) -> str:
    """What `features` says (crun 1.8.6 and later), else the `spec:` line of `--version`."""
    features = _output(binary, "features")
    if features.startswith("{"):
        return str(json.loads(features).get("ociVersionMax", ""))
    found = re.search(r"^spec: (\S+)", _output(binary, "--version"), re.MULTILINE)
    return found[1] if found else ""


def _output(binary: str, word: str) -> str:
    argv = [binary, word]
    done = subprocess.run(argv, env=CLEAN_ENV, capture_output=True, text=True, timeout=5, check=False)
    return done.stdout


def _minor(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


async def call(
    reaper: Reaper, runtime: OciRuntime, bundle: Path, words: Sequence[str], fds: Sequence[int] = ()
) -> None:
    """Runs one verb to its end; raises GuestFailed with the runtime's own words, DeadlineExceeded."""
    log_file = bundle / f"log-{next(_calls)}.json"
    try:
        await _run(reaper, runtime.argv(log_file, words), f"{runtime.name} {words[0]}", log_file, fds)
    finally:
        log_file.unlink(missing_ok=True)


async def _run(reaper: Reaper, argv: list[str], verb: str, log_file: Path, fds: Sequence[int]) -> None:
    since = time.time_ns()
    pid = spawn(argv, fds)
    ended = reaper.watch(pid, since)
    try:
        async with asyncio.timeout(CALL_SECONDS):
            status = (await asyncio.shield(ended)).status
    except TimeoutError as error:
        os.kill(pid, signal.SIGKILL)
        message = f"{verb} did not end within {CALL_SECONDS:.0f} s"
        raise DeadlineExceeded(message) from error
    if status != 0:
        message = f"{verb} failed: {last_error(log_file) or f'exit status {status}'}"
        raise GuestFailed(message)


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
