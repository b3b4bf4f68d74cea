"""The node that is measured: a private containerd with our shim, and the images and tasks of a run.

Knows: how a task of any runtime is started and first answers. Laws: everything is below one folder and gone
at the end; a task started here is removed here; times are of CLOCK_MONOTONIC, in ms.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import itertools
import os
import socket
import time
from collections.abc import Iterator

from tests.apps import App, Component
from tests.demo import private_node
from tests.guests.build import guest_path
from tests.harness.node import LISTEN, RUNTIME, Node
from tests.native import REFERENCE, pack_busybox

RUNC = "io.containerd.runc.v2"
ANSWER_SECONDS = 20.0
PORTS = itertools.count(10_000 + os.getpid() % 10_000)


class Site:
    """A node, its images and its free ports."""

    def __init__(self, node: Node, against: str | None) -> None:
        self.node = node
        self.runtimes = {"spinwheel": RUNTIME} | ({against: against} if against else {})

    @functools.cache  # noqa: B019  # a site lives as long as the run
    def image(self, guest: str) -> str:
        """The reference of a guest's image, compiled by one start that is not measured."""
        component = Component(wasm=guest_path(guest).read_bytes())
        reference = self.node.add(App([component]), f"bench.local/{guest}:1")
        self.start("warm-up", reference)
        self.node.remove("warm-up")
        return reference

    @functools.cache  # noqa: B019  # the same
    def busybox(self) -> str:
        """The reference of an ordinary image, unpacked."""
        tar = pack_busybox(self.node.containerd.base_dir / "busybox.tar")
        self.node.ctr("images", "import", tar)
        self.true_on_runc("unpack")
        return REFERENCE

    def true_on_runc(self, task: str) -> float:
        """How long `ctr run --rm ... true` on containerd's own shim takes."""
        began = time.monotonic_ns()
        self.node.ctr("run", "--rm", "--runtime", RUNC, REFERENCE, task, "true")
        return since(began)

    def start(self, task: str, image: str, runtime: str = RUNTIME) -> tuple[float, int]:
        """Starts a task; returns ms from the call of ctr to the first byte of an answer, and the port."""
        port = free_port()
        listen = f"{LISTEN}=127.0.0.1:{port}"
        began = time.monotonic_ns()
        words = ("run", "-d", "--net-host", "--runtime", runtime, "--env", listen, image, task, "/")
        self.node.ctr(*words)
        first_byte(port)
        return since(began), port


def since(began: int) -> float:
    """Milliseconds since a time of the monotonic clock in ns."""
    return (time.monotonic_ns() - began) / 1e6


def free_port() -> int:
    """A loopback port that nobody holds now, never handed out before.

    Below the kernel's own range (32768 and up): there, a client's connection could take it meanwhile.
    """
    while True:
        port = next(PORTS)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def first_byte(port: int) -> None:
    """Returns once a request was answered with 200; raises TimeoutError, or ValueError for another status."""
    deadline = time.monotonic() + ANSWER_SECONDS
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
        with contextlib.closing(connection), contextlib.suppress(ConnectionError):
            connection.request("GET", "/")
            status = connection.getresponse().status
            if status == 200:
                return
            message = f"wanted status 200 on port {port}, found {status}"
            raise ValueError(message)
        time.sleep(0.001)
    message = f"wanted an answer on port {port} within {ANSWER_SECONDS:.0f} s, found none"
    raise TimeoutError(message)


@contextlib.contextmanager
def site(against: str | None) -> Iterator[Site]:
    """A site, from start to the last unmount."""
    with private_node() as node:
        yield Site(node, against)
