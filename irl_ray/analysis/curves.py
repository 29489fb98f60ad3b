"""Learning curves: success over episodes, median and quartiles over seeds."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from irl_ray.analysis import results
from irl_ray.analysis.statistics import Curve, quartiles
from irl_ray.errors import UserError

GREYS = ("#1b4f72", "#c0392b", "#7d6608", "#5b2c6f")
STYLES = ("-", "--", ":", "-.")


def read_runs(folder: Path) -> list[Curve]:
    """One (episodes, success) pair per trial of RL under `folder`.

    Raises:
        UserError: if there is none.
    """
    runs = [t.learning_curve for e in results.read([folder]).experiments for t in e.trials if t.curve]
    if not runs:
        raise UserError(f"{folder}: no trial with env_runners/success_rate in its result.json")
    return runs


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


def draw(groups: dict[str, list[Curve]], out: Path) -> str:
    """Draws the groups into `out`, writes the numbers beside it, returns a table of final values.

    Raises:
        UserError: if matplotlib is not installed or the suffix is neither .png nor .svg.
    """
    plt = figure_module(out)
    figure, axes = plt.subplots(figsize=(6, 3.6), constrained_layout=True)
    rows, table = [], []
    for (label, runs), shade, style in zip(groups.items(), GREYS, STYLES):
        grid, (low, median, high) = quartiles(runs)
        axes.fill_between(grid, low, high, color=shade, alpha=0.2, linewidth=0)
        axes.plot(grid, median, style, color=shade, label=f"{label} ({len(runs)} run{'s' * (len(runs) > 1)})")
        rows += [(label, *row) for row in zip(grid, low, median, high)]
        table.append(f"{label:<24}{len(runs):>3} runs  {grid[-1]:>9.0f} episodes  "
                     f"success {median[-1]:.3f} ({low[-1]:.3f} to {high[-1]:.3f})\n")  # fmt: skip
    axes.set(xlabel="episodes", ylabel="success rate", ylim=(-0.02, None))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=160)
    plt.close(figure)
    with out.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("label", "episodes", "quartile_1", "median", "quartile_3"))
        writer.writerows(rows)
    return "".join(table)
