"""Runs the build command of each component, in words that were printed before."""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

from shim.errors import GuestFailed
from shim.manifest.assets import load
from shim.manifest.schema import Build


def run_build(arguments: argparse.Namespace) -> None:
    """Builds every component that says how; raises GuestFailed with the command that failed."""
    manifest = load(arguments.file, arguments.profile)
    built = [component for component in manifest.components if component.build]
    for component in built:
        if component.build:
            _build(component.id, component.build, arguments.file.parent)
    print(f"Built {len(built)} of {len(manifest.components)} components")


def _build(name: str, build: Build, root: Path) -> None:
    for command in build.commands:
        print(f"Building {name}: {command}", flush=True)
        done = subprocess.run(["/bin/sh", "-c", command], cwd=root / build.workdir, check=False)
        if done.returncode:
            message = f"component {name}: `{command}` ended with {done.returncode}; its own words are above"
            raise GuestFailed(message)
