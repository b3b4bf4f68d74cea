"""`start`, `delete`, `-info` and `-v`: what containerd runs the shim binary for (wire.md section 2).

Knows: argv, stdin, stdout, the pod's socket and who owns it. Laws: a call is a value in and a value out, so
that the zygote and the plain process run the very same code; stdout is exactly the answer and stderr stays
empty on success; `delete` is idempotent and always answers; nothing heavy is imported here at the top,
because 200 deletes may come at once (faults.md section 1).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shim import __version__
from shim.bundle import Bundle, group_of
from shim.errors import InvalidArgument, ShimError
from shim.launch import Launch
from shim.settings import Settings

BOOLEANS = frozenset({"debug", "v", "version", "info"})
STRINGS = frozenset({"namespace", "id", "address", "publish-binary", "bundle", "socket", "debug-socket"})
IDENTIFIER = re.compile(r"[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*\Z")
MAX_IDENTIFIER = 76
SOCKET_PATH_LIMIT = 106
KILLED = 137
OCI_DELETE_SECONDS = 4.0  # of containerd's 5
RUNTIME_NAME = "io.containerd.spin.v2"
FEATURES_TYPE = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"


@dataclass(frozen=True, slots=True)
class Call:
    """One run of the shim binary: its words, and what surrounds them."""

    flags: Mapping[str, str]
    action: str
    cwd: str
    env: Mapping[str, str]
    stdin: bytes = b""
    steps: tuple[tuple[str, int], ...] = ()

    @property
    def id(self) -> str:
        """The container's id, checked."""
        return identifier(self.flags.get("id", ""), "-id")

    @property
    def namespace(self) -> str:
        """Containerd's namespace, checked."""
        return identifier(self.flags.get("namespace", ""), "-namespace")

    @property
    def bundle(self) -> Path:
        """The bundle: the flag where there is one, else the working directory (wire.md 2.2)."""
        return Path(self.flags.get("bundle") or self.cwd)


@dataclass(slots=True)
class Outcome:
    """What the run prints and returns; `serve` is what the process goes on to be, if anything."""

    code: int = 0
    stdout: bytes = b""
    stderr: bytes = b""
    serve: Callable[[], None] | None = field(default=None, repr=False)


def parse_argv(argv: Sequence[str]) -> tuple[dict[str, str], str]:
    """Flags and action from Go-style words; unknown flags with `=` are let pass (wire.md 2.2)."""
    flags: dict[str, str] = {}
    words = iter(argv)
    for word in words:
        if not word.startswith("-") or word == "-":
            return flags, word
        name, equals, value = word.lstrip("-").partition("=")
        if name in BOOLEANS:
            flags[name] = value or "true"
        elif equals:
            flags[name] = value
        else:
            flags[name] = next(words, "")
    return flags, ""


def identifier(text: str, flag: str) -> str:
    """`text` if it is an identifier as containerd defines it; raises InvalidArgument."""
    if len(text) > MAX_IDENTIFIER or not IDENTIFIER.match(text):
        message = (
            f"{flag}: wanted letters and digits joined by single '.', '_' or '-' (at most "
            f"{MAX_IDENTIFIER}), found {text!r}; this program is run by containerd, see `spinwheel --help`"
        )
        raise InvalidArgument(message)
    return text


def run(call: Call) -> Outcome:
    """Carries out one call; errors become one line on stderr and exit code 1."""
    try:
        return _dispatch(call)
    except (ShimError, OSError) as error:
        return Outcome(1, stderr=f"containerd-shim-spin-v2: {error}\n".encode(errors="replace"))


def _dispatch(call: Call) -> Outcome:
    if {"v", "version"} & call.flags.keys():
        return Outcome(stdout=version_text().encode())
    if "info" in call.flags:
        return Outcome(stdout=info(call))
    if call.action == "start":
        return start(call)
    if call.action == "delete":
        return Outcome(stdout=delete(call))
    message = f"wanted the action start or delete, found {call.action!r}; this program is run by containerd"
    raise InvalidArgument(message)


def version_text() -> str:
    """What `-v` prints."""
    return f"containerd-shim-spin-v2:\n  Version: {__version__}\n"


def start(call: Call) -> Outcome:
    """Joins the pod's server or becomes it; the answer is the socket's address and nothing else."""
    launch = _launch(call)
    listener = claim(launch.socket_path)
    address = f"unix://{launch.socket_path}"
    try:
        Bundle(call.bundle).write_address(address)
    except OSError:
        if listener is not None:
            launch.socket_path.unlink(missing_ok=True)
        raise
    outcome = Outcome(stdout=address.encode())
    if listener is not None:
        outcome.serve = lambda: _serve(launch, listener)
    return outcome


def _launch(call: Call) -> Launch:
    from shim.options import parse_bootstrap  # noqa: PLC0415  # see the file's laws

    bootstrap = parse_bootstrap(call.stdin, call.id, call.namespace)
    settings = Settings.from_env(call.env)
    address = call.flags.get("address", "") or bootstrap.grpc_address
    group = group_of(Bundle(call.bundle).config(), call.id)
    folder = Path(bootstrap.socket_dir) if bootstrap.socket_dir else settings.socket_dir
    return Launch(
        namespace=call.namespace,
        group=group,
        bundle=call.bundle,
        socket_path=socket_path(folder, address, call.namespace, group),
        containerd=address,
        events=bootstrap.ttrpc_address or call.env.get("TTRPC_ADDRESS") or f"{address}.ttrpc",
        options=bootstrap.options,
        settings=settings,
        debug=call.flags.get("debug") == "true",
        steps=[*call.steps],
    )


