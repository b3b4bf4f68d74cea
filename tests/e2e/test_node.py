"""`spinwheel node` on a real containerd with its own configuration: the three verbs, and failures."""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from shim.node.edit import RUNTIME, handlers
from shim.node.install import stop_zygotes
from shim.node.probe import IMAGE
from shim.node.service import unit_text, using
from tests.harness.cri import PAUSE, Cri
from tests.harness.installed import InstalledNode, ManagedContainerd
from tests.harness.trees import differences

Managed = Callable[..., AbstractContextManager[InstalledNode]]


@pytest.fixture
def managed(programs: Path, hugetlb: None) -> Managed:
    """A node on which nothing is installed; in the end no process of an installation may be left."""

    @contextlib.contextmanager
    def start(module: str = "containerd", **env: str) -> Iterator[InstalledNode]:
        base = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
        folders = {"SPINWHEEL_RUN_DIR": f"{base}/run", "SPINWHEEL_CACHE_DIR": f"{base}/cache"}
        with ManagedContainerd(base, module, folders | env) as containerd:
            node = InstalledNode(containerd, folders)
            yield node
            assert using(node.prefix) == []
        shutil.rmtree(base, ignore_errors=True)

    return start


def answers(url: str) -> bool:
    """Whether the app there is well."""
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310  # http to loopback
        return bool(answer.status == 200)


def unknown_handler(cri: Cri) -> bool:
    """Whether CRI refuses a pod of our handler."""
    with pytest.raises(AssertionError, match="no runtime for"):
        cri.pod("p")
    return True


@pytest.mark.parametrize("module", ["containerd", "next", "v1"])
def test_install_and_uninstall_on_a_real_containerd(managed: Managed, module: str) -> None:
    """Installed, apps run; uninstalled, each file is as before, byte and mode (N24, N34)."""
    with managed(module) as node:
        before = node.files()
        done = node.install()
        assert "handler: spin\n" in done.stdout
        assert "answered after" in done.stderr
        dumped = node.containerd.config_dump()
        known = handlers(dumped, dumped["version"])
        assert (known["spin"], known["runc"]) == (RUNTIME, "io.containerd.runc.v2")
        assert answers(node.start_app("app"))
        node.end_app("app")
        assert [each for each in node.doctor() if each["todo"]] == []
        installed = node.files()
        assert "nothing to do" in node.install().stderr
        assert differences(installed, node.files()) == []
        node.spinwheel("uninstall")
        assert differences(before, node.files()) == []
        assert not [name for name in node.containerd.namespaces() if name.startswith("spinwheel")]


def test_a_pod_of_kubernetes_asks_for_the_handler_by_name(managed: Managed) -> None:
    """CRI makes a sandbox with an app for handler `spin` while that is installed (S6)."""
    with managed() as node:
        cri = Cri(node.containerd)
        cri.add_native(PAUSE, "/bin/sleep", "1000000")
        assert unknown_handler(cri)
        node.install()
        node.import_app("k8s.io")
        pod = cri.pod("p")
        container = cri.create(pod, "app", IMAGE, ["/"], {"SPIN_HTTP_LISTEN_ADDR": "127.0.0.1:0"})
        cri.start(container)
        assert cri.inspect(container)["state"] == "CONTAINER_RUNNING"
        cri.remove_all()
        node.spinwheel("uninstall")
        assert unknown_handler(cri)


def test_a_native_container_outlives_the_installation(managed: Managed) -> None:
    """Applying restarts containerd but no container: one of runc's keeps its pid through it all."""
    with managed() as node:
        cri = Cri(node.containerd)
        cri.add_native("test.local/busybox:1", "/bin/sleep", "1000")
        node.containerd.ctr("run", "-d", "test.local/busybox:1", "other", namespace="k8s.io")
        before = node.containerd.ctr("tasks", "ls", namespace="k8s.io").stdout
        assert "RUNNING" in before
        node.install()
        node.spinwheel("uninstall")
        assert node.containerd.ctr("tasks", "ls", namespace="k8s.io").stdout == before


