"""What is held against what: methods of RL by environment, and the settings of open questions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from irl_ray.analysis.results import Results, TrialResult
from irl_ray.analysis.statistics import bootstrap_interval, episodes_to_half, interquartile_mean, success_after

Row = tuple[Any, ...]
WORLDS = ("gridworld", "ant")
RAW = "RL on raw actions"
APART = ("sweep", "scan", "search", "question")  # experiments that compare settings, not methods


def method_of(run: str, trial: TrialResult) -> str:
    """What a run of RL is an example of, from how its codes were found."""
    origin = trial.origin
    if run == "RawRL":
        return f"{RAW}, lr {trial.params.get('lr', 0):g}"
    if not origin:
        return "codes of unknown origin"
    if "compile.code_weight" in origin:
        return f"CompILE, code weight {origin['compile.code_weight']:g}"
    if origin.get("discover.co_training"):
        start = "scratch" if origin["discover.co_training"] == "scratch" else "the pretrained base"
        return f"co-training from {start}"
    if origin.get("discover.metacontroller.forced_switch"):
        return "forced switching"
    if float(trial.params.get("switch_threshold", 0.5)) < 1e-3:
        return "forced switching in RL alone"
    if origin.get("discover.teacher.steps") == 0:
        return "internal RL, codes of the plain objective"
    if float(trial.params.get("action_temperature", 1.0)) == 1.0:
        return "internal RL, actions at temperature 1"
    return "internal RL"


def methods(results: Results, world: str) -> dict[str, list[TrialResult]]:
    """Runs of RL in one world by method; those of `APART` have figures and tables of their own."""
    groups: dict[str, list[TrialResult]] = {}
    for experiment in results.experiments:
        if experiment.run not in ("InternalRL", "RawRL") or any(word in experiment.name for word in APART):
            continue
        for trial in experiment.trials:
            if trial.curve and trial.world == world and trial.finished:
                groups.setdefault(method_of(experiment.run, trial), []).append(trial)
    return dict(sorted(groups.items(), key=lambda item: -np.median([final_success(t) for t in item[1]])))


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
    """Method by environment: prior, success after N episodes, and how soon half of the final value is reached."""
    header = ("environment", "method", "runs", "first update (the prior)", "N episodes",
              "success after N: median (quartiles)", "IQM (95 % bootstrap)",
              "episodes to half of the final value: median")  # fmt: skip
    rows = []
    for world in WORLDS:
        for label, trials in methods(results, world).items():
            curves = [t.learning_curve for t in trials]
            count = min(curve[0][-1] for curve in curves)
            after = [success_after(curve, count) for curve in curves]
            low, middle, high = np.percentile(after, (25, 50, 75))
            interval = bootstrap_interval(after) if len(after) > 2 else None
            shown = f"{interquartile_mean(after):.3f}" + (f" ({interval[0]:.3f}–{interval[1]:.3f})" if interval else "")
            half = [h for h in map(episodes_to_half, curves) if not np.isnan(h)]
            prior = float(np.mean([curve[1][0] for curve in curves]))
            rows.append((world, label, len(trials), f"{prior:.4f}", f"{count:.0f}",
                         f"{middle:.3f} ({low:.3f}–{high:.3f})", shown,
                         f"{np.median(half):.0f} ({len(half)} of {len(curves)} runs)" if half
                         else "success stays under .01"))  # fmt: skip
    return header, rows


@dataclass
class Question:
    """A question the paper leaves open, answered by runs that differ in one setting of pretraining.

    Attributes:
        title: the question.
        key: the setting, as in `TrialResult.params` of pretraining.
        shown: its name in the table.
        experiment: whose runs answer it, beside those of `REFERENCE` with a Transformer, all tasks and ε = 0.
    """

    title: str
    key: str
    shown: str
    experiment: str

    def asks(self, experiment: str, settings: Mapping[str, Any]) -> bool:
        """Whether a run answers it: of its own experiment, or the reference."""
        reference = experiment.startswith(REFERENCE) and settings.get("model.mixer", "transformer") == "transformer"
        return experiment.startswith(self.experiment) or reference


REFERENCE = "gridworld_question_mixer"
QUESTIONS = (
    Question("Transformer or Hawk on the gridworld?", "model.mixer", "mixer", "gridworld_question_mixer"),
    Question("How diverse must the pretraining tasks be?", "world.tasks.length", "tasks", "gridworld_question_tasks"),
    Question("How noisy may the experts be?", "noise", "ε", "gridworld_question_noise"),
)


def question_table(results: Results, question: Question) -> tuple[Row, list[Row]] | None:
    """Base model, codes and RL by the setting in question; None if nothing was run."""
    runs: dict[str, list[TrialResult]] = {"Pretrain": [], "Discover": [], "InternalRL": []}
    for experiment in results.experiments:
        for trial in experiment.trials if experiment.run in runs else ():
            if trial.finished and question.asks(experiment.name, _pretraining(trial, experiment.run)):
                runs[experiment.run].append(trial)
    values = {_value(t, "Pretrain", question.key) for t in runs["Pretrain"]}
    if len(values) < 2:
        return None
    header = (question.shown, "action NLL (Bayes)", "best probe (chance)", "controllers, unseen order",
              "F1", "code → subgoal", "injected", "internal RL")  # fmt: skip
    rows = []
    for value in sorted(values, key=str):
        base, codes, rl = ([t for t in runs[run] if _value(t, run, question.key) == value] for run in runs)
        m = base[0].metrics
        probes = [v for k, v in m.items() if k.startswith("probe_accuracy/layer")]
        control = [v for k, v in m.items() if k.startswith("control_success/layer")]
        gates = [_mean(codes, name) for name in ("switch_f1", "code_subgoal_accuracy", "injected_success")]
        final = [success_after(t.learning_curve, t.curve[-1][0]) for t in rl]
        rows.append((
            value, f"{m.get('eval/action_nll', np.nan):.3f} ({m.get('floor/bayes', np.nan):.3f})",
            f"{max(probes, default=np.nan):.3f} ({m.get('probe_accuracy/chance', np.nan):.3f})",
            f"{max(control, default=np.nan):.3f}", *gates,
            f"{np.median(final):.3f} after {rl[0].curve[-1][0]:.0f} episodes" if final else "not run",
        ))  # fmt: skip
    return header, rows


def _pretraining(trial: TrialResult, run: str) -> dict[str, Any]:
    """Settings of the pretraining behind a run."""
    if run == "Pretrain":
        return trial.params
    return {k.removeprefix("pretrain."): v for k, v in trial.origin.items() if k.startswith("pretrain.")}


def _value(trial: TrialResult, run: str, key: str) -> Any:
    defaults = {"model.mixer": "transformer", "noise": 0.0, "world.tasks.length": 12}  # of the small preset
    return _pretraining(trial, run).get(key, defaults[key])


def _mean(trials: list[TrialResult], name: str) -> str:
    values = [t.metrics[name] for t in trials if name in t.metrics]
    return f"{np.mean(values):.2f}" if values else "not run"
