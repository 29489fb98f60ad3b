"""Folders of runs, what may change as they are carried on, and what they wait for: without Ray, mostly."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.rllib.algorithms.bc import BCConfig
from ray.tune.experiment import Trial
from test_cli import INTERNAL, ROOT, command, write

from irl_ray import places
from irl_ray.cli import experiment, placement, rllib, runner, runs
from irl_ray.cli.connecting import check_answers
from irl_ray.cli.experiment import Experiment, parse, read_file
from irl_ray.cli.metrics import WatchedMetrics, closest
from irl_ray.cli.resuming import Changes
from irl_ray.cli.rllib import main
from irl_ray.cli.text import json_object
from irl_ray.errors import UserError

PRETRAIN = {"run": "Pretrain", "config": {"preset": "tiny"}}


# Names and keys.


@pytest.mark.parametrize("name", ["", " ", ".", "..", "../x", "/x", "a/b", "a\\b", "a\nb", "a?b", "a#b", "x" * 181])
def test_names_stay_in_the_storage(name: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({name: PRETRAIN}))
    good = tmp_path / "y.json"
    good.write_text(json.dumps({"y": PRETRAIN}))
    for arguments in (["file", str(path)], ["file", str(good), "--experiment-name", name]):
        assert main(["train", *arguments, "--storage-path", str(tmp_path / "results")]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and repr(name) in said and "--storage-path" in said
    assert {found.name for found in tmp_path.iterdir()} == {"x.json", "y.json"}


@pytest.mark.parametrize(
    "text, key",
    [
        ("a: {run: Pretrain}\nb: {run: Pretrain}\na: {run: Discover}\n", "a"),
        ("a: {run: Pretrain, run: Discover}\n", "run"),
        ("a:\n  run: Pretrain\n  config:\n    optimizer:\n      learning_rate: 1e-3\n      learning_rate: 1e-4\n",
         "learning_rate"),
        ("a: {run: Pretrain, config: {steps: {grid_search: [1], grid_search: [2]}}}\n", "grid_search"),
        ("1: {run: Pretrain}\n'1': {run: Pretrain}\n", "1"),
        ("x: &x {run: Pretrain}\ny: {<<: *x, stop: {step: 1}, stop: {step: 2}}\n", "stop"),
    ],
)  # fmt: skip
def test_what_stands_twice_in_yaml_is_an_error(text: str, key: str, tmp_path: Path):
    with pytest.raises(UserError, match=rf"x\.yaml: {key}: stands twice in the same mapping \(lines \d and \d\)"):
        read_file(write(tmp_path, text))


def test_what_is_laid_over_in_yaml_stands_once(tmp_path: Path):
    """An anchor's keys, and a mapping's of its own over them, also where that one is an anchor again."""
    text = (
        "a: &a\n  run: Pretrain\n  config: &c {preset: tiny, seed: 1}\nb: &b\n  <<: *a\n  config: {<<: *c, seed: 2}\n"
    )
    one, two, three = read_file(write(tmp_path, text + "c:\n  <<: *b\n  stop: {step: 1}\n"))
    assert [e.config["seed"] for e in (one, two, three)] == [1, 2, 2] and three.stop == {"step": 1}


def test_what_stands_twice_in_json_is_an_error(tmp_path: Path):
    path = write(tmp_path, '{"x": {"run": "Pretrain", "config": {"seed": 1, "seed": 2}}}', "x.json")
    with pytest.raises(UserError, match=r"x\.json: seed: stands twice"):
        read_file(path)
    with pytest.raises(argparse.ArgumentTypeError, match="lr: stands twice"):
        json_object('{"a": {"lr": 1, "lr": 2}}')


# Metrics, scores and schedulers.


@pytest.mark.parametrize(
    "spec, words",
    [
        ({"checkpoint_config": {"checkpoint_score_attribute": "action_nl"}}, "score_attribute.*'action_nll'"),
        ({"checkpoint_config": {"checkpoint_score_attribute": 3}}, "expected the name of a metric"),
        ({"checkpoint_config": {"checkpoint_score_order": "up"}}, "expected min or max"),
        (
            {"checkpoint_config": {"checkpoint_score_attribute": "min-step", "checkpoint_score_order": "max"}},
            "checkpoint_score_order",
        ),
        ({"stop": {"actoin_nll": 1}}, "stop.actoin_nll: Pretrain reports no actoin_nll. Did you mean 'action_nll'"),
        ({"scheduler": "asha", "scheduler_config": {"metric": "action_nl", "max_t": 2}}, "metric.*action_nll"),
        ({"run": "InternalRL", "stop": {"evaluation/env_runners/success_rate": 1}}, "evaluation_interval"),
        ({"run": "InternalRL", "stop": {"success_rate": 1}}, "'env_runners/success_rate'"),
    ],
)  # fmt: skip
def test_metrics_of_our_own_are_checked_before_the_start(spec: dict, words: str):
    with pytest.raises(UserError, match=words):
        parse("x", {"run": "Pretrain", **spec}, "x.yaml")


def test_evaluation_may_stop_a_run(tiny_weights: Path):
    config = {"metacontroller": str(tiny_weights), "env_config": {"preset": "tiny"}, "evaluation_interval": 1}
    spec = {"run": "InternalRL", "config": config, "stop": {"evaluation/env_runners/success_rate": 0.9}}
    assert parse("x", spec, "x.yaml").stop == spec["stop"]


def test_min_prefers_the_lowest():
    scored = {"checkpoint_score_attribute": "action_nll", "checkpoint_score_order": "min"}
    spec = {**PRETRAIN, "checkpoint_config": {"checkpoint_score_attribute": "min-action_nll"}}
    one = parse("x", spec, "x.yaml")
    assert one.checkpoint == scored
    options = rllib.parser().parse_args(["train", "--run", "Pretrain", "--checkpoint-score-attr", "min-step"])
    rllib._apply_flags(one, options, [one.name])
    assert one.checkpoint == {**scored, "checkpoint_score_attribute": "step"}


@pytest.mark.parametrize(
    "given, name",
    [("FIFO", "fifo"), ("ASHA", "asha"), ("AsyncHyperBand", "asha"), ("async_hyperband", "asha"),
     ("ASHAScheduler", "asha"), ("FIFOScheduler", "fifo")],
)  # fmt: skip
def test_schedulers_go_by_their_old_names(given: str, name: str):
    assert experiment.scheduler_name(given, "x") == name


@pytest.mark.parametrize(
    "given, words", [("PBT", "Tune's, and not offered"), ("asah", "Did you mean 'asha'"), (3, "3")]
)
def test_other_schedulers_cost_one_line(given: Any, words: str):
    with pytest.raises(UserError, match=words):
        experiment.scheduler_name(given, "--scheduler")


PPO = {
    "env_runners": {"episode_return_mean": 20.0, "episode_len_mean": 20.0, "num_episodes_lifetime": 3},
    "learners": {"default_policy": {"total_loss": 0.1}},
    "training_iteration": 1,
    "hostname": "x",
    "config": {"lr": 0.1},
}
NOT_YET = {**PPO, "env_runners": {"num_episodes_lifetime": 0}, "learners": {}}


def watched(metric: str, score: str | None = None, **config: Any) -> SimpleNamespace:
    manager = SimpleNamespace(checkpoint_config=SimpleNamespace(checkpoint_score_attribute=score))
    metadata, storage = SimpleNamespace(checkpoint_manager=manager), SimpleNamespace(experiment_fs_path="results/x")
    return SimpleNamespace(
        trial_id=metric, trainable_name="PPO", stopping_criterion={metric: 1.0}, config=config,
        run_metadata=metadata, storage=storage,
    )  # fmt: skip


@pytest.mark.parametrize(
    "metric, result, words",
    [
        ("episode_reward_mean", PPO, "results/x: stop.episode_reward_mean: PPO reports no .*rs/episode_return_mean"),
        ("env_runners/episode_retrun_mean", PPO, "env_runners/episode_return_mean"),
        ("hostname", PPO, "reports no hostname"),
        ("lr", PPO, "reports no lr"),
        ("evaluation/env_runners/episode_return_mean", PPO, "reports no evaluation"),
        ("learners/default_policy/loss", PPO, "total_loss"),
        ("episode_reward_mean", NOT_YET, "reports no"),
        ("training_iteration", PPO, None),
        ("env_runners/episode_return_mean", PPO, None),
        ("env_runners/episode_return_mean", NOT_YET, None),
        ("learners/default_policy/total_loss", NOT_YET, None),
    ],
)  # fmt: skip
def test_metrics_that_do_not_come_end_the_run(metric: str, result: dict, words: str | None):
    def look(trial: SimpleNamespace, **compared: str) -> None:
        callback = WatchedMetrics(compared)
        callback.on_trial_result(1, [], trial, result)
        callback.on_step_end(1, [])

    if words is None:
        look(watched(metric))
        return
    with pytest.raises(UserError, match=words):
        look(watched(metric))
    with pytest.raises(UserError, match="checkpoint_score_attribute"):
        look(watched("training_iteration", score=metric))
    with pytest.raises(UserError, match="results/x: metric"):
        look(watched("training_iteration"), metric=metric)


def test_evaluation_is_waited_for():
    callback, trial = WatchedMetrics({}), watched("evaluation/env_runners/episode_return_mean", evaluation_interval=2)
    callback.on_trial_result(1, [], trial, PPO)
    callback.on_trial_result(2, [], trial, {**PPO, "evaluation": {"env_runners": PPO["env_runners"]}})
    callback.on_step_end(2, [])
    callback = WatchedMetrics({})
    with pytest.raises(UserError, match="Did you mean"):
        callback.on_trial_result(2, [], trial, {**PPO, "evaluation": {"env_runners": {"episode_len_mean": 1.0}}})
        callback.on_step_end(2, [])
    assert closest("zzz", ["abc"]) == ""


def test_a_metric_that_ppo_does_not_report_ends_it_with_one_line(tmp_path: Path):
    config = json.dumps({"num_env_runners": 0, "minibatch_size": 64, "num_epochs": 1})
    stop = '{"env_runners/episode_retrun_mean": 100}'
    arguments = ["train", "--run", "PPO", "--env", "CartPole-v1", "--stop", stop, "--config", config]
    process = command([*arguments, "--ray-num-cpus", "1"], tmp_path)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 2, error
    assert error.count("\n") == 1 and "'env_runners/episode_return_mean'" in error


# Folders.


def made(storage: Path, name: str = "x", awaited: str | None = None, ended: bool | None = None, **settings: Any) -> str:
    """A run with one trial, as far as its folder goes."""
    one = Experiment(name, "Pretrain", settings or {"steps": 10}, {"step": 5})
    folder = runs.create(one, str(storage), 1, awaited)
    Path(folder, "PretrainTrainable_0").mkdir()
    if ended is not None:
        trial = [json.dumps({"trial_id": "a", "status": "TERMINATED" if ended else "PAUSED"}), "{}"]
        Path(folder, "experiment_state-2026-01-01_00-00-00.json").write_text(json.dumps({"trial_data": [trial]}))
    return folder


@pytest.mark.parametrize("remote", [False, True])
def test_runs_of_the_same_second_have_a_folder_each(tmp_path: Path, remote: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runs.time, "strftime", lambda *a: "20260101-120000")
    storage = (tmp_path / "results").as_uri() if remote else str(tmp_path / "results")
    one = Experiment("x", "Pretrain", {})
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: runs.create(one, storage, 1), range(24)))
    assert len(set(folders)) == 24
    for folder in folders:
        assert runs.read_record(folder)["experiment"]["name"] == "x"
        assert places.DATED.search(folder)[1] == "20260101-120000"
        assert places.DATED.sub("", places.split(folder)[1]) == "x"


def test_dates_in_names_are_utc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As clocks are put back, or on a machine elsewhere, the newer run has the later name."""
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        folder = made(tmp_path)
        assert abs(runs.started(folder) - time.time()) < 60
        stamp = time.strptime(places.DATED.search(folder)[1], "%Y%m%d-%H%M%S")
        assert abs(time.mktime(stamp) - time.mktime(time.gmtime())) < 60
        older = tmp_path / "x_20240101-120000"  # in local time, as they were before
        assert runs.started(str(older)) == pytest.approx(1704110400 + 5 * 3600)
    finally:
        monkeypatch.undo()
        time.tzset()


