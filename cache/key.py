"""What decides whether a piece of compiled code may be used: the key, with no I/O.

Laws: the key is the only input of the computation (the compiler is handed nothing else); the fingerprint
is an opaque string that only the Rust side computes; different keys never share a name.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

FORMAT = "spinwheel-cache-1"


@dataclass(frozen=True, slots=True)
class Key:
    """One component for one engine, one target and one circle of trust."""

    component: str  # digest of the wasm, sha256:<hex>
    fingerprint: str  # of the engine that will load the code
    target: str  # "native", "x86_64-linux" or "aarch64-linux"
    domain: str = "node"  # who shares the entry

    @property
    def name(self) -> str:
        """64 hex digits that stand for this key: safe as a file name, equal only for equal keys."""
        parts = (FORMAT, self.component, self.fingerprint, self.target, self.domain)
        framed = b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in parts)
        return hashlib.sha256(framed).hexdigest()
