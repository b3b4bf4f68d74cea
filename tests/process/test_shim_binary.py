"""`start`, `delete`, `-v` and `-info` as containerd runs them: by launcher, zygote and plain path.

Items 2, 3, 4 and 28 of wire.md section 6, and the purity of faults.md F11. No containerd is needed:
`start` asks nothing of it.
"""

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from shim.pb.bootstrap_pb2 import BootstrapParams
from shim.pb.introspection_pb2 import RuntimeInfo
from shim.pb.oci_pb2 import Options as RuncOptions
from shim.pb.runtimeoptions_pb2 import Options as RuntimeOptions
from shim.pb.shim_pb2 import DeleteResponse

PROGRAMS = Path(os.environ.get("SPINWHEEL_BIN") or Path(sys.prefix) / "bin")
SPEC = b'{"ociVersion":"1.0.2","process":{"args":["/"]},"root":{"path":"rootfs"}}'


class Shim:
    """One containerd's worth of calls to the shim binary."""

    def __init__(self, folder: Path, program: str, env: Mapping[str, str]) -> None:
        self.folder = folder
        self.program = PROGRAMS / program
        self.address = folder / "c.sock"
        self.address.touch()
        self.env = {
            "PATH": os.environ["PATH"],
            "TTRPC_ADDRESS": f"{self.address}.ttrpc",
            "SPINWHEEL_RUN_DIR": str(folder / "run"),
            "SPINWHEEL_SOCKET_DIR": str(folder / "s"),
            **env,
        }

    def bundle(self, name: str) -> Path:
        """A bundle folder with a spec."""
        path = self.folder / name
        (path / "rootfs").mkdir(parents=True)
        (path / "config.json").write_bytes(SPEC)
        return path

    def call(
        self, action: str, bundle: Path, *words: str, stdin: bytes = b"", env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Runs the binary as containerd does, cwd in the bundle."""
        flags = ["-namespace", "default", "-address", str(self.address), "-publish-binary", "/bin/true"]
        argv = [str(self.program), *flags, "-id", bundle.name, *words, action]
        return subprocess.run(
            argv, cwd=bundle, env={**self.env, **(env or {})}, input=stdin, capture_output=True, timeout=20
        )

    def end(self) -> None:
        """Ends what was started, by pid: servers and zygotes name our address."""
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if str(self.address) in entry.read_bytes().decode(errors="replace"):
                    os.kill(int(entry.parent.name), signal.SIGKILL)

    def wait_for_zygote(self) -> int:
        """The zygote's pid, once it listens."""
        deadline = time.monotonic() + 10
        while not list((self.folder / "run" / "zygote").glob("*.sock")):
            assert time.monotonic() < deadline, "no zygote came up"
            time.sleep(0.02)
        (pid_file,) = (self.folder / "run" / "zygote").glob("*.pid")
        return int(pid_file.read_text())


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: sockets have 64 hex digits, and 106 characters are all there is."""
    with tempfile.TemporaryDirectory(prefix="sw-", dir="/tmp", ignore_cleanup_errors=True) as path:
        yield Path(path)


@pytest.fixture(params=["launcher", "zygote", "plain"])
def shim(request: pytest.FixtureRequest, folder: Path) -> Iterator[Shim]:
    """The same calls three ways: the launcher without a zygote, with one, and Python alone."""
    program = "spinwheel-shim" if request.param == "plain" else "containerd-shim-spin-v2"
    env = {} if request.param == "zygote" else {"SPINWHEEL_NO_ZYGOTE": "1"}
    made = Shim(folder, program, env)
    if request.param == "zygote":
        made.call("start", made.bundle("first"))
        made.wait_for_zygote()
    yield made
    made.end()


@pytest.fixture
def pids_cgroup() -> Iterator[Path]:
    """A cgroup of the test's own in the pids hierarchy, emptied by whoever was put there."""
    base = Path("/sys/fs/cgroup/pids")
    folder = (base if base.is_dir() else base.parent) / f"sw-{os.getpid()}"
    folder.mkdir()
    yield folder
    deadline = time.monotonic() + 5
    while (folder / "cgroup.procs").read_text():
        assert time.monotonic() < deadline, (folder / "cgroup.procs").read_text()
        time.sleep(0.02)
    folder.rmdir()


def test_a_pod_server_is_where_containerd_is(folder: Path, pids_cgroup: Path) -> None:
    """Not where the zygote was made: its caller's cgroup counts (design.md section 2)."""
    shim = Shim(folder, "containerd-shim-spin-v2", {})
    shim.call("start", shim.bundle("first"))
    zygote = shim.wait_for_zygote()
    try:
        Path(f"{pids_cgroup}/cgroup.procs").write_text(str(zygote))
        shim.call("start", shim.bundle("second"))
        inside = (pids_cgroup / "cgroup.procs").read_text().split()
        assert inside == [str(zygote)], "the second pod's server left for ours"
    finally:
        shim.end()


def test_a_pod_server_enters_the_cgroup_of_its_options(shim: Shim, pids_cgroup: Path) -> None:
    """`ShimCgroup` of runc's options, made where it is missing (wire.md 2.8)."""
    options = AnyMessage(type_url="containerd.runc.v1.Options")
    options.value = RuncOptions(shim_cgroup=pids_cgroup.name).SerializeToString()
    shim.call("start", shim.bundle("grouped"), stdin=options.SerializeToString())
    deadline = time.monotonic() + 5
    while not (pids_cgroup / "cgroup.procs").read_text():
        assert time.monotonic() < deadline, "the server is not there"
        time.sleep(0.02)
    shim.end()
    remove_elsewhere(pids_cgroup)


def remove_elsewhere(folder: Path) -> None:
    """Removes the cgroups of the same name in the other hierarchies, once they are empty."""
    deadline = time.monotonic() + 5
    for other in Path("/sys/fs/cgroup").glob(f"*/{folder.name}/"):
        while other != folder:
            with contextlib.suppress(OSError):
                other.rmdir()
                break
            assert time.monotonic() < deadline, other
            time.sleep(0.02)


def expected_address(shim: Shim, group: str) -> str:
    """By containerd's convention (wire.md 2.8)."""
    digest = hashlib.sha256(f"{shim.address}/default/{group}".encode()).hexdigest()
    return f"unix://{shim.folder}/s/{digest}"


def test_start_prints_one_address_and_lets_go(shim: Shim) -> None:
    """Exactly the address, nothing on stderr, the pipes closed at once, the server alive (item 2)."""
    bundle = shim.bundle("a1")
    done = shim.call("start", bundle)
    assert (done.returncode, done.stdout.decode(), done.stderr) == (0, expected_address(shim, "a1"), b"")
    assert (bundle / "address").read_text() == done.stdout.decode()
    assert shim.call("start", bundle).stdout == done.stdout, "a second start joins the first"


def test_pods_share_one_server(shim: Shim) -> None:
    """The sandbox annotation groups (wire.md 2.8)."""
    addresses = set()
    for name in ("sandbox1", "app1", "app2"):
        bundle = shim.bundle(name)
        spec = SPEC[:-1] + b',"annotations":{"io.kubernetes.cri.sandbox-id":"sandbox1"}}'
        (bundle / "config.json").write_bytes(spec)
        addresses.add(shim.call("start", bundle).stdout.decode())
    assert addresses == {expected_address(shim, "sandbox1")}


@pytest.mark.parametrize("form", ["any", "bootstrap"])
def test_both_forms_of_stdin(shim: Shim, form: str) -> None:
    """Options up to 2.2, BootstrapParams from 2.3 on, with a socket folder of its own."""
    bundle = shim.bundle("b1")
    options = RuntimeOptions(config_body=b"SystemdCgroup = false")
    wrapped = AnyMessage(type_url="runtimeoptions.v1.Options", value=options.SerializeToString())
    stdin, folder = wrapped.SerializeToString(), shim.folder / "s"
    if form == "bootstrap":
        folder = shim.folder / "other"
        params = BootstrapParams(instance_id="b1", namespace="default", socket_dir=str(folder))
        params.extensions.add().value.CopyFrom(wrapped)
        stdin = params.SerializeToString()
    done = shim.call("start", bundle, stdin=stdin)
    assert (done.stderr, done.stdout.decode().startswith(f"unix://{folder}/")) == (b"", True)


def test_garbage_on_stdin(shim: Shim) -> None:
    """A clear error, exit 1, nothing on stdout."""
    done = shim.call("start", shim.bundle("g1"), stdin=b"\xff\xff\xff\xff")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"stdin of start: wanted runtime options" in done.stderr


def test_missing_id(shim: Shim) -> None:
    """Non-zero, readable text (item 3)."""
    bundle = shim.bundle("m1")
    done = subprocess.run(
        [shim.program, "-namespace", "default", "-address", str(shim.address), "start"],
        cwd=bundle,
        env=shim.env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"-id: wanted" in done.stderr


def test_missing_spec(shim: Shim) -> None:
    """The file that was wanted is named."""
    bundle = shim.bundle("n1")
    (bundle / "config.json").unlink()
    done = shim.call("start", bundle)
    assert done.returncode == 1
    assert b"config.json" in done.stderr


def test_version(shim: Shim) -> None:
    """Name and version, exit 0 (item 4)."""
    done = subprocess.run([shim.program, "-v"], env=shim.env, capture_output=True)
    assert done.returncode == 0
    assert done.stdout.decode().startswith("containerd-shim-spin-v2:\n  Version: 0.1.0\n")


def test_info(shim: Shim) -> None:
    """A RuntimeInfo without id or namespace (wire.md 2.11)."""
    done = subprocess.run(
        [shim.program, "-info"], env=shim.env, stdin=subprocess.DEVNULL, capture_output=True
    )
    told = RuntimeInfo.FromString(done.stdout)
    assert (done.returncode, done.stderr, told.name) == (0, b"", "io.containerd.spin.v2")
    assert told.version.version == "0.1.0"


def test_delete_is_one_answer_however_often(shim: Shim) -> None:
    """After a crash, twice, and with nothing there any more (item 28)."""
    bundle = shim.bundle("d1")
    address = Path(shim.call("start", bundle).stdout.decode().removeprefix("unix://"))
    shim.end()
    for _ in range(2):
        done = shim.call("delete", bundle, "-bundle", str(bundle))
        answer = DeleteResponse.FromString(done.stdout)
        assert (done.returncode, done.stderr, answer.exit_status) == (0, b"", 137)
        assert abs(answer.exited_at.seconds - time.time()) < 5
        assert not address.exists(), "a dead server's socket goes with it"


def test_delete_without_a_bundle(shim: Shim) -> None:
    """The bundle may be gone before us; the answer comes all the same."""
    bundle = shim.bundle("d2")
    done = shim.call("delete", bundle, "-bundle", str(bundle / "gone"))
    assert DeleteResponse.FromString(done.stdout).exit_status == 137


def test_delete_leaves_a_living_server_alone(shim: Shim) -> None:
    """In a pod it is run for one container while the others live on (wire.md 2.9)."""
    bundle = shim.bundle("d3")
    address = Path(shim.call("start", bundle).stdout.decode().removeprefix("unix://"))
    shim.call("delete", bundle, "-bundle", str(bundle))
    assert address.exists()


def test_delete_clears_strays_below_rootfs(shim: Shim) -> None:
    """One stray file there would keep containerd from removing the bundle (wire.md 2.6)."""
    bundle = shim.bundle("d4")
    (bundle / "rootfs" / "stray").mkdir()
    (bundle / "rootfs" / "stray" / "file").touch()
    shim.call("delete", bundle, "-bundle", str(bundle))
    assert list((bundle / "rootfs").iterdir()) == []


@pytest.mark.parametrize(
    "env",
    [
        {"PYTHONWARNINGS": "error", "PYTHONDEVMODE": "1"},
        {"LC_ALL": "xx_YY.UTF-8", "LANG": "xx"},
        {"PYTHONVERBOSE": "1", "PYTHONINSPECT": "1", "PYTHONSTARTUP": "/no/such"},
        {f"PADDING_{n}": "x" * 100_000 for n in range(15)},
    ],
    ids=["warnings", "locale", "verbose", "large"],
)
def test_answers_stay_pure_in_any_environment(shim: Shim, env: dict[str, str]) -> None:
    """Stdout is the message and stderr is empty, whatever containerd's environment holds (faults.md F11)."""
    bundle = shim.bundle("e1")
    done = shim.call("start", bundle, env=env)
    assert (done.stdout.decode(), done.stderr) == (expected_address(shim, "e1"), b"")
    done = shim.call("delete", bundle, "-bundle", str(bundle), env=env)
    assert (DeleteResponse.FromString(done.stdout).exit_status, done.stderr) == (137, b"")


def test_a_dead_zygote_costs_nothing(folder: Path) -> None:
    """Killed, its pod servers live on, and the next start makes another (ADR 0004)."""
    shim = Shim(folder, "containerd-shim-spin-v2", {})
    try:
        shim.call("start", shim.bundle("z1"))
        zygote = shim.wait_for_zygote()
        second = shim.call("start", shim.bundle("z2"))
        os.kill(zygote, signal.SIGKILL)
        assert shim.call("start", folder / "z2").stdout == second.stdout
        third = shim.call("start", shim.bundle("z3"))
        assert (third.returncode, third.stderr) == (0, b"")
        deadline = time.monotonic() + 10
        while shim.wait_for_zygote() == zygote:
            assert time.monotonic() < deadline, "no new zygote"
            time.sleep(0.05)
    finally:
        shim.end()


def test_a_stopped_zygote_does_not_hold_delete_up(folder: Path) -> None:
    """SIGSTOP it: delete falls back to the plain path within containerd's 5 s (faults.md F6)."""
    shim = Shim(folder, "containerd-shim-spin-v2", {})
    try:
        bundle = shim.bundle("z1")
        shim.call("start", bundle)
        zygote = shim.wait_for_zygote()
        os.kill(zygote, signal.SIGSTOP)
        began = time.monotonic()
        done = shim.call("delete", bundle, "-bundle", str(bundle))
        assert DeleteResponse.FromString(done.stdout).exit_status == 137
        assert time.monotonic() - began < 4.0
        os.kill(zygote, signal.SIGCONT)
    finally:
        shim.end()
