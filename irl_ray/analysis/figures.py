"""The paper's figures from our results: each function draws one, or says by None that nothing was run.

Every figure is readable in black and white: lines differ in dashes and markers, areas in greys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from textwrap import fill
from typing import Any

import numpy as np

from irl_ray import worlds
from irl_ray.analysis.comparison import WORLDS, Row, best_variants, final_success, methods
from irl_ray.analysis.results import ExperimentResult, Results, TrialResult
from irl_ray.analysis.statistics import quartiles

COLOURS = ("#1b4f72", "#c0392b", "#7d6608", "#5b2c6f", "#0e6251", "#626567", "#a04000", "#000000")
STYLES = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (8, 3)), (0, (3, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
ALIGNED = 0.8  # F1 from which switches count as aligned with subgoals
# Of rate and distortion: label, whether a run started from codes of subgoals, its sequence summary, whether memory
# starts anew at every switch, marker.
KINDS = (
    ("from scratch", False, "sequence", False, "s"),
    ("from scratch, memory anew at switches", False, "sequence", True, "P"),
    ("from subgoal codes", True, "sequence", False, "D"),
    ("from other codes, memory anew at switches", True, "sequence", True, "X"),
    ("from scratch, summary per step", False, "step", False, "o"),
    ("from subgoal codes, summary per step", True, "step", False, "^"),
)


@dataclass
class Drawn:
    """A figure, the numbers behind it, and what it shows in words.

    Attributes:
        figure: matplotlib's.
        header, rows: of its CSV.
        words: what was found, with numbers.
        sources: what it was made from: experiments or commands, seeds and revisions, a line each.
    """

    figure: Any
    header: Row
    rows: list[Row]
    words: str
    sources: list[str]


def _looks() -> Iterator[tuple[str, Any, str]]:
    """A shade, a line style and a marker for one line after another."""
    return zip(cycle(COLOURS), cycle(STYLES), cycle(MARKERS))


def source_of(trials: list[TrialResult], name: str) -> str:
    """A line that says which runs: experiment, seeds, revisions."""
    own = sorted({str(t.params.get("seed", "?")) for t in trials})
    found = sorted(
        {str(s) for t in trials for k in ("discover.seed", "compile.seed") if (s := t.origin.get(k)) is not None}
    )
    codes = f" (of the codes' discovery {', '.join(found)})" if found else ""
    revisions = ", ".join(sorted({t.revision for t in trials}))
    return f"{name}: {len(trials)} runs, seeds {', '.join(own)}{codes}; revision {revisions}"


def _analysis_source(analysis: dict[str, Any]) -> str:
    return f"{analysis['command']} (seed {analysis['seed']}, revision {analysis['revision']})"


def _label(analysis: dict[str, Any]) -> str:
    return f"{analysis['model']} ({analysis['mixer']}, {analysis['layers_of_base']} layers)"


def probe_by_layer(plt: Any, results: Results) -> Drawn | None:
    """Fig. 3: what each layer tells about the subgoal."""
    found = results.of_kind("probe")
    if not found:
        return None
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    rows, words = [], []
    for analysis, (shade, style, marker) in zip(found, _looks()):
        layers = range(len(analysis["accuracy"]))
        label = _label(analysis)
        axes.plot(layers, analysis["accuracy"], linestyle=style, color=shade, marker=marker, label=label)
        axes.axhline(analysis["chance"], color=shade, linewidth=0.7, linestyle=style, alpha=0.6)
        late = analysis["accuracy_late"]
        rows += [(label, n, a, b, analysis["chance"]) for n, a, b in zip(layers, analysis["accuracy"], late)]
        best = int(np.argmax(analysis["accuracy"]))
        words.append(
            f"{label}: best at layer {best} with {analysis['accuracy'][best]:.3f} "
            f"({late[best]:.3f} late in a subgoal; chance {analysis['chance']:.3f})"
        )
    axes.set(xlabel="layer of the residual stream", ylabel="accuracy of a linear subgoal probe", ylim=(0, 1))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8, title="thin lines: chance", title_fontsize=8)
    header = ("model", "layer", "accuracy", "accuracy_late", "chance")
    return Drawn(figure, header, rows, "; ".join(words) + ".", [_analysis_source(a) for a in found])


def probe_by_time(plt: Any, results: Results) -> Drawn | None:
    """Fig. A1: the probability of the true subgoal as its segment goes on."""
    found = results.of_kind("probe")
    if not found:
        return None
    figure, panels = plt.subplots(1, len(found), figsize=(4.2 * len(found), 3.4), layout="constrained", squeeze=False)
    rows, words = [], []
    for panel, analysis in zip(panels[0], found):
        for layer, values in enumerate(analysis["probability"]):
            shade = str(0.75 * (1 - layer / max(1, len(analysis["probability"]) - 1)))
            panel.plot(analysis["since"], values, linestyle=STYLES[layer % 8], color=shade, label=f"layer {layer}")
            rows += [(_label(analysis), layer, t, v) for t, v in zip(analysis["since"], values)]
        best = max(analysis["probability"], key=lambda v: v[-1])
        words.append(f"{_label(analysis)}: from {best[0]:.2f} to {best[-1]:.2f} at the layer that ends highest")
        panel.set(xlabel="steps since the subgoal's first", title=_label(analysis), ylim=(0, 1))
        panel.title.set_fontsize(9)
        panel.grid(alpha=0.3)
        panel.legend(frameon=False, fontsize=7)
    panels[0][0].set_ylabel("probability of the true subgoal")
    sources = [_analysis_source(a) for a in found]
    return Drawn(figure, ("model", "layer", "steps_since_start", "probability"), rows, "; ".join(words) + ".", sources)


def control_by_layer(plt: Any, results: Results) -> Drawn | None:
    """Figs. 4 and A2: success under controllers trained with labels, by the layer at which they act."""
    found = results.of_kind("control")
    if not found:
        return None
    figure, panels = plt.subplots(1, 2, figsize=(8.4, 3.4), layout="constrained", sharey=True)
    rows, words = [], []
    for analysis, (shade, style, marker) in zip(found, _looks()):
        label = f"{_label(analysis)}, {'full' if analysis['rank'] is None else 'rank ' + str(analysis['rank'])}"
        for panel, name in zip(panels, ("success", "success_training_tasks")):
            panel.plot(analysis["layers"], analysis[name], linestyle=style, color=shade, marker=marker, label=label)
        both = zip(analysis["layers"], analysis["success"], analysis["success_training_tasks"])
        rows += [(label, *row) for row in both]
        best = int(np.argmax(analysis["success"]))
        words.append(
            f"{label}: best at layer {analysis['layers'][best]} with {analysis['success'][best]:.3f} on unseen "
            f"transitions ({analysis['success_training_tasks'][best]:.3f} on training tasks)"
        )
    for panel, title in zip(panels, ("transitions never seen", "training tasks")):
        panel.set(xlabel="layer", title=title, ylim=(-0.02, 1))
        panel.title.set_fontsize(9)
        panel.grid(alpha=0.3)
        panel.xaxis.get_major_locator().set_params(integer=True)
    panels[0].set_ylabel("success")
    panels[1].legend(frameon=False, fontsize=7)
    sources = [_analysis_source(a) for a in found]
    header = ("model", "layer", "success_unseen", "success_training_tasks")
    return Drawn(figure, header, rows, "; ".join(words) + ".", sources)


def switches_over_time(plt: Any, results: Results) -> Drawn | None:
    """Figs. 6 and A3: when the switch fires on demonstrations, and where subgoals begin."""
    found = results.of_kind("codes")
    if not found:
        return None
    count = 3
    figure, panels = plt.subplots(
        count,
        len(found),
        figsize=(4.6 * len(found), 1.3 * count + 0.8),
        layout="constrained",
        squeeze=False,
        sharey=True,
    )
    rows, words = [], []
    for column, analysis in zip(panels.T, found):
        label = analysis["model"]
        for number, (panel, example) in enumerate(zip(column, analysis["examples"])):
            steps = np.arange(len(example["beta"]))
            panel.step(steps, example["beta"], where="mid", color="black", linewidth=1.1)
            bounds = [*example["starts"], len(steps)]
            for first, last in zip(bounds, bounds[1:]):
                name = example["subgoal"][first]
                panel.axvspan(first - 0.5, last - 0.5, color=str(0.97 - 0.13 * (name % 4)), linewidth=0)
                panel.axvline(first - 0.5, color="0.3", linewidth=0.7, linestyle=":")
                panel.text((first + last - 1) / 2, 1.12, str(name), ha="center", fontsize=7)
            panel.set(ylim=(-0.05, 1.3), xlim=(-0.5, len(steps) - 0.5))
            rows += [
                (label, number, t, b, s, g)
                for t, b, s, g in zip(steps, example["beta"], example["switch"], example["subgoal"])
            ]
        column[0].set_title(label, fontsize=9)
        column[count - 1].set_xlabel("step of the demonstration")
        told, chance = analysis["code_subgoal_accuracy"], analysis["code_subgoal_chance"]
        words.append(
            f"{label}: F1 {analysis['switch_f1']:.2f}, {analysis['switches_per_episode']:.1f} switches an episode, "
            f"code tells the subgoal {told:.2f} (chance {chance:.2f})"
        )
    for panel in panels[:, 0]:
        panel.set_ylabel("β", rotation=0)
    sources = [_analysis_source(a) for a in found]
    header = ("model", "demonstration", "step", "beta", "switch", "subgoal")
    return Drawn(figure, header, rows, "; ".join(words) + ".", sources)


def injected_codes(plt: Any, results: Results) -> Drawn | None:
    """B.3.2 (Fig. A4): codes collected from free walks, put in force on other layouts."""
    found = [a for a in results.of_kind("codes") if a["injection"]["codes"]]
    if not found:
        return None
    figure, axes = plt.subplots(figsize=(1.5 + 1.9 * len(found), 3.2), layout="constrained")
    rows, words, ticks = [], [], []
    for i, analysis in enumerate(found):
        got = analysis["injection"]
        kinds = [("", got["walks"]), *([("_unseen", got["walks_unseen"])] if got["walks_unseen"] else [])]
        for j, (kind, count) in enumerate(kinds):
            pair = [got[f"reached_alone{kind}"], got[f"reached{kind}"]]
            error = [np.sqrt(max(0.0, p * (1 - p)) / max(1, count)) for p in pair]
            at = 2 * i + j + np.array([-0.18, 0.18])
            axes.bar(at, pair, 0.34, color=["white", "0.45"], edgecolor="black", yerr=error, capsize=2, linewidth=0.8)
            ticks.append((2 * i + j, f"{analysis['model']}\n{'unseen' if kind else 'all'}".replace("_", "\n")))
            rows.append((analysis["model"], "unseen" if kind else "all", analysis["injection_step"], count, *pair))
        words.append(f"{analysis['model']}: {got['reached_alone']:.2f} to {got['reached']:.2f}")
        if got["walks_unseen"]:
            words[-1] += f", of transitions never seen {got['reached_alone_unseen']:.2f} to {got['reached_unseen']:.2f}"
    axes.set_xticks([at for at, _ in ticks], [name for _, name in ticks], fontsize=8)
    axes.set_ylabel("next target is the code's")
    axes.set_title("white: left alone; grey: code injected; one standard error", fontsize=8)
    sources = [_analysis_source(a) for a in found]
    header = ("model", "transitions", "step", "walks", "reached_alone", "reached_injected")
    return Drawn(figure, header, rows, "; ".join(words) + ".", sources)


def rate_distortion(plt: Any, results: Results) -> Drawn | None:
    """Fig. 7: nats in the codes against action loss, one point a run, base model frozen and trained along.

    Both are the last report's: means over fresh demonstrations with codes (and Gumbel switches) drawn,
    as the objective has them. F1 and the probe are of switches made binary at the threshold.
    """
    sweeps = _finished_discoveries(results, "alpha")
    worlds = [world for world in WORLDS if any(t.world == world for trials in sweeps.values() for t in trials)]
    if not worlds:
        return None
    shape = {"figsize": (9, 3.8 * len(worlds)), "layout": "constrained", "squeeze": False}
    figure, panels = plt.subplots(len(worlds), 2, sharey="row", sharex="row", **shape)
    rows, words, shown = [], [], []
    for line, world in zip(panels, worlds):
        for panel, frozen in zip(line, (True, False)):
            title = f"{world}: base model {'frozen' if frozen else 'trained along'}"
            for label, started, summary, anew, marker in KINDS:
                chosen = [
                    t
                    for trials in sweeps.values()
                    for t in trials
                    if t.world == world
                    and (t.params.get("co_training") is None) == frozen
                    and ("start_from" in t.params) == started
                    and t.params.get("metacontroller.summary", "sequence") == summary
                    and bool(t.params.get("clean_slate")) == anew
                    and not t.params.get("turned_summaries")
                    and t.params.get("metacontroller.read_at", "start") == "start"
                ]
                shown += chosen
                if chosen:
                    _scatter(panel, chosen, label, marker)
                    told = np.array([t.metrics["code_subgoal_accuracy"] for t in chosen])
                    f1 = np.array([t.metrics["switch_f1"] for t in chosen])
                    aligned = int(((f1 >= ALIGNED) & (told >= ALIGNED)).sum())
                    words.append(
                        f"{title}, {label}: {aligned} of {len(chosen)} runs end with aligned switches "
                        f"(F1 ≥ {ALIGNED}) and codes that tell the subgoal (probe ≥ {ALIGNED})"
                    )
                names = ("kl", "action_nll", "switch_f1", "switches_per_episode", "code_subgoal_accuracy")
                rows += [
                    (world, "frozen" if frozen else "trained along", label, t.params["alpha"], t.params.get("seed"),
                     *(t.metrics[name] for name in names))
                    for t in chosen
                ]  # fmt: skip
            panel.set_xscale("symlog", linthresh=0.1)
            panel.set(xlabel="rate: KL, nats per step", title=title, xlim=(-0.01, None))
            panel.title.set_fontsize(9)
            panel.grid(alpha=0.3)
            if panel.get_legend_handles_labels()[0]:
                panel.legend(frameon=False, fontsize=7)
            else:
                panel.text(0.5, 0.5, "not run", ha="center", transform=panel.transAxes)
        line[0].set_ylabel("distortion: action NLL, nats per step")
    figure.colorbar(plt.cm.ScalarMappable(plt.Normalize(0, 1), "Greys"), ax=panels, label="F1 of switches", shrink=0.8)
    header = ("world", "base_model", "started", "alpha", "seed", "rate", "distortion", "switch_f1",
              "switches_per_episode", "code_subgoal_accuracy")  # fmt: skip
    sources = [source_of(told, name) for name, trials in sweeps.items() if (told := [t for t in trials if t in shown])]
    return Drawn(figure, header, rows, "; ".join(words) + ".", sources)


def _scatter(panel: Any, trials: list[TrialResult], label: str, marker: str) -> None:
    """Rate and distortion of runs, shaded by F1, and a line through the medians of each α."""
    points = np.array([[t.metrics[name] for name in ("kl", "action_nll", "switch_f1")] for t in trials])
    alpha = np.array([t.params["alpha"] for t in trials])
    middle = np.array([np.median(points[alpha == a, :2], 0) for a in sorted(set(alpha))])
    style = "--" if marker in "D^" else "-"
    panel.plot(*middle[middle[:, 0].argsort()].T, color="0.6", linewidth=0.8, linestyle=style)
    panel.scatter(
        *points[:, :2].T, c=points[:, 2], cmap="Greys", vmin=0, vmax=1, edgecolor="black", linewidth=0.7, s=34,
        marker=marker, label=f"{label} ({len(trials)} runs)", zorder=2,
    )  # fmt: skip


def _finished_discoveries(results: Results, key: str) -> dict[str, list[TrialResult]]:
    """Finished runs of discovery that differ in `key`, by experiment; of searches, none."""
    discoveries = [e for e in results.experiments if e.run == "Discover" and "search" not in e.name]
    names = {e.name for e in discoveries if key in e.varied}
    chosen: list[ExperimentResult] = [e for e in discoveries if e.name in names]
    found: dict[str, list[TrialResult]] = {}
    for experiment in chosen:  # of one name there may be several
        trials = [t for t in experiment.trials if t.finished and "injected_success" in t.metrics]
        found.setdefault(experiment.name, []).extend(trials)
    return {name: trials for name, trials in found.items() if trials}


def learning_curves(plt: Any, results: Results) -> Drawn | None:
    """Fig. 8: success over episodes by method, median and quartiles over runs."""
    worlds = [(world, groups) for world in WORLDS if (groups := methods(results, world))]
    if not worlds:
        return None
    height = 4 + 0.17 * max(len(best_variants(groups)) for _, groups in worlds)  # of axes and the legend below
    figure, panels = plt.subplots(
        1, len(worlds), figsize=(5.4 * len(worlds), height), layout="constrained", squeeze=False
    )
    rows, words = [], []
    for panel, (world, groups) in zip(panels[0], worlds):
        for (label, trials), (shade, style, _) in zip(best_variants(groups).items(), _looks()):
            grid, (low, median, high) = quartiles([t.learning_curve for t in trials])
            panel.fill_between(grid, low, high, color=shade, alpha=0.2, linewidth=0)
            panel.plot(grid, median, linestyle=style, color=shade, label=fill(f"{label} ({len(trials)})", 90))
            rows += [(world, label, *row) for row in zip(grid, low, median, high)]
        panel.set(xlabel="episodes", title=world, ylim=(-0.02, 1))
        panel.title.set_fontsize(9)
        panel.grid(alpha=0.3)
        below = {"loc": "upper left", "bbox_to_anchor": (0, -0.13)}
        panel.legend(frameon=False, fontsize=7, title="(runs)", title_fontsize=7, **below)
        best, final = next((name, np.median([final_success(t) for t in trials])) for name, trials in groups.items())
        words.append(f"{world}: the highest is {best} with a median of {final:.3f} at the end")
        left_out = len(groups) - len(best_variants(groups))
        if left_out:
            words[-1] += f" (worse settings of the baselines, {left_out}, are in the table alone)"
    panels[0][0].set_ylabel("success")
    header = ("world", "method", "episodes", "quartile_1", "median", "quartile_3")
    sources = [source_of(t, f"{world}, {label}") for world, groups in worlds for label, t in groups.items()]
    return Drawn(figure, header, rows, "; ".join(words) + ".", sources)


def gradient_variance(plt: Any, results: Results) -> Drawn | None:
    """E.2: what return that does not depend on the decisions adds to the gradient's variance."""
    found = results.of_kind("variance")
    if not found:
        return None
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharey=True)
    rows, words = [], []
    for analysis, (_, _, marker) in zip(found, _looks()):
        for name, style in (("internal", "-"), ("raw", "--")):
            moments = [analysis[f"{name}/{moment}"] for moment in ("score", "variance", "signal")]
            for panel, values in zip(panels, moments):
                label = f"{analysis['model']}: {name}"
                panel.plot(analysis["lengths"], values, style, color="black", marker=marker, markersize=4, label=label)
            rows += [(analysis["model"], name, *row) for row in zip(analysis["lengths"], *moments)]
        told = [i for i, v in enumerate(analysis["raw/variance"]) if v > 0 and analysis["internal/variance"][i] > 0]
        if told:  # too short walks reach no target: their return does not vary
            ends = told[0], told[-1]
            internal, raw = ([analysis[f"{name}/variance"][i] for i in ends] for name in ("internal", "raw"))
            steps = [analysis["lengths"][i] for i in ends]
            words.append(
                f"{analysis['model']}: from {steps[0]} to {steps[1]} raw steps a decision the measured variance goes "
                f"from {internal[0]:.3g} to {internal[1]:.3g} in internal RL and from {raw[0]:.3g} to {raw[1]:.3g} in "
                "raw RL (other parameters, so compare the growth)"
            )
    for panel, title in zip(
        panels, ("return that decisions do not change: E |∇ log π|²", "measured, return: the first target")
    ):
        panel.set(xscale="log", yscale="log", xlabel="raw steps per decision", title=title)
        panel.title.set_fontsize(9)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("variance of the gradient estimate (trace)")
    panels[0].legend(frameon=False, fontsize=7)
    sources = [_analysis_source(a) for a in found]
    header = ("model", "kind", "raw_steps", "score", "variance", "signal")
    return Drawn(figure, header, rows, "; ".join(words) + ".", sources)


