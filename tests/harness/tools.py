"""Where the programs under test come from.

Knows: `tools/build.sh`. Law: building is left to that script, which answers from its cache.
"""

import subprocess
from pathlib import Path

BUILD = Path(__file__).parents[2] / "tools" / "build.sh"


def containerd_folder(module: str = "containerd") -> Path:
    """Return the folder of the programs that *module* pins: `containerd`, `next`, `v1`, or `cri` (crictl)."""
    done = subprocess.run([BUILD, module], stdout=subprocess.PIPE, text=True, check=True)
    return Path(done.stdout.strip().splitlines()[-1])
