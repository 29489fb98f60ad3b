"""The command lines: files, mistakes, a real run with resuming, evaluation."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from ray import tune
from ray.util import debug

from irl_ray.cli import experiment, progress, runner, scheduling
from irl_ray.cli.irl_ray import main as irl_ray
from irl_ray.cli.rllib import main as rllib
from irl_ray.cli.text import duration
from irl_ray.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
INTERNAL = """
tiny:
  run: InternalRL
  env: irl_ray/GridPinpad-v0
  stop: {{training_iteration: {iterations}}}
  checkpoint_config: {{checkpoint_frequency: 1}}
  config:
    env_config: {{preset: tiny, tasks: post_two_pairs}}
    metacontroller: {weights}
    lr: 1e-3
    train_batch_episodes: 32
"""


def write(folder, text, name="x.yaml"):
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", sorted(ROOT.glob("tuned_configs/*.yaml")), ids=lambda p: p.stem)
def test_every_tuned_config_is_valid(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    for one in experiment.read_file(path):
        assert one.run


@pytest.mark.parametrize(
    "text, told",
    [
        ("- a\n- b\n", "mapping"),
        ("x: [", "not readable"),
        ("x: 3\n", "mapping with the keys"),
        ("x: {run: InternlRL}\n", "InternalRL"),
        ("x: {run: Pretrain, stopp: {}}\n", "stop"),
        ("x: {run: Pretrain, config: {stepps: 3}}\n", "steps"),
        ("x: {run: Pretrain, config: {steps: lots}}\n", "steps"),
        ("x: {run: Pretrain, stop: {step: soon}}\n", "stop.step"),
        ("x: {run: Pretrain, num_samples: 0}\n", "num_samples"),
        ("x: {run: Pretrain, checkpoint_config: {every: 3}}\n", "every"),
        ("x: {run: Pretrain, config: {steps: {grid_search: []}}}\n", "grid_search"),
        ("x: {run: Discover, config: {base: nowhere}}\n", "nowhere"),
        ("x: {run: InternalRL, config: {metacontroler: gridworld}}\n", "metacontroller"),
        ("x: {run: InternalRL, config: {env_config: {grid_size: 9}}}\n", "grid_size"),
        ("x: {run: InternalRL, config: {env_config: {colours: 9}}}\n", "colours"),
        ("x: {run: PPO, config: {lrr: 1}}\n", "lr"),
    ],
)
def test_mistakes_in_files_cost_one_line_and_exit_code_2(text, told, tmp_path, capsys):
    path = write(tmp_path, text)
    assert rllib(["train", "file", str(path), "--storage-path", str(tmp_path / "results")]) == 2
    error = capsys.readouterr().err
    assert told in error and str(path) in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "results").exists()


def test_missing_file_suggests_one(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert rllib(["train", "file", "tuned_configs/gridworld_interal.yaml"]) == 2
    assert "gridworld_internal.yaml" in capsys.readouterr().err


def test_numbers_with_exponents_and_json(tmp_path, tiny_weights):
    (one,) = experiment.read_file(write(tmp_path, INTERNAL.format(iterations=1, weights=tiny_weights)))
    assert one.config["lr"] == 1e-3
    spec = {"y": {"run": "Pretrain", "config": {"preset": "tiny", "seed": {"grid_search": [0, 1]}}}}
    (two,) = experiment.read_file(write(tmp_path, json.dumps(spec), "y.json"))
    assert [v["seed"] for v in experiment.variants(two.config)] == [0, 1]


def test_python_files(tmp_path, tiny_weights):
    text = (
        "from irl_ray import InternalRLConfig\n"
        "config = (InternalRLConfig().environment('irl_ray/GridPinpad-v0', env_config={'preset': 'tiny'})"
        f".internal(metacontroller={str(tiny_weights)!r}))\nstop = {{'training_iteration': 1}}\n"
    )
    (one,) = experiment.read_file(write(tmp_path, text, "z.py"))
    assert one.run == "InternalRL" and one.stop == {"training_iteration": 1}


def test_flags_win_only_when_given(tmp_path, tiny_weights):
    from irl_ray.cli.rllib import _apply_flags, parser

    path = write(tmp_path, INTERNAL.format(iterations=7, weights=tiny_weights))
    (one,) = experiment.read_file(path)
    _apply_flags(one, parser().parse_args(["train", "file", str(path)]), [one.name])
    assert one.config["lr"] == 1e-3
    assert one.stop == {"training_iteration": 7} and one.checkpoint == {"checkpoint_frequency": 1}
    (one,) = experiment.read_file(path, {"lr": 0.5})
    flags = ["--stop", '{"training_iteration": 2}', "--checkpoint-freq", "9"]
    _apply_flags(one, parser().parse_args(["train", "file", str(path), *flags]), [one.name])
    assert one.stop == {"training_iteration": 2} and one.config["lr"] == 0.5
    assert one.checkpoint == {"checkpoint_frequency": 9}


def test_progress_helpers():
    assert duration(75) == "1m15s" and duration(3700) == "1h01m"
    nested = {"env_runners": {"a": 1}, "x/y": 2}
    assert progress.look_up(nested, "env_runners/a") == 1 and progress.look_up(nested, "x/y") == 2
    assert progress.look_up(nested, "env_runners/b") is None
    result = {"env_runners": {"num_episodes_lifetime": 50}}
    assert progress.share_done(result, {"env_runners/num_episodes_lifetime": 200}) == 0.25


def test_examples(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert rllib(["example", "list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    first = next(i for i, line in enumerate(listed) if line.startswith("gridworld_pairs "))
    assert [line.split()[:2] for line in listed[first : first + 4]] == [
        ["gridworld_pairs", "Discover"], ["then", "Discover"], ["then", "Discover"], ["then", "InternalRL"],
    ]  # fmt: skip
    assert rllib(["example", "get", "gridworld_internal"]) == 0
    assert "run: InternalRL" in capsys.readouterr().out
    assert rllib(["example", "get", "gridworld_internl"]) == 2


def command(arguments, folder):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "irl_ray.cli.rllib", *arguments],
        cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_too_few_cpus_are_an_error_not_a_wait(tmp_path, tiny_weights):
    path = write(tmp_path, INTERNAL.format(iterations=1, weights=tiny_weights) + "    num_env_runners: 50\n")
    process = command(["train", "file", str(path), "--ray-num-cpus", "2"], tmp_path)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "needs 51 CPU" in error and "has 2" in error


def test_train_interrupt_resume_evaluate(tmp_path, tiny_weights):
    path = write(tmp_path, INTERNAL.format(iterations=60, weights=tiny_weights))
    process = command(["train", "file", str(path), "--ray-num-cpus", "2"], tmp_path)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("results/*/*/checkpoint_*")) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=120)
    assert process.returncode == 130, error
    assert "rllib resume" in out
    (folder,) = tmp_path.glob("results/tiny_*")
    rows = [json.loads(line) for line in next(folder.glob("*/result.json")).read_text().splitlines()]
    assert rows[-1]["training_iteration"] < 60
    process = command(["resume", str(folder), "--ray-num-cpus", "2"], tmp_path)
    out, error = process.communicate(timeout=240)
    assert process.returncode == 0, error
    rows = [json.loads(line) for line in next(folder.glob("*/result.json")).read_text().splitlines()]
    assert rows[-1]["training_iteration"] == 60
    assert rows[-1]["env_runners"]["num_episodes_lifetime"] == 60 * 32
    assert list(folder.glob("*/events.out.tfevents*"))
    picture, result = tmp_path / "episode.gif", tmp_path / "result.json"
    arguments = ["evaluate", str(folder), "--episodes", "16", "--render", str(picture), "--out", str(result)]
    assert rllib(arguments) == 0
    told = json.loads(result.read_text())
    assert told["acting"] == "policy over codes" and told["tasks"] == "0-1-2-3"
    assert picture.read_bytes()[:3] == b"GIF"


CHAIN = """
a:
  run: Pretrain
  config: {preset: tiny, steps: 20, seed: {grid_search: [0, 1]}, gate_episodes: 32, control_steps: 0}
