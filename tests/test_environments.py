"""Environments by class path, by module and id, and by what a file registers; the internal environment by its id."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from irl_ray.cli import environments, experiment
from irl_ray.errors import UserError
from irl_ray.internal import INTERNAL_ID
from irl_ray.internal.internal_env import InternalVectorEnv
from irl_ray.models import weights
from irl_ray.rllib.trainables import open_env

ROOT = Path(__file__).resolve().parent.parent
OWN = """
import gymnasium as gym
import numpy as np

class Own(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, config=None, **settings):
        self.length = {**(config or {}), **settings}.get("length", 4)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.zeros(2, np.float32), 1.0, self.steps >= self.length, False, {}

gym.register("NAME-v0", entry_point="NAME:Own")
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Name of a module with an environment, beside which files of experiments may lie."""
    name = f"own_{uuid.uuid4().hex[:8]}"
    (tmp_path / f"{name}.py").write_text(OWN.replace("NAME", name))
    monkeypatch.setattr(environments, "FOLDERS", [])
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield name
    gym.registry.pop(f"{name}-v0", None)


def read(folder: Path, text: str, name: str = "x.yaml") -> experiment.Experiment:
    (folder / name).write_text(text)
    (one,) = experiment.read_file(folder / name)
    return one


def refused(folder: Path, text: str) -> str:
    with pytest.raises(UserError) as told:
        read(folder, text)
    assert "\n" not in str(told.value)
    return str(told.value)


def test_a_class_is_found_beside_the_file(own: str, tmp_path: Path):
    one = read(tmp_path, f"x: {{run: PPO, env: {own}.Own}}\n")
    environments.register(one.config["env"])
    creator = environments._global_registry.get("env_creator", f"{own}.Own")
    assert creator({"length": 7}).length == 7
    assert str(tmp_path) in environments.FOLDERS
    assert sys.path.index(str(tmp_path)) > sys.path.index(next(p for p in sys.path if "site-packages" in p))


def test_a_module_with_an_id_is_found_beside_the_file(own: str, tmp_path: Path):
    one = read(tmp_path, f"x: {{run: PPO, env: '{own}:{own}-v0', config: {{env_config: {{length: 6}}}}}}\n")
    environments.register(one.config["env"])
    creator = environments._global_registry.get("env_creator", f"{own}:{own}-v0")
    assert creator({"length": 6}).unwrapped.length == 6


def test_what_a_file_registers_is_carried_to_the_actors(own: str, tmp_path: Path):
    one = read(
        tmp_path,
        f"import gymnasium as gym\nfrom ray.rllib.algorithms.ppo import PPOConfig\nfrom {own} import Own\n"
        f"class Mine(Own): pass\ngym.register('{own}-v1', entry_point=Mine, max_episode_steps=3)\n"
        f"config = PPOConfig().environment('{own}-v1')\n",
        "x.py",
    )
    creator = environments._global_registry.get("env_creator", one.config["env"])
    assert creator({}).spec.max_episode_steps == 3
    assert creator({"num_envs": 2}).num_envs == 2


@pytest.mark.parametrize(
    "env, words",
    [
        ("nowhere.Env", "cannot be imported"),
        ("nowhere:Env-v0", "nowhere"),
        ("json.NoSuchThing", "cannot be imported"),
        ("json.__name__", "no class"),
        ("CartPole-v7", "v7"),
        ("CartPoole-v1", "CartPole"),
        ("ALE/Pong-v5", "ALE"),
        ("{grid_search: [CartPole-v1, Nothing-v0]}", "Nothing"),
    ],
)
def test_environments_that_are_not_there(env: str, words: str, tmp_path: Path):
    quoted = env if env.startswith("{") else f"'{env}'"
    assert words in refused(tmp_path, f"x: {{run: PPO, env: {quoted}}}\n")


def test_settings_that_an_environment_does_not_take(tmp_path: Path):
    assert "colours" in refused(
        tmp_path, "x: {run: PPO, env: irl_ray/GridPinpad-v0, config: {env_config: {colours: 3}}}\n"
    )
    assert "speed" in refused(tmp_path, "x: {run: PPO, env: CartPole-v1, config: {env_config: {speed: 3}}}\n")


@pytest.mark.parametrize("bound", [None, 2.0])
def test_the_internal_environment_by_its_id(tiny_weights: Path, bound: float | None):
    settings = {"metacontroller": str(tiny_weights), "bound": bound, "world": {"tasks": "post_two_pairs"}}
    single = gym.make(INTERNAL_ID, **settings)
    check_env(single.unwrapped, skip_render_check=True)
    vector = gym.make_vec(INTERNAL_ID, num_envs=3, **settings)
    assert isinstance(vector.unwrapped, InternalVectorEnv)
    assert vector.single_action_space == single.action_space and vector.single_observation_space.shape == (32,)
    assert vector.single_action_space.high.max() == (bound or math.inf)
    first, _ = vector.reset(seed=[5, 6, 7])
    alone, _ = single.reset(seed=6)
    assert np.allclose(first[1], alone, atol=1e-5)
    codes = vector.action_space.sample()
    together, one = vector.step(codes), single.step(codes[1])
    assert np.allclose(together[0][1], one[0], atol=1e-5) and together[1][1] == one[1]


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"metacontroller": None}, "metacontroller"),
        ({"metacontroller": "gridwrld"}, "Did you mean 'gridworld'"),
        ({"bound": 0}, "bound"),
        ({"bound": math.inf}, "bound"),
        ({"switch_threshold": "high"}, "switch_threshold"),
        ({"action_temperature": math.nan}, "action_temperature"),
        ({"clean_slate": "no"}, "clean_slate"),
        ({"world": {"grid_size": 9}}, "another world"),
        ({"world": {"colours": 9}}, "colours"),
        ({"world": [1]}, "env_config.world"),
    ],
)
def test_settings_of_the_internal_environment(settings: dict[str, Any], words: str, tiny_weights: Path):
    with pytest.raises(UserError) as told:
        gym.make(INTERNAL_ID, **{"metacontroller": str(tiny_weights), **settings})
    assert words in str(told.value)


def test_an_algorithm_that_squashes_asks_for_a_bound(tiny_weights: Path):
    spec = {"run": "SAC", "env": INTERNAL_ID, "config": {"env_config": {"metacontroller": str(tiny_weights)}}}
    with pytest.raises(UserError, match="env_config.bound"):
        experiment.parse("x", spec, "here")
    spec["config"]["env_config"]["bound"] = 2
    assert experiment.parse("x", spec, "here")


def test_weights_of_the_internal_environment_are_found_from_everywhere(
    tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(weights.save(weights.load(tiny_weights), tmp_path / "w").parent)
    spec = {"run": "PPO", "env": INTERNAL_ID, "config": {"env_config": {"metacontroller": "w"}}}
    one = experiment.parse("x", spec, "here")
    assert one.config["env_config"]["metacontroller"] == str(tmp_path / "w")


def train(folder: Path, *arguments: str) -> str:
    """What `rllib train` prints."""
    done = subprocess.run(
        [sys.executable, "-m", "irl_ray.cli.rllib", "train", *arguments, "--ray-num-cpus", "2", "--storage-path", "r"],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, capture_output=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


SMALL = "train_batch_size: 32, minibatch_size: 16, num_epochs: 1"


def test_ppo_and_sac_train_over_codes(tiny_weights: Path, tmp_path: Path):
    world = f"metacontroller: {tiny_weights}, world: {{tasks: post_two_pairs}}"
    (tmp_path / "x.yaml").write_text(
        f"ppo: {{run: PPO, env: {INTERNAL_ID}, stop: {{training_iteration: 2}}, config: {{env_config: {{{world}}}, "
        f"num_env_runners: 0, gym_env_vectorize_mode: vector_entry_point, num_envs_per_env_runner: 4, {SMALL}}}}}\n"
        f"sac: {{run: SAC, env: {INTERNAL_ID}, stop: {{training_iteration: 2}}, config: {{env_config: {{{world}, "
        "bound: 3}, num_env_runners: 0, rollout_fragment_length: 8, train_batch_size: 16, "
        "num_steps_sampled_before_learning_starts: 8, min_sample_timesteps_per_iteration: 8, "
        "min_time_s_per_iteration: 0}}\n"
    )
    assert train(tmp_path, "file", "x.yaml").count("weights: ") == 2


def test_own_environments_reach_every_actor(own: str, tmp_path: Path):
    settings = f"stop: {{training_iteration: 1}}, config: {{num_env_runners: 1, {SMALL}}}"
    (tmp_path / "x.yaml").write_text(f"a: {{run: PPO, env: {own}.Own, {settings}}}\n")
    (tmp_path / "y.py").write_text(
        f"import gymnasium as gym\nfrom ray.rllib.algorithms.ppo import PPOConfig\nfrom {own} import Own\n"
        "class Mine(Own): pass\ngym.register('Mine-v0', entry_point=Mine)\nconfig = (PPOConfig()"
        ".environment('Mine-v0').env_runners(num_env_runners=1)"
        ".training(train_batch_size=32, minibatch_size=16, num_epochs=1))\nstop = {'training_iteration': 1}\n"
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert train(elsewhere, "file", "../x.yaml", "../y.py").count("weights: ") == 2


def test_rows_of_runners_that_are_neighbours_share_no_seeds():
    """RLlib gives runner w the run's seed + w, and Gymnasium row i the seed + i."""
    seen = []
    for seed in (1, 2):
        vector = open_env("irl_ray/GridPinpad-v0", {"preset": "small", "num_envs": 8})
        first, _ = vector.reset(seed=seed)
        again, _ = vector.reset(seed=seed)
        np.testing.assert_array_equal(first, again)
        seen += [row.tobytes() for row in first]
        vector.close()
    assert len(set(seen)) == 16
