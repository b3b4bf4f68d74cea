"""`spinwheel new`, `build` and `up`: an app on this machine, without containerd."""

import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.guests.build import guest_path
from tests.guests.python import environment_of
from tests.harness.registry import Registry

SPINWHEEL = Path(sys.prefix) / "bin" / "spinwheel"
MANIFEST = """\
spin_manifest_version = 2
[application]
name = "here"
[variables]
host = { required = true }
[[trigger.http]]
route = "/..."
component = "here"
[component.here]
source = "app.wasm"
environment = { COLOUR = "blue" }
variables = { url = "https://{{ host }}" }
files = [{ source = "static", destination = "/" }]
build = { command = "cp seed.wasm ../app.wasm", workdir = "src" }
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for the module, so that a guest is compiled once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """An app whose build copies a guest."""
    folder = tmp_path / "here"
    (folder / "src").mkdir(parents=True)
    (folder / "static").mkdir()
    (folder / "static" / "large.txt").write_text("L" * 4096)
    (folder / "spin.toml").write_text(MANIFEST)
    shutil.copy(guest_path("hello-p2"), folder / "src" / "seed.wasm")
    return folder


def environment(cache: Path, path: str = "/usr/bin:/bin") -> dict[str, str]:
    """What the user's shell has."""
    return {"HOME": str(cache), "XDG_CACHE_HOME": str(cache), "PATH": path, "POD_SECRET": "hidden"}


def spinwheel(cache: Path, *words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs a verb to its end."""
    env = environment(cache)
    return subprocess.run([SPINWHEEL, *words], cwd=cwd, env=env, capture_output=True, text=True)


@contextmanager
def running(cache: Path, *words: str | Path, cwd: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`spinwheel up` until it serves; its URL and the process, which ends with a SIGINT."""
    process = subprocess.Popen(
        [SPINWHEEL, "up", "--listen", "127.0.0.1:0", *words],
        cwd=cwd,
        env=environment(cache),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process:
        lines = iter(process.stdout.readline, "")
        found = next((hit for line in lines if (hit := re.match(r"Serving (http://\S+)", line))), None)
        assert found, process.stderr.read()
        try:
            yield found[1], process
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(10)


def get(url: str) -> str:
    """The body of an answer."""
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310  # loopback
        return str(answer.read().decode())


def test_a_folder_is_built_and_served(app: Path, cache: Path) -> None:
    """Environment, variables and files arrive as in a pod, the user's environment does not; ^C ends it."""
    words = ("--build", "--variable", "host=example.org", "--env", "SIZE=big")
    with running(cache, *words, cwd=app) as (url, process):
        environment = get(f"{url}/env")
        assert "COLOUR=blue" in environment
        assert "SIZE=big" in environment
        assert "hidden" not in environment
        assert get(f"{url}/var/url").strip() == "https://example.org"
        assert get(f"{url}/file/large.txt") == "L" * 4096
    assert process.returncode == 0


def test_a_reference_is_served(app: Path, cache: Path, tmp_path: Path) -> None:
    """What was pushed is pulled, verified and served; no folder has that name (O32, H111)."""
    assert spinwheel(cache, "build", cwd=app).returncode == 0
    with Registry(tmp_path / "registry") as registry:
        reference = f"{registry.host}/here:1"
        pushed = spinwheel(cache, "push", "-k", reference, cwd=app)
        assert pushed.returncode == 0, pushed.stderr
        with running(cache, "-k", "--variable", "host=x", reference, cwd=tmp_path) as (url, _):
            assert get(f"{url}/file/large.txt") == "L" * 4096


def test_what_is_missing_is_said_before_anything_runs(app: Path, cache: Path) -> None:
    """A source that is not built, a variable without a value, a build that fails, a folder without an app."""
    assert "run `spinwheel build`" in spinwheel(cache, "up", cwd=app).stderr
    assert "Built 1 of 1 components" in spinwheel(cache, "build", cwd=app).stdout
    assert "required variables have no value: host" in spinwheel(cache, "up", cwd=app).stderr
    assert "wanted Spin's manifest" in spinwheel(cache, "up", "src", cwd=app).stderr
    (app / "src" / "seed.wasm").unlink()
    failed = spinwheel(cache, "build", cwd=app)
    assert failed.returncode == 1
    assert "component here: `cp seed.wasm ../app.wasm` ended with 1" in failed.stderr


def python_tools(folder: Path) -> str:
    """A PATH with the guest's environment, whose `componentize-py` works from anywhere."""
    venv = environment_of("hello-python")
    script = folder / "bin" / "componentize-py"
    script.parent.mkdir()
    entry = "import componentize_py; componentize_py.script()"
    script.write_text(f"#!/bin/sh\nexec {venv}/bin/python -c '{entry}' \"$@\"\n")
    script.chmod(0o755)
    return os.pathsep.join([str(script.parent), f"{venv}/bin", "/usr/bin", "/bin"])


def made(template: str, cache: Path, folder: Path, env: dict[str, str]) -> Path:
    """A new app from a template, built by its own words."""
    told = spinwheel(cache, "new", template, "my-app", cwd=folder)
    assert "cd my-app && spinwheel build && spinwheel up" in told.stdout
    subprocess.run([SPINWHEEL, "build"], cwd=folder / "my-app", env=env, check=True)
    return folder / "my-app"


def test_new_python(cache: Path, tmp_path: Path) -> None:
    """The Python template, with the versions that it names, from nothing to an answer."""
    app = made("http-py", cache, tmp_path, environment(cache, python_tools(tmp_path)))
    with running(cache, "--variable", "greeting=hi", cwd=app) as (url, _):
        assert get(url) == "hi from my-app\n"


def test_new_static_site(cache: Path, tmp_path: Path) -> None:
    """A folder is served with its index, types and nothing else."""
    app = made("static-site", cache, tmp_path, environment(cache, python_tools(tmp_path)))
    (app / "site" / "more").mkdir()
    (app / "site" / "more" / "index.html").write_text("more")
    with running(cache, cwd=app) as (url, _):
        with urllib.request.urlopen(f"{url}/style.css", timeout=10) as answer:  # noqa: S310  # loopback
            assert answer.headers["content-type"] == "text/css"
        assert "hello from my-app" in get(f"{url}/?x=1")
        assert get(f"{url}/more") == "more"
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(f"{url}/none.html")


@pytest.mark.skipif(not shutil.which("npm"), reason="npm is not here, which the JavaScript template needs")
@pytest.mark.timeout(300)
def test_new_javascript(cache: Path, tmp_path: Path) -> None:
    """The JavaScript template, with the packages that it names, from nothing to an answer."""
    app = made("http-js", cache, tmp_path, dict(os.environ))
    with running(cache, cwd=app) as (url, _):
        assert get(url) == "hello from my-app\n"


def test_new_refuses_names_and_folders(cache: Path, tmp_path: Path) -> None:
    """A name that is no component id, and a folder that is there, change nothing."""
    assert "wanted kebab-case" in spinwheel(cache, "new", "http-py", "../x", cwd=tmp_path).stderr
    (tmp_path / "here").mkdir()
    assert "is there already" in spinwheel(cache, "new", "http-py", "here", cwd=tmp_path).stderr
    assert list((tmp_path / "here").iterdir()) == []
