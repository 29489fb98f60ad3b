"""What the command that Ray had until 2.40 took: short options, options that are gone, arguments of .py files; and what
is said to one experiment of several."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from ray.rllib.algorithms.ppo import PPOConfig

from irl_ray.cli import experiment, old_options
from irl_ray.cli.addresses import addressed, meant_for
from irl_ray.cli.rllib import _apply_flags, main, parser
from irl_ray.errors import UserError

TRUSTED = ["evaluate", "--trust-pickle"]


def one_line(capsys: pytest.CaptureFixture, *words: str) -> None:
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and all(word in said for word in words), said


@pytest.mark.parametrize("words", (["train"], ["train", "file", "x.yaml"], ["example", "run", "gridworld_internal"]))
def test_short_options_mean_what_they_meant(words: list[str]):
    line = [*words, "-c", '{"seed": 1}', "-s", '{"step": 2}', "-n", "name", "-e", "CartPole-v1", "-v", "-vv"]
    options = parser().parse_args([*line, "--framework", "torch"])
    assert (options.config, options.stop, options.experiment_name) == ({"seed": 1}, {"step": 2}, "name")
    assert options.env == "CartPole-v1" and options.v and options.vv
    long = parser().parse_args([*words, "--log-info", "--log-debug"])
    assert long.v and long.vv


@pytest.mark.parametrize("option", ("--run", "--algo", "-r", "-a"))
def test_the_algorithm_may_be_named_in_four_ways(option: str):
    assert parser().parse_args(["train", option, "PPO"]).run == "PPO"


GONE = [
    (line, option, instead)
    for line, options in (
        (["train", "file", "x.yaml"], old_options.OF_TRAIN),
        (["example", "run", "x"], old_options.OF_TRAIN),
        (["evaluate", "gridworld"], old_options.OF_EVALUATE),
    )
    for names, instead in options.items()
    for option in names
]


@pytest.mark.parametrize("line, option, instead", GONE, ids=lambda value: value if isinstance(value, str) else value[0])
@pytest.mark.parametrize("value", ([], ["something"]), ids=("alone", "valued"))
def test_options_that_are_gone_say_what_to_type(line, option, instead, value, capsys: pytest.CaptureFixture):
    assert main([*line, option, *value]) == 2
    one_line(capsys, option, instead)


@pytest.mark.parametrize("line", (["train", "--run", "PPO"], ["evaluate", "gridworld"]))
def test_another_framework_is_refused(line: list[str], capsys: pytest.CaptureFixture):
    assert main([*line, "--framework", "tf2"]) == 2
    one_line(capsys, "tf2", "type torch")


SCRIPT = """
import argparse
import sys
from ray.rllib.algorithms.ppo import PPOConfig

