"""Real containerd, real OCI runtime, real guests: the task items of wire.md section 6."""

import concurrent.futures
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.harness.events import EventLog
from tests.harness.node import RUNTIME, Node

RUNTIMES = [{"BinaryName": "/usr/bin/crun"}, {"BinaryName": "/usr/sbin/runc"}]


@pytest.mark.parametrize("options", RUNTIMES, ids=["crun", "runc"])
@pytest.mark.parametrize("guest", ["hello-p2", "hello-p3", "hello-python"])
def test_apps_answer(node: Node, guest: str, options: dict[str, str]) -> None:
    """Rust on WASI 0.2 and 0.3, and a current Python SDK, under crun and under runc."""
    greeting = {"config": {"greeting": "good {{ time }}"}} if guest == "hello-python" else {}
    image = node.add_guest(guest) if not greeting else _python(node)
    node.run("app", image, options=options, env={"TIME": "evening"})
    assert node.get("app").body == f"hello from {guest.removeprefix('hello-')}\n"
    if greeting:
        assert node.get("app", "/greeting").body == "good evening\n"
    node.remove("app")


def _python(node: Node) -> str:
    from tests.apps import App, Component  # noqa: PLC0415  # only this guest needs variables
    from tests.guests.build import guest_path  # noqa: PLC0415

    component = Component(guest_path("hello-python").read_bytes(), config={"greeting": "good {{ time }}"})
    return node.add(App([component], variables={"time": "morning"}), "test.local/guests/python:1")


def test_background_task(node: Node, p2: str) -> None:
    """RUNNING, with a live pid whose parent is the pod server (item 6)."""
    node.run("t6", p2)
    assert node.status("t6") == "RUNNING"
    command = Path(f"/proc/{node.server_pid('t6')}/cmdline").read_bytes().decode()
    assert f"containerd-shim-spin-v2 -namespace {node.namespace} -id t6" in command
    node.remove("t6")


def test_listing_never_waits(node: Node, p2: str) -> None:
    """`ctr tasks ls` is quick and never says UNKNOWN while a create is under way (item 7)."""
    node.run("t7", p2)
    creating = node.popen_ctr(
        "run",
        "-d",
        "--net-host",
        "--runtime",
        RUNTIME,
        "--env=SPIN_HTTP_LISTEN_ADDR=127.0.0.1:0",
        p2,
        "t7b",
        "/",
    )
    slowest = 0.0
    for _ in range(50):
        began = time.monotonic()
        assert "UNKNOWN" not in node.ctr("tasks", "ls").stdout
        slowest = max(slowest, time.monotonic() - began)
    creating.communicate(timeout=30)
    assert slowest < 2.0
    node.remove("t7")
    node.remove("t7b")


def test_kill_and_code(node: Node, p2: str) -> None:
    """SIGKILL is 137, told by `tasks rm` (item 14)."""
    node.run("t14", p2)
    node.ctr("tasks", "kill", "-s", "SIGKILL", "t14")
    node.wait_status("t14", "STOPPED")
    removed = node.ctr("tasks", "rm", "t14", check=False)
    assert "137" in removed.stdout + removed.stderr
    node.ctr("containers", "rm", "t14")


def test_sigterm_ends_with_zero(node: Node, p2: str) -> None:
    """An idle app leaves at once and in order."""
    node.run("term", p2)
    node.ctr("tasks", "kill", "-s", "SIGTERM", "term")
    node.wait_status("term", "STOPPED")
    assert node.ctr("tasks", "rm", "term").returncode == 0
    node.ctr("containers", "rm", "term")


def test_kill_of_the_dead(node: Node, p2: str) -> None:
    """The text that CRI and Docker match (item 15)."""
    node.run("t15", p2)
    node.ctr("tasks", "kill", "-s", "SIGKILL", "t15")
    node.wait_status("t15", "STOPPED")
    killed = node.ctr("tasks", "kill", "t15", check=False)
    assert killed.returncode != 0
    assert "process already finished: not found" in killed.stderr
    node.remove("t15")


def test_kill_of_an_unknown_exec(node: Node, p2: str) -> None:
    """Not found, and the task goes on (item 16)."""
    node.run("t16", p2)
    killed = node.ctr("tasks", "kill", "--exec-id", "nope", "t16", check=False)
    assert (killed.returncode != 0, "not found" in killed.stderr) == (True, True)
    assert node.status("t16") == "RUNNING"
    node.remove("t16")


