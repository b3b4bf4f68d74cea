"""`python -m bench [ID ...]`: measures the named scenarios, or all; prints a table and writes the report.

Laws: exit code 0 when every measured bar is reached, 1 when one is not (with --short: only on gross
regression), 2 for bad usage; a measurement that breaks is a failure, never a missing row.
"""

from __future__ import annotations

import argparse
import dataclasses
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import cold, load, memory, report
from bench.scenario import Result, Samples, Scenario, judge, parse
from bench.site import Site, site

SCENARIOS = Path(__file__).parent / "scenarios"
MEASURES: dict[str, Callable[[Site, Scenario], Samples]] = {
    "cold_start": cold.cold_start,
    "cold_start_python": cold.cold_start_python,
    "growth": cold.growth,
    "churn": cold.churn,
    "compiler_runs": cold.compiler_runs,
    "shim_start": cold.shim_start,
    "delete_storm": cold.delete_storm,
    "memory": memory.memory,
    "throughput": load.throughput,
}


def scenarios() -> dict[str, Scenario]:
    """All of them by id, in order."""
    parsed = [parse(path.read_text()) for path in sorted(SCENARIOS.glob("*.toml"))]
    return {scenario.id: scenario for scenario in parsed}


def chosen(names: Sequence[str], *, short: bool, rounds: int | None) -> list[Scenario]:
    """The scenarios to measure, with the rounds of the form that is asked for."""
    known = scenarios()
    if unknown := [name for name in names if name not in known]:
        message = f"wanted scenarios among {', '.join(known)}; found {', '.join(unknown)}"
        raise SystemExit(message)
    picked = [known[name] for name in names or known]
    if short:
        picked = [dataclasses.replace(s, rounds=s.short_rounds) for s in picked if s.short_rounds]
    return [dataclasses.replace(s, rounds=rounds) for s in picked] if rounds else picked


def measure(picked: Sequence[Scenario], against: str | None) -> list[Result]:
    """Runs each scenario on one node; tells its verdict as it comes."""
    results = []
    with site(against) as node:
        for scenario in picked:
            result = judge(scenario, MEASURES[scenario.measure](node, scenario))
            results.append(result)
            print(report.table([result]).splitlines()[-1], file=sys.stderr, flush=True)
    return results


def main() -> int:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(prog="bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("ids", nargs="*", metavar="ID", help="such as B1; all when none is named")
    parser.add_argument("--short", action="store_true", help="three minutes; fails on gross regression only")
    parser.add_argument(
        "--against", metavar="RUNTIME", help="another runtime for B1, such as io.containerd.x.v2"
    )
    parser.add_argument("--rounds", type=int, help="instead of each scenario's own")
    parser.add_argument("--out", type=Path, default=Path("bench-results"))
    arguments = parser.parse_args()
    picked = chosen(arguments.ids, short=arguments.short, rounds=arguments.rounds)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the node is still cleared away
    machine = report.facts()
    results = measure(picked, arguments.against)
    report.write(arguments.out, machine, results)
    print(report.table(results))
    print(f"\nreport: {arguments.out / 'report.html'}")
    return int(any(r.gross for r in results) if arguments.short else not all(r.passed for r in results))


if __name__ == "__main__":
    sys.exit(main())
