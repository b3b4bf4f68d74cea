"""The HostPlan: the one document that says what the host process shall run (design.md section 4).

Laws: pure; the Rust side refuses unknown fields, so this file and host/src/plan.rs change together, and both
read tests/fixtures/plan/golden.json; descriptors 3 and up are handed over in the order given here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from shim.image.app import App, Trigger
from shim.manifest.tuning import Tuning

VERSION = 1
PLAN_FD, READY_FD, FIRST_AOT_FD = 3, 4, 5
DEFAULT_LISTEN = "0.0.0.0:80"  # what Spin's shim binds, and what RuntimeClass users expect (S84)


@dataclass(frozen=True, slots=True)
class Piece:
    """What is added to one component: where its code and files are, and what templates became."""

    aot_fd: int
    variables: dict[str, str] = field(default_factory=dict)
    files: str | None = None
    outbound: Sequence[str] = ()


def build(app: App, image_digest: str, pieces: Sequence[Piece], listen: str, tuning: Tuning) -> bytes:
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
        "triggers": [_trigger(trigger) for trigger in app.triggers if trigger.route is not None],
        **tuning.document(),
    }
    return json.dumps(document, separators=(",", ":")).encode()


def _trigger(trigger: Trigger) -> dict[str, Any]:
    static = trigger.static
    return {
        "id": trigger.id,
        "route": trigger.route,
        "component": trigger.component,
        "static_response": static
        and {
            "status": static.status,
            "headers": [list(pair) for pair in static.headers],
            "body": static.body,
        },
    }


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