def test_rm_of_the_running(node: Node, p2: str) -> None:
    """Refused, and still running (item 17)."""
    node.run("t17", p2)
    removed = node.ctr("tasks", "rm", "t17", check=False)
    assert removed.returncode != 0
    assert node.get("t17").status == 200
    node.remove("t17")


def test_forced_rm(node: Node, p2: str) -> None:
    """Stopped and removed in one word (item 18)."""
    node.run("t18", p2)
    node.ctr("tasks", "rm", "--force", "t18", check=False)
    assert node.status("t18") == ""
    node.ctr("containers", "rm", "t18")


def test_foreground_run_removes_itself(node: Node, p2: str) -> None:
    """`ctr run --rm` ends with the app's code when it is told to stop (item 1, for an app)."""
    words = ["run", "--rm", "--net-host", "--runtime", RUNTIME, "--env=SPIN_HTTP_LISTEN_ADDR=127.0.0.1:0"]
    running = node.popen_ctr(*words, p2, "t1", "/")
    assert running.stdout is not None
    assert "Serving http://127.0.0.1:" in running.stdout.readline()
    node.wait_status("t1", "RUNNING")
    time.sleep(0.2)  # ctr forwards signals only once Start has answered, and does not say when
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=20)
    assert running.returncode == 0


def test_metrics(node: Node, p2: str) -> None:
    """Processes, CPU and memory are not zero (item 12)."""
    node.run("t12", p2)
    node.get("t12")
    text = node.ctr("tasks", "metrics", "--format", "json", "t12").stdout
    assert int(re.findall(r'"current":\s*"?(\d+)', text)[0]) > 0
    assert int(max(re.findall(r'"usage":\s*"?(\d+)', text), key=int)) > 100_000
    node.remove("t12")


def test_ps(node: Node, p2: str) -> None:
    """The init is listed (item 11)."""
    node.run("t11", p2)
    assert str(node.pid("t11")) in node.ctr("tasks", "ps", "t11").stdout
    node.remove("t11")


def test_exec_where_there_is_no_program(node: Node, p2: str) -> None:
    """A Spin image has no shell: that is said, with what to do instead, and the app goes on."""
    node.run("shell", p2)
    refused = node.ctr("tasks", "exec", "--exec-id", "e", "shell", "/bin/sh", check=False)
    assert refused.returncode != 0
    assert "a Spin image brings no programs: use an ephemeral debug container" in refused.stderr
    assert node.get("shell").status == 200
    node.remove("shell")


def test_exec_into_an_app(node: Node, p2: str, tmp_path: Path) -> None:
    """A program that is mounted beside the app runs in its container."""
    busybox = shutil.which("busybox")
    mount = f"type=bind,src={busybox},dst=/busybox,options=rbind:ro"
    node.run("execs", p2, words=("--mount", mount))
    done = node.ctr("tasks", "exec", "--exec-id", "e", "execs", "/busybox", "echo", "in")
    assert done.stdout == "in\n"
    node.remove("execs")


def test_pause_stops_an_app(node: Node, p2: str) -> None:
    """No answer while it is paused; all that came meanwhile are answered after."""
    node.run("pause", p2)
    url = node.url("pause")
    node.ctr("tasks", "pause", "pause")
    assert node.status("pause") == "PAUSED"
    with concurrent.futures.ThreadPoolExecutor() as pool:
        waiting = pool.submit(node.get, "pause")
        time.sleep(0.3)
        assert not waiting.done(), url
        node.ctr("tasks", "resume", "pause")
        assert waiting.result(10).status == 200
    node.remove("pause")


def test_checkpoint_says_what_it_needs(node: Node, p2: str) -> None:
    """Unimplemented, with the reason, and the task goes on."""
    node.run("later", p2)
    refused = node.ctr("tasks", "checkpoint", "later", check=False)
    assert refused.returncode != 0
    assert "CRIU" in refused.stderr
    assert node.status("later") == "RUNNING"
    node.remove("later")


