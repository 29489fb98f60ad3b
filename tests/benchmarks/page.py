"""Benchmarks as rows of a page: each beside a named alternative that was measured in the same process and run."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

COMMAND = "python -m pytest tests/benchmarks --page irl_ray/docs/benchmarks.md"
HEAD = f"""# Benchmarks

Every row stands beside its alternative, measured in the same process and run: medians by CPU time (what runs beside
it counts for little), on one thread, models of the small scale with random weights. The ratio tells how many times as
fast ours is, or, where the alternative is a bound (in italics), which share of it is reached. `{COMMAND}`
(`pip install -e '.[tests,benchmarks]'`) writes this page anew.

"""


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        what: is measured.
        ours: its rate, or the seconds it takes.
        unit: such as "steps/s", or "s" for seconds, of which less is better.
        beside: the alternative.
        theirs: its rate or seconds.
        bound: whether it is what cannot be passed rather than what others do.
    """

    what: str
    ours: float
    unit: str
    beside: str
    theirs: float
    bound: bool = False

    @property
    def ratio(self) -> float:
        return self.theirs / self.ours if self.unit == "s" else self.ours / self.theirs

    def cells(self) -> list[str]:
        ratio = f"{100 * self.ratio:.0f} %" if self.bound else f"{self.ratio:.3g} times"
        beside = f"*{self.beside}*" if self.bound else self.beside
        return [self.what, ratio, f"{_shown(self.ours)} {self.unit}", f"{beside}: {_shown(self.theirs)} {self.unit}"]


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def median_seconds(function: Callable[[], Any], rounds: int = 5) -> float:
    """Median CPU seconds of `function` after one warm-up call."""
    function()
    times = []
    for _ in range(rounds):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return float(np.median(times))


def report(benchmark: Any, *rows: Row) -> None:
    """Prints rows and leaves them in the benchmark's record, for the page."""
    benchmark.extra_info["rows"] = [asdict(row) for row in rows]
    for row in rows:
        print("\n  " + "  |  ".join(row.cells()))


def rows_of(benchmarks: Sequence[Any]) -> list[Row]:
    """The rows that benchmarks left."""
    return [Row(**row) for one in benchmarks for row in one.extra_info.get("rows", ())]


def machine(load: float) -> str:
    """What it was measured on, the date, and what ran beside it.

    Args:
        load: average number of busy processes as the run began.
    """
    import torch

    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    cpu = names[0] if names else platform.processor() or platform.machine()
    beside = "nothing beside it" if load < 0.5 else f"{load:.1f} busy processes beside it as it began"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{cpu}, {os.cpu_count()} cores, {versions}, {time.strftime('%Y-%m-%d', time.gmtime())}; {beside}."


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def write(rows: Sequence[Row], path: Path, load: float) -> None:
    """The page."""
    table = [
        "| what | ratio | ours | beside |",
        "|---|---|---|---|",
        *(f"| {' | '.join(row.cells())} |" for row in rows),
    ]
    path.write_text(HEAD + machine(load) + "\n\n" + "\n".join(table) + "\n", encoding="utf-8")
