"""`spinwheel`: the command line for people.

Knows the list of verbs and how errors are printed; each verb is a module here that adds itself. Laws: errors
are one line on stderr with what was wanted, what was found and what to do; the exit code is 0, or 1 for a
failure, or 2 for bad usage; answers go to stdout, everything else to stderr.
"""

from __future__ import annotations

import argparse
import sys

from shim import __version__
from shim.cli import cache, develop, doctor, registry, timeline
from shim.errors import ShimError

VERBS = (develop, registry, cache, doctor, timeline)  # in the order of --help

EPILOG = "Exit codes: 0 done, 1 failed (one line on stderr says what to do), 2 bad usage."


def main(argv: list[str]) -> int:
    """Runs one verb; returns the exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if not hasattr(arguments, "run"):
        parser.print_help()
        return 2
    try:
        code = arguments.run(arguments)
    except ShimError as error:
        print(f"spinwheel: {error}", file=sys.stderr)
        return 1
    return int(code or 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="spinwheel", description="Runs Spin apps on containerd.", epilog=EPILOG
    )
    parser.add_argument("--version", action="version", version=f"spinwheel {__version__}")
    verbs = parser.add_subparsers(metavar="VERB")
    for verb in VERBS:
        verb.add(verbs)
    return parser
