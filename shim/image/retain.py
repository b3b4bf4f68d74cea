"""Which components of an app run in this container (features.md S85); pure.

Laws: an id that the app does not have is an error; what is kept must not call, by name or by wildcard, what
is not, for the call would fail at its first request; triggers of what is dropped are dropped, too.
"""

from __future__ import annotations

from dataclasses import replace

from shim.image.app import App, Component
from shim.image.manifest import BadArtifact, shown

TO_RETAIN = "SPIN_COMPONENTS_TO_RETAIN"
CHAINED = ".spin.internal"


def retained(app: App, wanted: str) -> App:
    """The app with only the components that `wanted` lists, between commas; all when it lists none.

    Raises BadArtifact.
    """
    names = {name.strip() for name in wanted.split(",")} - {""}
    if not names:
        return app
    there = {component.id for component in app.components}
    if strange := names - there:
        listed = ", ".join(map(shown, sorted(strange)))
        message = f"{TO_RETAIN} names {listed}; the app has {', '.join(sorted(there))}"
        raise BadArtifact(message)
    kept = tuple(component for component in app.components if component.id in names)
    for component in kept:
        _check_chaining(component, names)
    triggers = tuple(t for t in app.triggers if t.component is None or t.component in names)
    return replace(app, components=kept, triggers=triggers)


def _check_chaining(component: Component, kept: set[str]) -> None:
    for pattern in component.outbound:
        host = pattern.rpartition("://")[2].partition(":")[0].rstrip("/")
        if not host.endswith(CHAINED) or host.removesuffix(CHAINED) in kept:
            continue
        message = (
            f"component {component.id} may call {shown(host)}, of which {TO_RETAIN} leaves some out; "
            "retain what it calls, by name in allowed_outbound_hosts"
        )
        raise BadArtifact(message)
