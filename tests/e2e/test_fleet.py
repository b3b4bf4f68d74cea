"""containerd goes away under many running pods and comes back (faults.md F3, its small form).

On a node of its own, because the daemon is restarted. SPINWHEEL_PODS is how many; `just fleet 100` sets it.
"""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.cri import SIDECAR, Cri, cri_node
from tests.harness.fleet import Fleet
from tests.harness.load import Load

PODS = int(os.environ.get("SPINWHEEL_PODS", "50"))
TOLD_SECONDS = 5.0  # faults.md F3: exits of the gap, after containerd's return
COUNT = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.02; done"


@pytest.fixture
def cri(programs: Path, shim_only: Path, hugetlb: None) -> Iterator[Cri]:
    """A node whose containerd may be restarted."""
    with cri_node(shim_only) as made:
        yield made
        made.remove_all()


@pytest.mark.timeout(120 + 10 * PODS)
def test_pods_live_through_restarts(cri: Cri) -> None:
    """SIGTERM, then SIGKILL, under load: same pids, no failed request, no lost line (F3, items 29, 30).

    A fifth of the pods lose their app while containerd is away, and CRI knows of each in time.
    """
    began = time.monotonic()
    fleet = Fleet(cri, PODS)
    counter = cri.create(fleet.members[0].pod, "counter", SIDECAR, ["sh", "-c", COUNT])
    cri.start(counter)
    print(f"{PODS} pods after {time.monotonic() - began:.1f} s")  # noqa: T201  # `just fleet` shows it
    dying = max(2, PODS // 5) // 2
    for how, first in ((signal.SIGTERM, 0), (signal.SIGKILL, dying)):
        outlive(fleet, how, [one.container for one in fleet.members[first : first + dying]], 2 * dying)
    lines = [int(line.split()[-1]) for line in cri.log("counter").splitlines()]
    assert lines == list(range(len(lines)))


def outlive(fleet: Fleet, how: signal.Signals, dying: list[str], under_load: int) -> None:
    """One restart; asserts what must hold of it."""
    before = fleet.pids()
    began = time.monotonic()

    def kill() -> None:
        for container in dying:
            os.kill(before[container], signal.SIGKILL)

    with Load([member.url for member in fleet.members[under_load:]]) as load:
        fleet.cri.containerd.restart(how, down=1.0, meanwhile=kill)
        back = time.monotonic()
        for container in dying:
            wait_for_exit(fleet.cri, container, back + TOLD_SECONDS)
        told = time.monotonic()
        time.sleep(1.0)  # the load goes on over a containerd that has taken everything in
    assert load.failed == []
    assert {name: pid for name, pid in before.items() if name not in dying} == fleet.pids()
    rate = load.answered / (time.monotonic() - began)
    print(  # noqa: T201  # `just fleet` shows it
        f"{how.name}: away for {back - began:.1f} s, {len(dying)} exits known {told - back:.1f} s later, "
        f"{load.answered} requests answered ({rate:.0f} a second), 0 failed"
    )


def wait_for_exit(cri: Cri, container: str, deadline: float) -> None:
    """Returns once CRI, which takes a while to come up, has the container's exit with its code."""
    while True:
        done = cri.run("inspect", container, check=False)
        status = json.loads(done.stdout)["status"] if done.returncode == 0 else {}
        if status.get("state") == "CONTAINER_EXITED":
            break
        assert time.monotonic() < deadline, status or done.stderr
        time.sleep(0.02)
    assert status["exitCode"] == 137