def test_the_newest_unfinished_run_is_carried_on(tmp_path: Path, capsys: pytest.CaptureFixture):
    assert runs.to_carry_on("x", str(tmp_path)) is None
    first = made(tmp_path, ended=True)
    second = made(tmp_path, ended=False)
    third = made(tmp_path, ended=False)
    assert runs.to_carry_on("x", str(tmp_path)) == third
    fourth = made(tmp_path, ended=True)
    assert runs.to_carry_on("x", str(tmp_path)) == third and fourth in capsys.readouterr().out
    made(tmp_path, name="x_y", ended=False)
    begun = Path(made(tmp_path))
    (begun / "PretrainTrainable_0").rmdir()  # it ended before its first trial began
    assert runs.to_carry_on("x", str(tmp_path)) == third
    for folder in (second, third):
        shutil.rmtree(folder)
    assert runs.to_carry_on("x", str(tmp_path)) == fourth and first != fourth


def test_more_trials_than_have_begun_are_unfinished(tmp_path: Path):
    folder = made(tmp_path, ended=True)
    assert runs.is_finished(folder)
    runs.write_record(folder, {**runs.read_record(folder), "trials": 2})
    assert not runs.is_finished(folder)
    config = {"a": {"grid_search": [1, 2]}, "b": {"c": {"grid_search": [1, 2, 3]}, "d": {"uniform": [0, 1]}}}
    assert experiment.count_trials(Experiment("x", "Pretrain", config, num_samples=2)) == 12


