"""Running a build tool: its output goes to stderr, its failure becomes one BuildError.

Knows: subprocess. Law: stdout belongs to the caller's answer, so no tool ever writes there.
"""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.guests.product import BuildError


def run(argv: Sequence[str | Path], *, cwd: Path, env: Mapping[str, str]) -> None:
    """Run *argv* to its end; the words of a failing tool stay visible above our message."""
    done = subprocess.run(argv, cwd=cwd, env=env, stdout=sys.stderr, check=False)
    if done.returncode != 0:
        command = " ".join(map(str, argv))
        message = (
            f"wanted `{command}` to succeed in {cwd}, found exit code {done.returncode}. "
            "Its own words are above"
        )
        raise BuildError(message)


def output_of(argv: Sequence[str | Path]) -> str:
    """Return what a query such as `rustc -vV` prints."""
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout
