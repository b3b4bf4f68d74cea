"""Every parser of foreign bytes, 50,000 inputs each, by coverage (faults.md T5); longer by `just fuzz`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

RUNS = int(os.environ.get("SPINWHEEL_FUZZ_RUNS", "50000"))
ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", TARGETS)
def test_only_our_errors_come_out(name: str, tmp_path: Path) -> None:
    """Whatever the bytes are, a parser answers or raises one of our own errors, within its memory."""
    words = [f"-runs={RUNS}", "-rss_limit_mb=1024", "-timeout=10", f"-artifact_prefix={tmp_path}/"]
    argv = [sys.executable, "-m", "tests.fuzz.run", name, *words]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
    found = [(path.name, path.read_bytes()[:2000]) for path in tmp_path.iterdir()]
    assert done.returncode == 0, f"{found}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    assert f"Done {RUNS} runs" in done.stderr