def test_a_chain_goes_on_from_what_it_started_from(tmp_path: Path):
    first, second = made(tmp_path, "a", ended=True), made(tmp_path, "a", ended=True)
    of_second = made(tmp_path, "b", awaited=second, ended=False)
    of_first = made(tmp_path, "b", awaited=first, ended=False)
    assert runs.to_carry_on("b", str(tmp_path), second) == of_second
    assert runs.to_carry_on("b", str(tmp_path), first) == of_first
    assert runs.to_carry_on("b", str(tmp_path), made(tmp_path, "a", ended=False)) is None


def test_edits_of_a_file_are_named(tmp_path: Path):
    folder = made(tmp_path / "here", lr=0.1, base=str(tmp_path / "here" / "base"), old=1)
    config = {"lr": 0.2, "base": str(tmp_path / "here" / "base"), "new": {"deep": 1}}
    edited = Experiment("x", "Pretrain", config, {"step": 7}, num_samples=2)
    told = ["config.lr: 0.1 -> 0.2", "config.old: 1 -> nothing", "stop.step: 5 -> 7", "num_samples: 1 -> 2",
            "config.new.deep: nothing -> 1"]  # fmt: skip
    assert sorted(runs.edits(edited, folder)) == sorted(told)
    (tmp_path / "here").rename(tmp_path / "there")  # together with the weights
    folder = folder.replace("here", "there")
    moved = Experiment("x", "Pretrain", {"lr": 0.1, "base": str(tmp_path / "there" / "base"), "old": 1}, {"step": 5})
    assert runs.edits(moved, folder) == []
    runs.write_record(folder, {**runs.read_record(folder), "changed": {"stop": {"step": 9}, "config": {"lr": 0.3}}})
    assert runs.edits(moved, folder) == ["config.lr: 0.3 -> 0.1", "stop.step: 9 -> 5"]


