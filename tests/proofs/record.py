"""A pytest plugin: what each test of the fault list found, one JSON object a line.

Knows the file that `SPINWHEEL_RESULTS` names, and writes nothing without it. A test that makes more than one
trial says how many by `record_property("trials", n)`; a test that fails has at least one failure, and says
more by `record_property("failures", n)`.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
from collections.abc import Generator
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from tests.proofs.citations import ids

FILE = "SPINWHEEL_RESULTS"


@dataclass(frozen=True, slots=True)
class Record:
    """One test's outcome. `ids` are of the fault list; `seconds` is the test's own time."""

    test: str
    ids: tuple[str, ...]
    trials: int
    failures: int
    seconds: float
    date: str
    machine: str


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Appends a record after a test's own phase; a test that was skipped is no trial."""
    report = yield
    target = os.environ.get(FILE)
    if target and call.when == "call" and not report.skipped:
        cited = ids(getattr(getattr(item, "function", None), "__doc__", None) or "")[1]
        if cited:
            _append(Path(target), _record(report, tuple(sorted(cited))))
    return report


def _record(report: pytest.TestReport, cited: tuple[str, ...]) -> Record:
    said = dict(report.user_properties)
    trials = int(str(said.get("trials", 1)))
    failures = int(str(said.get("failures", 0))) or int(report.failed)
    date = dt.datetime.now(tz=dt.UTC).date().isoformat()
    return Record(report.nodeid, cited, trials, failures, round(report.duration, 1), date, machine())


def machine() -> str:
    """What a result was had on, in a few words."""
    return f"{os.cpu_count()} cores, Linux {platform.release().split('-')[0]}, {platform.machine()}"


def _append(path: Path, record: Record) -> None:
    with path.open("a") as file:
        file.write(json.dumps(asdict(record)) + "\n")
