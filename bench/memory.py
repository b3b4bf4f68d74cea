"""Memory of what pods need: proportional set size of zygote, pod servers and hosts.

Laws: containerd itself is left out, whichever runtime is measured; each pod has answered one request before
it is counted; MB are 10^6 bytes.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from bench.scenario import Samples, Scenario
from bench.site import Site
from tests.harness.containerd import processes_of


def pieces(site: Site) -> dict[str, float]:
    """PSS in MB by kind of process."""
    daemon = site.node.containerd.pid
    found: dict[str, float] = {}
    zygotes = {int(path.read_text()) for path in (site.node.run_dir / "zygote").glob("*.pid")}
    servers = {*processes_of(site.node.containerd.base_dir), *zygotes} - {daemon}
    for pid in servers | _children_of(servers):
        with contextlib.suppress(OSError):
            kind = "zygote" if pid in zygotes else Path(f"/proc/{pid}/comm").read_text().strip()
            found[kind] = found.get(kind, 0.0) + _pss(pid)
    return found


def _children_of(servers: set[int]) -> set[int]:
    """The hosts: each is a child of a pod server, and names no folder of ours from inside its container."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(status.read_text().rpartition(")")[2].split()[1]) in servers:
                found.add(int(status.parent.name))
    return found


def _pss(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024 / 1e6


def pss(site: Site) -> float:
    """PSS in MB of everything."""
    return sum(pieces(site).values())


def memory(site: Site, scenario: Scenario) -> Samples:
    """The first pod's PSS with the zygote, also by kind of process, and what each of `rounds` more adds."""
    image = site.image(scenario.guest)
    tasks = [f"pod-{at}" for at in range(scenario.rounds + 1)]
    try:
        site.start(tasks[0], image)
        first = pieces(site)
        for task in tasks[1:]:
            site.start(task, image)
        total = sum(pieces(site).values())
    finally:
        for task in tasks:
            site.node.remove(task)
    whole = sum(first.values())
    by_piece = {f"piece {kind}": [size] for kind, size in first.items()}
    return {"first pod": [whole], "per pod": [(total - whole) / scenario.rounds], **by_piece}
