"""Writes docs/reliability.md from results: each id of the fault list, N, failures, bound, date, machine.

    python -m tests.proofs.reliability [RESULTS.jsonl ...]

Knows `docs/reliability.json`, where the best known result of each test is kept. Laws: of two results of one
test the one with failures wins when it is newer, else the one with more trials; a test that is gone takes its
result with it; an id without a result says so. Zero failures in N trials bounds the rate by 3/N (95 %).
"""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from tests.proofs.citations import ROOT, citations
from tests.proofs.record import Record

TARGET = ROOT / "docs" / "reliability.md"
KEPT = ROOT / "docs" / "reliability.json"
IDS = ROOT / "tests" / "fixtures" / "proofs" / "faults.toml"

HEAD = """\
# Reliability: what was done to it, how often, and what failed

Made by `just proofs` from results; do not edit. A result comes from `just fault ID N` or from a soak; CI runs
the same tests in short. No failure in N independent trials bounds the rate of failures by 3/N, with 95 %
confidence.

{counts}
"""


def main(words: Sequence[str]) -> int:
    """Takes the results of the named files in, and writes both documents."""
    new = [record for word in words for record in read(Path(word))]
    kept = merge(_kept(), new, {citation.test for citation in citations() if citation.faults})
    KEPT.write_text(json.dumps([asdict(record) for record in kept], indent=1) + "\n")
    tables = tomllib.loads(IDS.read_text())
    TARGET.write_text(render(tables, tables.pop("left_out"), kept))
    return 0


def read(path: Path) -> list[Record]:
    """The records of a results file, the outcomes of one parametrized test added up."""
    found: dict[str, Record] = {}
    for line in path.read_text().splitlines():
        record = _record(json.loads(line))
        before = found.get(record.test)
        found[record.test] = _add(before, record) if before else record
    return list(found.values())


def merge(kept: Iterable[Record], new: Iterable[Record], tests: set[str]) -> list[Record]:
    """The best known result of each test that is still there, in the order of names."""
    best = {record.test: record for record in kept}
    for record in new:
        before = best.get(record.test)
        if before is None or record.failures or before.failures or record.trials >= before.trials:
            best[record.test] = record
    return [best[test] for test in sorted(best) if test.rpartition("::")[2] in tests]


def bound(trials: int, failures: int) -> str:
    """The 95 % upper bound of the failure rate: the rule of three, and its like for few failures."""
    if not trials:
        return ""
    expected = 3.0 if not failures else failures + 1.96 * failures**0.5 + 2
    return f"{min(expected / trials, 1):.2%}"


def render(
    tables: Mapping[str, Mapping[str, str]], left_out: Mapping[str, str], kept: Sequence[Record]
) -> str:
    """The whole document."""
    by_id = {i: [r for r in kept if i in r.ids] for table in tables.values() for i in table}
    parts = []
    for title, table in tables.items():
        head = [
            f"## {title.capitalize()}",
            "",
            "| id | what is done | N | failures | bound | date | machine |",
        ]
        rows = [_row(i, what, by_id[i], left_out.get(i, "")) for i, what in table.items()]
        parts.append("\n".join([*head, "|---|---|---|---|---|---|---|", *rows, ""]))
    ran = sum(bool(found) for found in by_id.values())
    out = sum(i in left_out for i in by_id)
    counts = f"{len(by_id)} ids: {ran} run, {out} that cannot run here, {len(by_id) - ran - out} not run yet."
    return "\n".join([HEAD.format(counts=counts), *parts])


def _row(name: str, what: str, found: Sequence[Record], reason: str) -> str:
    if not found:
        return (
            f"| {name} | {what} | {f'cannot run here: {reason}' if reason else '**not run yet**'} | | | | |"
        )
    trials, failures = sum(r.trials for r in found), sum(r.failures for r in found)
    latest = max(found, key=lambda record: record.date)
    rate = bound(trials, failures)
    return f"| {name} | {what} | {trials:,} | {failures} | {rate} | {latest.date} | {latest.machine} |"


def _kept() -> list[Record]:
    return [_record(found) for found in json.loads(KEPT.read_text())] if KEPT.exists() else []


def _record(found: Mapping[str, object]) -> Record:
    fields = {**found, "ids": tuple(found["ids"])}  # type: ignore[arg-type]  # JSON has lists only
    fields["test"] = str(found["test"]).partition("[")[0]
    return Record(**fields)  # type: ignore[arg-type]  # written by this program


def _add(a: Record, b: Record) -> Record:
    ids = tuple(sorted({*a.ids, *b.ids}))
    seconds = round(a.seconds + b.seconds, 1)
    return Record(a.test, ids, a.trials + b.trials, a.failures + b.failures, seconds, b.date, b.machine)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
