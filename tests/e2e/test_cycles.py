"""Many lives: nothing may be left after any number of them (faults.md F4)."""

import concurrent.futures
import random
from collections.abc import Callable

from tests.harness.node import Node
from tests.harness.trials import trials

CYCLES = trials(200)
AT_ONCE = 10


def life(node: Node, image: str, name: str) -> int:
    """run, request, kill, delete; returns the request's status."""
    node.run(name, image)
    status = node.get(name).status
    node.ctr("tasks", "kill", "-s", random.choice(("SIGTERM", "SIGKILL")), name)
    node.wait_status(name, "STOPPED", seconds=15)
    node.remove(name)
    return status


def test_serial_cycles(node: Node, p2: str, record_property: Callable[[str, object], None]) -> None:
    """CYCLES lives of one id, one after the other; the ledger around the test must be zero (F4)."""
    record_property("trials", CYCLES)
    assert {life(node, p2, "cycle") for _ in range(CYCLES)} == {200}


def test_parallel_cycles(
    node: Node, p2: str, p3: str, record_property: Callable[[str, object], None]
) -> None:
    """AT_ONCE lives side by side, of two apps (F4)."""
    record_property("trials", CYCLES // 4)
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        lives = [pool.submit(life, node, (p2, p3)[n % 2], f"par-{n}") for n in range(CYCLES // 4)]
        assert {one.result() for one in lives} == {200}


def test_many_first_starts_compile_once(node: Node, guest_bytes: bytes) -> None:
    """Eight tasks of an app nobody has seen: exactly one compilation (faults.md K6)."""
    from tests.apps import App, Component  # noqa: PLC0415  # only here

    # A custom section at the end makes another digest of the same component.
    fresh = guest_bytes + bytes([0, 5, 4]) + b"new!"
    image = node.add(App([Component(fresh)]), "test.local/apps/fresh:1")
    before = node.compilations()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: node.run(f"fresh-{n}", image), range(8)))
    assert node.compilations() == before + 1
    for n in range(8):
        node.remove(f"fresh-{n}")
