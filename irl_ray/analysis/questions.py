"""Questions the paper leaves open, each answered by a table and a paragraph made of its numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from irl_ray.analysis.comparison import Row, final_success
from irl_ray.analysis.results import Results, TrialResult
from irl_ray.analysis.statistics import episodes_to_half

REFERENCE = "gridworld_question_mixer"  # its Transformer saw all tasks and experts without noise
DEFAULTS = {"model.mixer": "transformer", "noise": 0.0, "world.tasks.length": 12}  # of the taught preset
ALPHA_FILES = ("gridworld_whole_alpha_sweep", "gridworld_whole_alpha_orders")


@dataclass
class Answer:
    """A table, and what it says in words."""

    header: Row
    rows: list[Row]
    words: str


@dataclass
class Question:
    """What the paper leaves open.

    Attributes:
        title: the question.
        experiment: the file in tuned_configs that answers it.
        asked: what the paper says, and how the question is put here.
        answer: makes the answer from results; None if nothing was run.
    """

    title: str
    experiment: str
    asked: str
    answer: Callable[[Results], Answer | None]


def by_pretraining(results: Results, key: str, shown: str, experiment: str) -> Answer | None:
    """Base model, codes and RL by one setting of pretraining, beside the runs of `REFERENCE`."""
    runs: dict[str, list[TrialResult]] = {"Pretrain": [], "Discover": [], "InternalRL": []}
    for found in results.experiments:
        for trial in found.trials if found.run in runs else ():
            settings = _pretraining(trial, found.run)
            reference = found.name.startswith(REFERENCE) and settings.get("model.mixer", "transformer") == "transformer"
            if trial.finished and (reference or found.name.startswith(experiment)):
                runs[found.run].append(trial)
    values = {_value(trial, "Pretrain", key) for trial in runs["Pretrain"]}
    if len(values) < 2:
        return None
    header = (shown, "action NLL (Bayes)", "best probe (chance)", "controllers, unseen order",
              "F1", "code → subgoal", "injected", "internal RL", "episodes to half")  # fmt: skip
    rows, words = [], []
    for value in sorted(values):
        (base, *_), codes, rl = ([t for t in runs[run] if _value(t, run, key) == value] for run in runs)
        m = base.metrics
        nll, floor = m.get("eval/action_nll", np.nan), m.get("floor/bayes", np.nan)
        probe = max((v for k, v in m.items() if k.startswith("probe_accuracy/layer")), default=np.nan)
        control = max((v for k, v in m.items() if k.startswith("control_success/layer")), default=np.nan)
        f1, told, injected = (_mean(codes, n) for n in ("switch_f1", "code_subgoal_accuracy", "injected_success"))
        success = f"{np.median([final_success(t) for t in rl]):.3f}" if rl else "not run"
        halves = [h for h in (episodes_to_half(t.learning_curve) for t in rl) if not np.isnan(h)]
        half = f"{np.median(halves):.0f} ({len(halves)} of {len(rl)} runs)" if halves else "-"
        rows.append((value, f"{nll:.3f} ({floor:.3f})", f"{probe:.3f} ({m.get('probe_accuracy/chance', np.nan):.3f})",
                     f"{control:.3f}", f1, told, injected, success, half))  # fmt: skip
        words.append(
            f"{shown} {value}: the base model ends {nll - floor:.3f} nats per step above the ideal observer of clean "
            f"demonstrations of its tasks, its codes tell the subgoal in {told} (F1 of switches {f1}) and reach "
            f"{injected} injected in an unseen order, internal RL over them {success} (runs of RL: {len(rl)})"
        )
    return Answer(header, rows, "; ".join(words) + ".")


def by_alpha(results: Results) -> Answer | None:
    """What the plain objective finds from scratch in the frozen base model, by its weight of the codes' KL."""
    groups: dict[float, list[TrialResult]] = {}
    for found in results.experiments:
        for trial in found.trials if found.name in ALPHA_FILES else ():
            if trial.finished and "switch_f1" in trial.metrics:
                groups.setdefault(float(trial.params["alpha"]), []).append(trial)
    if len(groups) < 2:
        return None
    names = ("kl", "action_nll", "switches_per_episode", "switch_f1", "code_subgoal_accuracy", "injected_success")
    header = ("α", "runs", "KL", "action NLL", "switches per episode", "F1", "code → subgoal", "injected")
    rows = []
    for alpha in sorted(groups):
        middle = [np.median([t.metrics[name] for t in groups[alpha]]) for name in names]
        rows.append((alpha, len(groups[alpha]), *(f"{v:.3f}" for v in middle)))
    trials = [t for group in groups.values() for t in group]
    by_step = sum(t.params.get("metacontroller.summary") == "step" for t in trials)
    empty = sorted(a for a, group in groups.items() if np.median([t.metrics["kl"] for t in group]) < 0.01)
    told = max(trials, key=lambda t: t.metrics["code_subgoal_accuracy"])
    words = (
        f"{len(trials)} runs from α {min(groups):g} to {max(groups):g}, {by_step} of them with a summary per step, "
        "which invites codes of actions. "
        + (f"Codes are empty (median KL below .01) at {', '.join(f'{a:g}' for a in empty)}. " if empty else "")
        + f"The codes that tell most of the subgoal do so in {told.metrics['code_subgoal_accuracy']:.2f} (chance "
        f"{told.metrics['code_subgoal_chance']:.2f}), at α {told.params['alpha']:g}, with switches of F1 "
        f"{told.metrics['switch_f1']:.2f}."
    )
    return Answer(header, rows, words)


