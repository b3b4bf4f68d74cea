"""`spinwheel doctor`: what it says of nodes that cannot run an app."""

import json
import socket
from pathlib import Path

import pytest

from shim.cli import doctor, main


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