flags = argparse.ArgumentParser()
flags.add_argument("--rate", type=float, default=1e-3)
told = flags.parse_args()
assert sys.argv[0].endswith("mine.py")
config = PPOConfig().environment("CartPole-v1").training(lr=told.rate)
"""


def test_a_python_file_sees_its_own_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["rllib", "train", "file", "mine.py"])
    path = tmp_path / "mine.py"
    path.write_text(SCRIPT)
    (alone,), (told,) = experiment.read_file(path, {"gamma": 0.5}), experiment.read_file(path, {}, ["--rate", "0.5"])
    assert alone.config.get("lr", 1e-3) == 1e-3 and alone.config["gamma"] == 0.5 and told.config["lr"] == 0.5
    assert sys.argv == ["rllib", "train", "file", "mine.py"]


def test_arguments_behind_two_dashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    heard = []

    def read_file(*given) -> list:
        heard.append(given)
        raise UserError("enough")

    monkeypatch.setattr(experiment, "read_file", read_file)
    assert main(["train", "file", "a.py", "-c", "{}", "--", "--stop", "x", "--"]) == 2
    assert heard == [("a.py", {}, ["--stop", "x", "--"])]
    one_line(capsys, "enough")
    assert main(["resume", "x", "--", "y"]) == 2
    one_line(capsys, "takes nothing after --")


@pytest.mark.parametrize(
    "text, told",
    [
        ("x = 1\nraise KeyError('lost')\n", "line 2: KeyError: 'lost'"),
        ("x = 1\n\nconfig = (\n", "line 3: SyntaxError"),
        ("import nowhere\n", "line 1: ModuleNotFoundError"),
        ("config = 3\n", "an algorithm's configuration"),
    ],
)
def test_a_python_file_that_fails_costs_one_line(text: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "mine.py").write_text(text)
    assert main(["train", "file", str(tmp_path / "mine.py")]) == 2
    one_line(capsys, "mine.py", told)


def test_arguments_for_a_file_that_reads_none(capsys: pytest.CaptureFixture):
    assert main(["example", "run", "gridworld_internal", "--", "--rate", "3"]) == 2
    one_line(capsys, "gridworld_internal.yaml", "after --")


def test_an_example_runs_with_all_options_of_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    ran = []
    monkeypatch.setattr("irl_ray.cli.runner.start_ray", lambda *given: ran.append(given))
    monkeypatch.setattr("irl_ray.cli.runner.run_all", lambda experiments, *_: ran.append(experiments) or 0)
    monkeypatch.chdir(tmp_path)
    flags = ["--stop", '{"training_iteration": 1}', "--config", '{"lr": 0.5}', "--experiment-name", "mine"]
    assert main(["example", "run", "gridworld_internal", *flags, "--checkpoint-freq", "7", "--ray-num-cpus", "1"]) == 0
    (address, (one,)) = ran
    assert address == (None, 1, None)
    assert (one.name, one.config["lr"], one.stop) == ("mine", 0.5, {"training_iteration": 1})
    assert one.checkpoint["checkpoint_frequency"] == 7


def test_addresses():
    names = ["a", "a.b", "c"]
    assert addressed("a.b.lr", names) == ("a.b", "lr") and addressed("a.lr", names) == ("a", "lr")
    assert addressed("lr", names) == (None, "lr") and addressed("d.lr", names) == ("d", "lr")
    assert addressed("env_runners/x.y", names) == (None, "env_runners/x.y")
    given = {"a.lr": 1, "lr": 2, "c.seed": 3, "a.env_runners/x": 4}
    assert meant_for("a", given, names) == {"lr": 1, "env_runners/x": 4}  # whatever the order
    assert meant_for("c", given, names) == {"lr": 2, "seed": 3}


TWO = """
first: {run: Pretrain, stop: {step: 9}, config: {preset: tiny}}
second: {run: Pretrain, stop: {step: 8}, config: {preset: tiny, seed: 4}}
"""


def test_settings_and_stops_reach_one_experiment_of_several(tmp_path: Path):
    path = tmp_path / "two.yaml"
    path.write_text(TWO)
    first, second = experiment.read_file(path, {"steps": 5, "second.seed": 7, "elsewhere.seed": 9})
    assert (first.config["steps"], second.config["steps"]) == (5, 5)
    assert "seed" not in first.config and second.config["seed"] == 7
    for one in (first, second):
        _apply_flags(one, parser().parse_args(["train", "-s", '{"second.progress": 0.5}']), ["first", "second"])
    assert (first.stop, second.stop) == ({"step": 9}, {"progress": 0.5})


@pytest.mark.parametrize(
    "flag, given, told",
    [
        ("--stop", '{"secnd.step": 1}', "Did you mean 'second'"),
        ("--config", '{"secnd.steps": 1}', "Did you mean 'second'"),
        ("--config", '{"second.stepps": 1}', "stepps"),
        ("--stop", '{"second.stepp": 1}', "stepp"),
        ("--stop", '{"step": 1}', "second.step"),
    ],
)
def test_mistakes_in_addresses_cost_one_line(flag, given, told, tmp_path: Path, capsys: pytest.CaptureFixture):
    path = tmp_path / "two.yaml"
    path.write_text(TWO)
    assert main(["train", "file", str(path), flag, given]) == 2
    one_line(capsys, told)


@pytest.fixture(scope="module")
def left_always(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with a checkpoint of PPO whose weights push the cart to the left alone."""
    ray.shutdown()
    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    algorithm = PPOConfig().environment("CartPole-v1").env_runners(num_env_runners=0).build_algo()
    module = algorithm.learner_group._learner.module["default_policy"]
    with torch.no_grad():
        for parameter in module.pi.parameters():
            parameter.zero_()
        list(module.pi.parameters())[-1].copy_(torch.tensor([50.0, -50.0]))
    folder = tmp_path_factory.mktemp("results") / "cart_20260101-120000"
    algorithm.save_to_path(str(folder / "PPO_x" / "checkpoint_000000"))
    algorithm.stop()
    yield folder
    ray.shutdown()