a_codes:
  run: Discover
  scheduler: asha
  scheduler_config: {metric: gate_score, max_t: 40, grace_period: 20}
  config:
    preset: tiny
    base: {result_of: a}
    steps: 40
    alpha: {loguniform: [0.01, 1.0]}
    gates_at_reports: true
    gate_episodes: 32
a_rl:
  run: InternalRL
  env: irl_ray/GridPinpad-v0
  stop: {training_iteration: 1}
  config:
    env_config: {preset: tiny, tasks: post_two_pairs}
    metacontroller: {result_of: a_codes}
    train_batch_episodes: 16
"""


def test_a_file_of_experiments_runs_in_order_and_is_carried_on(tmp_path):
    """Two base models, a draw of α on each under ASHA, RL over every result; --resume runs what is missing."""
    from irl_ray.analysis import results

    text = CHAIN.split("a_rl:")[0]
    path = write(tmp_path, text)
    process = command(["train", "file", str(path), "--ray-num-cpus", "2"], tmp_path)
    _, error = process.communicate(timeout=240)
    assert process.returncode == 0, error
    write(tmp_path, CHAIN)
    process = command(["train", "file", str(path), "--ray-num-cpus", "2", "--resume"], tmp_path)
    out, error = process.communicate(timeout=240)
    assert process.returncode == 0, error
    assert len(list((tmp_path / "results").glob("*_20*"))) == 3  # what was finished was not run again
    found = {e.name: e for e in results.read([tmp_path / "results"]).experiments}
    assert {name: len(e.trials) for name, e in found.items()} == {"a": 2, "a_codes": 2, "a_rl": 2}
    assert len({t.params["alpha"] for t in found["a_codes"].trials}) == 2
    assert sorted(t.origin["pretrain.seed"] for t in found["a_rl"].trials) == [0, 1]
    rows = out.partition("a_rl: InternalRL")[2].splitlines()
    shown = {" ".join(row.split()[1:3]) for row in rows if row.startswith(("0 ", "1 "))}
    made = {(t.origin["pretrain.seed"], t.params["alpha"]) for t in found["a_codes"].trials}
    assert shown == {f"seed={seed} alpha={alpha:.6g}" for seed, alpha in made}  # of what it starts from, not a path


def test_asha_stops_what_falls_behind_and_pauses_on_ctrl_c(monkeypatch):
    settings = {"metric": "gate_score", "max_t": 100, "grace_period": 10, "reduction_factor": 2}
    scheduler = scheduling.scheduler_of(
        experiment.Experiment("x", "Discover", {}, scheduler="asha", scheduler_config=settings)
    )
    decided = []
    for number, score in enumerate((0.8, 0.6, 0.9, 0.1)):
        trial = SimpleNamespace(trial_id=str(number), status="PENDING", checkpoint=None)
        scheduler.on_trial_add(None, trial)
        decided.append(scheduler.on_trial_result(None, trial, {"step": 10, "gate_score": score}))
    assert decided == ["CONTINUE", "STOP", "CONTINUE", "STOP"]
    monkeypatch.setattr(scheduling.Interrupt, "requested", True)
    assert scheduler.on_trial_result(None, trial, {"step": 20, "gate_score": 0.9}) == "PAUSE"


def test_answers_and_log_keys_of_a_trial_are_let_go_of(tmp_path, monkeypatch):
    """Tune's process stays as large as it is, however many results there are."""

    class Counts(tune.Trainable):
        def step(self) -> dict:
            return {}

        def save_checkpoint(self, folder: str) -> None:
            pass

    held, let_go = [], scheduling._let_go_of_answers
    keys, let_go_of_keys = [], scheduling._let_go_of_log_keys

    def counted(manager) -> None:
        let_go(manager)
        held.append(sum(map(len, manager._tracked_actors_to_task_futures.values())))

    def counted_keys() -> None:
        count = lambda: sum(key.startswith("tune_func_encode:") for key in list(debug._logged))  # noqa: E731
        before = count()
        let_go_of_keys()
        keys.append((before, count()))

    monkeypatch.setattr(scheduling, "_let_go_of_answers", counted)
    monkeypatch.setattr(scheduling, "_let_go_of_log_keys", counted_keys)
    runner.start_ray(None, num_cpus=1)
    settings = tune.TuneConfig(scheduler=scheduling.PausingScheduler())
    told = tune.RunConfig(storage_path=str(tmp_path), stop={"training_iteration": 40}, verbose=0)
    try:
        assert not tune.Tuner(Counts, tune_config=settings, run_config=told).fit().errors
    finally:
        ray.shutdown()
    assert len(held) > 40 and max(held) <= 2
    assert any(before for before, _ in keys)  # Tune does add them, under the name that is looked for
    assert not any(after for _, after in keys)


