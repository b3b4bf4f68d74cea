"""Pods as Kubernetes makes them, by crictl over containerd's CRI: wire.md section 6, items 34 to 38."""

import json
import os
import re
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness.cri import SIDECAR, SPIN, Cri, cri_node
from tests.harness.events import EventLog
from tests.harness.ledger import Ledger, describe
from tests.harness.ledger_sources import Scope, sources
from tests.harness.tools import containerd_folder
from tests.harness.trials import trials


@pytest.fixture(scope="module")
def cri(programs: Path, shim_only: Path, hugetlb: None) -> Iterator[Cri]:
    """A node with our handler, pause, a sidecar's image and an app."""
    with cri_node(shim_only) as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_is_left(cri: Cri) -> Iterator[None]:
    """Whatever a test leaves is removed, and then nothing is there that was not before."""
    scope = Scope(cri.containerd, cgroup_parents=(cri.parent,), files=(cri.containerd.base_dir / "run",))
    verified = str(cri.containerd.base_dir / "run" / "verified")
    books = Ledger(sources(scope), ignore=(verified,), may_shrink=("L5 descriptors",))
    before = books.snapshot()
    yield
    cri.remove_all()
    lost = books.settled(before)
    assert not lost, describe(lost)


def get(url: str) -> int:
    """The status of one request."""
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310  # http to loopback
        return int(answer.status)


def servers(cri: Cri) -> set[str]:
    """The pod servers: the parents of every container's init."""
    lines = cri.containerd.ctr("tasks", "ls", namespace="k8s.io").stdout.splitlines()[1:]
    states = (Path(f"/proc/{line.split()[1]}/status").read_text() for line in lines if "RUNNING" in line)
    return {line for state in states for line in state.splitlines() if line.startswith("PPid:")}


def test_a_pod_of_four(cri: Cri) -> None:
    """Pause, a native sidecar and two apps: one pod server, and each stops alone (item 34)."""
    pod = cri.pod("four")
    sidecar = cri.create(pod, "sidecar", SIDECAR, ["sleep", "1000"])
    cri.start(sidecar)
    first, one = cri.app(pod, "first")
    _second, two = cri.app(pod, "second")
    assert len(servers(cri)) == 1
    assert (get(one), get(two)) == (200, 200)
    cri.run("stop", "--timeout", "5", first)
    assert cri.inspect(first)["state"] == "CONTAINER_EXITED"
    assert cri.inspect(first)["exitCode"] == 0
    assert get(two) == 200
    cri.run("rm", first)
    _again, url = cri.app(pod, "first")
    assert get(url) == 200
    assert cri.inspect(sidecar)["state"] == "CONTAINER_RUNNING"
    assert len(servers(cri)) == 1