def test_a_pod_keeps_its_version_through_an_upgrade(managed: Managed, tmp_path: Path) -> None:
    """A running app stays on its files through the upgrade, a new one gets new ones; neither loses them."""
    with managed() as node:
        before = node.files()
        node.install()
        old = node.version
        url = node.start_app("old")
        newer = another_version(node, tmp_path)
        assert "Run `upgrade`" in node.install(environment=newer, check=False).stderr
        done = node.install(verb="upgrade", environment=newer)
        assert f"kept {old}" in done.stderr
        assert node.version.startswith("9.9.9-")
        assert [each for each in node.doctor() if each["todo"]] == []
        assert answers(url)
        assert answers(node.start_app("new"))
        refused = node.spinwheel("uninstall", check=False)
        assert "End their pods first" in refused.stderr
        for name in ("old", "new"):
            node.end_app(name)
        assert "nothing to do" in node.install(verb="upgrade", environment=newer).stderr
        node.spinwheel("uninstall")
        assert differences(before, node.files()) == []


def another_version(node: InstalledNode, folder: Path) -> Path:
    """An environment with a release that is not there yet."""
    newer = folder / "newer"
    shutil.copytree(node.prefix / "current", newer, symlinks=True)
    (module,) = newer.glob("lib/python3*/site-packages/shim/__init__.py")
    module.write_text(re.sub(r'__version__ = ".*"', '__version__ = "9.9.9"', module.read_text()))
    return newer


def test_a_node_where_no_app_answers_is_put_back(managed: Managed) -> None:
    """When the proof fails the installer says why and puts every file back; containerd runs as before."""
    with managed(SPINWHEEL_OCI_RUNTIME="/nowhere/crun") as node:
        before = node.files()
        done = node.install(check=False)
        assert done.returncode == 1
        assert "/nowhere/crun" in done.stderr
        assert "everything is as it was before" in done.stderr
        assert differences(before, node.files()) == []
        assert handlers(node.containerd.config_dump(), 3).keys() == {"runc"}
        assert "Server:" in node.containerd.ctr("version").stdout


def test_a_failed_upgrade_leaves_the_old_version_in_use(managed: Managed, tmp_path: Path) -> None:
    """When apps do not run on the new version, the link goes back: new pods start on the old one."""
    with managed() as node:
        node.install()
        newer = another_version(node, tmp_path)
        installed = node.files()
        (newer / "bin/spinwheel-host").write_text("#!/bin/false\n")
        done = node.install(verb="upgrade", environment=newer, check=False)
        assert (done.returncode, "everything is as it was before" in done.stderr) == (1, True)
        assert differences(installed, node.files()) == []
        assert answers(node.start_app("app"))
        node.end_app("app")
        node.spinwheel("uninstall")


def test_a_restart_that_fails_is_put_back(managed: Managed) -> None:
    """A restart command that fails is the message, and the configuration is the old one."""
    with managed() as node:
        before = node.files()
        done = node.install("--restart-command", "/bin/false", check=False)
        assert "`/bin/false` failed with 1" in done.stderr
        assert differences(before, node.files()) == []


def test_a_broken_configuration_is_refused_before_anything_is_made(managed: Managed) -> None:
    """On a live node too, TOML that does not parse is one message, and nothing is changed."""
    with managed() as node:
        (node.base / "config.toml").write_text("version = 3\n[grpc\n")
        before = node.files()
        done = node.install(check=False)
        assert "wanted TOML" in done.stderr
        assert done.stderr.count("\n") == 1
        assert differences(before, node.files()) == []


def test_the_units_command_is_the_zygote_of_later_starts(managed: Managed) -> None:
    """What the unit runs preloads the shim: a start is forked from it, and outlives it when it is stopped."""
    with managed() as node:
        node.install()
        stop_zygotes(node.prefix)
        text = unit_text(str(node.prefix), str(node.containerd.address))
        (command,) = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
        with node.running(command.split()) as zygote:
            url = node.start_app("app")
            (noted,) = (node.base / "run" / "zygote").glob("*.pid")
            assert int(noted.read_text()) == zygote
        assert answers(url)
        node.end_app("app")
        node.spinwheel("uninstall")
