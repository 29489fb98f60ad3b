"""Statistics by hand, a rate-distortion point by hand, results read and kept, the page."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_agent

from irl_ray.analysis import comparison, figures, questions, report, results
from irl_ray.analysis.codes import metacontroller_gates
from irl_ray.analysis.curves import figure_module
from irl_ray.analysis.results import ExperimentResult, Results, TrialResult
from irl_ray.analysis.statistics import (
    bootstrap_interval,
    episodes_to_half,
    interquartile_mean,
    success_after,
)
from irl_ray.cli.irl_ray import main
from irl_ray.errors import UserError
from irl_ray.worlds.pinpad.stream import GridworldExpert


def test_interquartile_mean_by_hand():
    assert interquartile_mean([0, 1, 2, 3, 4, 5, 6, 100]) == pytest.approx(3.5)
    assert interquartile_mean([5.0]) == 5.0
    # Of three runs the middle half is all of the second and a quarter of each neighbour.
    assert interquartile_mean([0, 1, 8]) == pytest.approx((0 * 0.25 + 1 * 1 + 8 * 0.25) / 1.5)


def test_bootstrap_interval_covers_and_repeats():
    values = np.random.default_rng(1).normal(size=60)
    low, high = bootstrap_interval(values)
    assert low < interquartile_mean(values) < high
    assert bootstrap_interval(values) == (low, high)
    assert bootstrap_interval([0.5, 0.5, 0.5]) == (0.5, 0.5)


def curve(success, per_update=100):
    return np.arange(1, len(success) + 1) * float(per_update), np.array(success, float)


def test_success_after_and_episodes_to_half_by_hand():
    steps = curve([0.0] * 10 + [0.8] * 10)
    assert success_after(steps, 2000) == pytest.approx(0.8)
    assert success_after(steps, 1200) == pytest.approx(0.32)  # two of the last five updates
    assert math.isnan(success_after(steps, 5000))
    assert episodes_to_half(steps) == 1300  # three of five updates: .48 is the first above .4
    assert math.isnan(episodes_to_half(curve([0.0] * 20)))


def test_a_rate_distortion_point_by_hand(tiny_world):
    """An encoder that always says N(m, s²), no controller, and uniform actions: both numbers are known."""
    agent = make_agent(tiny_world, code_size=2)
    meta, base = agent.metacontroller, agent.base
    mean, log_std = torch.tensor([1.0, -2.0]), torch.tensor([-0.5, 0.25])
    meta.encoder[-1].weight.zero_()
    meta.encoder[-1].bias.copy_(torch.cat([mean, log_std]))
    meta.decoder.up.zero_()
    base.action_head.weight.zero_()
    batch = GridworldExpert(tiny_world).sample(30, torch.Generator().manual_seed(0))
    found = metacontroller_gates(agent, batch, 0.5)
    rate = sum(0.5 * (m**2 + math.exp(2 * s) - 1 - 2 * s) for m, s in ((1.0, -0.5), (-2.0, 0.25)))
    assert found["eval/kl"] == pytest.approx(rate, rel=1e-5)
    assert found["eval/action_nll_hard"] == pytest.approx(math.log(4), rel=1e-5)


TAUGHT = "internal RL, taught codes"


def rl_trial(success, settings=(), **origin):
    params = {"env": "irl_ray/GridPinpad-v0", "lr": 3e-3, "seed": 0, "switch_threshold": 0.5, "action_temperature": 0.3}
    points = [[500 * (i + 1), s] for i, s in enumerate(success)]
    found = {f"discover.{k}": v for k, v in {"teacher.steps": 1000, **origin}.items()}
    return TrialResult(params | dict(settings), {}, points, found, revision="abc")


def some_results():
    def found(alpha, seed, finished=True):
        gates = {"kl": 1 - alpha, "action_nll": alpha, "switch_f1": 0.5 + alpha, "code_subgoal_accuracy": 0.9,
                 "switches_per_episode": 3.0, "gate_score": 0.4, "injected_success": 0.1}  # fmt: skip
        return TrialResult({"alpha": alpha, "seed": seed, "co_training": None}, gates, finished=finished)

    rl = {
        "gridworld_taught_internal": [rl_trial([0.0, 0.4, 0.8] * 4, {"seed": s}) for s in range(3)],
        "gridworld_question_noise": [rl_trial([0.1] * 12)],
        "gridworld_whole_cotrain": [rl_trial([0.1] * 12, co_training="scratch")],
    }
    discoveries = {
        "sweep": [found(a, s) for a in (0.1, 0.5) for s in (0, 1)],
        "sweep_of_stopped_runs": [found(a, 7, finished=False) for a in (0.2, 0.3)],
        "search": [found(a, 8) for a in (0.2, 0.3)],
    }
    raw = [rl_trial([0.0] * 12, {"lr": lr, "action_temperature": 1.0}) for lr in (1e-4, 3e-3)]
    return Results(
        [
            *(ExperimentResult(name, "InternalRL", "1", trials) for name, trials in rl.items()),
            ExperimentResult("gridworld_whole_raw", "RawRL", "1", raw),
            *(ExperimentResult(name, "Discover", "1", trials) for name, trials in discoveries.items()),
        ],
        [],
    )


def test_methods_are_told_apart_by_how_their_codes_were_found():
    table = comparison.methods(some_results(), "gridworld")
    assert {name: len(trials) for name, trials in table.items()} == {
        TAUGHT: 3,
        "RL on raw actions, lr 0.0001": 1,
        "RL on raw actions, lr 0.003": 1,
        "co-training from scratch, summary per step": 1,
    }
    assert next(iter(table)) == TAUGHT
    assert len(comparison.best_variants(table)) == 3
    header, rows = comparison.method_table(some_results())
    assert rows[0][:3] == ("gridworld", TAUGHT, 3)
    assert "success stays under .01" in [row[-1] for row in rows]
    forced = rl_trial([0.0], **{"metacontroller.forced_switch": True})
    assert comparison.method_of("InternalRL", forced) == "forced switching, summary per step"
    forced.origin["discover.metacontroller.summary"] = "sequence"
    assert comparison.method_of("InternalRL", forced) == "forced switching"
    forced.origin |= {"discover.clean_slate": True, "discover.switch_cost": 0.4, "discover.turned_summaries": True}
    forced.origin["discover.metacontroller.read_at"] = "start"
    label = "forced switching, memory anew at every switch, turned summaries, a cost on switches"
    assert comparison.method_of("InternalRL", forced) == label
    forced.origin |= {"discover.co_training": "pretrained", "pretrain.window_share": 0.7}
    label = (
        "co-training from the pretrained base, memory anew at every switch, turned summaries, a cost on switches, "
        "base trained on windows"
    )
    assert comparison.method_of("InternalRL", forced) == label
    forced.origin["discover.metacontroller.read_at"] = "end"
    told = label.replace("switch, turned", "switch, codes read at the end, turned")
    assert comparison.method_of("InternalRL", forced) == told
    thresholds = ((0.0, "forced switching in RL alone, taught codes"), (1e-9, f"{TAUGHT}, switch threshold 1e-09"))
    for threshold, label in thresholds:
        assert comparison.method_of("InternalRL", rl_trial([0.0], {"switch_threshold": threshold})) == label
    plain = rl_trial([0.0], {"clean_slate": True}, **{"teacher.steps": 0, "clean_slate": True})
    plain.origin["discover.metacontroller.summary"] = "sequence"
    label = "internal RL, codes of the plain objective, memory anew at every switch, clean slate in RL"
    assert comparison.method_of("InternalRL", plain) == label
    plain.params |= {"clean_slate": False, "switch_threshold": 0, "action_temperature": 1.0}
    label = "codes of the plain objective, memory anew at every switch, actions at temperature 1"
    assert comparison.method_of("InternalRL", plain) == f"forced switching in RL alone, {label}"
    falling = rl_trial([0.0], {"lr": "[[0, 0.01], [9, 0.001]]", "action_temperature": 1.0})
    assert comparison.method_of("RawRL", falling) == "RL on raw actions, lr [[0, 0.01], [9, 0.001]]"
    falling.origin["pretrain.window_share"] = 0.7
    label = "RL on raw actions, lr [[0, 0.01], [9, 0.001]], base trained on windows"
    assert comparison.method_of("RawRL", falling) == label
    unknown = TrialResult(forced.params, {}, forced.curve)
    assert comparison.method_of("InternalRL", unknown) == "codes of unknown origin"


def test_methods_are_compared_after_as_many_episodes_as_each_has():
    found = some_results()
    found.experiments[1:] = [ExperimentResult("gridworld_whole_raw", "RawRL", "1", [rl_trial([0.0, 0.1] * 3)])]  # at .3
    found.experiments[0].trials = [rl_trial([0.0] * 5 + [0.8] * 7, {"seed": seed}) for seed in range(2)]
    header, rows = comparison.method_table(found)
    told = {row[1]: dict(zip(header, row)) for row in rows}
    internal, raw = told[TAUGHT], told["RL on raw actions, lr 0.003, actions at temperature 0.3"]
    assert (internal["E episodes, which every method has"], internal["N episodes"]) == ("3000", "6000")
    assert internal["success after E: median (quartiles)"] == "0.160 (0.160–0.160)"  # one of the last five updates
    assert internal["success after N: median (quartiles)"] == "0.800 (0.800–0.800)"
    assert raw["N episodes"] == "3000" and raw["success after E: median (quartiles)"] == "0.060"


def test_runs_in_the_papers_world_are_not_pooled_with_the_small_ones():
    found, medium = some_results(), rl_trial([0.5] * 12, {"env_config.preset": "medium"})
    found.experiments.append(ExperimentResult("gridworld_internal_medium", "InternalRL", "1", [medium]))
    assert {k: len(v) for k, v in comparison.methods(found, "gridworld, medium").items()} == {TAUGHT: 1}
    assert len(comparison.methods(found, "gridworld")[TAUGHT]) == 3
    assert [row[0] for row in comparison.method_table(found)[1]].count("gridworld, medium") == 1


def test_a_run_stays_beside_a_shorter_one_and_not_beside_itself():
    def experiment(date, updates):
        return ExperimentResult("gridworld_taught_internal", "InternalRL", date, [rl_trial([0.5] * updates)])

    kept = results._each_once([experiment("1", 12), experiment("2", 6), experiment("3", 12)])
    assert sorted((e.date, len(e.trials[0].curve)) for e in kept) == [("2", 6), ("3", 12)]


def test_the_page_says_what_was_not_run_and_repeats_itself(tmp_path, capsys):
    folder = tmp_path / "stored"
    results.store(some_results(), folder)
    pages = []
    for name in ("a", "b"):
        assert main(["report", str(folder), "--out", str(tmp_path / name)]) == 0
        pages.append((tmp_path / name / "index.html").read_text())
    out = capsys.readouterr().out
    assert pages[0] == pages[1]
    assert "not run: fig3_probe" in out and "tuned_configs/gridworld_question_mixer.yaml" in pages[0]
    assert "http://" not in pages[0].replace("http://www.w3.org", "")  # nothing is fetched
    for name in ("fig7_rate_distortion", "fig8_learning", "sweep_alpha"):
        assert all((tmp_path / "a" / f"{name}{suffix}").stat().st_size for suffix in (".svg", ".png", ".csv"))
    with (tmp_path / "a" / "fig7_rate_distortion.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["alpha"], r["rate"], r["distortion"]) for r in rows[:1]] == [("0.1", "0.9", "0.1")]
    assert {r["seed"] for r in rows} == {"0", "1"}  # neither stopped runs nor those of a search


def test_a_sweep_over_goals_shows_the_runs_whose_memory_starts_anew():
    def found(alpha, seed, anew=True, told=0.95, **settings):
        f1 = {"switch_f1": 0.3, "switch_f1_legs": 0.8 + alpha, "switches_per_episode": 6.0}
        codes = {"code_target_accuracy": 0.9, "code_subgoal_accuracy": told, "injected_success": 0.1}
        by_colour = {"injected_success_by_colour": 0.7, "injected_success_by_colour_training_tasks": 0.8}
        return TrialResult(
            {"alpha": alpha, "seed": seed, "clean_slate": anew} | settings,
            f1 | codes | by_colour | {"kl": 1.0, "action_nll": 0.1},
        )

    other = [found(alpha, 0, anew=False, told=0.3) for alpha in (0.0, 0.7)]
    other += [found(0.2, 0, co_training="scratch"), found(0.2, 0, start_from="x"), found(0.2, 0, turned_summaries=True)]
    other.append(found(0.2, 0, **{"metacontroller.read_at": "end"}))
    seeds = [[found(0.1, 0), found(0.5, 0)], [found(0.1, 1), found(0.5, 1, told=0.4)]]
    sweeps = Results([ExperimentResult("goals", "Discover", str(i), t + other) for i, t in enumerate(seeds)], [])
    plt = figure_module(Path("x.svg"))
    drawn = figures.goals_figure("alpha", "α", symlog=0.05)(plt, sweeps)
    rates = figures.rate_distortion(plt, sweeps)
    plt.close("all")
    assert "frozen, from scratch, memory anew at switches: 0 of 4 runs" in rates.words
    assert "from scratch: 0 of 4 runs" in rates.words and len(rates.rows) == 12
    assert {row[1:3] for row in drawn.rows} == {(a, s) for a in (0.1, 0.5) for s in (0, 1)}
    assert [row[3] for row in drawn.rows if row[0] == "switch_f1_legs"] == pytest.approx([0.9, 1.3, 0.9, 1.3])
    assert drawn.words == "codes tell the subgoal (probe above .9 in every run) at α 0.1; of 0.1, 0.5."
    assert figures.goals_figure("alpha", "α")(plt, some_results()) is None
    later = [ExperimentResult(name, "Discover", name, [found(a, 0)]) for name, a in (("goals", 0.3), ("alone", 0.9))]
    drawn = figures.goals_figure("alpha", "α")(plt, Results([*sweeps.experiments, *later], []))
    plt.close("all")
    assert {row[1] for row in drawn.rows} == {0.1, 0.3, 0.5}  # no run of another name


def test_folders_of_tune_are_read_and_kept_without_paths(tmp_path, tiny_weights):
    trial = tmp_path / "results" / "x_internal_20260101-120000" / "InternalRL_abc_00000"
    trial.mkdir(parents=True)
    settings = {
        "env": "irl_ray/GridPinpad-v0",
        "metacontroller": str(tiny_weights),
        "lr": 1e-3,
        "seed": 4,
        "num_gpus": 0,
    }
    (trial / "params.json").write_text(json.dumps(settings))
    lines = [
        {"env_runners": {"num_episodes_lifetime": 10 * i, "success_rate": 0.1 * i}, "done": i == 2} for i in (1, 2)
    ]
    (trial / "result.json").write_text("\n".join(map(json.dumps, lines)) + '\n{"cut')
    found = results.read([tmp_path / "results"])
    (experiment,) = found.experiments
    assert (experiment.name, experiment.run) == ("x_internal", "InternalRL")
    assert experiment.trials[0].curve == [[10, 0.1], [20, 0.2]] and experiment.trials[0].finished
    assert "num_gpus" not in experiment.trials[0].params
    (path,) = results.store(found, tmp_path / "kept")
    assert str(tmp_path) not in path.read_text()
    again = results.read([tmp_path / "kept"]).experiments[0]
    assert again == experiment
    both = results.read([tmp_path / "kept", tmp_path / "results"])
    assert sum(len(e.trials) for e in both.experiments) == 1  # the same run twice is one run
    path.write_text(json.dumps({"kind": "experiment", "trials": [{"x": 1}]}))
    with pytest.raises(UserError, match="another version"):
        results.read([tmp_path / "kept"])


def test_settings_of_a_preset_tell_runs_apart_as_those_of_a_file_do(tmp_path):
    trial = tmp_path / "x_20260101-120000" / "DiscoverTrainable_abc_00000"
    (trial / "checkpoint_000000" / "artefact").mkdir(parents=True)
    (trial / "params.json").write_text(json.dumps({"preset": "small", "cut_share": 0.5}))
    (trial / "result.json").write_text(json.dumps({"switch_f1": 0.9, "done": True}))
    effective = {"clean_slate": True, "cut_share": 0.5, "metacontroller": {"summary": "sequence"}, "steps": 4000}
    card = {"provenance": {"discover": {"config": effective}}}
    (trial / "checkpoint_000000" / "artefact" / "config.json").write_text(json.dumps(card))
    (experiment,) = results.read([tmp_path]).experiments
    told = {"clean_slate": True, "cut_share": 0.5, "metacontroller.summary": "sequence", "preset": "small"}
    assert experiment.trials[0].params == told


def test_looks_inside_and_open_questions_are_drawn(tiny_weights, tmp_path):
    """What the four commands write goes through every figure made of it; the reference run answers each question."""
    extra = {
        "control": ["--steps", "2", "--layers", "0"],
        "codes": ["--step", "5"],
        "variance": ["--lengths", "1", "3"],
    }
    for name in ("probe", "control", "codes", "variance"):
        out = ["--out", str(tmp_path / "in" / f"{name}.json")]
        assert main([name, str(tiny_weights), "--episodes", "32", *extra.get(name, []), *out]) == 0
    gates = {"eval/action_nll": 0.3, "floor/bayes": 0.26, "probe_accuracy/layer_0": 0.5, "probe_accuracy/chance": 0.3}
    pretrained = {
        "gridworld_question_mixer_pretrain": [{"model.mixer": m} for m in ("transformer", "hawk")],
        "gridworld_question_noise_pretrain": [{"noise": 0.2}],
    }
    experiments = [
        ExperimentResult(name, "Pretrain", "1", [TrialResult(params, gates) for params in settings])
        for name, settings in pretrained.items()
    ]
    results.store(Results(experiments, []), tmp_path / "in")
    found = results.read([tmp_path / "in"])
    mixer, tasks, noise, alpha = (question.answer(found) for question in questions.QUESTIONS)
    assert [row[0] for row in mixer.rows] == ["hawk", "transformer"]
    assert tasks is alpha is None and [row[0] for row in noise.rows] == [0.0, 0.2]
    assert "ends 0.040 nats per step above" in mixer.words
    assert main(["report", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 0
    for name in ("fig3_probe", "figA1_probe_time", "fig4_control", "fig6_switches", "figE2_variance"):
        assert (tmp_path / "out" / f"{name}.svg").stat().st_size
    page = (tmp_path / "out" / "index.html").read_text()
    assert str(tmp_path) not in page and "irl-ray variance tiny" in page


def test_open_questions_are_answered_by_numbers():
    """Medians over seeds, and episodes to half of the runs that get anywhere."""
    gates = {"eval/action_nll": 0.3, "floor/bayes": 0.26, "probe_accuracy/layer_0": 0.5, "probe_accuracy/chance": 0.3}
    bases = [TrialResult({"noise": noise}, gates) for noise in (0.0, 0.1)]
    rl = [rl_trial([0.0, 0.4, 0.8, 0.8, 0.8, 0.8, 0.8]), rl_trial([0.0] * 7)]
    for trial in rl:
        trial.origin["pretrain.noise"] = 0.1
    found = {"kl": 0.5, "action_nll": 0.1, "switches_per_episode": 3.0, "switch_f1": 0.5, "injected_success": 0.1}
    sweep = [
        TrialResult({"alpha": a, "seed": s}, {**found, "code_subgoal_accuracy": a + s, "code_subgoal_chance": 0.3})
        for a in (0.001, 10.0)
        for s in (0, 1, 2)
    ]
    told = Results(
        [
            ExperimentResult("gridworld_question_mixer_pretrain", "Pretrain", "1", bases[:1]),
            ExperimentResult("gridworld_question_noise_pretrain", "Pretrain", "1", bases[1:]),
            ExperimentResult("gridworld_question_noise", "InternalRL", "1", rl),
            ExperimentResult("gridworld_whole_alpha_orders", "Discover", "1", sweep),
        ],
        [],
    )
    *_, noise, alpha = (question.answer(told) for question in questions.QUESTIONS)
    assert [row[0] for row in noise.rows] == [0.0, 0.1]
    assert noise.rows[1][-2:] == ("0.400", "1500 (1 of 2 runs)") and noise.rows[0][-1] == "-"
    assert "runs of RL: 2" in noise.words
    assert [(row[0], row[1], row[6]) for row in alpha.rows] == [(0.001, 3, "1.001"), (10.0, 3, "11.000")]
    assert "6 runs from α 0.001 to 10" in alpha.words and "12.00" in alpha.words


def test_nothing_to_report_costs_one_line(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "absent"):
        assert main(["report", str(tmp_path / folder), "--out", str(tmp_path / "out")]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_from_nothing_runs_what_is_missing_and_reports_it(tmp_path, monkeypatch, capsys):
    looks = (
        ("probe", "gridworld", "--episodes", "32"),
        ("variance", "gridworld", "--episodes", "16", "--lengths", "1"),
    )
    for name, value in (("EXPERIMENTS", ()), ("LOOKS", looks), ("ANT_DATA", str(tmp_path))):
        monkeypatch.setattr(report, name, value)
    (tmp_path / "runs" / "inside").mkdir(parents=True)
    kept = tmp_path / "runs" / "inside" / "gridworld_variance.json"
    kept.write_text("{}")
    assert main(["report", "--from-nothing", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    assert kept.read_text() == "{}"  # it was there already
    assert "irl-ray probe gridworld --episodes 32" in (tmp_path / "out" / "index.html").read_text()
    monkeypatch.setattr(report, "ANT_DATA", str(tmp_path / "absent"))
    assert main(["report", "--from-nothing", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 2
    assert "collected first" in capsys.readouterr().err
