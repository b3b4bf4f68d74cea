"""Restarting containerd without ending pods: what systemd must say before anything is changed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from shim.errors import FailedPrecondition, Unavailable
from shim.node.files import Root
from shim.node.layouts import named
from shim.node.service import BOOTED, Containerd, restart_words, using

K3S = replace(named("/c.toml"), services=("k3s.service", "k3s-agent.service"))
Systemctl = Callable[[str, str], Root]


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Systemctl:
    """A node whose systemd says that one unit is active, and what its KillMode is."""

    def make(active: str, kill_mode: str) -> Root:
        program = tmp_path / "bin" / "systemctl"
        program.parent.mkdir()
        program.write_text(
            f'#!/bin/sh\n[ "$1" = show ] && echo {kill_mode}\n'
            f'[ "$1" = is-active ] && {{ [ "$2" = "{active}" ] && echo active || echo inactive; }}\nexit 0\n'
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
        (tmp_path / BOOTED.lstrip("/")).mkdir(parents=True)
        return Root(tmp_path)

    return make


def test_the_unit_that_runs_is_restarted(systemctl: Systemctl) -> None:
    """Of a distribution's units the active one is restarted: an agent's node has no server (N29, N30)."""
    root = systemctl("k3s-agent.service", "process")
    assert restart_words(root, K3S, "") == ("systemctl", "restart", "k3s-agent.service")


@pytest.mark.parametrize("kill_mode", ["control-group", "mixed"])
def test_a_restart_that_would_end_pods_is_refused(systemctl: Systemctl, kill_mode: str) -> None:
    """Shims live in containerd's unit: any KillMode but `process` would end them, and is refused."""
    root = systemctl("k3s.service", kill_mode)
    with pytest.raises(
        FailedPrecondition, match=rf"KillMode={kill_mode}.*nothing is changed.*systemctl edit"
    ):
        restart_words(root, K3S, "")


def test_a_containerd_that_does_not_run_is_refused(systemctl: Systemctl) -> None:
    """Where none of the units is active there is nothing to prove an installation on."""
    root = systemctl("other.service", "process")
    with pytest.raises(FailedPrecondition, match="wanted a running k3s.service or k3s-agent.service"):
        restart_words(root, K3S, "")


def test_without_systemd_a_command_is_asked_for(tmp_path: Path) -> None:
    """On a node that systemd did not boot the message has the flag; with it the words are the operator's."""
    with pytest.raises(FailedPrecondition, match="--restart-command"):
        restart_words(Root(tmp_path), K3S, "")
    assert restart_words(Root(tmp_path), K3S, "sv restart 'a b'") == ("sv", "restart", "a b")


def test_a_program_that_fails_says_why(tmp_path: Path) -> None:
    """The message has the command, its exit code and its own words."""
    ctr = tmp_path / "ctr"
    ctr.write_text("#!/bin/sh\necho no such socket >&2\nexit 3\n")
    ctr.chmod(0o755)
    with pytest.raises(Unavailable, match="version` failed with 3: no such socket"):
        Containerd("/c.sock", str(ctr), ()).version()


def test_processes_are_found_by_what_they_have_mapped(tmp_path: Path) -> None:
    """A version is in use while a process maps a file of it; one of a longer name is another version."""
    for pid, path in ((10, "/p/versions/1/lib.so"), (11, "/p/versions/11/lib.so"), (12, "/usr/lib.so")):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "maps").write_text(f"7f00-7f01 r--p 0 08:01 42 {path}\n")
    assert using(Path("/p/versions/1"), tmp_path) == [10]
