"""The preloaded process that pod servers are forked from, and the plain path for when there is none.

Laws: the zygote is single-threaded, never opens a channel, never touches a task; its heap is frozen before
the first fork, so that children share it; a child answers its caller itself, so a slow caller costs nobody
else anything; when the zygote dies running pods are untouched, and the next start makes another; it goes by
itself when the files it was made from have been replaced (docs/adr/0004).
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import hashlib
import json
import logging
import os
import selectors
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shim import lifecycle
from shim.lifecycle import Call, Outcome
from shim.settings import Settings, allowed_env

LENGTH = struct.Struct(">I")
CREDENTIALS = struct.Struct("3i")
MAX_REQUEST, MAX_STDIN = 1 << 20, 10 << 20
CALLER_SECONDS = 10.0
CHECK_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a zygote is for: one containerd, one installed launcher."""

    address: str
    launcher: Path

    @property
    def key(self) -> str:
        """16 hex digits, computed alike by the launcher (host/src/launcher)."""
        status = self.launcher.stat()
        text = f"{self.address}\n{self.launcher}\n{status.st_ino}\n{status.st_mtime_ns}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def default_launcher() -> Path:
    """The launcher that was installed with this code."""
    return (Path(sys.prefix) / "bin" / "containerd-shim-spin-v2").resolve()


def preload() -> None:
    """Imports all that a pod server or its preparing child will use, and settles the heap."""
    import grpc  # noqa: F401, PLC0415  # no channel is opened here: that would start threads

    from shim import podserver  # noqa: F401, PLC0415  # pulls in the rest
    from shim.guest import runtime  # noqa: PLC0415
    from shim.guest.compiler import fingerprint  # noqa: PLC0415

    with contextlib.suppress(Exception):
        fingerprint(Settings.from_env(os.environ).host)
    for binary in runtime.installed():
        with contextlib.suppress(Exception):
            runtime.accepts(binary, "1.0.2")
    gc.collect()
    gc.freeze()


