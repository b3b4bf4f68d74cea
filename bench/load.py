"""Requests per CPU-second of a server that has one core, under a closed loop of 16 connections.

Laws: ours and `wasmtime serve` of the same wasmtime alternate; the server is held to one core and the load
generator to another; only the server's own CPU time counts; an answer that is not 200 fails the measurement.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bench.scenario import Samples, Scenario
from bench.site import Site, first_byte, free_port
from bench.wasmtime import wasmtime_program
from tests.guests.build import guest_path

SECONDS = 4
CONNECTIONS = 16
SERVER_CORE, LOAD_CORE = "0", "1"
TICKS = os.sysconf("SC_CLK_TCK")
REQUESTS = re.compile(r"(\d+) requests in")


class BadAnswer(Exception):
    """The server did not answer every request with 200."""


def throughput(site: Site, scenario: Scenario) -> Samples:
    """Requests per CPU-second of each side, `rounds` times in turn."""
    image = site.image(scenario.guest)
    samples: Samples = {"spinwheel": [], "wasmtime serve": []}
    with _ours(site, image) as ours, _wasmtime(scenario.guest) as theirs:
        for _ in range(scenario.rounds):
            for name, server in (("spinwheel", ours), ("wasmtime serve", theirs)):
                samples[name].append(_requests_per_cpu_second(*server))
    return samples


@contextlib.contextmanager
def _ours(site: Site, image: str) -> Iterator[tuple[int, int]]:
    """(pid, port) of our host, as a task whose threads are all on the server's core."""
    try:
        _, port = site.start("load", image)
        pid = site.node.pid("load")
        subprocess.run(["taskset", "-a", "-p", "-c", SERVER_CORE, str(pid)], check=True, capture_output=True)
        yield pid, port
    finally:
        site.node.remove("load")


@contextlib.contextmanager
def _wasmtime(guest: str) -> Iterator[tuple[int, int]]:
    """(pid, port) of `wasmtime serve` with the same component."""
    port = free_port()
    flags = ["-Scli", "-Sp3", "-Wcomponent-model-async"] if guest.endswith("p3") else ["-Scli"]
    argv = ["taskset", "-c", SERVER_CORE, str(wasmtime_program()), "serve", *flags]
    server = subprocess.Popen(
        [*argv, "--addr", f"127.0.0.1:{port}", str(guest_path(guest))],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        first_byte(port)
        yield server.pid, port
    finally:
        server.kill()
        server.wait()


def _requests_per_cpu_second(pid: int, port: int) -> float:
    before = cpu_seconds(pid)
    argv = ["taskset", "-c", LOAD_CORE, "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s"]
    done = subprocess.run([*argv, f"http://127.0.0.1:{port}/"], check=True, capture_output=True, text=True)
    spent = cpu_seconds(pid) - before
    counted = REQUESTS.search(done.stdout)
    if counted is None or "Non-2xx" in done.stdout:
        message = f"wanted only answers of 200 from port {port}, found:\n{done.stdout}"
        raise BadAnswer(message)
    return int(counted[1]) / spent


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS
