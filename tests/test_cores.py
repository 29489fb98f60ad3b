"""Internal and raw RL sample on every core there is, unless told otherwise; the episodes are the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from irl_ray.cli import runner
from irl_ray.cli.experiment import Experiment, count_trials, read_file
from irl_ray.cli.placement import env_runners


@given(
    cpus=st.integers(1, 3000), learners=st.integers(0, 4), evaluating=st.integers(0, 4), episodes=st.integers(2, 4096)
)
def test_a_trial_asks_for_no_more_than_it_has(cpus, learners, evaluating, episodes):
    config = {"num_learners": learners, "evaluation_num_env_runners": evaluating, "train_batch_episodes": episodes}
    found = env_runners(config, cpus)
    count, share = found["num_env_runners"], found.get("num_cpus_per_env_runner", 1.0)
    most = min(cpus - learners - evaluating, episodes // 32)
    assert count == (most if most > 1 else 0) and 0 < share <= 1
    if count:
        assert 1 + count * share + learners + evaluating <= cpus + 1e-6


@pytest.mark.parametrize(
    "told",
    [
        {"num_env_runners": 3},
        {"num_cpus_per_env_runner": 0},
        {"num_gpus_per_env_runner": 0.5},
        {"num_cpus_for_main_process": 2},
        {"num_cpus_per_learner": "auto"},
    ],
)
def test_whoever_tells_what_runners_take_tells_how_many_there_are(told):
    assert env_runners(told, 16) == {}


@pytest.mark.parametrize(
    ("cpus", "config", "samples", "runners"),
    [
        (2, {}, 1, 2),
        (2, {"seed": {"grid_search": [0, 1]}}, 1, 0),  # a trial on each
        (16, {"seed": {"grid_search": [0, 1]}}, 1, 8),
        (16, {"lr": {"uniform": [1e-4, 1e-3]}}, 4, 4),
        (16, {"num_env_runners": 0}, 1, None),
        (16, {"train_batch_episodes": {"grid_search": [64, 512]}}, 1, 2),
    ],
)
def test_trials_side_by_side_share_the_cores(cpus, config, samples, runners, monkeypatch):
    monkeypatch.setattr(runner, "most_resources", lambda: {"CPU": float(cpus)})
    asked = Experiment("x", "InternalRL", config, num_samples=samples)
    found = runner.on_all_cores(asked, count_trials(asked)).config
    assert found.get("num_env_runners") == (config.get("num_env_runners") if runners is None else runners)
    assert runner.on_all_cores(Experiment("x", "PPO", config), 1).config == config


def test_auto_may_be_written(tmp_path: Path, tiny_weights: Path):
    config = {"metacontroller": str(tiny_weights), "env_config": {"preset": "tiny"}, "num_env_runners": "auto"}
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"x": {"run": "InternalRL", "env": "irl_ray/GridPinpad-v0", "config": config}}))
    (found,) = read_file(str(path))
    assert "num_env_runners" not in found.config


def test_a_sweep_that_goes_on_keeps_what_tells_its_trials_apart(monkeypatch):
    monkeypatch.setattr(runner, "most_resources", lambda: {"CPU": 8.0})
    told = {"name": "x", "run": "InternalRL", "config": {"lr": {"grid_search": [1, 2, 3, 4]}, "num_epochs": 2}}
    for ended, runners in ((0, 2), (2, 4), (3, 8)):
        found = runner.runners_here({"experiment": told, "trials": 4}, ended)
        assert found["num_env_runners"] == runners and not found.keys() & told["config"].keys()
    fixed = {**told, "config": {**told["config"], "num_env_runners": 1}}
    assert runner.runners_here({"experiment": fixed, "trials": 4}, 0) == {}
    assert runner.runners_here({}, 0) == {}  # older than records


def test_a_run_of_two_cores_goes_on_on_one(tmp_path: Path, tiny_weights: Path):
    """With the episodes that it would have had."""
    config = {"metacontroller": str(tiny_weights), "policy": {"hidden": 8}, "train_batch_episodes": 64, "seed": 3}
    config["env_config"] = {"preset": "tiny", "tasks": [[0, 1]]}
    spec = {"run": "InternalRL", "env": "irl_ray/GridPinpad-v0", "config": config, "stop": {"training_iteration": 2}}
    rows = {}
    for name, cores in (("two", 2), ("one", 1)):
        (tmp_path / f"{name}.json").write_text(json.dumps({name: spec}))
        run(tmp_path, "train", "file", f"{name}.json", "--ray-num-cpus", str(cores))
        (folder,) = (tmp_path / "results").glob(f"{name}_*")
        run(tmp_path, "resume", str(folder), "--stop", '{"training_iteration": 4}', "--ray-num-cpus", "1")
        (lines,) = folder.glob("Int*/result.json")
        rows[name] = [json.loads(line) for line in lines.read_text().splitlines()]
    counted = {name: [row["config"].get("num_env_runners") for row in found] for name, found in rows.items()}
    assert counted == {"two": [2, 2, 0, 0], "one": [0, 0, 0, 0]}
    seen = [[row["env_runners"]["num_raw_steps_lifetime"] for row in found] for found in rows.values()]
    assert seen[0] == seen[1]


def run(folder: Path, *arguments: str) -> None:
    line = [sys.executable, "-m", "irl_ray.cli.rllib", *arguments]
    found = subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=200)
    assert found.returncode == 0, found.stdout + found.stderr
