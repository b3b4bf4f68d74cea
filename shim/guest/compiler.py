"""Runs `spinwheel-host compile` and `fingerprint`: the only way by which native code comes to be.

Laws: the compiler is a child with an empty environment and no descriptors but its input, its output and a
place for its last words; it shuts itself in before it reads (host/src/sandbox.rs): its own uid, no network,
no files, no processes, limits on CPU time, memory and output, a cgroup that is not the pod's; it dies with
us; its input is verified here and bound to its output by the cache key, not by the compiler's word (faults.md
K2, A13).
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cache.key import Key
from cache.refused import Refused
from shim.cgroup import own_cgroup
from shim.errors import Unavailable
from shim.guest.slots import turn
from shim.image.artifact import MAX_WASM, Artifact, BlobSource, copy_verified
from shim.image.manifest import BadArtifact

NATIVE = "native"
MAX_WORDS = 16 << 10
TELL_SECONDS = 5.0  # a compilation says that it goes on, so often
EX_DATAERR, EX_IOERR = 65, 74
TURNS = "compiling"

log = logging.getLogger(__name__)


def fingerprint(host: Path, target: str = NATIVE) -> str:
    """The engine's fingerprint for `target`, asked once per process and host file; raises Unavailable."""
    try:
        status = host.stat()
    except OSError as error:
        message = f"wanted the host program {host}, found none: {error.strerror}; install spinwheel again"
        raise Unavailable(message) from error
    return _fingerprint(host, target, (status.st_ino, status.st_mtime_ns, status.st_size))


@functools.cache
def _fingerprint(host: Path, target: str, _identity: tuple[int, int, int]) -> str:
    try:
        run = subprocess.run(
            [host, "fingerprint", "--target", target], env={}, capture_output=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        detail = getattr(error, "stderr", b"") or b""
        message = f"{host} fingerprint: {error} {detail.decode(errors='replace').strip()}"
        raise Unavailable(message) from error
    return run.stdout.decode().strip()


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one compilation (faults.md A13); Python apps of 25 MB take 9 s of CPU and 0.6 GiB."""

    cpu_seconds: int = 60
    memory_mib: int = 2048
    output_mib: int = 512
    wall_seconds: float = 600.0


@dataclass(frozen=True, slots=True)
class Compiler:
    """How this node compiles: the program, for whom, and where its turns are kept."""

    host: Path
    tenant: str
    turns: Path
    limits: Limits = Limits()

    def compute_from(self, source: BlobSource, artifact: Artifact) -> Callable[[Key, Path], None]:
        """What the cache calls on a miss: compiles the key's component from `artifact` to a path."""

        def compute(key: Key, output: Path) -> None:
            wasm = os.memfd_create("wasm", os.MFD_CLOEXEC)
            try:
                with os.fdopen(os.dup(wasm), "wb") as out:
                    copy_verified(source, artifact.code[key.component], out, MAX_WASM)
                with turn(self.turns, self.tenant):
                    self.compile(key, wasm, output)
            finally:
                os.close(wasm)

        return compute

    def compile(self, key: Key, wasm: int, output: Path) -> None:
        """Compiles the component behind descriptor `wasm` to `output`.

        Raises Refused with the compiler's message for a bad or boundless component, OSError for a disk that
        fails, Unavailable.
        """
        started = time.monotonic()
        try:
            self._run(key, wasm, output)
        except BadArtifact as error:
            raise Refused(str(error)) from error
        log.info("compiled %s for %s in %.2f s", key.component, key.target, time.monotonic() - started)

    def _run(self, key: Key, wasm: int, output: Path) -> None:
        with own_cgroup(self.limits.memory_mib) as cgroups, _new_file(output) as code, _words() as words:
            os.lseek(wasm, 0, os.SEEK_SET)
            child = subprocess.Popen(
                [self.host, "compile", "--target", key.target, "--sandbox", self._limits(cgroups), "-", "-"],
                env={},
                cwd="/",
                stdin=wasm,
                stdout=code,
                stderr=words,
            )
            with child:
                try:
                    self._wait(child, key)
                except BaseException:
                    child.kill()
                    raise
            said = os.pread(words, MAX_WORDS, 0).decode(errors="replace").strip()
        check(child.returncode, said, output, self.limits)

    def _limits(self, cgroups: list[Path]) -> str:
        limits = self.limits
        numbers = (
            f"cpu_seconds={limits.cpu_seconds},memory_mib={limits.memory_mib},output_mib={limits.output_mib}"
        )
        return ",".join([numbers, f"parent={os.getpid()}", *(f"cgroup={folder}" for folder in cgroups)])

    def _wait(self, child: subprocess.Popen[bytes], key: Key) -> None:
        started = time.monotonic()
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(TELL_SECONDS)
                return
            passed = time.monotonic() - started
            if passed > self.limits.wall_seconds:
                message = f"the compiler did not end within {self.limits.wall_seconds:.0f} s"
                raise BadArtifact(message)
            log.info("compiling %s for %s: %.0f s so far", key.component, key.target, passed)


@contextmanager
def _new_file(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _words() -> Iterator[int]:
    """Memory for what the compiler prints: bounded like any file that it writes."""
    descriptor = os.memfd_create("words", os.MFD_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def check(code: int, said: str, output: Path, limits: Limits) -> None:
    """Raises what the compiler's end means; returns if it ended well."""
    if code == 0:
        return
    if code == EX_IOERR:
        raise OSError(errno.EIO, said, str(output))
    if code == EX_DATAERR:
        raise BadArtifact(said)
    if code > 0:
        message = f"the compiler ended with exit code {code}: {said or 'no message'}"
        raise Unavailable(message)
    bounds = {
        signal.SIGXCPU: f"{limits.cpu_seconds} s of CPU time",
        signal.SIGKILL: f"{limits.cpu_seconds} s of CPU time or {limits.memory_mib} MiB of memory",
        signal.SIGABRT: f"{limits.memory_mib} MiB of memory",
        signal.SIGXFSZ: f"{limits.output_mib} MiB of output",
    }
    bound = bounds.get(signal.Signals(-code), f"(signal {-code})")
    message = f"the component is too much for the compiler: it may take {bound}; make the component smaller"
    raise BadArtifact(f"{message} ({said.splitlines()[0]})" if said else message)