def test_events_in_order(node: Node, p2: str, events: EventLog) -> None:
    """create, start, exit, delete, with one pid and the right code (item 24)."""
    node.run("t24", p2)
    node.ctr("tasks", "kill", "-s", "SIGKILL", "t24")
    node.wait_status("t24", "STOPPED")
    node.remove("t24")
    assert events.wait_for(
        lambda seen: any(e.task == f"{node.namespace}/t24" and e.letter == "D" for e in seen)
    )
    mine = [event for event in events.events if event.task == f"{node.namespace}/t24"]
    assert [event.letter for event in mine] == ["C", "S", "E", "D"]
    exit_body = mine[2].body
    assert (exit_body["id"], exit_body["container_id"], exit_body["exit_status"]) == ("t24", "t24", 137)


def test_instant_death_keeps_the_order(node: Node, p2: str, events: EventLog) -> None:
    """50 apps that are killed the moment they started: create, start, exit, delete each time (item 25)."""
    names = [f"t25-{number}" for number in range(50)]
    for name in names:
        node.run(name, p2)
        node.ctr("tasks", "rm", "--force", name, check=False)
        node.ctr("containers", "rm", name)
    assert events.wait_for(lambda seen: sum(e.letter == "D" for e in seen if "t25-" in e.task) == len(names))
    for name in names:
        word = "".join(event.letter for event in events.events if event.task == f"{node.namespace}/{name}")
        assert word == "CSED", name


def test_spin_artifact(node: Node, p2: str) -> None:
    """An answer from the app's port (item 38)."""
    node.run("t38", p2)
    assert node.get("t38", "/").body == "hello from p2\n"
    node.remove("t38")


def test_unknown_options_are_used_or_ignored(node: Node, p2: str) -> None:
    """A TOML with our keys and foreign ones, and one that is none (item 32)."""
    node.run("t32", p2, options={"BinaryName": "runc", "Foo": "bar"})
    assert "runc" in (node.bundle("t32") / "spinwheel.json").read_text()
    node.remove("t32")
    bad = node.containerd.base_dir / "bad.toml"
    bad.write_text("= nonsense")
    refused = node.run("t32b", p2, words=("--runtime-config-path", str(bad)), check=False)
    assert refused.returncode != 0
    assert "is not TOML" in refused.stderr
    bad.unlink()
    node.remove("t32b")


@pytest.mark.parametrize("binary", ["/usr/bin/crun", "/usr/sbin/runc"])
def test_options_of_runc_are_passed_on(node: Node, p2: str, tmp_path: Path, binary: str) -> None:
    """NoPivotRoot and NoNewKeyring are words of the OCI runtime's `create`, and the app answers."""
    noting = tmp_path / Path(binary).name
    noting.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/words\nexec {binary} "$@"\n')
    noting.chmod(0o755)
    file = tmp_path / "options.toml"
    file.write_text(f'BinaryName = "{noting}"\nNoPivotRoot = true\nNoNewKeyring = true\n')
    node.run("runcs", p2, words=("--runtime-config-path", str(file)))
    assert node.get("runcs").status == 200
    node.remove("runcs")
    created = next(line for line in (tmp_path / "words").read_text().splitlines() if " create " in line)
    assert "--no-pivot --no-new-keyring" in created


def test_ctr_shim_reaches_us(node: Node, p2: str) -> None:
    """`ctr shim state` finds the socket and is answered under both names (item 33).

    1.7's `ctr` computes where the socket is, and knows one name.
    """
    node.run("t33", p2)
    place = ["--shim-address", f"unix://{node.socket('t33')}"]
    words = [[*place, "state", "--task-id", "t33", "--api-version", version] for version in ("2", "3")]
    for one in [["state"]] if node.containerd.is_v1 else words:
        state = node.ctr("shim", "--id", "t33", *one)
        assert '"status": 2' in state.stdout or "RUNNING" in state.stdout
    node.remove("t33")


def test_inspect_runtime(node: Node) -> None:
    """Name, version and features are printed (item 5)."""
    if node.containerd.is_v1:
        pytest.skip("1.7 has no `ctr plugins inspect-runtime` (wire.md 2.11)")
    told = node.ctr("plugins", "inspect-runtime", "--runtime", RUNTIME).stdout
    assert '"Name": "io.containerd.spin.v2"' in told
    assert '"Version": "0.1.0"' in told


def test_second_start_compiles_nothing(node: Node, p2: str) -> None:
    """The compiler's runs are counted: none for an app that was started before."""
    node.run("c1", p2)
    before = node.compilations()
    node.run("c2", p2)
    assert node.compilations() == before
    steps = node.timeline("c2")
    assert "code found in cache" in steps
    node.remove("c1")
    node.remove("c2")
