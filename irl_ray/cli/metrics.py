"""Names of metrics that a run is told to watch, checked against what it reports.

What our own trainables report is known before they start (`irl_ray.cli.experiment.check_metrics`). What an RLlib
algorithm reports is known from its results alone, so that those are looked at here: Tune itself would wait for a
metric that never comes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from numbers import Number
from typing import Any

from ray.tune import Callback
from ray.tune.utils.util import flatten_dict

from irl_ray.errors import UserError


class WatchedMetrics(Callback):
    """Ends the run at the first result that should have a metric and has not.

    Args:
        compared: metrics that the scheduler reads, by their keys in the experiment.
    """

    def __init__(self, compared: Mapping[str, str]):
        self.compared = dict(compared)
        self._settled: set[str] = set()  # trials of which every metric has been seen
        self._error: UserError | None = None

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        if trial.trial_id in self._settled:
            return
        score = trial.run_metadata.checkpoint_manager.checkpoint_config.checkpoint_score_attribute
        named = {f"stop.{metric}": metric for metric in trial.stopping_criterion} | self.compared
        if score:
            named["checkpoint_config.checkpoint_score_attribute"] = score
        numbers = _numbers(result)
        missing = {key: metric for key, metric in named.items() if metric not in numbers}
        for key, metric in missing.items():
            if _is_due(metric, result, bool(trial.config.get("evaluation_interval"))):
                place = f"{trial.storage.experiment_fs_path}: {key}"
                told = f"{trial.trainable_name} reports no {metric}.{closest(metric, numbers)}"
                self._error = UserError(f"{place}: {told} Start anew with a metric that is there")
        if not missing:
            self._settled.add(trial.trial_id)

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        if self._error is not None:  # not raised with the result, which Tune would make a traceback of
            raise self._error


def _numbers(result: Mapping[str, Any]) -> list[str]:
    flat = flatten_dict({key: value for key, value in result.items() if key != "config"})
    return [key for key, value in flat.items() if isinstance(value, Number) and not isinstance(value, bool)]


def _is_due(metric: str, result: Mapping[str, Any], evaluates: bool) -> bool:
    """Whether a metric would be in a result if it ever came.

    Env runners tell of episodes when one has ended, learners of losses when they have begun to learn, and evaluation
    of anything when it has taken place.
    """
    group, _, rest = metric.partition("/")
    told = result.get(group)
    if group == "evaluation" and evaluates:
        return bool(told) and _is_due(rest, told, False)
    if group == "env_runners":
        return not told or told.get("num_episodes_lifetime", 1) > 0
    return group != "learners" or bool(told)


def closest(metric: str, known: Iterable[str]) -> str:
    """`" Did you mean 'a', 'b' or 'c'?"` for the metrics that read most like one, whatever group they are in."""

    def likeness(other: str) -> float:
        pairs = (metric, other), (metric.rpartition("/")[2], other.rpartition("/")[2])
        return max(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)

    found = sorted((name for name in known if likeness(name) >= 0.6), key=likeness, reverse=True)[:3]
    if not found:
        return ""
    *others, last = map(repr, found)
    return f" Did you mean {', '.join(others) + ' or ' if others else ''}{last}?"
