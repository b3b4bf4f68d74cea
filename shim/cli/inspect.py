"""`spinwheel inspect`: what an app is and what it asks for, without running it."""

from __future__ import annotations

import argparse
import json
from typing import Any

from shim.cli.registry import add_reference, open_repository
from shim.image.app import Component
from shim.image.artifact import Artifact, resolve


def add(verbs: argparse._SubParsersAction[Any]) -> None:
    """Adds the verb."""
    parser = verbs.add_parser("inspect", help="show an app's routes, components, permissions and sizes")
    add_reference(parser)
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Prints it; raises ShimError."""
    with open_repository(arguments) as repository:
        facts = facts_of(resolve(repository, repository.target()))
    if arguments.json:
        print(json.dumps(facts, indent=2))
        return
    print(f"{facts['name']} {facts['version']}  {facts['digest']}")
    for trigger in facts["triggers"]:
        print(f"  route {trigger['route'] or '(private)'} -> {trigger['component']}")
    for component in facts["components"]:
        _print_component(component)
    for variable in facts["variables"]:
        print(f"  variable {variable['name']}{' (required)' if variable['required'] else ''}")


def _print_component(component: dict[str, Any]) -> None:
    print(f"  component {component['id']}: {component['bytes']:,} bytes, {component['files']} files")
    for name, asked in component["asks_for"].items():
        if asked:
            print(f"    {name.replace('_', ' ')}: {', '.join(asked)}")


def facts_of(artifact: Artifact) -> dict[str, Any]:
    """What `inspect --json` prints."""
    app = artifact.app
    return {
        "name": app.name,
        "version": app.version,
        "description": app.description,
        "digest": artifact.digest,
        "triggers": [{"route": item.route, "component": item.component} for item in app.triggers],
        "components": [_component(item, artifact) for item in app.components],
        "variables": [{"name": v.name, "required": v.default is None} for v in app.variables],
    }


def _component(item: Component, artifact: Artifact) -> dict[str, Any]:
    return {
        "id": item.id,
        "digest": item.source,
        "bytes": artifact.code[item.source].size,
        "files": len(item.files),
        "asks_for": {
            "allowed_outbound_hosts": list(item.outbound),
            "key_value_stores": list(item.stores),
            "sqlite_databases": list(item.databases),
            "ai_models": list(item.models),
            "variables": [name for name, _ in item.config],
            "environment": [name for name, _ in item.env],
        },
    }