QUESTIONS = (
    Question(
        "Transformer or Hawk on the gridworld?", "gridworld_question_mixer",
        "The paper's gridworld has a Transformer and its ant a recurrent Hawk, so they are not compared. Here both are "
        "pretrained on the same demonstrations of the small gridworld, and discovery and RL follow on each.",
        partial(by_pretraining, key="model.mixer", shown="mixer", experiment="gridworld_question_mixer"),
    ),
    Question(
        "How diverse must the pretraining tasks be?", "gridworld_question_tasks",
        "The paper pretrains on many tasks and leaves open how many it takes. Here base models see one task, three, or "
        "all twelve; the task of RL stays the same, and some of its transitions occur in none of them.",
        partial(by_pretraining, key="world.tasks.length", shown="tasks", experiment="gridworld_question_tasks"),
    ),
    Question(
        "How noisy may the experts be?", "gridworld_question_noise",
        "The paper pretrains at ε = 0, finds pretraining robust up to ε = .2 and discovery in need of clean data. Here "
        "experts take a random harmless step with probability ε in pretraining; discovery sees clean ones throughout.",
        partial(by_pretraining, key="noise", shown="ε", experiment="gridworld_question_noise"),
    ),
    Question(
        "Does another order of magnitude of α help the plain objective?", "gridworld_whole_alpha_orders",
        "The paper sweeps 0 and .05 to 1. Here α goes from .001 to 10: from scratch, in the frozen base model, medians "
        "over seeds.",
        by_alpha,
    ),
)  # fmt: skip


def _pretraining(trial: TrialResult, run: str) -> Mapping[str, Any]:
    """Settings of the pretraining behind a run."""
    if run == "Pretrain":
        return trial.params
    return {k.removeprefix("pretrain."): v for k, v in trial.origin.items() if k.startswith("pretrain.")}


def _value(trial: TrialResult, run: str, key: str) -> Any:
    return _pretraining(trial, run).get(key, DEFAULTS[key])


def _mean(trials: list[TrialResult], name: str) -> str:
    values = [t.metrics[name] for t in trials if name in t.metrics]
    return f"{np.mean(values):.2f}" if values else "not run"