def sweep_figure(
    key: str, metrics: dict[str, str], xlabel: str, log: bool = False, symlog: float | None = None
) -> Callable[[Any, Results], Drawn | None]:
    """A figure of gates of discovery by one setting, one panel a metric: every run, and medians."""

    def draw(plt: Any, results: Results) -> Drawn | None:
        groups: dict[str, list[TrialResult]] = {}
        for name, trials in _finished_discoveries(results, key).items():
            for trial in trials:
                along = ", base trained along" if trial.params.get("co_training") else ""
                groups.setdefault(f"{name}{along}", []).append(trial)
        if not groups:
            return None
        shape = {"figsize": (3.2 * len(metrics), 3.2), "layout": "constrained", "squeeze": False}
        figure, panels = plt.subplots(1, len(metrics), **shape)
        rows = []
        for panel, (metric, ylabel) in zip(panels[0], metrics.items()):
            for (name, trials), (shade, style, marker) in zip(groups.items(), _looks()):
                x = np.array([t.params[key] for t in trials], float)
                y = np.array([t.metrics[metric] for t in trials])
                values = sorted(set(x))
                panel.plot(x, y, marker, color=shade, markersize=4, alpha=0.6, fillstyle="none")
                panel.plot(values, [np.median(y[x == v]) for v in values], linestyle=style, color=shade, label=name)
                rows += [(name, metric, v, t.params.get("seed"), value) for v, value, t in zip(x, y, trials)]
            if log:
                panel.set_xscale("log")
            if symlog:
                panel.set_xscale("symlog", linthresh=symlog)
            panel.set(xlabel=xlabel, ylabel=ylabel)
            panel.grid(alpha=0.3)
        panels[0][0].legend(frameon=False, fontsize=6)
        best = max((t for ts in groups.values() for t in ts), key=lambda t: t.metrics.get("gate_score", 0.0))
        m = best.metrics
        words = (
            f"highest product of F1 and probe above chance: {m.get('gate_score', 0):.2f}, at {xlabel} "
            f"{best.params[key]:g} (F1 {m['switch_f1']:.2f}, probe {m['code_subgoal_accuracy']:.2f})."
        )
        return Drawn(figure, ("experiment", "metric", key, "seed", "value"), rows, words,
                     [source_of(trials, name) for name, trials in groups.items()])  # fmt: skip

    return draw


