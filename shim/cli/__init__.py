"""`spinwheel`: the command line for people.

Knows the list of verbs and how errors are printed; each verb is a module here that adds itself. Laws: errors
are one line on stderr with what was wanted, what was found and what to do; the exit code is 0, or 1 for a
failure, 2 for bad usage, 130 for Ctrl-C; answers go to stdout, everything else to stderr.
"""

from __future__ import annotations

import argparse
import sys

from shim import __version__
from shim.cli import cache, completion, develop, doctor, inspect, node, registry, timeline
from shim.errors import ShimError

VERBS = (develop, registry, inspect, cache, node, doctor, timeline, completion)  # in the order of --help

EPILOG = """\
from nothing to an app that answers:
  spinwheel new http-py hello && cd hello && pip install -r requirements.txt
  spinwheel build && spinwheel up            then: curl http://127.0.0.1:3000/
from there to a node:
  spinwheel push REGISTRY/hello:1            then: ctr run --runtime io.containerd.spin.v2 …
`spinwheel VERB --help` tells more; eval "$(spinwheel completion)" completes words in bash.

exit codes: 0 done; 1 failed, and one line on stderr says what to do; 2 bad usage; 130 ended by Ctrl-C"""
INTERRUPTED = 130


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
    except KeyboardInterrupt:
        return INTERRUPTED
    return int(code or 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="spinwheel",
        description="Runs Spin apps on containerd.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"spinwheel {__version__}")
    verbs = parser.add_subparsers(metavar="VERB")
    for verb in VERBS:
        verb.add(verbs)
    return parser
