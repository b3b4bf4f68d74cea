"""Every containerd that we support with every OCI runtime: the tests of containers, then a table.

    python -m tests.matrix [v1|containerd|next] [crun|runc]

Knows: which tests depend on containerd or on the OCI runtime. Must not know: what they show. Laws: a row is
one pytest of its own, whose daemon and runtime the environment names; a failed row stops no other; the exit
code is 1 when anything failed.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

CONTAINERDS = ("v1", "containerd", "next")
RUNTIMES = ("crun", "runc")
FILES = ("checklist", "tasks", "rootfs", "restart", "fleet", "cri", "cycles")
PODS = "20"
ROOT = Path(__file__).parents[1]


def main() -> int:
    """Runs all, or what the words name; returns the exit code."""
    wanted = [names for names in itertools.product(CONTAINERDS, RUNTIMES) if set(names) >= set(sys.argv[1:])]
    rows = [row_of(*names) for names in wanted]
    head = ["containerd", "OCI runtime", *FILES, "seconds"]
    width = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        print("  ".join(word.ljust(size) for word, size in zip(row, width, strict=True)).rstrip())
    return int(any("!" in word for row in rows for word in row))


def row_of(containerd: str, runtime: str) -> list[str]:
    """One row of the table; a word with `!` tells of a failure."""
    print(f"==> containerd {containerd}, {runtime}", flush=True)
    env = {**os.environ, "SPINWHEEL_CONTAINERD": containerd, "SPINWHEEL_OCI_RUNTIME": runtime}
    env.setdefault("SPINWHEEL_PODS", PODS)
    began = time.monotonic()
    with tempfile.NamedTemporaryFile(suffix=".xml") as report:
        files = [f"tests/e2e/test_{name}.py" for name in FILES]
        words = [sys.executable, "-m", "pytest", "-q", "--tb=short", f"--junitxml={report.name}", *files]
        subprocess.run(words, env=env, cwd=ROOT, check=False)
        found = outcomes(Path(report.name))
    seconds = f"{time.monotonic() - began:.0f}"
    return [version_of(containerd), runtime, *(word(found, name) for name in FILES), seconds]


def outcomes(report: Path) -> Counter[tuple[str, str]]:
    """How often each (file, outcome) is in a JUnit report; empty when pytest wrote none."""
    if not report.stat().st_size:
        return Counter()
    cases = ET.parse(report).iter("testcase")  # noqa: S314  # our own pytest wrote it
    return Counter(
        (case.get("classname", "").rpartition("test_")[2], case[0].tag if len(case) else "passed")
        for case in cases
    )


def word(found: Counter[tuple[str, str]], name: str) -> str:
    """How many passed, with what failed or was left out."""
    bad = found[name, "failure"] + found[name, "error"]
    skipped = found[name, "skipped"]
    passed = found[name, "passed"]
    marks = [f"!{bad} failed"] * bool(bad) + [f"{skipped} left out"] * bool(skipped)
    return " ".join([str(passed), *marks]) if passed or marks else "!none"


def version_of(containerd: str) -> str:
    """The version that a folder of tools/ pins."""
    folder = ROOT / "tools" / ("" if containerd == "containerd" else containerd)
    lines = (folder / "go.mod").read_text().splitlines()
    return next(
        line.split()[2] for line in lines if line.startswith("require github.com/containerd/containerd")
    )


if __name__ == "__main__":
    sys.exit(main())
