"""Where things are on this node: the one place that reads SPINWHEEL_* from the environment.

The environment is containerd's own (wire.md 2.3), so an operator sets these in containerd's unit; no pod
can reach them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ALLOWED_ENV = ("PATH", "LANG", "TTRPC_ADDRESS", "GRPC_ADDRESS", "NAMESPACE", "MAX_SHIM_VERSION", "SCHED_CORE")
ALLOWED_PREFIX = "SPINWHEEL_"


@dataclass(frozen=True, slots=True)
class Settings:
    """Paths and choices of one node."""

    run_dir: Path = Path("/run/spinwheel")
    cache_dir: Path = Path("/var/lib/spinwheel/cache")
    socket_dir: Path = Path("/run/containerd/s")
    host: Path = Path(sys.prefix) / "bin" / "spinwheel-host"
    oci_runtime: str = ""
    no_zygote: bool = False
    cache_store: str = "containerd"  # or "directory"
    cache_share: str = "node"  # or "namespace", "task": who uses the same compiled pages (docs/security.md)

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Settings:
        """The settings in `env`; what is not set keeps its default."""
        base = cls()
        return cls(
            run_dir=Path(env.get("SPINWHEEL_RUN_DIR") or base.run_dir),
            cache_dir=Path(env.get("SPINWHEEL_CACHE_DIR") or base.cache_dir),
            socket_dir=Path(env.get("SPINWHEEL_SOCKET_DIR") or base.socket_dir),
            host=Path(env.get("SPINWHEEL_HOST") or base.host),
            oci_runtime=env.get("SPINWHEEL_OCI_RUNTIME", ""),
            no_zygote=bool(env.get("SPINWHEEL_NO_ZYGOTE")),
            cache_store=env.get("SPINWHEEL_CACHE_STORE") or base.cache_store,
            cache_share=env.get("SPINWHEEL_CACHE_SHARE") or base.cache_share,
        )


def allowed_env(env: Mapping[str, str]) -> dict[str, str]:
    """What of containerd's environment may reach our processes (faults.md G11, R9)."""
    return {key: value for key, value in env.items() if key in ALLOWED_ENV or key.startswith(ALLOWED_PREFIX)}