@pytest.mark.parametrize(
    "error", [pickle.UnpicklingError("pickle data was truncated"), OSError("disk full"), EOFError()]
)
def test_what_tune_cannot_read_back_costs_a_line(error, capsys):
    def fit() -> None:
        raise error

    assert runner._fit(SimpleNamespace(fit=fit), "results/x") == 1
    assert "rllib resume results/x" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text, told",
    [
        (CHAIN.replace("result_of: a}", "result_of: b}"), "no experiment above it"),
        (CHAIN.replace("asha", "ashar"), "ashar"),
        (CHAIN.replace("metric: gate_score", "metrik: gate_score"), "metrik"),
        (CHAIN.replace("{loguniform: [0.01, 1.0]}", "{loguniform: [0.0, 1.0]}"), "loguniform"),
        (CHAIN.replace("{loguniform: [0.01, 1.0]}", "{uniform: [2, 1]}"), "uniform"),
        (CHAIN.replace("steps: 40", "steps: {uniform: [40, 60]}"), "integer"),
        (CHAIN.replace("max_t: 40", "max_t: soon"), "max_t"),
        (CHAIN.replace("max_t: 40", "max_t: 10"), "grace_period"),
        (CHAIN.replace("gates_at_reports: true", "gates_at_reports: false"), "gates_at_reports"),
        (CHAIN.replace("{metric: gate_score, max_t: 40, grace_period: 20}", "5"), "mapping"),
        (CHAIN.replace("base: {result_of: a}", "base: gridworld\n    data: {result_of: a}"), "stands alone"),
    ],
)
def test_mistakes_in_chains_and_searches_cost_one_line(text, told, tmp_path, capsys):
    assert rllib(["train", "file", str(write(tmp_path, text))]) == 2
    error = capsys.readouterr().err
    assert told in error and len(error.strip().splitlines()) == 1


