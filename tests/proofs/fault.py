"""Runs the tests of one id of the fault list, as often as asked: `python -m tests.proofs.fault F1 --n 20`.

Prints `id, trials, failures, 95 % bound`, and takes the result into docs/reliability.md with `--keep`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.harness.trials import VARIABLE
from tests.proofs import reliability
from tests.proofs.citations import ROOT, citations
from tests.proofs.record import FILE


def main(words: Sequence[str]) -> int:
    """Returns pytest's code, or 2 when no test cites the id."""
    parser = argparse.ArgumentParser(
        prog="just fault", description="run the tests of an id of the fault list"
    )
    parser.add_argument("ids", nargs="+", metavar="ID")
    parser.add_argument("--n", type=int, help="trials of each test (else what CI runs)")
    parser.add_argument("--keep", action="store_true", help="take the result into docs/reliability.md")
    arguments = parser.parse_args(words)
    wanted = set(arguments.ids)
    found = [c for c in citations() if c.faults & wanted and c.file.endswith(".py")]
    if not found:
        sys.stderr.write(f"wanted a test that cites {' or '.join(sorted(wanted))}; found none\n")
        return 2
    with tempfile.TemporaryDirectory(prefix="sw-fault-") as folder:
        results = Path(folder) / "results.jsonl"
        code = _pytest([f"{c.file}::{c.test}" for c in found], results, arguments.n)
        if results.exists():
            _show(results, wanted)
            if arguments.keep:
                reliability.main([str(results)])
    return code


def _pytest(tests: Sequence[str], results: Path, count: int | None) -> int:
    env = os.environ | {FILE: str(results)} | ({VARIABLE: str(count)} if count else {})
    argv = [sys.executable, "-m", "pytest", "-q", "--timeout=0", *tests]
    return subprocess.run(argv, cwd=ROOT, env=env, check=False).returncode


def _show(results: Path, wanted: set[str]) -> None:
    records = reliability.read(results)
    for name in sorted(wanted):
        mine = [record for record in records if name in record.ids]
        trials, failures = sum(r.trials for r in mine), sum(r.failures for r in mine)
        rate = reliability.bound(trials, failures)
        sys.stdout.write(f"{name}, {trials} trials, {failures} failures, <= {rate}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
