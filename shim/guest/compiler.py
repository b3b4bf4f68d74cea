"""Runs `spinwheel-host compile` and `fingerprint`: the only way by which native code comes to be.

Laws: the compiler is a child with an empty environment, no inherited descriptors but its input, and limits
on CPU time and output; it dies with us; its input is verified here and bound to its output by the cache key,
not by the compiler's word (faults.md K2).
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import resource
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from cache.key import Key
from cache.refused import Refused
from shim.errors import Unavailable
from shim.image.artifact import MAX_WASM, Artifact, BlobSource, copy_verified
from shim.image.manifest import BadArtifact

NATIVE = "native"
CPU_SECONDS = 300
MAX_OUTPUT = 1 << 30
WALL_SECONDS = 600
EX_DATAERR, EX_IOERR = 65, 74

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


def compute_from(host: Path, source: BlobSource, artifact: Artifact) -> Callable[[Key, Path], None]:
    """What the cache calls on a miss: compiles the key's component from `artifact` to a path."""

    def compute(key: Key, output: Path) -> None:
        started = time.monotonic()
        wasm = os.memfd_create("wasm", os.MFD_CLOEXEC)
        try:
            with os.fdopen(os.dup(wasm), "wb") as out:
                copy_verified(source, artifact.code[key.component], out, MAX_WASM)
            _compile(host, wasm, key, output)
        finally:
            os.close(wasm)
        log.info("compiled %s for %s in %.2f s", key.component, key.target, time.monotonic() - started)

    return compute


def _compile(host: Path, wasm: int, key: Key, output: Path) -> None:
    """The compiler's verdict on the component is one that the cache remembers."""
    try:
        compile_component(host, wasm, key.target, output)
    except BadArtifact as error:
        raise Refused(str(error)) from error


def compile_component(host: Path, wasm: int, target: str, output: Path) -> None:
    """Compiles the component behind descriptor `wasm` to `output`.

    Raises BadArtifact with the compiler's message for bad input, OSError for a disk that fails, Unavailable.
    """
    child = subprocess.Popen(
        [host, "compile", "--target", target, f"/proc/self/fd/{wasm}", str(output)],
        env={},
        cwd="/",
        pass_fds=[wasm],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    with child:
        _limit(child.pid)
        try:
            _, errors = child.communicate(timeout=WALL_SECONDS)
        except subprocess.TimeoutExpired as error:
            child.kill()
            message = f"the compiler did not end within {WALL_SECONDS} s"
            raise BadArtifact(message) from error
        except BaseException:
            child.kill()
            raise
    _check(child.returncode, errors.decode(errors="replace").strip(), output)


def _limit(pid: int) -> None:
    resource.prlimit(pid, resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (MAX_OUTPUT, MAX_OUTPUT))
    resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))


def _check(code: int, message: str, output: Path) -> None:
    if code == 0:
        return
    if code == EX_IOERR:
        raise OSError(errno.EIO, message, str(output))
    if code == EX_DATAERR:
        raise BadArtifact(message)
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    text = f"the compiler ended with {how}: {message or 'no message'}"
    raise BadArtifact(text) if code < 0 else Unavailable(text)
