"""Learning curves: success over episodes, median and quartiles over seeds."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from irl_ray.errors import UserError

EPISODES = "env_runners/num_episodes_lifetime"
SUCCESS = "env_runners/success_rate"
GREYS = ("#1b4f72", "#c0392b", "#7d6608", "#5b2c6f")
STYLES = ("-", "--", ":", "-.")

Run = tuple[np.ndarray, np.ndarray]  # episodes, success


def read_runs(folder: Path) -> list[Run]:
    """One (episodes, success) pair per trial under `folder`.

    Raises:
        UserError: if there is no trial with results.
    """
    runs = []
    for path in sorted(folder.rglob("result.json")):
        rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
        points = [
            (r["env_runners"]["num_episodes_lifetime"], r["env_runners"]["success_rate"])
            for r in rows
            if "success_rate" in r.get("env_runners", {})
        ]
        if points:
            runs.append(tuple(np.array(column, float) for column in zip(*points)))
    if not runs:
        raise UserError(f"{folder}: no trial with {SUCCESS} in its result.json")
    return runs


def quartiles(runs: list[Run], points: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Episodes [points] and the (25, 50, 75) percentiles of success over runs [3, points]."""
    last = min(episodes[-1] for episodes, _ in runs)
    first = max(episodes[0] for episodes, _ in runs)
    grid = np.linspace(first, last, points)
    values = np.stack([np.interp(grid, *run) for run in runs])
    return grid, np.percentile(values, (25, 50, 75), axis=0)


def figure_module(out: Path) -> Any:
    """`matplotlib.pyplot` for writing to `out`.

    Raises:
        UserError: if matplotlib is not installed or the suffix is neither .png nor .svg.
    """
    if out.suffix not in (".png", ".svg"):
        raise UserError(f"--out {out}: expected a name that ends in .png or .svg")
    try:
        import matplotlib
    except ImportError:
        raise UserError("figures need matplotlib: pip install 'irl_ray[plots]'") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def draw(groups: dict[str, list[Run]], out: Path) -> str:
    """Draws the groups into `out`, writes the numbers beside it, returns a table of final values.

    Raises:
        UserError: if matplotlib is not installed or the suffix is neither .png nor .svg.
    """
    plt = figure_module(out)
    figure, axes = plt.subplots(figsize=(6, 3.6), constrained_layout=True)
    rows, table = [], []
    for (label, runs), colour, style in zip(groups.items(), GREYS, STYLES):
        grid, (low, median, high) = quartiles(runs)
        axes.fill_between(grid, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(grid, median, style, color=colour, label=f"{label} ({len(runs)} run{'s' * (len(runs) > 1)})")
        rows += [(label, *row) for row in zip(grid, low, median, high)]
        table.append(f"{label:<24}{len(runs):>3} runs  {grid[-1]:>9.0f} episodes  "
                     f"success {median[-1]:.3f} ({low[-1]:.3f} to {high[-1]:.3f})\n")  # fmt: skip
    axes.set(xlabel="episodes", ylabel="success rate", ylim=(-0.02, None))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=160)
    plt.close(figure)
    with out.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("label", "episodes", "quartile_1", "median", "quartile_3"))
        writer.writerows(rows)
    return "".join(table)
