"""Methods of RL by environment: what each run is an example of, and how they compare."""

from __future__ import annotations

from typing import Any

import numpy as np

from irl_ray.analysis.results import LARGER, Results, TrialResult
from irl_ray.analysis.statistics import bootstrap_interval, episodes_to_half, interquartile_mean, success_after

Row = tuple[Any, ...]
WORLDS = tuple(name + scale for name in ("gridworld", "ant") for scale in ("", *(f", {preset}" for preset in LARGER)))
RAW = "RL on raw actions"
APART = ("sweep", "scan", "search", "question")  # experiments that compare settings, not methods


def method_of(run: str, trial: TrialResult) -> str:
    """What a run of RL is an example of, from how its codes were found."""
    origin = trial.origin
    temperature = float(trial.params.get("action_temperature", 1.0))
    windows = ", base trained on windows" if origin.get("pretrain.window_share") else ""
    if run == "RawRL":
        at, rate = "" if temperature == 1.0 else f", actions at temperature {temperature:g}", trial.params.get("lr", 0)
        return f"{RAW}, lr {rate if isinstance(rate, str) else format(rate, 'g')}{at}{windows}"
    if not origin:
        return "codes of unknown origin"
    # Weights without the key are older than it.
    by_step = origin.get("discover.metacontroller.summary", "step") == "step"
    how = ", summary per step" if by_step else ""
    how += ", memory anew at every switch" if origin.get("discover.clean_slate") else ""
    how += ", memory anew at random steps" if origin.get("discover.cut_share") else ""
    read_at = origin.get("discover.metacontroller.read_at", "start")
    how += f", codes read at the {read_at}" if read_at != "start" else ""
    how += ", turned summaries" if origin.get("discover.turned_summaries") else ""
    how += ", a cost on switches" if origin.get("discover.switch_cost") else ""
    slate = ", clean slate in RL" if trial.params.get("clean_slate") else ""
    how += windows + slate
    if "compile.code_weight" in origin:
        return f"CompILE, code weight {origin['compile.code_weight']:g}{windows}{slate}"
    if origin.get("discover.co_training"):
        start = "scratch" if origin["discover.co_training"] == "scratch" else "the pretrained base"
        return f"co-training from {start}{how}"
    if origin.get("discover.metacontroller.forced_switch"):
        return f"forced switching{how}"
    plain = origin.get("discover.teacher.steps") == 0
    codes = f"codes of the plain objective{how}" if plain else f"taught codes{windows}{slate}"
    codes += ", actions at temperature 1" if temperature == 1.0 else ""
    threshold = float(trial.params.get("switch_threshold", 0.5))
    if threshold == 0:
        return f"forced switching in RL alone, {codes}"
    return f"internal RL, {codes}" + (f", switch threshold {threshold:g}" if threshold != 0.5 else "")


def methods(results: Results, world: str) -> dict[str, list[TrialResult]]:
    """Runs of RL in one world by method; those of `APART` have figures and tables of their own."""
    groups: dict[str, list[TrialResult]] = {}
    for experiment in results.experiments:
        if experiment.run not in ("InternalRL", "RawRL") or any(word in experiment.name for word in APART):
            continue
        for trial in experiment.trials:
            if trial.curve and trial.world == world and trial.finished:
                groups.setdefault(method_of(experiment.run, trial), []).append(trial)
    best_first = lambda item: (-np.median([final_success(t) for t in item[1]]), -len(item[1]))  # noqa: E731
    return dict(sorted(groups.items(), key=best_first))


def final_success(trial: TrialResult) -> float:
    """Mean success of the last updates of a run."""
    return success_after(trial.learning_curve, trial.curve[-1][0])


def best_variants(groups: dict[str, list[TrialResult]]) -> dict[str, list[TrialResult]]:
    """Of labels that differ only after a comma, as learning rates of one baseline do, the first, which is the best."""
    found: dict[str, tuple[str, list[TrialResult]]] = {}
    for label, trials in groups.items():
        varies = label.startswith((RAW, "CompILE"))
        found.setdefault(label.split(",")[0] if varies else label, (label, trials))
    return dict(found.values())


def method_table(results: Results) -> tuple[Row, list[Row]]:
    """Method by environment: prior, success after as many episodes as all methods there have and after all of its own,
    and how soon half of the final value is reached."""
    header = ("environment", "method", "runs", "first update (the prior)", "E episodes, which every method has",
              "success after E: median (quartiles)", "N episodes", "success after N: median (quartiles)",
              "IQM after N (95 % bootstrap)", "episodes to half of the final value: median")  # fmt: skip
    rows = []
    for world in WORLDS:
        found = {label: [t.learning_curve for t in trials] for label, trials in methods(results, world).items()}
        lengths = {label: min(curve[0][-1] for curve in curves) for label, curves in found.items()}
        for label, curves in found.items():
            equal, count = min(lengths.values()), lengths[label]
            after = [success_after(curve, count) for curve in curves]
            interval = bootstrap_interval(after) if len(after) > 2 else None
            shown = f"{interquartile_mean(after):.3f}" + (f" ({interval[0]:.3f}–{interval[1]:.3f})" if interval else "")
            half = [h for h in map(episodes_to_half, curves) if not np.isnan(h)]
            prior = float(np.mean([curve[1][0] for curve in curves]))
            rows.append((world, label, len(curves), f"{prior:.4f}",
                         f"{equal:.0f}", _median([success_after(curve, equal) for curve in curves]),
                         f"{count:.0f}", _median(after), shown,
                         f"{np.median(half):.0f} ({len(half)} of {len(curves)} runs)" if half
                         else "success stays under .01"))  # fmt: skip
    return header, rows


def _median(values: list[float]) -> str:
    """Median (quartiles) of runs; a single run's value alone."""
    low, middle, high = np.percentile(values, (25, 50, 75))
    return f"{middle:.3f} ({low:.3f}–{high:.3f})" if len(values) > 1 else f"{middle:.3f}"
