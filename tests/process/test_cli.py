"""The command line itself: help, exit codes, completion, and what an app asks for."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.guests.build import guest_path
from tests.harness.registry import Registry

SPINWHEEL = Path(sys.prefix) / "bin" / "spinwheel"
MANIFEST = """\
spin_manifest_version = 2
[application]
name = "a"
[[trigger.http]]
route = "/..."
component = "a"
[component.a]
source = "app.wasm"
allowed_outbound_hosts = ["https://example.org"]
key_value_stores = ["default"]
"""


def run(*words: str | Path, cwd: Path = Path("/")) -> subprocess.CompletedProcess[str]:
    """A verb, to its end."""
    env = {"HOME": str(cwd), "PATH": "/usr/bin:/bin"}
    return subprocess.run([SPINWHEEL, *words], cwd=cwd, env=env, capture_output=True, text=True)


def test_help_teaches_and_codes_are_those_it_tells() -> None:
    """0 done, 1 failed with one line, 2 bad usage; the help has a path from nothing."""
    told = run("--help").stdout
    assert "spinwheel new http-py hello" in told
    assert "exit codes: 0 done; 1 failed" in told
    assert run("frobnicate").returncode == 2
    failed = run("build")
    assert (failed.returncode, len(failed.stderr.splitlines())) == (1, 1)


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [("pu", {"push", "pull"}), ("up --hosts", {"--hosts-dir"}), ("new http", {"http-js", "http-py"})],
)
def test_bash_completes_verbs_options_and_choices(typed: str, wanted: set[str]) -> None:
    """In a real bash, by the script that the verb prints."""
    words = f"spinwheel {typed}".split()
    script = (
        f'eval "$({SPINWHEEL} completion)"; COMP_WORDS=({" ".join(words)}); COMP_CWORD={len(words) - 1}; '
        '_spinwheel; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == wanted


def test_inspect_tells_what_an_app_asks_for(tmp_path: Path) -> None:
    """Permissions out of the locked app (O44)."""
    (tmp_path / "spin.toml").write_text(MANIFEST)
    (tmp_path / "app.wasm").write_bytes(guest_path("hello-p2").read_bytes())
    with Registry(tmp_path / "registry") as registry:
        reference = f"{registry.host}/a:1"
        assert run("push", "-k", reference, cwd=tmp_path).returncode == 0
        (component,) = json.loads(run("inspect", "-k", "--json", reference).stdout)["components"]
        told = run("inspect", "-k", reference).stdout
    assert component["asks_for"]["allowed_outbound_hosts"] == ["https://example.org"]
    assert "key value stores: default" in told
