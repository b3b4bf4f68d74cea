"""What the bench decides: scenarios, ratios, verdicts."""

import pytest

from bench.__main__ import MEASURES, scenarios
from bench.scenario import BadScenario, Scenario, judge, parse

RATIO = Scenario("X", "", "m", "ms", 1, "ours", 0.5, "at most", "theirs", recorded=0.4)


def test_every_scenario_can_be_measured() -> None:
    """Each TOML file parses and names a measurement that exists."""
    assert {s.measure for s in scenarios().values()} == set(MEASURES)


@pytest.mark.parametrize(
    ("ours", "passed", "gross"), [(0.5, True, False), (0.51, False, False), (0.61, False, True)]
)
def test_a_ratio_is_of_medians(ours: float, passed: bool, gross: bool) -> None:  # noqa: FBT001  # a table
    """Outliers do not move it; the bar itself passes; 1.5 times the recorded ratio is gross."""
    result = judge(RATIO, {"ours": [ours, ours, 99.0], "theirs": [1.0, 1.0, 50.0]})
    assert (result.value, result.passed, result.gross) == (ours, passed, gross)


def test_an_absolute_time_is_never_a_regression() -> None:
    """A scenario without a denominator cannot fail the short form (bench.md)."""
    absolute = Scenario("X", "", "m", "ms", 1, "ours", 1.0, "at most", recorded=1.0)
    assert not judge(absolute, {"ours": [100.0]}).gross


def test_samples_that_are_missing_are_named() -> None:
    """A series without samples is an error, never a ratio."""
    with pytest.raises(BadScenario, match="wanted samples of 'theirs'"):
        judge(RATIO, {"ours": [1.0], "theirs": []})


@pytest.mark.parametrize(
    ("text", "words"),
    [('id = "X"\ncolour = 1', "unknown fields"), ('id = "X"', "missing"), ("", "missing")],
)
def test_a_bad_scenario_says_why(text: str, words: str) -> None:
    """Unknown and missing fields are errors that name the scenario."""
    with pytest.raises(BadScenario, match=words):
        parse(text)
