"""`spinwheel-host` as the control plane calls it: fingerprints and compilation for both architectures."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.guests.build import guest_path
from tests.process.test_shim_binary import PROGRAMS

HOST = PROGRAMS / "spinwheel-host"
MACHINES = {"x86_64-linux": 62, "aarch64-linux": 183}  # e_machine of ELF


def fingerprint(target: str) -> str:
    """What the engine says for a target, in an empty environment."""
    words = [str(HOST), "fingerprint", "--target", target]
    return subprocess.run(words, env={}, capture_output=True, text=True, check=True).stdout.strip()


def test_each_target_has_a_fingerprint_of_its_own() -> None:
    """Code for one CPU is never taken for another's, nor for a baseline."""
    found = {fingerprint(target) for target in ("native", *MACHINES)}
    assert len(found) == 3
    assert all(len(word) == 64 for word in found)
    assert fingerprint("native") == fingerprint("native")


@pytest.mark.parametrize("target", MACHINES)
def test_compiles_for_both_architectures(target: str, tmp_path: Path) -> None:
    """The same component, whatever machine we are on."""
    out = tmp_path / "code"
    words = [str(HOST), "compile", "--target", target, str(guest_path("hello-p2")), str(out)]
    subprocess.run(words, env={}, capture_output=True, check=True)
    assert int.from_bytes(out.read_bytes()[18:20], "little") == MACHINES[target]


def test_an_unknown_target_is_refused(tmp_path: Path) -> None:
    """Exit code 2, and the targets that there are."""
    words = [str(HOST), "compile", "--target", "riscv", str(guest_path("hello-p2")), str(tmp_path / "out")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2
    assert "aarch64-linux" in done.stderr
    assert not (tmp_path / "out").exists()


def test_it_runs_without_any_library(tmp_path: Path) -> None:
    """A static program: it is executed in an empty root file system."""
    (tmp_path / "host").write_bytes(HOST.read_bytes())
    (tmp_path / "host").chmod(0o755)
    code = "import os, sys; os.chroot(sys.argv[1]); os.execv('/host', ['/host', '--version'])"
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert done.stdout.startswith("spinwheel-host 0.1.0 (wasmtime 48.")