def test_checkpoints_of_rllibs_own_algorithms_are_evaluated(left_always: Path, tmp_path: Path):
    """Whoever pushes to the left alone falls within eleven steps; anyone who draws does not."""
    out = tmp_path / "x.json"
    assert main([*TRUSTED, str(left_always), "--episodes", "12", "--out", str(out)]) == 0
    told = json.loads(out.read_text())
    assert (told["algorithm"], told["environment"], told["episodes"]) == ("PPO", "CartPole-v1", 12)
    assert 8 <= told["episode_return_min"] <= told["episode_return_mean"] <= told["episode_return_max"] <= 11
    assert np.isfinite(told["standard_error"])
    flags = [
        "--env",
        "CartPole-v0",
        "--config",
        '{"env_config": {"max_episode_steps": 5}}',
        "--greedy",
        "--out",
        str(out),
    ]
    assert main([*TRUSTED, str(left_always / "PPO_x" / "checkpoint_000000"), "--episodes", "3", *flags]) == 0
    told = json.loads(out.read_text())
    assert told["environment"] == "CartPole-v0" and told["episode_return_mean"] == 5


@pytest.mark.parametrize(
    "flags, told",
    [
        (["--config", '{"lrr": 1}'], "Did you mean 'lr'"),
        (["--env", "NoEnv-v1"], "NoEnv"),
        (["--prior"], "--prior"),
        (["--episodes", "0"], "--episodes"),
        (["--switch-threshold", "0.5"], "--switch-threshold"),
    ],
)
def test_mistakes_in_such_an_evaluation_cost_one_line(left_always, flags, told, capsys: pytest.CaptureFixture):
    capsys.readouterr()
    assert main([*TRUSTED, str(left_always), "--episodes", "1", *flags]) == 2
    one_line(capsys, told)


class Malicious:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple:
        return Path.touch, (Path("pwned"),)


@pytest.mark.parametrize("beside", [True, False])
def test_no_pickle_is_read_beside_an_artefact_nor_unasked(
    beside: bool, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.chdir(tmp_path)
    folder = shutil.copytree(tiny_weights, tmp_path / "x") if beside else tmp_path / "x"
    (folder / "checkpoint_0").mkdir(parents=True)
    (folder / "checkpoint_0" / "class_and_ctor_args.pkl").write_bytes(pickle.dumps(Malicious()))
    flags = ["--trust-pickle"] if beside else []
    code = main(["evaluate", str(folder), "--episodes", "2", "--prior", *flags])
    assert not (tmp_path / "pwned").exists()
    assert code == (0 if beside else 2)
    assert beside or "--trust-pickle" in capsys.readouterr().err


def test_settings_of_an_evaluation_of_ours(tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    out = tmp_path / "x.json"
    settings = {"env_config": {"tasks": "post_two_pairs"}, "action_temperature": 0.5, "seed": 3}
    line = ["evaluate", str(tiny_weights), "--episodes", "4", "--prior", "--out", str(out)]
    assert main([*line, "--config", json.dumps(settings), "--env", "irl_ray/GridPinpad-v0"]) == 0
    told = json.loads(out.read_text())
    assert (told["tasks"], told["seed"]) == ("0-1-2-3", 3)
    capsys.readouterr()
    assert main([*line, "--config", '{"action_temprature": 1}']) == 2
    one_line(capsys, "Did you mean 'action_temperature'")
    assert main([*line, "--env", "CartPole-v1"]) == 2
    one_line(capsys, "irl_ray/GridPinpad-v0")


def test_an_evaluation_has_its_own_number_of_episodes(monkeypatch: pytest.MonkeyPatch, left_always: Path):
    asked: list[Namespace] = []
    monkeypatch.setattr("irl_ray.cli.stock.evaluate", lambda options, path: asked.append(options) or 0)
    monkeypatch.setattr("irl_ray.cli.evaluation.evaluate", lambda options: asked.append(options) or 0)
    assert main(["evaluate", str(left_always)]) == main(["evaluate", "gridworld"]) == 0
    assert [options.episodes for options in asked] == [100, 512]