def test_exec_and_logs(cri: Cri) -> None:
    """Output, exit code, a terminal, and both streams in the log with their tags (item 35)."""
    pod = cri.pod("exec")
    words = "echo out; echo err >&2; sleep 1000"
    side = cri.create(pod, "side", SIDECAR, ["sh", "-c", words])
    cri.start(side)
    assert cri.run("exec", "-s", side, "echo", "ok").stdout.split() == ["ok"]
    assert "4" in cri.run("exec", "-s", side, "sh", "-c", "exit 4", check=False).stderr
    deadline = time.monotonic() + 5
    while len(cri.log("side").splitlines()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    tagged = sorted(re.sub(r"^\S+ ", "", line) for line in cri.log("side").splitlines())
    assert tagged == ["stderr F err", "stdout F out"]
    assert terminal_of(cri, side) == "/dev/pts/0"


def terminal_of(cri: Cri, container: str) -> str:
    """What `tty` says in `crictl exec -it`."""
    crictl = f"{containerd_folder('cri') / 'crictl'} -r unix://{cri.containerd.address}"
    argv = ["script", "-qec", f"{crictl} exec -it {container} tty", "/dev/null"]
    ours, theirs = os.pipe()  # an input that does not end
    said = subprocess.run(argv, stdin=ours, capture_output=True, text=True, timeout=20).stdout
    os.close(ours)
    os.close(theirs)
    found = re.search(r"/dev/pts/\d+", said)
    return found[0] if found else said


def test_stats(cri: Cri) -> None:
    """Figures for apps and native containers, and no error while one was just created (item 36)."""
    pod = cri.pod("stats")
    side = cri.create(pod, "side", SIDECAR, ["sleep", "1000"])
    cri.start(side)
    made, _ = cri.app(pod, "app")
    cri.create(pod, "fresh", SIDECAR, ["sleep", "1000"])
    found = json.loads(cri.run("stats", "-o", "json").stdout)["stats"]
    measured = {one["attributes"]["id"]: one["memory"] for one in found if "memory" in one}
    used = {name: int(memory["workingSetBytes"]["value"]) for name, memory in measured.items()}
    assert used[side] > 0
    assert used[made] > 0
    assert cri.run("statsp", "-o", "json").returncode == 0


def test_stop_with_grace(cri: Cri) -> None:
    """What ignores SIGTERM is killed after its time: 137, in two seconds and not in ten (item 37)."""
    pod = cri.pod("grace")
    script = 'trap "" TERM; while :; do sleep 1; done'
    stubborn = cri.create(pod, "stubborn", SIDECAR, ["sh", "-c", script])
    cri.start(stubborn)
    began = time.monotonic()
    cri.run("stop", "--timeout", "2", stubborn)
    assert 1.9 < time.monotonic() - began < 4
    assert cri.inspect(stubborn)["exitCode"] == 137


SECURED = {
    "run_as_user": {"value": 1234},
    "run_as_group": {"value": 5678},
    "readonly_rootfs": True,
    "no_new_privs": True,
    "capabilities": {"drop_capabilities": ["ALL"]},
    "seccomp": {"profile_type": 0},  # RuntimeDefault
}


def test_a_security_context_holds_for_apps(cri: Cri) -> None:
    """User, group, capabilities, seccomp and a read-only root are the pod's word; the app answers."""
    pod = cri.pod("secured")
    made, url = cri.app(pod, "secured", {"security_context": SECURED})
    assert get(url) == 200
    found = status_of(cri, made)
    assert found["Uid"].split() == ["1234"] * 4
    assert found["Gid"].split() == ["5678"] * 4
    assert int(found["CapBnd"], 16) == 0
    assert int(found["CapEff"], 16) == 0
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
    mounts = Path(f"/proc/{pid_of(cri, made)}/mountinfo").read_text().splitlines()
    root = next(line.split() for line in mounts if line.split()[4] == "/")
    assert "ro" in root[5].split(",")


def pid_of(cri: Cri, container: str) -> int:
    """The pid of a container's init."""
    return int(json.loads(cri.run("inspect", container).stdout)["info"]["pid"])


def status_of(cri: Cri, container: str) -> dict[str, str]:
    """What the kernel says of a container's init."""
    lines = Path(f"/proc/{pid_of(cri, container)}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_limits_of_a_running_app(cri: Cri) -> None:
    """An in-place resize reaches the app's cgroup, and its figures (wire.md 3.1)."""
    pod = cri.pod("resized")
    made, url = cri.app(pod, "resized", {"resources": {"memory_limit_in_bytes": 256 << 20}})
    assert memory_limit(cri, made) == 256 << 20
    cri.run("update", "--memory", str(192 << 20), made)
    assert memory_limit(cri, made) == 192 << 20
    assert get(url) == 200


def memory_limit(cri: Cri, container: str) -> int:
    """Bytes that a container's cgroup allows, as containerd tells."""
    words = ("tasks", "metrics", "--format", "json", container)
    figures = json.loads(cri.containerd.ctr(*words, namespace="k8s.io").stdout)
    return int(figures["memory"]["usage"]["limit"])


def test_exec_where_there_is_no_shell(cri: Cri) -> None:
    """`kubectl exec` into an app says why not, and what to do instead."""
    pod = cri.pod("shell")
    made, url = cri.app(pod, "shell")
    for words in (("exec", "-s", made, "sh"), ("exec", made, "sh")):
        refused = cri.run(*words, check=False)
        assert refused.returncode != 0
        assert "a Spin image brings no programs: use an ephemeral debug container" in refused.stderr
    assert get(url) == 200


def test_a_bad_app_is_named(cri: Cri) -> None:
    """What `kubectl describe pod` shows: the answer of Start, in words."""
    pod = cri.pod("bad")
    made = cri.create(pod, "bad", SPIN, ["/"], {"SPIN_HTTP_LISTEN_ADDR": "nonsense"})
    refused = cri.run("start", made, check=False)
    assert refused.returncode != 0
    assert "nonsense" in refused.stderr


LITTLE = {"resources": {"memory_limit_in_bytes": 32 << 20}}
ROUNDS = trials(20)


def test_out_of_memory(cri: Cri, record_property: Callable[[str, object], None]) -> None:
    """Twenty times: 137, exactly one TaskOOM, and OOMKilled (faults.md F7)."""
    record_property("trials", ROUNDS)
    pod = cri.pod("oom")
    greedy = "x=0123456789abcdef; while :; do x=$x$x; done"
    with EventLog(cri.containerd) as log:
        for number in range(ROUNDS):
            made = cri.create(pod, f"greedy{number}", SIDECAR, ["sh", "-c", greedy], linux=LITTLE)
            cri.start(made)
            ended = wait_for_end(cri, made)
            assert (ended["exitCode"], ended["reason"]) == (137, "OOMKilled")
            told = [e for e in log.events if e.topic == "/tasks/oom" and e.body["container_id"] == made]
            assert len(told) == 1
            cri.run("rm", made)


def wait_for_end(cri: Cri, container: str) -> dict[str, object]:
    """The container's status once it has exited and CRI knows why."""
    deadline = time.monotonic() + 20
    while (status := cri.inspect(container))["state"] != "CONTAINER_EXITED":
        assert time.monotonic() < deadline, status
        time.sleep(0.05)
    time.sleep(0.2)
    return cri.inspect(container)
