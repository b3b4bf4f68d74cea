"""Application variables and `{{ templates }}` (features.md S87, S88, H75, H76), with no I/O.

Laws: values come from the container's own environment, never from this process's (faults.md G11); the
prefixed name wins over the bare one; a value never appears in an error message.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from shim.image.app import Component, Variable
from shim.image.manifest import BadArtifact

PREFIX = "SPIN_VARIABLE_"
TEMPLATE = re.compile(r"\{\{([^{}]*)\}\}")  # linear: no brace inside, so nothing to go back over


def environment(spec_env: Iterable[str]) -> dict[str, str]:
    """The OCI spec's `K=V` list as a mapping; later entries win, as for execve."""
    return dict(entry.split("=", 1) for entry in spec_env if "=" in entry)


def resolve(variables: Iterable[Variable], env: Mapping[str, str]) -> dict[str, str]:
    """Every variable's value; raises BadArtifact that lists each required one without a value."""
    values, missing = {}, []
    for variable in variables:
        upper = variable.name.upper()
        value = env.get(PREFIX + upper, env.get(upper, variable.default))
        if value is None:
            missing.append(variable.name)
        else:
            values[variable.name] = value
    if missing:
        names = ", ".join(f"{name} (set {PREFIX}{name.upper()} or {name.upper()})" for name in missing)
        message = f"required variables have no value: {names}"
        raise BadArtifact(message)
    return values


def component_values(component: Component, values: Mapping[str, str]) -> dict[str, str]:
    """The component's own variables with their templates filled in; raises BadArtifact."""
    return {
        name: fill(text, values, f"component {component.id} variable {name}")
        for name, text in component.config
    }


def outbound_hosts(component: Component, values: Mapping[str, str]) -> list[str]:
    """`allowed_outbound_hosts` with their templates filled in (H63, H66); raises BadArtifact."""
    where = f"component {component.id} allowed_outbound_hosts"
    return [fill(host, values, where) for host in component.outbound]


def fill(template: str, values: Mapping[str, str], where: str) -> str:
    """`template` with each `{{ name }}` replaced; raises BadArtifact for unknown names and open braces."""

    def value(match: re.Match[str]) -> str:
        name = match[1].strip()
        if name not in values:
            message = f"{where}: {{{{ {name} }}}} is not a variable of the app"
            raise BadArtifact(message)
        return values[name]

    pieces = TEMPLATE.split(template)[::2]
    if any("{{" in piece for piece in pieces):
        message = f"{where}: '{{{{' without '}}}}'"
        raise BadArtifact(message)
    return TEMPLATE.sub(value, template)
