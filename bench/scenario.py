"""What is measured and what it must reach, and the verdict; decides only, does no I/O.

Laws: a bar is a ratio of medians of samples taken in one run, or a median where the bar itself is absolute;
an unknown field or a missing one is an error, so that a scenario never silently measures something else.
"""

from __future__ import annotations

import statistics
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

Samples = dict[str, list[float]]

SENSES: dict[str, Callable[[float, float], bool]] = {
    "at most": lambda value, bar: value <= bar,
    "at least": lambda value, bar: value >= bar,
    "exactly": lambda value, bar: value == bar,
}
GROSS = 1.5  # how far off its recorded value a ratio may be before the short form fails


class BadScenario(ValueError):
    """A scenario file does not say what it must; the message has the file's id or text."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One bar; `rounds` interleaved rounds, or `short_rounds` in the short form (0: left out of it)."""

    id: str
    title: str
    measure: str
    unit: str
    rounds: int
    numerator: str
    bar: float
    sense: str
    denominator: str = ""
    guest: str = "hello-p2"
    short_rounds: int = 0
    recorded: float = 0.0


@dataclass(frozen=True, slots=True)
class Result:
    """A scenario's samples and what they come to."""

    scenario: Scenario
    samples: Samples
    value: float

    @property
    def passed(self) -> bool:
        """Whether the bar is reached."""
        return SENSES[self.scenario.sense](self.value, self.scenario.bar)

    @property
    def gross(self) -> bool:
        """Whether the value is `GROSS` times worse than the recorded one; never on an absolute time."""
        recorded = self.scenario.recorded
        if not recorded or not self.scenario.denominator:
            return False
        if self.scenario.sense == "at least":
            return self.value * GROSS < recorded
        return self.value > recorded * GROSS


def parse(text: str) -> Scenario:
    """A scenario of its TOML; raises BadScenario."""
    document = tomllib.loads(text)
    known = {field.name for field in fields(Scenario)}
    if unknown := set(document) - known:
        message = (
            f"scenario {document.get('id')}: unknown fields {sorted(unknown)}; known are {sorted(known)}"
        )
        raise BadScenario(message)
    try:
        scenario = Scenario(**document)
    except TypeError as error:
        message = f"scenario {document.get('id')}: {error}"
        raise BadScenario(message) from error
    if scenario.sense not in SENSES:
        message = f"scenario {scenario.id}: wanted a sense of {sorted(SENSES)}, found {scenario.sense!r}"
        raise BadScenario(message)
    return scenario


def judge(scenario: Scenario, samples: Mapping[str, list[float]]) -> Result:
    """The ratio of medians, or the one median, and its verdict; raises BadScenario for an empty series."""
    wanted = [name for name in (scenario.numerator, scenario.denominator) if name]
    for name in wanted:
        if not samples.get(name):
            message = f"scenario {scenario.id}: wanted samples of {name!r}, found {sorted(samples)}"
            raise BadScenario(message)
    value = statistics.median(samples[scenario.numerator])
    if scenario.denominator:
        value /= statistics.median(samples[scenario.denominator])
    return Result(scenario, dict(samples), value)
