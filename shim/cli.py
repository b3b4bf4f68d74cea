"""`spinwheel`: the command line for people.

Knows verbs and how to print; must not know containerd or ttrpc. Laws: errors are one line on stderr with
what was wanted, what was found and what to do; the exit code is 0, or 1 for a failure, or 2 for bad usage.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from shim import __version__
from shim.bundle import Bundle
from shim.errors import NotFound, ShimError
from shim.task.timeline import FILE, rows

STATE = Path("/run/containerd")


def main(argv: list[str]) -> int:
    """Runs one verb; returns the exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if not hasattr(arguments, "run"):
        parser.print_help()
        return 2
    try:
        arguments.run(arguments)
    except ShimError as error:
        print(f"spinwheel: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="spinwheel", description="Runs Spin apps on containerd.")
    parser.add_argument("--version", action="version", version=f"spinwheel {__version__}")
    verbs = parser.add_subparsers(metavar="VERB")
    timeline = verbs.add_parser("timeline", help="show how long each step of a task's start took")
    timeline.add_argument("id", help="the task's id, as `ctr tasks ls` shows it")
    timeline.add_argument("-n", "--namespace", default="default", help="containerd's namespace (%(default)s)")
    timeline.add_argument("--state", type=Path, default=STATE, help="containerd's state folder (%(default)s)")
    timeline.add_argument("--json", action="store_true", help="raw steps: [name, ns on the monotonic clock]")
    timeline.set_defaults(run=_timeline)
    return parser


def _timeline(arguments: argparse.Namespace) -> None:
    tasks = arguments.state / "io.containerd.runtime.v2.task" / arguments.namespace
    steps = read_timeline(Bundle(tasks / arguments.id))
    if arguments.json:
        print(json.dumps(steps))
        return
    print(f"{'at ms':>9} {'took ms':>9}  step")
    for name, at, took in rows(steps):
        print(f"{at:9.2f} {took:9.2f}  {name}")


def read_timeline(bundle: Bundle) -> list[tuple[str, int]]:
    """The steps a task left in its bundle; raises NotFound when it is not a started task of ours."""
    try:
        steps = json.loads((bundle.path / FILE).read_bytes())
    except (OSError, ValueError) as error:
        message = f"wanted a started Spin task with a timeline in {bundle.path}, found none ({error})"
        raise NotFound(message) from error
    return [(str(name), int(when)) for name, when in steps]
