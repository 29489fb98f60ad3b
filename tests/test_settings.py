"""Numbers, devices and data that make no sense are refused where they are written, before anything starts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from irl_ray import InternalRLConfig, RawRLConfig
from irl_ray.cli import experiment
from irl_ray.config import without_numpy
from irl_ray.data.shards import write_manifest
from irl_ray.errors import UserError
from irl_ray.models.metacontroller import MetacontrollerConfig
from irl_ray.phases.compile import compile_config
from irl_ray.phases.discover import discover_config
from irl_ray.phases.hindsight import TeacherConfig
from irl_ray.phases.pretrain import Pretrain, pretrain_config
from irl_ray.phases.training import OptimizerConfig, check_usable
from irl_ray.worlds.pinpad.specs import AntSpec

WHOLE = ["num_env_runners", "num_envs_per_env_runner", "num_learners", "num_epochs", "train_batch_episodes",
         "torch_threads", "evaluation_interval", "evaluation_num_env_runners", "evaluation_duration",
         "seed"]  # fmt: skip
NUMBERS = ["lr", "clip_param", "target_kl", "entropy_coeff", "weight_decay", "grad_clip", "sample_timeout_s",
           "num_cpus_per_env_runner", "num_gpus_per_learner", "switch_threshold", "action_temperature"]  # fmt: skip
NO_NUMBERS = [math.nan, math.inf, -1, "many", [1], True]


def validated(key: str, value: Any, kind: type = InternalRLConfig) -> None:
    kind().update_from_dict({key: value}).validate()


@pytest.mark.parametrize("value", [*NO_NUMBERS, 1.5])
@pytest.mark.parametrize("key", WHOLE)
def test_whole_numbers_of_rl(key: str, value: Any):
    with pytest.raises(UserError, match=f"config.{key}"):
        validated(key, value)


@pytest.mark.parametrize("value", NO_NUMBERS)
@pytest.mark.parametrize("key", NUMBERS)
def test_numbers_of_rl(key: str, value: Any):
    with pytest.raises(UserError, match=f"config.{key}"):
        validated(key, value)


@pytest.mark.parametrize("key", ["lr", "clip_param", "target_kl", "action_temperature", "num_epochs"])
def test_what_must_be_above_zero(key: str):
    with pytest.raises(UserError, match=f"config.{key}"):
        validated(key, 0)


@pytest.mark.parametrize(
    "schedule",
    [[], [[0, 1e-2]], [[1, 1e-2], [9, 1e-3]], [[0, 1e-2], [9, 0]], [[0, 1e-2], [9, 1e-3], [9, 1e-4]], [[0, 1e-2], [9]],
     [[0, 1e-2], [9, "low"]], [[0, 1e-2], [math.inf, 1e-3]], [1e-2, 1e-3]],
)  # fmt: skip
def test_a_schedule_of_the_learning_rate(schedule: list):
    with pytest.raises(UserError, match="config.lr: expected a number above 0, or"):
        validated("lr", schedule)


@pytest.mark.parametrize(
    "policy",
    [{"hidden": 1.5}, {"hidden": 0}, {"hidden": "wide"}, {"log_std": math.nan}, {"log_std": [0]}, {"learn_std": 1},
     {"hiden": 8}, {"code_size": 3}, {"switch_threshold": 0.5}, [1], 3],
)  # fmt: skip
def test_the_code_policy(policy: Any):
    with pytest.raises(UserError, match="policy|hidden"):
        validated("policy", policy)


@pytest.mark.parametrize("kind", [InternalRLConfig, RawRLConfig])
def test_what_makes_sense_is_taken(kind: type):
    for key, value in {"lr": np.float32(1e-3), "num_epochs": np.int64(2), "seed": None, "num_env_runners": 3,
                       "num_cpus_per_env_runner": 0.5, "entropy_coeff": 0, "grad_clip": None,
                       "target_kl": None}.items():  # fmt: skip
        validated(key, value, kind)


@pytest.mark.parametrize("key, value", [("gamma", 0.9), ("train_batch_size", 64), ("_model_config", {"a": 1})])
def test_settings_without_an_effect_are_refused_in_python_too(key: str, value: Any):
    with pytest.raises(UserError, match=f"config.{key.strip('_')}: has no effect on InternalRLConfig"):
        validated(key, value)


PHASES = {
    "pretrain": (pretrain_config, {"preset": "tiny"}),
    "discover": (discover_config, {"preset": "tiny", "base": "gridworld"}),
    "compile": (compile_config, {"preset": "tiny", "base": "gridworld"}),
}


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, "much", [0.1]])
@pytest.mark.parametrize(
    "phase, path",
    [("pretrain", "noise"), ("pretrain", "observation_weight"), ("pretrain", "entry_weight"),
     ("pretrain", "action_temperature"), ("pretrain", "optimizer.learning_rate"), ("pretrain", "model.init_scale"),
     ("discover", "alpha"), ("discover", "alpha_ramp"), ("discover", "switch_threshold"),
     ("discover", "teacher.code_noise"), ("discover", "teacher.hold"), ("discover", "metacontroller.controller_scale"),
     ("discover", "metacontroller.switch_temperature"), ("compile", "code_weight"), ("compile", "boundary_weight"),
     ("compile", "segmenter.temperature")],
)  # fmt: skip
def test_numbers_of_the_phases(phase: str, path: str, value: Any):
    make, settings = PHASES[phase]
    outer, _, inner = path.partition(".")
    with pytest.raises(UserError, match=path.rpartition(".")[2]):
        make({**settings, outer: {inner: value} if inner else value})


@pytest.mark.parametrize("value", [math.nan, math.inf, -1, 1.5, "ten", [10]])
@pytest.mark.parametrize(
    "phase, path",
    [("pretrain", "steps"), ("pretrain", "model.width"), ("pretrain", "optimizer.warmup_steps"),
     ("pretrain", "control_rank"), ("discover", "batch_size"), ("discover", "seed"), ("discover", "switch_tolerance"),
     ("discover", "teacher.steps"), ("discover", "metacontroller.code_size"), ("discover", "metacontroller.rank"),
     ("compile", "report_every"), ("compile", "segmenter.segments")],
)  # fmt: skip
def test_whole_numbers_of_the_phases(phase: str, path: str, value: Any):
    make, settings = PHASES[phase]
    outer, _, inner = path.partition(".")
    with pytest.raises(UserError, match=path.rpartition(".")[2]):
        make({**settings, outer: {inner: value} if inner else value})


@pytest.mark.parametrize(
    "make",
    [lambda: OptimizerConfig(learning_rate=math.nan), lambda: OptimizerConfig(max_grad_norm=math.inf),
     lambda: TeacherConfig(min_contrast=math.nan), lambda: MetacontrollerConfig(rank=2.5),
     lambda: MetacontrollerConfig(initial_log_std=-math.inf)],
)  # fmt: skip
def test_dataclasses_check_what_python_gives_them(make: Any):
    with pytest.raises(UserError):
        make()


def test_numpy_becomes_plain_at_the_door(tmp_path: Path, tiny_weights: Path):
    path = tmp_path / "numbers.py"
    path.write_text(
        "import numpy as np\nfrom irl_ray import InternalRLConfig\n"
        "config = (InternalRLConfig().environment(env_config={'preset': 'tiny', 'tasks': np.array([[0, 1], [2, 3]])})"
        f".internal(metacontroller={str(tiny_weights)!r}, policy={{'hidden': np.int32(8)}})"
        ".training(lr=np.float32(0.5), train_batch_episodes=np.int64(8)))\n"
        "stop = {'training_iteration': np.int64(2)}\n"
    )
    (one,) = experiment.read_file(path)
    assert one.config["lr"] == 0.5 and one.config["env_config"]["tasks"] == [[0, 1], [2, 3]]
    assert {type(one.config[k]) for k in ("lr", "train_batch_episodes")} == {float, int}
    assert type(one.config["policy"]["hidden"]) is int and type(one.stop["training_iteration"]) is int
    assert without_numpy({"a": (np.bool_(True), [np.zeros(2)])}) == {"a": (True, [[0.0, 0.0]])}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(capsys: pytest.CaptureFixture):
    for device in ("cuda", "cuda:1"):
        with pytest.raises(UserError, match="write device: cpu"):
            check_usable(device)
    with pytest.raises(UserError, match="write device: cpu"):
        Pretrain(pretrain_config({"preset": "tiny", "device": "cuda"}))


def phase_of(tmp_path: Path, run: str, **config: Any) -> experiment.Experiment:
    return experiment.parse("x", {"run": run, "config": {"preset": "tiny", **config}}, "x.yaml")


def test_missing_demonstrations_name_the_command_that_makes_them(tmp_path: Path, ant_weights: Path):
    missing = str(tmp_path / "none")
    for run, config, words in (
        ("Pretrain", {"env": "irl_ray/AntPinpad-v0", "preset": "small", "data": missing}, "--expert ant_expert"),
        ("Discover", {"env": "irl_ray/AntPinpad-v0", "base": str(ant_weights), "data": missing}, "--deterministic"),
        ("Pretrain", {"data": missing}, "leave it out"),
    ):
        one = phase_of(tmp_path, run, **config)
        with pytest.raises(UserError) as told:
            experiment.check_demonstrations(one, "x.yaml")
        assert words in str(told.value) and missing in str(told.value)
        assert ("irl-ray collect irl_ray/AntPinpad-v0" in str(told.value)) == (words != "leave it out")


def test_demonstrations_of_another_world_are_refused(tmp_path: Path, ant_weights: Path):
    write_manifest(tmp_path, AntSpec.of({"preset": "paper"}), [], {})
    for run, config in (
        ("Pretrain", {"env": "irl_ray/AntPinpad-v0", "preset": "small", "data": str(tmp_path)}),
        ("Discover", {"env": "irl_ray/AntPinpad-v0", "base": str(ant_weights), "data": str(tmp_path)}),
        ("Pretrain", {"data": str(tmp_path)}),
    ):
        with pytest.raises(UserError, match="demonstrations of another world"):
            experiment.check_demonstrations(phase_of(tmp_path, run, **config), "x.yaml")
