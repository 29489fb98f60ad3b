"""The progress table: one line per trial and report, with the columns that matter."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray.tune import ProgressReporter
from ray.tune.experiment import Trial

from irl_ray.cli import labels
from irl_ray.cli.text import duration

# header, key (a path joined by "/"), format
Column = tuple[str, str, Callable[[Any], str]]


def _count(value: float) -> str:
    for limit, scale, unit in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if value >= limit:
            return f"{value / scale:.1f}{unit}"
    return f"{value:.0f}"


def _fixed(digits: int) -> Callable[[float], str]:
    return lambda value: f"{value:.{digits}f}"


COLUMNS: dict[str, list[Column]] = {
    "Pretrain": [
        ("step", "step", _count),
        ("trajectories", "trajectories", _count),
        ("traj/s", "trajectories_per_s", _count),
        ("action NLL", "action_nll", _fixed(4)),
        ("observ. NLL", "observation_nll", _fixed(4)),
        ("entry NLL", "entry_nll", _fixed(4)),
    ],
    "Discover": [
        ("step", "step", _count),
        ("trajectories", "trajectories", _count),
        ("traj/s", "trajectories_per_s", _count),
        ("action NLL", "action_nll", _fixed(4)),
        ("KL", "kl", _fixed(3)),
        ("alpha", "alpha", _fixed(3)),
        ("beta", "beta_mean", _fixed(3)),
        ("code NLL", "teacher/code_nll", _fixed(2)),
        ("switch NLL", "teacher/switch_nll", _fixed(3)),
    ],
    "CompILE": [
        ("step", "step", _count),
        ("trajectories", "trajectories", _count),
        ("traj/s", "trajectories_per_s", _count),
        ("action NLL", "action_nll", _fixed(4)),
        ("code KL", "kl", _fixed(3)),
        ("boundary KL", "boundary_kl", _fixed(3)),
        ("switch NLL", "switch_nll", _fixed(3)),
    ],
    "RL": [
        ("episodes", "env_runners/num_episodes_lifetime", _count),
        ("success", "env_runners/success_rate", _fixed(3)),
        ("raw steps", "env_runners/num_raw_steps_lifetime", _count),
        ("raw steps/s", "env_runners/raw_steps_per_s", _count),
        ("codes/ep", "env_runners/codes_per_episode", _fixed(1)),
        ("legs/ep", "env_runners/legs_mean", _fixed(2)),
        ("entropy", "learners/default_policy/entropy", _fixed(2)),
        ("KL", "learners/default_policy/kl_to_old_policy", _fixed(4)),
    ],
    "other": [
        ("steps", "num_env_steps_sampled_lifetime", _count),
        ("return", "env_runners/episode_return_mean", _fixed(3)),
        ("length", "env_runners/episode_len_mean", _fixed(1)),
    ],
}
GATE_NAMES = (
    "floor/",
    "eval/",
    "goal_given",
    "probe_",
    "free_walk",
    "control_",
    "switches_",
    "switch_f1",
    "switch_precision",
    "switch_recall",
    "causal/",
    "gate_score",
    "subgoals_per",
    "code_",
    "injected_",
)


NARROWEST, WIDEST = 12, 64  # columns of a trial's name


def columns_of(run: str) -> list[Column]:
    """The columns of a trainable's table."""
    return COLUMNS["RL"] if run in ("InternalRL", "RawRL") else COLUMNS.get(run, COLUMNS["other"])


def curves_of(run: str) -> tuple[Column, list[Column]]:
    """What a trainable's curves run over, and the columns that are drawn: those that are no counts or speeds."""
    over, *others = columns_of(run)
    return over, [column for column in others if column[2] is not _count]


def main_metrics(run: str) -> list[tuple[str, str]]:
    """What a run is about, and whether more of it is better; of the first that was measured the best trial is told."""
    if columns_of(run) is COLUMNS["RL"]:
        return [("env_runners/success_rate", "max")]
    if run in COLUMNS:
        return [("gate_score", "max"), ("loss", "min"), ("eval/action_nll", "min"), ("action_nll", "min")]
    return [("env_runners/episode_return_mean", "max")]


