"""Starting and removing: cold starts, growth with pods, churn, and the shim binary's own verbs.

Laws: what is compared alternates within one loop, so that a noisy minute hits both sides; every task that a
measurement starts is removed before it returns.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench import memory
from bench.scenario import Samples, Scenario
from bench.site import RUNC, Site, since
from tests.apps import App, Component
from tests.guests.build import guest_path
from tests.harness.containerd import processes_of
from tests.harness.node import RUNTIME

PARALLEL = 20


def cold_start(site: Site, scenario: Scenario) -> Samples:
    """Ms to the first byte per runtime, and of `true` on runc, interleaved."""
    image = site.image(scenario.guest)
    site.busybox()
    samples: Samples = {name: [] for name in (*site.runtimes, "runc")}
    for at in range(scenario.rounds):
        for name, runtime in site.runtimes.items():
            samples[name].append(_started_and_gone(site, f"cold-{at}", image, runtime))
        samples["runc"].append(site.true_on_runc(f"true-{at}"))
    return samples


def cold_start_python(site: Site, scenario: Scenario) -> Samples:
    """Ms to the first byte of the Python app and of the hello app, interleaved."""
    images = {"python": site.image("hello-python"), "spinwheel": site.image(scenario.guest)}
    samples: Samples = {name: [] for name in images}
    for at in range(scenario.rounds):
        for name, image in images.items():
            samples[name].append(_started_and_gone(site, f"cold-{at}", image))
    return samples


def _started_and_gone(site: Site, task: str, image: str, runtime: str = RUNTIME) -> float:
    try:
        return site.start(task, image, runtime)[0]
    finally:
        site.node.remove(task)


def growth(site: Site, scenario: Scenario) -> Samples:
    """Ms to the first byte and PSS in MB while pods stay: the first ten and the last ten, and every pod's."""
    image = site.image(scenario.guest)
    tasks = [f"grow-{at}" for at in range(scenario.rounds)]
    started: list[float] = []
    pss: list[float] = []
    try:
        for at, task in enumerate(tasks, 1):
            started.append(site.start(task, image)[0])
            if at in (1, 10, 100, 400):
                pss.append(memory.pss(site) / at)
    finally:
        for task in tasks[: len(started) + 1]:
            site.node.remove(task)
    return {"first": started[:10], "last": started[-10:], "each": started, "MB per pod": pss}


def churn(site: Site, scenario: Scenario) -> Samples:
    """Tasks per second, started and removed 20 at a time, ours and containerd's own shim in turn."""
    image, plain = site.image(scenario.guest), site.busybox()

    def ours(task: str) -> None:
        _started_and_gone(site, task, image)

    def theirs(task: str) -> None:
        site.node.ctr("run", "-d", "--runtime", RUNC, plain, task, "sleep", "60")
        site.node.remove(task)

    samples: Samples = {"spinwheel": [], "runc": []}
    for at in range(scenario.rounds):
        for name, once in (("spinwheel", ours), ("runc", theirs)):
            samples[name].append(_rate(once, f"{name}-{at}"))
    return samples


def _rate(once: Callable[[str], None], name: str) -> float:
    count = 2 * PARALLEL
    began = time.monotonic_ns()
    with ThreadPoolExecutor(PARALLEL) as pool:
        list(pool.map(once, [f"{name}-{at}" for at in range(count)]))
    return count / since(began) * 1e3


def compiler_runs(site: Site, scenario: Scenario) -> Samples:
    """Compiler runs for `rounds` pods each of two images that no cache has seen, all started at once."""
    images = [
        site.node.add(
            App([Component(wasm=_tagged(guest_path(scenario.guest).read_bytes(), at))]),
            f"bench.local/c{at}:1",
        )
        for at in (1, 2)
    ]
    before = site.node.compilations()
    jobs = [(f"compile-{at}-{i}", image) for at in range(scenario.rounds) for i, image in enumerate(images)]
    with ThreadPoolExecutor(len(jobs)) as pool:
        list(pool.map(lambda job: _started_and_gone(site, *job), jobs))
    return {"runs": [float(site.node.compilations() - before)]}


def _tagged(wasm: bytes, number: int) -> bytes:
    """The same component under another digest: a custom section (id 0) of name `b` and one byte follows."""
    return wasm + bytes((0, 3, 1, ord("b"), number))


def shim_start(site: Site, scenario: Scenario) -> Samples:
    """Ms of the binary's `start` and `delete` as containerd runs them, the zygote warm."""
    site.image(scenario.guest)  # which also starts the zygote
    samples: Samples = {"start": [], "delete": []}
    for bundle in _bundles(site, scenario.rounds):
        for verb in ("start", "delete"):
            began = time.monotonic_ns()
            _call(site, bundle, verb)
            samples[verb].append(since(began))
        _end_server(site, bundle.name)
    return samples


def _end_server(site: Site, name: str) -> None:
    """Ends the pod server that `start` left for `name`: nobody will ask it to shut down."""
    for pid in processes_of(site.node.containerd.base_dir):
        with contextlib.suppress(OSError):
            if name in Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace"):
                os.kill(pid, signal.SIGKILL)


def delete_storm(site: Site, scenario: Scenario) -> Samples:
    """Ms until `rounds` calls of `delete`, all made at once, have been answered."""
    site.image(scenario.guest)
    bundles = _bundles(site, scenario.rounds)
    with ThreadPoolExecutor(len(bundles)) as pool:
        began = time.monotonic_ns()
        list(pool.map(lambda bundle: _call(site, bundle, "delete"), bundles))
        return {"all": [since(began)]}


def _bundles(site: Site, count: int) -> list[Path]:
    folder = site.node.containerd.base_dir / f"bundles-{time.monotonic_ns()}"
    spec = b'{"ociVersion":"1.0.2","process":{"args":["/"]},"root":{"path":"rootfs"}}'
    made = [folder / f"{folder.name}-{at}" for at in range(count)]
    for bundle in made:
        (bundle / "rootfs").mkdir(parents=True)
        (bundle / "config.json").write_bytes(spec)
    return made


def _call(site: Site, bundle: Path, verb: str) -> None:
    node = site.node
    address = str(node.containerd.address)
    program = str(node.bin / "containerd-shim-spin-v2")
    flags = ["-namespace", node.namespace, "-address", address, "-publish-binary", "/bin/true"]
    env = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "TTRPC_ADDRESS": f"{address}.ttrpc",
        "SPINWHEEL_RUN_DIR": str(node.run_dir),
        "SPINWHEEL_CACHE_DIR": str(node.run_dir.parent / "cache"),
    }
    argv = [program, *flags, "-id", bundle.name, "-bundle", str(bundle), verb]
    subprocess.run(argv, cwd=bundle, env=env, stdin=subprocess.DEVNULL, capture_output=True, check=True)