def serve(identity: Identity, run_dir: Path) -> None:
    """Becomes the zygote; returns at once when there is one already."""
    folder = run_dir / "zygote"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = identity.key
    lock = os.open(folder / f"{key}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    preload()
    path = folder / f"{key}.sock"
    path.unlink(missing_ok=True)
    (folder / f"{key}.pid").write_text(str(os.getpid()))
    with listening(path) as listener:
        _accept_until_obsolete(listener, identity, key)
    for name in (f"{key}.sock", f"{key}.pid", f"{key}.lock"):
        (folder / name).unlink(missing_ok=True)


@contextlib.contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """A socket that only root can reach."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        mask = os.umask(0o177)
        listener.bind(str(path))
        os.umask(mask)
        listener.listen(512)
        listener.setblocking(False)
        yield listener


def _accept_until_obsolete(listener: socket.socket, identity: Identity, key: str) -> None:
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stopping.append(number))
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(writing)
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        selector.register(reading, selectors.EVENT_READ)
        while not stopping and not _obsolete(identity, key):
            ready = {event.fd for event, _ in selector.select(CHECK_SECONDS)}
            if reading in ready:
                os.read(reading, 4096)
            _reap()
            if listener.fileno() in ready:
                _fork_for_callers(listener)


def _obsolete(identity: Identity, key: str) -> bool:
    """True once the launcher was replaced or removed, or containerd's socket is gone for good."""
    try:
        return identity.key != key or not Path(identity.address).exists()
    except OSError:
        return True


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _fork_for_callers(listener: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        while True:
            caller, _ = listener.accept()
            accepted = time.monotonic_ns()
            if os.fork() == 0:
                _child(caller, accepted)
            caller.close()


def _child(caller: socket.socket, accepted: int) -> None:
    """One call, in a fork of the zygote; never returns."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if not is_ours(caller):
            return
        caller.settimeout(CALLER_SECONDS)
        call = receive_call(caller, accepted)
        outcome = lifecycle.run(call)
        if outcome.serve:
            _leave_the_zygotes_cgroup(caller)
        with contextlib.suppress(OSError):  # whoever gave up has joined us by the plain path
            send_outcome(caller, outcome)
        caller.close()
        if outcome.serve:
            outcome.serve()
        code = 0
    except BaseException:  # the log is the only one left to tell
        logging.getLogger(__name__).exception("a child of the zygote ended")
    finally:
        os._exit(code)


def is_ours(caller: socket.socket) -> bool:
    """True for a caller of our own uid; the folder's mode keeps others out already (faults.md S1)."""
    _pid, uid, _gid = _credentials(caller)
    return uid == os.geteuid()


def _credentials(caller: socket.socket) -> tuple[int, int, int]:
    """The caller's pid, uid and gid, as the kernel has them."""
    raw = caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    pid, uid, gid = CREDENTIALS.unpack(raw)
    return pid, uid, gid


def _leave_the_zygotes_cgroup(caller: socket.socket) -> None:
    """A pod server is accounted where containerd starts its shims, and outlives the zygote's unit."""
    from shim import cgroup  # noqa: PLC0415  # preloaded; the plain path has no use for it

    try:
        cgroup.follow(_credentials(caller)[0])
    except OSError as error:
        logging.getLogger(__name__).warning("staying in the zygote's cgroup: %s", error)


def receive_call(caller: socket.socket, accepted: int) -> Call:
    """The launcher's request; our working directory and environment become the caller's."""
    request = json.loads(_receive_block(caller, MAX_REQUEST))
    stdin = _receive_block(caller, MAX_STDIN)
    flags, action = lifecycle.parse_argv(request["argv"])
    with contextlib.suppress(OSError):
        os.chdir(request["cwd"])
    env = allowed_env(request["env"])
    os.environ.clear()
    os.environ.update(env)
    steps = (("launcher", request["started_ns"]), ("zygote forked", accepted))
    return Call(flags, action, request["cwd"], env, stdin, steps)


def _receive_block(caller: socket.socket, limit: int) -> bytes:
    (length,) = LENGTH.unpack(_receive_exactly(caller, LENGTH.size))
    if length > limit:
        message = f"the launcher announced {length} bytes; the limit is {limit}"
        raise ValueError(message)
    return _receive_exactly(caller, length)


def _receive_exactly(caller: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        chunk = caller.recv(count - len(data))
        if not chunk:
            message = "the launcher went away"
            raise ConnectionError(message)
        data += chunk
    return bytes(data)


def send_outcome(caller: socket.socket, outcome: Outcome) -> None:
    """Exit code, stdout and stderr for the launcher to repeat."""
    blocks = (outcome.stdout, outcome.stderr)
    body = b"".join(LENGTH.pack(len(block)) + block for block in blocks)
    caller.sendall(LENGTH.pack(outcome.code) + body)


def main(argv: list[str]) -> int:
    """The plain path: what `spinwheel-shim` does with the launcher's own arguments."""
    started = time.monotonic_ns()
    flags, action = lifecycle.parse_argv(argv)
    env = allowed_env(os.environ)
    if action == "zygote":  # by the unit that `spinwheel node install` makes; containerd never says so
        _serve_as_zygote(
            Identity(flags.get("address", ""), default_launcher()), Settings.from_env(env).run_dir
        )
        return 0
    cwd = os.environ.get("PWD", "/")
    with contextlib.suppress(OSError):
        cwd = os.getcwd()
    # The launcher has cleared the environment: what a process was started with stays in /proc for good.
    steps = (("plain process", started),)
    call = Call(flags, action, cwd, env, lifecycle.read_stdin(action), steps)
    outcome = lifecycle.run(call)
    children = [outcome.serve] if outcome.serve else []
    if outcome.serve and not Settings.from_env(env).no_zygote:
        identity = Identity(flags.get("address", ""), default_launcher())
        children.append(lambda: _become_zygote(identity, Settings.from_env(env).run_dir))
    for child in children:
        if os.fork() == 0:
            _run_and_exit(child)
    _print(outcome)
    return outcome.code


def _run_and_exit(work: object) -> None:
    try:
        work()  # type: ignore[operator]  # a Callable[[], None]
    finally:
        os._exit(0)


def _become_zygote(identity: Identity, run_dir: Path) -> None:
    """Cuts all ties with the caller first: containerd waits for whoever holds its pipe (wire.md 2.5)."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for target in (0, 1, 2):
        os.dup2(null, target)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.chdir("/")
    _serve_as_zygote(identity, run_dir)


def _serve_as_zygote(identity: Identity, run_dir: Path) -> None:
    from setproctitle import setproctitle  # noqa: PLC0415  # costs nothing to the short-lived paths

    setproctitle(f"spinwheel-zygote -address {identity.address}")
    serve(identity, run_dir)


def _print(outcome: Outcome) -> None:
    for descriptor, data in ((1, outcome.stdout), (2, outcome.stderr)):
        with contextlib.suppress(OSError):
            left = memoryview(data)
            while left:
                left = left[os.write(descriptor, left) :]