def _serve(launch: Launch, listener: socket.socket) -> None:
    from shim import podserver  # noqa: PLC0415  # see the file's laws

    launch.steps.append(("start answered", time.monotonic_ns()))
    podserver.serve(launch, listener)


def socket_path(folder: Path, address: str, namespace: str, group: str) -> Path:
    """Containerd's convention, so that `ctr shim` finds us: sha256 of the joined words (wire.md 2.8)."""
    words = f"{address.rstrip('/')}/{namespace}/{group}"
    path = folder / hashlib.sha256(words.encode()).hexdigest()
    if len(str(path)) > SOCKET_PATH_LIMIT:
        message = f"socket path {path} has {len(str(path))} characters; the limit is {SOCKET_PATH_LIMIT}"
        raise InvalidArgument(message)
    return path


def claim(path: Path) -> socket.socket | None:
    """A listening socket at `path`, or None when a live server has it; a dead one's is replaced."""
    path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    with _claiming(path.parent):
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _bind(listener, path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                listener.close()
                message = f"cannot listen on {path}: {error.strerror}"
                raise InvalidArgument(message) from error
            if is_alive(path):
                listener.close()
                return None
            path.unlink()
            _bind(listener, path)
        return listener


def _bind(listener: socket.socket, path: Path) -> None:
    mask = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(mask)
    listener.listen(128)


@contextlib.contextmanager
def _claiming(folder: Path) -> Iterator[None]:
    """Whoever replaces or removes a dead server's socket must not meet another who does; held briefly."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def is_alive(path: Path) -> bool:
    """True when somebody accepts connections on the socket at `path`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        return probe.connect_ex(str(path)) in (0, errno.EAGAIN)


def delete(call: Call) -> bytes:
    """Unmakes one container whose server is gone; returns the DeleteResponse. Touches no other."""
    call.id, call.namespace  # noqa: B018  # their checks raise
    bundle = Bundle(call.bundle)
    pid = bundle.pid() or 0
    if bundle.path.is_dir():
        _remove_container(bundle, call.id)
        _remove_socket(bundle.path / "address")
    return delete_response(pid, KILLED, time.time_ns())


def _remove_container(bundle: Bundle, container_id: str) -> None:
    from shim.mounts import unmount  # noqa: PLC0415  # see the file's laws

    record = bundle.record()
    if record:
        driver = ["--systemd-cgroup"] if record.systemd else []
        argv = [record.binary, "--root", record.root, *driver, "delete", "--force", container_id]
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run(
                argv,
                env={},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=OCI_DELETE_SECONDS,
                check=False,
            )
        _ensure_dead(bundle.pid(), container_id)
    unmount(bundle.rootfs)
    bundle.clear()


def _ensure_dead(pid: int | None, container_id: str) -> None:
    """Kills the init that a slow or failed OCI runtime left: nobody could find it again.

    The pid may be a stranger's by now, so it must be in a cgroup that is named after the container.
    """
    if pid is None:
        return
    with contextlib.suppress(OSError):
        descriptor = os.pidfd_open(pid)
        try:
            folders = Path(f"/proc/{pid}/cgroup").read_text().split()
            if any(container_id in folder.rsplit("/", 1)[-1] for folder in folders):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)


def _remove_socket(address_file: Path) -> None:
    """Removes the pod's socket when nobody serves it any more."""
    with contextlib.suppress(OSError):
        path = Path(address_file.read_text().strip().removeprefix("unix://"))
        with _claiming(path.parent):
            if path.is_socket() and not is_alive(path):
                path.unlink()


def delete_response(pid: int, status: int, at: int) -> bytes:
    """A DeleteResponse{pid=1, exit_status=2, exited_at=3} by hand: protobuf costs more than all the rest."""
    seconds, nanos = divmod(at, 10**9)
    timestamp = _field(1, seconds) + _field(2, nanos)
    return _field(1, pid) + _field(2, status) + b"\x1a" + _varint(len(timestamp)) + timestamp


def _field(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value) if value else b""


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def info(call: Call) -> bytes:
    """The RuntimeInfo that containerd 2.x asks for; features are those of the OCI runtime (wire.md 2.11)."""
    from shim.guest.runtime import first_usable  # noqa: PLC0415  # see the file's laws
    from shim.pb.introspection_pb2 import RuntimeInfo  # noqa: PLC0415

    answer = RuntimeInfo(name=RUNTIME_NAME)
    answer.version.version = __version__
    with contextlib.suppress(ShimError, OSError, subprocess.SubprocessError):
        binary = Settings.from_env(call.env).oci_runtime or first_usable()
        run_features = subprocess.run(
            [binary, "features"], env={}, capture_output=True, timeout=5, check=True
        )
        answer.features.type_url = FEATURES_TYPE
        answer.features.value = run_features.stdout
    return answer.SerializeToString()


def read_stdin(action: str) -> bytes:
    """What containerd wrote, where it writes at all; nothing from a terminal or a closed stdin."""
    try:
        if action == "delete" or sys.stdin is None or sys.stdin.isatty():
            return b""
        return sys.stdin.buffer.read()
    except (OSError, ValueError):
        return b""