def best_of(results: Sequence[Mapping[str, Any]], metrics: Sequence[tuple[str, str]]) -> tuple[int, str, float] | None:
    """Which of some results is the best, by which metric, and its value; None where all are alike or not measured."""
    for metric, mode in metrics:
        values = {number: look_up(result, metric) for number, result in enumerate(results)}
        known = {number: value for number, value in values.items() if value is not None and not math.isnan(value)}
        if len(set(known.values())) > 1:
            best = (max if mode == "max" else min)(known, key=known.get)
            return best, metric, known[best]
    return None


def look_up(result: Mapping[str, Any], path: str) -> Any:
    """A value of a nested or flat result by its path; None where it is missing."""
    if path in result:
        return result[path]
    head, _, tail = path.partition("/")
    inner = result.get(head)
    return look_up(inner, tail) if tail and isinstance(inner, Mapping) else None


def share_done(result: Mapping[str, Any], stop: Mapping[str, float]) -> float:
    """How far a trial has come towards its nearest stop, in [0, 1]."""
    shares = [float(result.get("progress") or 0)]
    for metric, limit in stop.items():
        value = look_up(result, metric)
        # A success threshold says nothing about how long it takes to get there.
        if value is not None and limit and "success" not in metric and "return" not in metric:
            shares.append(float(value) / float(limit))
    return min(1.0, max(shares))


class Progress(ProgressReporter):
    """Prints a table line for every trial that has news, at most every few seconds.

    Args:
        run: name of the trainable, which decides the columns.
        interval: seconds between lines of a trial.
    """

    def __init__(self, run: str, interval: float = 5.0):
        self.run, self.interval = run, interval
        self._last: dict[str, tuple[float, int]] = {}
        self._lines, self._width = 0, NARROWEST

    def should_report(self, trials: list[Trial], done: bool = False) -> bool:
        return True

    def report(self, trials: list[Trial], done: bool, *sys_info: str) -> None:
        self._width = max([self._width, *(len(labels.label(trial)) + 1 for trial in trials)])
        for trial in trials:
            result = trial.last_result or {}
            iteration = result.get("training_iteration")
            shown_at, shown = self._last.get(trial.trial_id, (0.0, 0))
            over = trial.is_finished() or done
            if iteration is None or iteration == shown:
                continue
            if not over and time.monotonic() - shown_at < self.interval:
                continue
            self._last[trial.trial_id] = (time.monotonic(), iteration)
            self._line(trial, result)

    def _line(self, trial: Trial, result: Mapping[str, Any]) -> None:
        columns, width = columns_of(self.run), min(self._width, WIDEST)
        if self._lines % 20 == 0:
            heads = [f"{head:>13}" for head, *_ in columns]
            print(f"{'trial':<{width}}{''.join(heads)}{'elapsed':>9}{'eta':>8}", flush=True)
        self._lines += 1
        cells = []
        for _, key, shown in columns:
            value = look_up(result, key)
            missing = value is None or math.isnan(value)  # of an update that was skipped learners tell NaN
            cells.append(f"{'-' if missing else shown(float(value)):>13}")
        elapsed, share = result.get("time_total_s", 0.0), share_done(result, trial.stopping_criterion)
        eta = duration(elapsed * (1 - share) / share) if share > 0 else "?"
        print(f"{labels.label(trial)[: width - 1]:<{width}}{''.join(cells)}{duration(elapsed):>9}{eta:>8}", flush=True)


def gates_table(result: Mapping[str, Any]) -> str:
    """The gates of a finished phase, one a line; empty if it has none."""
    gates = {k: v for k, v in result.items() if str(k).startswith(GATE_NAMES) and v is not None}
    width = max((len(name) for name in gates), default=0)
    return "\n".join(f"  {name:<{width}}  {value:.4g}" for name, value in gates.items())
