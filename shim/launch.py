"""What a pod server is born with: found out by `start`, before anything heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from shim.settings import Settings

if TYPE_CHECKING:
    from google.protobuf.any_pb2 import Any as AnyMessage


@dataclass(slots=True)
class Launch:
    """One pod: whose it is, where its socket and its containerd are, and its handler's options."""

    namespace: str
    group: str
    bundle: Path
    socket_path: Path
    containerd: str
    events: str
    options: AnyMessage
    settings: Settings
    debug: bool = False
    steps: list[tuple[str, int]] = field(default_factory=list)