def test_a_run_is_held_by_one_process(tmp_path: Path):
    folder = made(tmp_path)
    with runs.held(folder):
        code = f"from irl_ray.cli import runs\nwith runs.held({folder!r}): pass"
        other = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
        assert "another process is running it" in other.stderr
    with runs.held(folder):
        pass


# What may change.


def trial(config: dict, stop: dict, result: dict, status: str = Trial.TERMINATED) -> Any:
    found = SimpleNamespace(trial_id="0", config=config, stopping_criterion=stop, last_result=result, status=status)
    found.set_status = lambda value: setattr(found, "status", value)
    found.set_config = lambda value: setattr(found, "config", value)
    found.create_placement_group_factory = lambda: None
    return found


@pytest.mark.parametrize(
    "run, stop, config, result, old, goes_on",
    [
        ("InternalRL", {"training_iteration": 9}, {}, {"training_iteration": 5}, {"training_iteration": 5}, True),
        ("InternalRL", {"training_iteration": 4}, {}, {"training_iteration": 5}, {"training_iteration": 5}, False),
        ("InternalRL", None, {}, {"training_iteration": 5}, {"training_iteration": 5}, False),
        # ended by ASHA
        ("InternalRL", {"training_iteration": 9}, {}, {"training_iteration": 3}, {"training_iteration": 5}, False),
        ("InternalRL", {"env_runners/success_rate": 0.9}, {}, {"env_runners": {"success_rate": 0.6}},
         {"env_runners/success_rate": 0.5}, True),
        ("Pretrain", None, {"steps": 20}, {"step": 10, "progress": 1.0}, {}, True),
        ("Pretrain", None, {"steps": 10}, {"step": 10, "progress": 1.0}, {}, False),
        ("Pretrain", {"step": 99}, {}, {"step": 10, "progress": 1.0}, {}, False),
        ("Pretrain", {"step": 8}, {}, {"step": 5, "progress": 0.5}, {"step": 5}, True),
    ],
)  # fmt: skip
def test_finished_trials_go_on_for_what_has_changed(run, stop, config, result, old, goes_on):
    one = trial({"steps": 10}, old, result)
    changes = Changes(run, "/a", "/a", stop, config, finished={"0"})
    assert changes.goes_on(one) == goes_on
    one.status = Trial.PENDING  # as Tune queues it
    changes.apply(one)
    assert one.status == (Trial.PENDING if goes_on else Trial.TERMINATED)
    assert one.config["steps"] == (config.get("steps", 10) if goes_on else 10)
    if goes_on and stop:
        assert one.stopping_criterion == stop


