"""The HostPlan: the one document that says what the host process shall run (design.md section 4).

Laws: pure; the Rust side refuses unknown fields, so this file and host/src/plan.rs change together, and both
read tests/fixtures/plan/golden.json; descriptors 3 and up are handed over in the order given here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from shim.image.app import App

VERSION = 1
PLAN_FD, READY_FD, FIRST_AOT_FD = 3, 4, 5
DEFAULT_LISTEN = "0.0.0.0:80"  # what Spin's shim binds, and what RuntimeClass users expect (S84)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that the host enforces; memory None is unlimited, durations in milliseconds."""

    memory_bytes: int | None = None
    request_timeout_ms: int = 30_000
    max_concurrency: int = 1_000
    shutdown_grace_ms: int = 25_000  # below kubelet's default of 30 s

    def document(self) -> dict[str, Any]:
        """As the plan has it."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True, slots=True)
class Piece:
    """What is added to one component: where its code and files are, and what templates became."""

    aot_fd: int
    variables: dict[str, str] = field(default_factory=dict)
    files: str | None = None
    outbound: Sequence[str] = ()


def build(app: App, image_digest: str, pieces: Sequence[Piece], listen: str, limits: Limits) -> bytes:
    """The plan as JSON; `pieces` are in the order of the app's components."""
    document = {
        "version": VERSION,
        "app": {
            "name": app.name,
            "version": app.version,
            "description": app.description,
            "oci_image_digest": image_digest,
        },
        "listen": listen,
        "ready_fd": READY_FD,
        "components": [_component(app, at, piece) for at, piece in enumerate(pieces)],
        "triggers": [
            {"id": trigger.id, "component": trigger.component, "route": trigger.route}
            for trigger in app.triggers
            if trigger.route is not None
        ],
        "limits": limits.document(),
    }
    return json.dumps(document, separators=(",", ":")).encode()


def _component(app: App, at: int, piece: Piece) -> dict[str, Any]:
    component = app.components[at]
    return {
        "id": component.id,
        "digest": component.source,
        "aot": {"fd": piece.aot_fd},
        "env": [list(pair) for pair in component.env],
        "variables": piece.variables,
        "files": piece.files,
        "allowed_outbound_hosts": list(piece.outbound),
    }
