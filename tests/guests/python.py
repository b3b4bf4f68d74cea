"""The recipe of the Python guest: a virtual environment of its own, then componentize-py.

Knows: which world the app is built for (as `spin.toml` says it). Laws: nothing is installed that
`requirements.txt` does not name by hash, and nothing is written into the checkout.
"""

import os
import shutil
import sys
import tomllib
from pathlib import Path

from tests.guests.product import BuildError, key_of, produce
from tests.guests.run import run

HERE = Path(__file__).parent


def build(name: str) -> Path:
    """Return the folder that holds `<name>.wasm`, built from the Spin app in the folder *name*."""
    source = HERE / name
    inputs = [source / "app.py", source / "spin.toml", source / "requirements.txt"]
    key = key_of([*inputs, HERE / "python.py", HERE / "run.py"], sys.version)

    def make(folder: Path) -> None:
        _componentize(source, folder / f"{name}.wasm", _environment(source))

    return produce("guests", name, key, make)


def environment_of(name: str) -> Path:
    """Return the virtual environment that the Spin app in the folder *name* is built in."""
    return _environment(HERE / name)


def _environment(source: Path) -> Path:
    requirements = source / "requirements.txt"

    def make(folder: Path) -> None:
        _require_venv()
        run([sys.executable, "-m", "venv", folder], cwd=source, env=os.environ)
        install = ["-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
        run([folder / "bin" / "python", *install, "-r", requirements], cwd=source, env=os.environ)

    return produce("venvs", source.name, key_of([requirements], sys.version), make)


def _require_venv() -> None:
    try:
        import ensurepip  # noqa: F401, PLC0415 - Debian ships it apart from python3
    except ImportError:
        message = (
            f"wanted the modules venv and ensurepip for {sys.executable}, found none. "
            "Run: apt-get install --yes python3-venv"
        )
        raise BuildError(message) from None


def _componentize(source: Path, component: Path, venv: Path) -> None:
    # The environment was moved into place after it was made, so its scripts point at the folder
    # where it was made; the interpreter works from anywhere. componentize-py asks the first
    # `python` of PATH where the SDK and its WIT files are.
    env = os.environ | {"VIRTUAL_ENV": str(venv), "PATH": f"{venv}/bin:{os.environ['PATH']}"}
    entry = "import componentize_py; componentize_py.script()"
    workspace = component.with_suffix(".build")
    workspace.mkdir()
    shutil.copy(source / "app.py", workspace)
    options = ["-c", entry, *_arguments(source)]
    run([venv / "bin" / "python", *options, "-o", component], cwd=workspace, env=env)
    shutil.rmtree(workspace)


def _arguments(source: Path) -> list[str]:
    manifest = tomllib.loads((source / "spin.toml").read_text())
    command: str = manifest["component"][source.name]["build"]["command"]
    program, *arguments, _, _ = command.split()
    if program != "componentize-py":
        message = (
            f"wanted a build command `componentize-py ... -o FILE` in {source}/spin.toml, "
            f"found `{command}`. Change it there or here"
        )
        raise BuildError(message)
    return arguments