def test_weights_are_found_where_they_moved_with_the_run(tmp_path: Path):
    for place in ("new/results/a/artefact", "new/weights"):
        (tmp_path / place).mkdir(parents=True)
    old, now = tmp_path / "old" / "results" / "run", tmp_path / "new" / "results" / "run"
    changes = Changes("InternalRL", str(old), str(now))
    config = {"base": str(tmp_path / "old/results/a/artefact"), "data": str(tmp_path / "old/weights"), "lr": "/x",
              "metacontroller": "gridworld", "start_from": str(tmp_path / "old/gone")}  # fmt: skip
    found = changes.settings(config)
    assert found["base"] == str(tmp_path / "new/results/a/artefact") and found["data"] == str(tmp_path / "new/weights")
    assert {k: found[k] for k in ("lr", "metacontroller", "start_from")} == {
        k: config[k] for k in ("lr", "metacontroller", "start_from")
    }


def test_a_moved_project_is_carried_on_for_longer(tmp_path: Path, tiny_weights: Path, capsys: pytest.CaptureFixture):
    """SIGTERM, another place for the whole project, a later stop, and again a later one than it ended with."""
    shutil.copytree(tiny_weights, tmp_path / "old" / "weights")
    text = INTERNAL.format(iterations=500, weights="weights")
    path = write(tmp_path / "old", text)
    process = command(["train", "file", str(path), "--ray-num-cpus", "1"], tmp_path / "old")
    deadline = time.monotonic() + 240
    while not list(tmp_path.glob("old/results/*/*/checkpoint_*")) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    out, error = process.communicate(timeout=120)
    assert process.returncode == 143 and "rllib resume" in out, error
    (tmp_path / "old").rename(tmp_path / "new")
    (folder,) = tmp_path.glob("new/results/tiny_*")
    before = sorted(folder.rglob("*"))
    for wrong, words in (
        (["--config", '{"lr": 1}'], "metacontroller"),
        (["--config", '{"metacontroller": "nowhere"}'], "no weights there"),
        (["--stop", '{"sucess": 1}'], "reports no sucess"),
        (["--stop", '{"training_iteration": "x"}'], "expected a finite number"),
    ):
        assert main(["resume", str(folder), *wrong]) == 2
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1
    assert sorted(folder.rglob("*")) == before
    last = 0
    for _ in range(2):
        stop = json.dumps({"training_iteration": (last or len(rows_of(folder))) + 3})
        process = command(["resume", str(folder), "--stop", stop, "--ray-num-cpus", "1"], tmp_path)
        out, error = process.communicate(timeout=240)
        assert process.returncode == 0, error
        rows = rows_of(folder)
        assert rows[-1]["training_iteration"] == json.loads(stop)["training_iteration"] > last
        assert [row["training_iteration"] for row in rows] == list(range(1, len(rows) + 1))  # none was done again
        last = rows[-1]["training_iteration"]
    params = json.loads(next(folder.glob("*/params.json")).read_text())
    assert params["metacontroller"] == str(tmp_path / "new" / "weights")


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in next(folder.glob("*/result.json")).read_text().splitlines()]


