"""Where the programs under test come from.

Knows: `tools/build.sh`, and that SPINWHEEL_CONTAINERD names the containerd to test with (tests/matrix.py sets
it). Law: building is left to that script, which answers from its cache.
"""

import os
import subprocess
from pathlib import Path

BUILD = Path(__file__).parents[2] / "tools" / "build.sh"


# `containerd` is what clusters run, `next` the newest, `v1` the last of 1.x (tools/build.sh).
CHOSEN = os.environ.get("SPINWHEEL_CONTAINERD", "")


def containerds() -> list[str]:
    """The containerds for a test that is worth running on each: the two of 2.x, or the chosen one."""
    return [CHOSEN] if CHOSEN else ["containerd", "next"]


def containerd_folder(module: str = CHOSEN or "containerd") -> Path:
    """Return the folder of the programs that *module* pins: `containerd`, `next`, `v1`, or `cri` (crictl)."""
    done = subprocess.run([BUILD, module], stdout=subprocess.PIPE, text=True, check=True)
    return Path(done.stdout.strip().splitlines()[-1])
