"""Renders results: a table for people, JSON for machines, plots, and one HTML file that needs nothing else.

Law: raw samples and the machine's facts are always kept beside what was made of them.
"""

from __future__ import annotations

import html
import io
import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from bench.scenario import Result, Samples

Draw = Callable[[Axes, Samples], None]


def facts() -> dict[str, str | int | float]:
    """What the numbers were measured on."""
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "")
    return {
        "cpu": cpu.partition(":")[2].strip(),
        "cores": os.cpu_count() or 0,
        "memory": Path("/proc/meminfo").read_text().splitlines()[0],
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load before": os.getloadavg()[0],
    }


def table(results: Sequence[Result]) -> str:
    """A Markdown table, to paste."""
    lines = ["| id | measured | value | bar | |", "|---|---|---|---|---|"]
    for result in results:
        s = result.scenario
        value = f"{result.value:.2f} {'x' if s.denominator else s.unit}"
        verdict = "pass" if result.passed else "FAIL"
        lines.append(f"| {s.id} | {s.title} | {value} | {s.sense} {s.bar:g} | {verdict} |")
    return "\n".join(lines)


def write(folder: Path, machine: dict[str, str | int | float], results: Sequence[Result]) -> None:
    """Writes results.json, an SVG and a PNG per scenario, and report.html."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"scenario": asdict(r.scenario), "value": r.value, "passed": r.passed, "samples": r.samples}
        for r in results
    ]
    (folder / "results.json").write_text(json.dumps({"machine": machine, "results": rows}, indent=1))
    plots = [_plot(folder, result) for result in results]
    (folder / "report.html").write_text(_page(machine, results, plots))


def _page(machine: dict[str, str | int | float], results: Sequence[Result], plots: list[str]) -> str:
    about = "".join(
        f"<li>{html.escape(name)}: {html.escape(str(value))}</li>" for name, value in machine.items()
    )
    shown = "".join(
        f"<h2>{r.scenario.id}: {html.escape(r.scenario.title)}</h2>{plot}"
        for r, plot in zip(results, plots, strict=True)
    )
    head = "<!doctype html><meta charset=utf-8><title>spinwheel bench</title>"
    return f"{head}<h1>spinwheel bench</h1><ul>{about}</ul><pre>{html.escape(table(results))}</pre>{shown}"


def _plot(folder: Path, result: Result) -> str:
    """The scenario's plot as an SVG element; also as files."""
    figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
    DRAWINGS.get(result.scenario.measure, _strips)(axes, result.samples)
    axes.set_title(result.scenario.id)
    figure.savefig(folder / f"{result.scenario.id}.png", dpi=120)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    plt.close(figure)
    (folder / f"{result.scenario.id}.svg").write_text(buffer.getvalue())
    return buffer.getvalue().partition("?>")[2].partition(">")[2]  # without the XML and DOCTYPE lines


def _strips(axes: Axes, samples: Samples) -> None:
    """Each sample as a dot, its series' quartiles as a box."""
    names = list(samples)
    axes.boxplot(
        [samples[name] for name in names], orientation="horizontal", tick_labels=names, showfliers=False
    )
    for at, name in enumerate(names, 1):
        axes.plot(samples[name], [at] * len(samples[name]), "o", alpha=0.4)
    axes.set_xlim(left=0)


def _growth(axes: Axes, samples: Samples) -> None:
    axes.plot(range(1, len(samples["each"]) + 1), samples["each"])
    axes.set_xlabel("pods on the node")
    axes.set_ylabel("ms to first byte")
    axes.set_ylim(bottom=0)


def _pieces(axes: Axes, samples: Samples) -> None:
    pieces = {
        name.removeprefix("piece "): size[0] for name, size in samples.items() if name.startswith("piece ")
    }
    axes.barh(list(pieces), list(pieces.values()))
    axes.set_xlabel("PSS of the first pod, MB")


DRAWINGS: dict[str, Draw] = {"growth": _growth, "memory": _pieces}
