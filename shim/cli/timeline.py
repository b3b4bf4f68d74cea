"""`spinwheel timeline`: how long each step of a task's start took."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from shim.bundle import Bundle
from shim.errors import NotFound
from shim.task.timeline import FILE, rows

STATE = Path("/run/containerd")


def add(verbs: argparse._SubParsersAction[Any]) -> None:
    """Adds the verb."""
    parser = verbs.add_parser("timeline", help="show how long each step of a task's start took")
    parser.add_argument("id", help="the task's id, as `ctr tasks ls` shows it")
    parser.add_argument("-n", "--namespace", default="default", help="containerd's namespace (%(default)s)")
    parser.add_argument("--state", type=Path, default=STATE, help="containerd's state folder (%(default)s)")
    parser.add_argument("--json", action="store_true", help="raw steps: [name, ns on the monotonic clock]")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Prints a row per step; raises NotFound."""
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
