"""`spinwheel node` on the files of seven kinds of nodes, by --host-root: real programs, no containerd."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shim.node.environment import Environment
from tests.harness.trees import differences, snapshot

NODES = Path(__file__).parents[1] / "fixtures" / "nodes"
BIN = Path(os.environ.get("SPINWHEEL_BIN") or Path(sys.prefix) / "bin")
LAYOUTS = ("debian", "rhel", "k3s", "rke2", "microk8s", "kind", "talos")
PREFIXES = {"talos": "/var/opt/spinwheel"}
CONFIG = "etc/containerd/config.toml"


@pytest.fixture
def tree(tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a fixture, with the Python and the OCI runtime that a node has."""

    def make(name: str) -> Path:
        root = tmp_path / name
        shutil.copytree(NODES / name, root, symlinks=True)
        for program in (Environment().interpreter, "/usr/bin/runc"):
            (root / program.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
            (root / program.lstrip("/")).touch(0o755)
        return root

    return make


def spinwheel(root: Path, verb: str, *words: str) -> "subprocess.CompletedProcess[str]":
    """`spinwheel node VERB` on a tree."""
    argv = [str(BIN / "spinwheel"), "node", verb, "--host-root", str(root), *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60)


def refused(root: Path, *words: str) -> str:
    """The one message of an installation that must fail and change nothing."""
    before = snapshot(root)
    done = spinwheel(root, "install", *words)
    assert (done.returncode, done.stdout) == (1, "")
    assert differences(before, snapshot(root)) == []
    return done.stderr


@pytest.mark.parametrize("name", LAYOUTS)
def test_uninstall_leaves_every_file_as_before(tree: Callable[[str], Path], name: str) -> None:
    """After install, install again and uninstall each file of each layout is as before (N20, N24, N35)."""
    root = tree(name)
    (root / CONFIG).chmod(0o600) if (root / CONFIG).exists() else None
    before = snapshot(root)
    planned = spinwheel(root, "install", "--dry-run")
    assert differences(before, snapshot(root)) == []
    done = spinwheel(root, "install")
    assert done.returncode == 0, done.stderr
    assert "handler: spin\n" in done.stdout
    installed = snapshot(root)
    plan = [
        line.split()
        for line in planned.stdout.splitlines()
        if line.startswith(("would make link", "would make file"))
    ]
    assert all(f"made {kind} {path}" in done.stderr for _would, _make, kind, path, *_ in plan)
    assert plan or name == "talos"
    again = spinwheel(root, "install")
    assert "nothing to do" in again.stderr
    assert differences(installed, snapshot(root)) == []
    assert spinwheel(root, "uninstall").returncode == 0
    assert differences(before, snapshot(root)) == []


def test_what_is_installed_runs_by_itself(tree: Callable[[str], Path]) -> None:
    """The private environment has all that the shim imports, and nothing of the environment it came from."""
    root = tree("debian")
    spinwheel(root, "install")
    version = (root / "opt/spinwheel/current").resolve()
    launcher = root / "usr/local/bin/containerd-shim-spin-v2"
    assert os.readlink(launcher) == "/opt/spinwheel/current/bin/containerd-shim-spin-v2"
    said = subprocess.run([version / "bin/containerd-shim-spin-v2", "-v"], capture_output=True, text=True)
    assert said.stdout.startswith("containerd-shim-spin-v2:\n  Version: ")
    code = "import sys, grpc, shim.podserver; print(sys.prefix, shim.__file__, grpc.__file__)"
    python = [str(version / "bin/python"), "-I", "-c", code]
    found = subprocess.run(python, capture_output=True, text=True, check=True)
    assert all(Path(path).is_relative_to(version) for path in found.stdout.split())
    first = (version / "bin/spinwheel").read_text().splitlines()[0]
    assert first == f"#!/opt/spinwheel/versions/{version.name}/bin/python"
    assert not list(version.rglob("pytest"))


def test_the_journal_keeps_no_secret_of_the_configuration(tree: Callable[[str], Path]) -> None:
    """A password in containerd's configuration is in the backup alone, which has the file's mode."""
    root = tree("debian")
    with (root / CONFIG).open("a") as file:
        file.write('password = "hunter2"\n')
    (root / CONFIG).chmod(0o600)
    spinwheel(root, "install")
    files = [path for path in (root / "opt/spinwheel").rglob("*") if path.is_file()]
    (holder,) = (path for path in files if b"hunter2" in path.read_bytes())
    assert (holder.name, oct(holder.stat().st_mode)) == ("config.toml", "0o100600")


def test_what_others_changed_since_stays(tree: Callable[[str], Path]) -> None:
    """Lines that an operator adds after the installation survive the uninstallation, which says so."""
    root = tree("debian")
    before = (root / CONFIG).read_text()
    spinwheel(root, "install")
    (root / CONFIG).write_text("# first\n" + (root / CONFIG).read_text() + "# last\n")
    done = spinwheel(root, "uninstall")
    assert (done.returncode, "changed by others" in done.stderr) == (0, True)
    assert (root / CONFIG).read_text() == f"# first\n{before}# last\n"


def test_a_killed_installer_is_undone_by_uninstall(tree: Callable[[str], Path]) -> None:
    """Each change is in the journal before it is made, so one that was killed can be taken back."""
    root = tree("debian")
    before = snapshot(root)
    spinwheel(root, "install")
    journal = root / "opt/spinwheel/install.json"
    document = json.loads(journal.read_text())
    (root / CONFIG).write_bytes(
        (NODES / "debian" / CONFIG).read_bytes()
    )  # as if it had not come to the last step
    assert document["changes"][-1]["path"] == f"/{CONFIG}"
    assert spinwheel(root, "uninstall").returncode == 0
    assert differences(before, snapshot(root)) == []


def test_absolute_links_of_the_node_stay_in_its_root(tree: Callable[[str], Path]) -> None:
    """A configuration that is a link to an absolute path is edited inside the root, never on this system."""
    root = tree("debian")
    (root / "srv").mkdir()
    (root / CONFIG).rename(root / "srv/containerd.toml")
    (root / CONFIG).symlink_to("/srv/containerd.toml")
    before = snapshot(root)
    assert spinwheel(root, "install").returncode == 0
    assert "BEGIN spinwheel" in (root / "srv/containerd.toml").read_text()
    spinwheel(root, "uninstall")
    assert differences(before, snapshot(root)) == []


def test_talos_is_told_what_only_it_can_do(tree: Callable[[str], Path]) -> None:
    """Where the system writes /etc itself we do not: programs go below /var, the rest is a patch to apply."""
    root = tree("talos")
    done = spinwheel(root, "install")
    assert "kind: CRICustomizationConfig" in done.stderr
    assert 'runtime_path = "/var/opt/spinwheel/current/bin/containerd-shim-spin-v2"' in done.stderr
    assert "spinwheel" not in (root / "etc/cri/containerd.toml").read_text()


def test_a_configuration_that_does_not_parse_changes_nothing(tree: Callable[[str], Path]) -> None:
    """Broken TOML is one message with file, line and what to run; nothing is changed."""
    root = tree("debian")
    (root / CONFIG).write_text("version = 2\n[plugins\n")
    assert "wanted TOML" in (said := refused(root)), said
    assert "line 2" in said
    assert "config dump" in said


def test_an_unknown_distribution_changes_nothing(tree: Callable[[str], Path]) -> None:
    """A distribution that is not known is named, with the flags to give instead; nothing is changed."""
    root = tree("debian")
    (root / "etc/os-release").write_text('PRETTY_NAME="Arch Linux"\nID=arch\n')
    assert "found Arch Linux" in (said := refused(root)), said
    assert "--config FILE" in said
    assert spinwheel(root, "install", "--config", f"/{CONFIG}").returncode == 0


def test_a_missing_oci_runtime_changes_nothing(tree: Callable[[str], Path]) -> None:
    """Without crun and runc the message says where they were looked for and what to install."""
    root = tree("debian")
    (root / "usr/bin/runc").unlink()
    assert "wanted an OCI runtime (crun or runc), found none in" in (said := refused(root)), said
    assert "Install runc" in said


def test_a_bundled_runtime_is_named_where_the_format_can(tree: Callable[[str], Path]) -> None:
    """k3s's own runc is enough with containerd 2, whose handlers have options; with 1.x we say so."""
    for name, folder in (("k3s", "data/current/bin"), ("rke2", "bin")):
        root = tree(name)
        (root / "usr/bin/runc").unlink()
        bundled = root / f"var/lib/rancher/{name}/{folder}/runc"
        bundled.parent.mkdir(parents=True)
        bundled.touch(0o755)
    assert "version 2 cannot name" in refused(root)
    k3s = root.parent / "k3s"
    assert spinwheel(k3s, "install").returncode == 0
    written = next(k3s.rglob("50-spinwheel.toml")).read_text()
    assert 'BinaryName = "/var/lib/rancher/k3s/data/current/bin/runc"' in written


def test_a_node_without_this_python_changes_nothing(tree: Callable[[str], Path]) -> None:
    """The private environment needs the Python below it on the node; without it the message names it."""
    root = tree("debian")
    (root / Environment().interpreter.lstrip("/")).unlink()
    assert f"wanted {Environment().interpreter} on the node" in refused(root)


def test_another_shim_of_our_name_changes_nothing(tree: Callable[[str], Path]) -> None:
    """A launcher that others installed is not overwritten; the message says where it is (N40)."""
    root = tree("debian")
    there = root / "usr/local/bin/containerd-shim-spin-v2"
    there.parent.mkdir(parents=True)
    there.touch()
    assert "/usr/local/bin/containerd-shim-spin-v2 is there already" in refused(root)


def test_uninstall_without_an_installation_is_refused(tree: Callable[[str], Path]) -> None:
    """Where nothing is installed, uninstall and upgrade say so, and change nothing."""
    root = tree("debian")
    for verb in ("uninstall", "upgrade"):
        done = spinwheel(root, verb)
        assert (done.returncode, "wanted an installation" in done.stderr) == (1, True)