# Waits.


def test_addresses_without_a_cluster_cost_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and not listening: nobody else gets it
        dead = f"127.0.0.1:{taken.getsockname()[1]}"
        for address in (dead, f"ray://{dead}", "nonsense", "127.0.0.1", "tcp://", "127.0.0.1:99999"):
            started = time.monotonic()
            with pytest.raises(UserError, match=f"--ray-address {address}: no cluster answers") as told:
                check_answers(address, "--ray-address")
            assert "\n" not in str(told.value) and time.monotonic() - started < 15
        monkeypatch.setenv("RAY_ADDRESS", dead)
        monkeypatch.setattr(runner.ray, "is_initialized", lambda: False)
        with pytest.raises(UserError, match=f"RAY_ADDRESS {dead}"):
            runner.start_ray(None)


def fake_cluster(monkeypatch: pytest.MonkeyPatch, *machines: dict[str, float]) -> None:
    summed = placement.total(machines)
    monkeypatch.setattr(placement.ray, "cluster_resources", lambda: summed)
    monkeypatch.setattr(placement.ray, "nodes", lambda: [{"Alive": True, "Resources": m} for m in machines])
    monkeypatch.setattr(placement, "_grown", dict)


def test_what_the_cluster_lacks(monkeypatch: pytest.MonkeyPatch):
    fake_cluster(monkeypatch, {"CPU": 2.0}, {"CPU": 2.0, "GPU": 1.0})
    assert placement.lacking([{"CPU": 1}] * 4) == "" == placement.lacking([{"CPU": 1, "GPU": 1}])
    assert placement.lacking([{"CPU": 1}] * 5) == "5 CPU, the cluster has 4"
    assert "on one machine" in placement.lacking([{"CPU": 3}])
    monkeypatch.setattr(placement, "_grown", lambda: {"CPU": 8})
    assert placement.lacking([{"CPU": 3}] * 2) == ""


