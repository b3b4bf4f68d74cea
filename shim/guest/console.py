"""A terminal: the master that the OCI runtime hands over, and the bytes between it and the client's FIFOs.

Laws: the loop is never blocked, both ends are non-blocking and each direction holds at most one chunk; a
client that does not read stops the process's output, as a terminal does; the socket on which the master
comes has a folder of its own that is gone once it came (wire.md 2.12).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import socket
import struct
import tempfile
import termios
from collections.abc import Callable
from pathlib import Path

from shim.errors import DeadlineExceeded
from shim.pipes import readable

CHUNK = 64 << 10
RECEIVE_SECONDS = 10.0


class Socket:
    """Where the OCI runtime sends the master to: `path` is for its --console-socket."""

    def __init__(self, parent: Path) -> None:
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(prefix="tty-", dir=parent))
        self.path = self._folder / "s"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        self._listener.bind(str(self.path))
        self._listener.listen(1)

    async def receive(self) -> int:
        """The master's descriptor; raises DeadlineExceeded when the runtime does not send it."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(RECEIVE_SECONDS):
                peer, _ = await loop.sock_accept(self._listener)
                with peer:
                    await readable(peer.fileno())
                    _data, fds, _flags, _address = socket.recv_fds(peer, 4096, 1)
        except TimeoutError as error:
            message = f"the OCI runtime sent no console within {RECEIVE_SECONDS:.0f} s"
            raise DeadlineExceeded(message) from error
        os.set_inheritable(fds[0], False)
        os.set_blocking(fds[0], False)
        return int(fds[0])

    def close(self) -> None:
        """Removes socket and folder."""
        self._listener.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class Pump:
    """One direction: reads a chunk, writes all of it, reads the next. `ended` is called once, at the end."""

    def __init__(self, source: int, target: int, ended: Callable[[], None]) -> None:
        self._source = source
        self._target = target
        self._ended = ended
        self._left = b""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(source, self._read)

    def _read(self) -> None:
        try:
            self._left = os.read(self._source, CHUNK)
        except BlockingIOError:
            return
        except OSError:  # EIO: every process of the terminal is gone
            self._left = b""
        if not self._left:
            self.stop()
            return
        self._loop.remove_reader(self._source)
        self._write()

    def _write(self) -> None:
        try:
            self._left = self._left[os.write(self._target, self._left) :]
        except BlockingIOError:
            pass
        except OSError:  # nobody will ever read it
            self._left = b""
        self._loop.remove_writer(self._target)
        if self._left:
            self._loop.add_writer(self._target, self._write)
        else:
            self._loop.add_reader(self._source, self._read)

    def stop(self) -> None:
        """Ends this direction; safe to call twice."""
        self._loop.remove_reader(self._source)
        self._loop.remove_writer(self._target)
        ended, self._ended = self._ended, _nothing
        ended()


def _nothing() -> None:
    """What an end that was told already has to say."""


class Console:
    """A process's terminal, copied from and to descriptors that this object owns from now on."""

    def __init__(self, master: int, stdin: int | None, stdout: int) -> None:
        self._fds = [fd for fd in (master, stdin) if fd is not None]
        self._master = master
        self._stdout = stdout
        self.drained = asyncio.Event()
        for descriptor in (*self._fds, stdout):
            os.set_blocking(descriptor, False)
        self._pumps = [Pump(master, stdout, self._ended)]
        if stdin is not None:
            self._pumps.append(Pump(stdin, master, _nothing))

    def _ended(self) -> None:
        """The last byte is out: a client that reads to the end must see it before it asks for Delete."""
        os.close(self._stdout)
        self.drained.set()

    def resize(self, width: int, height: int) -> None:
        """Tells the processes of a new window size, in columns and rows."""
        with contextlib.suppress(OSError):
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def close(self) -> None:
        """Stops copying and gives the descriptors up."""
        for pump in self._pumps:
            pump.stop()
        self._pumps = []
        while self._fds:
            os.close(self._fds.pop())