def test_flags_that_can_mean_one_experiment_only_are_refused_for_several(tmp_path, capsys):
    for flag in (["--stop", '{"step": 1}'], ["--experiment-name", "x"], ["--num-samples", "2"]):
        assert rllib(["train", "file", str(write(tmp_path, CHAIN)), *flag]) == 2
        assert "holds 3 experiments" in capsys.readouterr().err


def test_resume_and_evaluate_name_what_is_missing(tmp_path, capsys):
    assert rllib(["resume", str(tmp_path / "nothing")]) == 2
    assert rllib(["evaluate", "gridwrold"]) == 2
    assert "gridworld" in capsys.readouterr().err
    for command in ("evaluate", "resume"):  # what a shell makes of results/run_*
        with pytest.raises(SystemExit) as ended:
            rllib([command, "results/run_20260101", "results/run_20260102"])
        assert ended.value.code == 2 and "at a time, got results/run_20260101, results/" in capsys.readouterr().err


def test_phases_run_without_ray(tmp_path, capsys):
    path = write(tmp_path, "t: {run: Pretrain, config: {preset: tiny, steps: 4, report_every: 2, control_steps: 0}}\n")
    command = ["phase", str(path), "--out", str(tmp_path / "w")]
    assert irl_ray([*command, "--minutes", "0.00001"]) == 0
    assert "the same command goes on" in capsys.readouterr().out and not (tmp_path / "w" / "config.json").exists()
    assert irl_ray(command) == 0
    assert "going on from step 2" in capsys.readouterr().out
    assert irl_ray(["card", str(tmp_path / "w")]) == 0
    assert "floor/bayes" in capsys.readouterr().out
    assert irl_ray(["phase", str(path), "--out", str(tmp_path / "w"), "--config", '{"seed": 1}']) == 2
    assert "other settings" in capsys.readouterr().err
    assert irl_ray(["phase", str(tmp_path / "none.yaml"), "--out", "w"]) == 2


def test_curve_needs_results(tmp_path):
    from irl_ray.analysis.curves import read_runs
    from irl_ray.analysis.statistics import quartiles

    with pytest.raises(UserError, match="results of rllib train"):
        read_runs(tmp_path)
    import numpy as np

    runs = [(np.array([0.0, 10.0]), np.array([0.0, v])) for v in (0.2, 0.4, 0.9)]
    grid, (low, median, high) = quartiles(runs, points=3)
    assert grid.tolist() == [0, 5, 10] and median[-1] == pytest.approx(0.4)
    assert low[-1] == pytest.approx(0.3) and high[-1] == pytest.approx(0.65)


def test_lessons_show_that_codes_of_actions_pay_at_once(tiny_weights, tmp_path, capsys):
    out = tmp_path / "lessons.png"
    assert irl_ray(["lessons", str(tiny_weights), "--out", str(out), "--steps", "80"]) == 0
    rows = [line.split(",") for line in out.with_suffix(".csv").read_text().splitlines()[1:]]
    last = {codes: float(nll) for codes, _, nll in rows}
    assert out.stat().st_size > 10_000
    assert last["action"] < last["none"]
    assert irl_ray(["lessons", str(tiny_weights), "plain", "--out", str(out)]) == 2
    assert "LABEL=FOLDER" in capsys.readouterr().err