@pytest.mark.parametrize("settings, spare", [({}, 3), ({"map_batches_kwargs": {"concurrency": 4}}, 5)])
def test_offline_algorithms_need_room_to_read(settings: dict, spare: int, monkeypatch: pytest.MonkeyPatch):
    config = {"env": "CartPole-v1", "input_": ["x.parquet"], "evaluation_interval": 5, **settings}
    config["dataset_num_iters_per_learner"] = 1
    built = BCConfig().update_from_dict(config)
    assert placement.total(placement.algorithm_bundles(built))["CPU"] == 1 + spare
    fake_cluster(monkeypatch, {"CPU": float(spare)})
    with pytest.raises(UserError, match=f"needs {1 + spare} CPU, the cluster has {spare}.*to read its data"):
        runner.check_resources(Experiment("x", "BC", config), "x.yaml")
    fake_cluster(monkeypatch, {"CPU": 2 * (1 + spare) - 1.0})
    runner.check_resources(Experiment("x", "BC", config), "x.yaml")
    assert runner._at_once(Experiment("x", "BC", config)) == 1


def pending(status: str = Trial.PENDING, **config: Any) -> Any:
    factory = SimpleNamespace(bundles=[{"CPU": 1.0}, {"CPU": 1.0}])
    return SimpleNamespace(
        config=config, status=status, is_finished=lambda: status == Trial.TERMINATED, placement_group_factory=factory,
        storage=SimpleNamespace(experiment_fs_path="results/x"),
    )  # fmt: skip


@pytest.mark.parametrize(
    "trials, waits",
    [
        ([pending(), pending(Trial.TERMINATED)], True),
        ([pending(), pending(Trial.RUNNING)], False),
        ([pending(Trial.RUNNING, num_workers=2)], True),
        ([pending(Trial.RUNNING, num_workers=1)], False),
        ([pending(Trial.TERMINATED)], False),
    ],
)
def test_a_run_that_nothing_can_place_ends(
    trials, waits, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    now = [100.0]
    monkeypatch.setattr(placement.time, "monotonic", lambda: now[0])
    fake_cluster(monkeypatch, {"CPU": 1.0})
    callback = placement.Placement()

    def pass_time(seconds: float) -> None:
        for _ in range(int(seconds // 10)):
            now[0] += 10
            callback.on_step_end(1, trials)

    pass_time(200)
    told = capsys.readouterr().out
    assert told.count("\n") == ("2 CPU, the cluster has 1" in told) == waits
    fake_cluster(monkeypatch, {"CPU": 2.0})  # the machine comes back, and goes again
    pass_time(20)
    fake_cluster(monkeypatch, {"CPU": 1.0})
    pass_time(200)
    if not waits:
        pass_time(1000)
        return
    with pytest.raises(UserError, match="results/x: no trial could run for 5m00s: each needs 2 CPU.*rllib resume"):
        pass_time(200)


LEAVES = """
import sys
from ray.cluster_utils import Cluster
from irl_ray.cli import placement, rllib, runner

placement.EVERY, placement.TOLD_AFTER, placement.GIVEN_UP_AFTER = 0.5, 2.0, 6.0
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
node, create = cluster.add_node(num_cpus=1), runner.runs.create

def leave(*given):  # after what is there was found to be enough
    cluster.remove_node(node, allow_graceful=False)
    return create(*given)

runner.runs.create = leave
sys.exit(rllib.main(["train", "file", "x.yaml", "--ray-address", cluster.address]))
"""


def test_a_machine_that_leaves_before_a_trial_is_placed_costs_a_bounded_wait(tmp_path: Path, tiny_weights: Path):
    """In a process namespace of its own, whose processes all end with it."""
    alone = ["unshare", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if shutil.which("unshare") is None or subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("this system does not let its users make process namespaces")
    write(tmp_path, INTERNAL.format(iterations=1, weights=tiny_weights) + "    num_env_runners: 1\n")
    with tempfile.TemporaryDirectory() as short:  # where it notes its cluster, and nobody else looks for one
        process = subprocess.run(
            [*alone, sys.executable, "-c", LEAVES], cwd=tmp_path, capture_output=True, text=True, timeout=300,
            env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_TMPDIR": short},
        )  # fmt: skip
    assert process.returncode == 2, process.stderr
    assert "No trial can run: each needs 2 CPU, the cluster has 1" in process.stdout
    assert "no trial could run for" in process.stderr and "Traceback" not in process.stderr
