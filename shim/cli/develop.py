"""`spinwheel new`, `build`, `up`: from nothing to an app that answers, on this machine."""

from __future__ import annotations

import argparse
import os
import re
import shutil
from pathlib import Path
from typing import Any

from shim.cli.building import run_build
from shim.cli.registry import add_connection, fetch, open_repository, pairs
from shim.errors import AlreadyExists, InvalidArgument
from shim.image.artifact import BlobSource
from shim.image.manifest import Descriptor
from shim.manifest import tuning
from shim.manifest.assets import gather, load
from shim.manifest.pack import pack
from shim.manifest.schema import KEBAB
from shim.registry.reference import names_registry
from shim.up import LISTEN, Options, Packed, become_host, user_settings

TEMPLATES = Path(__file__).parents[1] / "templates"
NAME = re.compile(r"\{\{name\}\}")
CREATED = "1970-01-01T00:00:00+00:00"  # nothing that runs here is dated


def add(verbs: argparse._SubParsersAction[Any]) -> None:
    """Adds the verbs."""
    parser = verbs.add_parser("new", help="make an app from a template")
    parser.add_argument("template", choices=sorted(path.name for path in TEMPLATES.iterdir()))
    parser.add_argument("name", help="the app's name, in kebab-case, and its folder")
    parser.set_defaults(run=run_new)
    parser = verbs.add_parser("build", help="run the build command of each component")
    _add_manifest(parser)
    parser.set_defaults(run=run_build)
    _add_up(verbs)


def _add_up(verbs: argparse._SubParsersAction[Any]) -> None:
    parser = verbs.add_parser("up", help="run an app here, without containerd; Ctrl-C ends it")
    parser.add_argument(
        "app", nargs="?", default=".", help="a folder, a spin.toml, or a reference (%(default)s)"
    )
    listen = os.environ.get("SPIN_HTTP_LISTEN_ADDR") or LISTEN
    parser.add_argument("--listen", default=listen, help="host:port (%(default)s); port 0 takes any")
    parser.add_argument("-e", "--env", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--variable", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--build", action="store_true", help="build first")
    parser.add_argument("--profile", default="")
    parser.add_argument("-c", "--component-id", action="append", default=[], help="run only this; repeatable")
    parser.add_argument("-q", "--quiet", action="store_true", help="without what components print")
    _add_knobs(parser)
    add_connection(parser)
    parser.set_defaults(run=run_up)


def _add_knobs(parser: argparse.ArgumentParser) -> None:
    """An option for each knob, which is not there when it was not given."""
    group = parser.add_argument_group("limits, and how clients reach the app")
    for name in tuning.KNOBS:
        option, absent = f"--{name.replace('_', '-')}", argparse.SUPPRESS
        variable = f"also {tuning.variable(name)}"
        if name == "find_free_port":  # as Spin has it: a word without a value (H2)
            group.add_argument(option, action="store_const", const="1", default=absent, help=variable)
        else:
            group.add_argument(option, metavar="VALUE", default=absent, help=variable)


def _add_manifest(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--from", "--file", dest="file", type=Path, default=Path("spin.toml"))
    parser.add_argument("--profile", default="")


def run_new(arguments: argparse.Namespace) -> None:
    """Copies a template; raises InvalidArgument, AlreadyExists."""
    name, folder = arguments.name, Path(arguments.name)
    if not KEBAB.match(name):
        message = f"app name: wanted kebab-case such as my-app, found {name!r}"
        raise InvalidArgument(message)
    if folder.exists():
        message = f"{folder} is there already; choose another name or remove it"
        raise AlreadyExists(message)
    # pip compiles what it installs, templates too.
    shutil.copytree(TEMPLATES / arguments.template, folder, ignore=shutil.ignore_patterns("__pycache__"))
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_text(NAME.sub(name, path.read_text()))
    print(f"Made {folder}/ from {arguments.template}. Next: cd {folder} && spinwheel build && spinwheel up")


def run_up(arguments: argparse.Namespace) -> None:
    """Becomes the app's host."""
    options = Options(
        listen=arguments.listen,
        env=pairs(arguments.env, "--env"),
        variables=pairs(arguments.variable, "--variable"),
        quiet=arguments.quiet,
        retain=",".join(arguments.component_id),
        tuning=tuning.choose(
            tuning.from_flags({name: text for name, text in vars(arguments).items() if name in tuning.KNOBS}),
            tuning.from_env(os.environ),
        ),
    )
    source, root = _source(arguments)
    become_host(source, root, options, user_settings(os.environ))


def _source(arguments: argparse.Namespace) -> tuple[BlobSource, Descriptor]:
    """A folder wins over a reference of the same spelling, because it can be seen."""
    path = Path(arguments.app)
    if not path.exists() and names_registry(arguments.app):
        arguments.reference = arguments.app
        repository = open_repository(arguments)
        return repository, repository.target()
    arguments.file = path / "spin.toml" if path.is_dir() else path
    if arguments.build:
        run_build(arguments)
    manifest = load(arguments.file, arguments.profile)
    assets = gather(manifest, arguments.file.parent, fetch)
    packed = Packed(pack(manifest, assets, {}, CREATED))
    return packed, packed.root