def _goals(target: str) -> dict[str, dict[str, str]]:
    """Of a sweep over goals of several legs, each with a target so called, a panel each: what is measured, by what."""
    injected = f"injected_success_by_{target}"
    return {
        "switches an episode": {"": "switches_per_episode"},
        "F1 of switches": {target: "switch_f1_legs", "subgoal": "switch_f1"},
        "the code tells": {target: "code_target_accuracy", "subgoal": "code_subgoal_accuracy"},
        f"class-mean codes by {target} succeed": {
            "unseen order": injected, "training tasks": f"{injected}_training_tasks",
        },
    }  # fmt: skip


def goals_figure(key: str, xlabel: str, symlog: float | None = None) -> Callable[[Any, Results], Drawn | None]:
    """A figure of where discovery finds goals, over one setting: runs from scratch in a frozen base model whose memory
    starts anew at every switch."""

    def is_one(trial: TrialResult) -> bool:
        other = (
            "co_training", "start_from", "metacontroller.forced_switch", "cut_share", "switch_cost", "turned_summaries",
        )  # fmt: skip
        at_start = trial.params.get("metacontroller.read_at", "start") == "start"
        told = at_start and trial.params.get("clean_slate") and "switch_f1_legs" in trial.metrics
        return bool(told) and not any(trial.params.get(name) for name in other)

    def draw(plt: Any, results: Results) -> Drawn | None:
        found = _finished_discoveries(results, key)
        sweeps = {name: chosen for name, trials in found.items() if (chosen := list(filter(is_one, trials)))}
        trials = [t for chosen in sweeps.values() for t in chosen]
        if not trials:
            return None
        goals = _goals(worlds.find(trials[0].params.get("env", worlds.DEFAULT_ID)).target_name)
        figure, panels = plt.subplots(1, len(goals), figsize=(3.1 * len(goals), 3.2), layout="constrained")
        x = np.array([t.params[key] for t in trials], float)
        values, rows = sorted(set(x)), []
        for panel, (title, metrics) in zip(panels, goals.items()):
            for (label, metric), (shade, style, marker) in zip(metrics.items(), _looks()):
                y = np.array([t.metrics[metric] for t in trials])
                middle = [np.median(y[x == v]) for v in values]
                panel.plot(x, y, marker, color=shade, markersize=4, alpha=0.6, fillstyle="none")
                panel.plot(values, middle, linestyle=style, color=shade, label=label)
                rows += [(metric, v, t.params.get("seed"), value) for v, value, t in zip(x, y, trials)]
            panel.set(xlabel=xlabel, title=title, ylim=(0, None if "" in metrics else 1.03))
            if symlog:
                panel.set_xscale("symlog", linthresh=symlog)
                panel.set_xlim(-symlog / 4, None)
            panel.set_xticks(values, [f"{v:g}" for v in values], fontsize=7)
            panel.minorticks_off()
            panel.title.set_fontsize(9)
            panel.grid(alpha=0.3)
            if "" not in metrics:
                panel.legend(frameon=False, fontsize=7)
        told = np.array([t.metrics["code_subgoal_accuracy"] for t in trials])
        where = [v for v in values if told[x == v].min() > 0.9]
        words = (
            f"codes tell the subgoal (probe above .9 in every run) at {xlabel} "
            f"{', '.join(f'{v:g}' for v in where) or 'nowhere'}; of {', '.join(f'{v:g}' for v in values)}."
        )
        header = ("metric", key, "seed", "value")
        return Drawn(figure, header, rows, words, [source_of(chosen, name) for name, chosen in sweeps.items()])

    return draw


def learning_rates(plt: Any, results: Results) -> Drawn | None:
    """C.5.5: final success by learning rate."""
    scans = [e for e in results.experiments if e.run in ("InternalRL", "RawRL") and e.varied == ["lr"]]
    groups = {e.name: trials for e in scans if (trials := [t for t in e.trials if t.finished and t.curve])}
    if not groups:
        return None
    figure, axes = plt.subplots(figsize=(5.4, 3.4), layout="constrained")
    rows, words = [], []
    for (name, trials), (shade, style, marker) in zip(groups.items(), _looks()):
        points = sorted((t.params["lr"], final_success(t), t.curve[-1][0]) for t in trials)
        axes.plot(*zip(*[p[:2] for p in points]), linestyle=style, color=shade, marker=marker, label=name)
        rows += [(name, *point) for point in points]
        best = max(points, key=lambda p: p[1])
        words.append(f"{name}: best {best[1]:.3f} at {best[0]:g} after {best[2]:.0f} episodes")
    axes.set(xscale="log", xlabel="learning rate", ylabel="success", ylim=(-0.02, 1))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    header = ("experiment", "learning_rate", "success", "episodes")
    return Drawn(figure, header, rows, "; ".join(words) + ".", [source_of(t, n) for n, t in groups.items()])
