"""`spinwheel doctor`: what it says of nodes that cannot run an app."""

import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from shim.cli import checkup, doctor, main
from shim.node.files import Root
from shim.node.layouts import named
from shim.settings import Settings


def test_a_missing_containerd_is_a_failure_with_a_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where nothing listens on containerd's socket the exit code is 1, and the finding has a step to take."""
    code = main(["doctor", "--json", "--address", str(tmp_path / "none.sock")])
    findings = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert code == 1
    assert "--address" in findings["containerd"]["todo"]


def test_a_listening_socket_is_well(tmp_path: Path) -> None:
    """A socket on which something listens is no lack."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen()
        assert not doctor.containerd(tmp_path / "s").todo


def test_crun_without_hugetlb_on_cgroup_v1_is_named(tmp_path: Path) -> None:
    """On cgroup v1 without hugetlb, crun alone is a lack that names hugetlb, and runc beside it mends it."""
    (tmp_path / "memory").mkdir()
    assert "hugetlb" in doctor.oci_runtime("", ["/usr/bin/crun"], tmp_path).todo
    both = doctor.oci_runtime("", ["/usr/bin/crun", "/usr/sbin/runc"], tmp_path)
    assert (both.found, both.todo) == ("/usr/sbin/runc", "")


def test_no_runtime_and_no_cgroups_are_lacks(tmp_path: Path) -> None:
    """A node without an OCI runtime or without cgroups is told to install or mount them."""
    assert "install" in doctor.oci_runtime("", [], tmp_path).todo
    assert "mount" in doctor.cgroup_layout(tmp_path).todo


def test_a_cache_path_through_a_file_is_a_lack(tmp_path: Path) -> None:
    """A cache folder below a plain file is a lack; one that can still be made is not."""
    (tmp_path / "file").touch()
    assert doctor.cache_folder(tmp_path / "file").todo
    assert not doctor.cache_folder(tmp_path / "later" / "cache").todo


@pytest.mark.parametrize(
    ("version", "is_well"),
    [("1.6.20", False), ("1.6.25", True), ("1.7.6", False), ("1.7.7", True), ("2.2.9", True), ("", False)],
)
def test_a_containerd_that_cannot_unpack_artifacts_is_a_lack(version: str, is_well: bool) -> None:  # noqa: FBT001
    """Below 1.6.25 and 1.7.7 containerd cannot unpack Spin artifacts; the step names both versions."""
    finding = checkup.containerd_version(version)
    assert bool(finding.todo) != is_well
    assert is_well or not version or "1.6.25, 1.7.7" in finding.todo


def test_an_old_kernel_is_a_lack() -> None:
    """A kernel that cannot wait for a pidfd is named with the version that can."""
    assert "5.4" in checkup.kernel("4.18.0-553.el8").todo
    assert not checkup.kernel("6.1.0-40-amd64").todo


V2, V3 = "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"


@pytest.mark.parametrize(
    ("version", "plugin", "todo"),
    [(3, V3, ""), (2, V2, ""), (3, V2, "move it"), (2, V3, "move it"), (3, "other", "node install")],
)
def test_our_handler_has_to_stand_in_the_table_that_is_read(
    tmp_path: Path, version: int, plugin: str, todo: str
) -> None:
    """Without our handler, or with it in another version's table, the finding has the step that mends it."""
    table = f'[plugins."{plugin}".containerd.runtimes.x]\nruntime_type = "io.containerd.spin.v2"\n'
    (tmp_path / "c.toml").write_text(f"version = {version}\n{table}")
    finding = checkup.handler(named("/c.toml"), Root(tmp_path))
    assert (todo in finding.todo) if todo else not finding.todo


def test_a_configuration_that_cannot_be_read_is_a_lack(tmp_path: Path) -> None:
    """A file that is missing or no TOML, and a distribution that is not known, have a step each."""
    assert "--config" in checkup.handler(named("/c.toml"), Root(tmp_path)).todo
    (tmp_path / "c.toml").write_text("version = [\n")
    assert "config dump" in checkup.handler(named("/c.toml"), Root(tmp_path)).todo
    assert "--config" in checkup.handler(None).todo


def test_runtimes_are_asked_for_the_version_that_containerd_writes(tmp_path: Path) -> None:
    """A crun too old for containerd's specs is named as one for apps only, and alone it is a lack."""
    for name, text in (
        ("ctr", """echo '{"ociVersion": "1.3.0"}'"""),
        ("crun", '[ "$1" = --version ] && echo "crun version 1.8.1" && echo "spec: 1.0.0"'),
        ("runc", 'echo "runc version 1.1.5"'),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "hugetlb").mkdir()
    layout = replace(named("/c.toml"), programs=str(tmp_path))
    crun, runc = str(tmp_path / "crun"), str(tmp_path / "runc")
    alone = checkup.native_runtimes(layout, [crun], tmp_path)
    assert "crun 1.8.1: refuses it" in alone.found
    assert "sidecars" in alone.todo
    both = checkup.native_runtimes(layout, [crun, runc], tmp_path)
    assert "runc 1.1.5: accepts it" in both.found
    assert not both.todo


def test_a_folder_of_sockets_that_all_may_write_is_a_lack(tmp_path: Path) -> None:
    """Whoever can write where sockets are could put one of their own there."""
    (tmp_path / "run").mkdir(mode=0o755)
    settings = Settings(run_dir=tmp_path / "run", socket_dir=tmp_path / "s")
    assert not checkup.sockets(settings).todo
    (tmp_path / "run").chmod(0o777)
    assert "chmod o-w" in checkup.sockets(settings).todo
