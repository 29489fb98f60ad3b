"""Worlds of others: any Gymnasium environment, from its spaces to internal RL, by the page that tells how."""

from __future__ import annotations

import ast
import re
import sys
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import irl_ray
from irl_ray import worlds
from irl_ray.analysis.codes import prior_success
from irl_ray.cli import irl_ray as cli
from irl_ray.cli.rllib import main as rllib
from irl_ray.data import imports
from irl_ray.data.shards import StoredDemonstrations
from irl_ray.errors import UserError
from irl_ray.internal.internal_env import InternalVectorEnv
from irl_ray.internal.sampler import sample_code_episodes, sample_raw_episodes
from irl_ray.models import weights
from irl_ray.models.actions import SeveralCategoricalActions
from irl_ray.models.contract import broken_promises
from irl_ray.models.sequence_model import BaseModel, Block, SequenceModel, SequenceModelConfig, model_config, new_base
from irl_ray.models.terms import observation_term
from irl_ray.phases.discover import discover_config
from irl_ray.phases.pretrain import pretrain_config
from irl_ray.phases.training import with_steps
from irl_ray.rllib.modules import distribution_of
from irl_ray.worlds.anything import GymWorld
from irl_ray.worlds.chains import ORDERS
from irl_ray.worlds.spaces import act_as, read_as

PACKAGE = Path(irl_ray.__file__).parent
PAGE = (PACKAGE / "docs" / "worlds.md").read_text(encoding="utf-8")
ENV = "bells_world:Bells-v0"
SHAPE = {"width": 16, "layers": 2, "heads": 2, "mlp": 32}


def blocks(language: str) -> list[str]:
    """The page's blocks of code in a language."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)


@pytest.fixture(scope="module")
def bells(tmp_path_factory):
    """A folder with the page's module, in which its demonstrations were made (fewer of them) and imported."""
    folder = tmp_path_factory.mktemp("bells")
    (folder / "bells_world.py").write_text(blocks("python")[0], encoding="utf-8")
    sys.path.append(str(folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(blocks("python")[1].replace("range(8000)", "range(120)"), {})
        for command in blocks("bash")[0].strip().splitlines():
            words = [word.strip("'") for word in re.findall(r"'[^']*'|\S+", command)]
            assert words[0] == "irl-ray" and cli.main(words[1:]) == 0
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def world(bells):
    return worlds.make(ENV, {"num_subgoals": 4})


@pytest.fixture(scope="module")
def base(bells):
    return irl_ray.pretrain(
        ENV,
        bells / "data" / "bells",
        model=SHAPE,
        steps=30,
        batch_size=16,
        gate_episodes=16,
        world={"num_subgoals": 4},
        control_steps=4,
        post_task={"orders": [[0, 3, 2, 1]]},
    )


SPACES = [
    gym.spaces.Discrete(5, start=2),
    gym.spaces.MultiDiscrete([3, 4, 5]),
    gym.spaces.MultiDiscrete([[3, 4], [2, 6]], start=[[1, 0], [0, -2]]),
    gym.spaces.MultiBinary(4),
    gym.spaces.MultiBinary([2, 3]),
    gym.spaces.Box(-3, 8, (2, 2), np.int64),
    gym.spaces.Box(0, 10, (7, 7, 3), np.uint8),
    gym.spaces.Box(0, 255, (20, 24, 3), np.uint8),
    gym.spaces.Box(-1, 1, (3, 2), np.float64),
    gym.spaces.Dict({"a": gym.spaces.Box(-1, 1, (2,)), "b": gym.spaces.Discrete(3)}),
    gym.spaces.Tuple((gym.spaces.Discrete(2), gym.spaces.MultiBinary(3))),
]


class Anything(GymWorld):
    """A world of a space, without an environment."""

    def __init__(self, space, action=None):
        for name, value in {"id": "Anything-v0", "horizon": 9, "num_subgoals": 0, "options": {}}.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "pair", (space, action or gym.spaces.Discrete(3)))

    @property
    def _spaces(self):
        return self.pair


@pytest.mark.parametrize("space", SPACES, ids=str)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_every_space_is_read_within_what_models_are_told_of_it(space, seed):
    space.seed(seed)
    read, view, shown = read_as(space)
    first, second = space.sample(), space.sample()
    seen = [view(x) for x in (first, second)]
    assert all(read.contains(x.astype(read.dtype)) for x in seen)
    back = [np.asarray(gym.spaces.flatten(space, shown(x))) for x in seen]
    np.testing.assert_allclose(back, [gym.spaces.flatten(space, x) for x in (first, second)], rtol=1e-6)
    same = [np.asarray(gym.spaces.flatten(space, x)) for x in (first, second)]
    assert np.array_equal(*seen) == np.allclose(*same)  # nothing is lost, and nothing added


ACTIONS = [
    gym.spaces.Discrete(5, start=2),
    gym.spaces.MultiDiscrete([3, 4, 5]),
    gym.spaces.MultiDiscrete([[3, 4], [2, 6]], start=[[1, 0], [0, -2]]),
    gym.spaces.MultiBinary(3),
    gym.spaces.Box(-1, 1, (2, 3)),
    gym.spaces.Box(np.array([0.0, -2.0]), np.array([1.0, 3.0]), dtype=np.float64),
]


@pytest.mark.parametrize("space", ACTIONS, ids=str)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_every_action_goes_to_models_and_back(space, seed):
    space.seed(seed)
    given, act, told = act_as(space)
    taken = np.stack([space.sample() for _ in range(4)])
    seen = told(taken)
    assert all(given.contains(np.asarray(a, given.dtype)) for a in seen)
    for action, again in zip(taken, map(act, seen), strict=True):
        assert space.contains(again)
        np.testing.assert_array_equal(action, again)
    np.testing.assert_array_equal(seen, told(taken.reshape(4, -1)) if taken.ndim > 1 else seen)  # flat ones too
    if isinstance(space, gym.spaces.Box):
        assert space.contains(act(np.full(given.shape, 9.0)))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), temperature=st.sampled_from([0.3, 1.0, 2.0]))
def test_several_choices_are_drawn_as_often_as_they_are_likely(seed, temperature):
    """Against every combination spelled out, and against RLlib's distribution of the same parameters."""
    actions, generator = SeveralCategoricalActions([2, 3]), torch.Generator().manual_seed(seed)
    drawn_from = torch.randn(5, generator=generator)
    inputs = actions.tempered(drawn_from, temperature)
    torch.testing.assert_close(inputs, drawn_from / temperature)
    every = torch.cartesian_prod(torch.arange(2), torch.arange(3))
    log_prob = actions.log_prob(inputs.expand(6, 5), every)
    torch.testing.assert_close(log_prob.exp().sum(), torch.tensor(1.0))
    assert every[log_prob.argmax()].tolist() == actions.mode(inputs).tolist()
    theirs = distribution_of(actions).from_logits(inputs.expand(6, 5))
    torch.testing.assert_close(theirs.logp(every), log_prob)
    noise = torch.from_numpy(actions.noise(np.random.default_rng(seed), 4000))
    drawn = actions.sample(inputs.expand(4000, 5), noise)
    shares = (drawn[:, None] == every).all(-1).double().mean(0)
    assert (shares - log_prob.exp()).abs().max() < 0.04
    assert torch.equal(drawn, actions.sample(drawn_from.expand(4000, 5), noise, temperature))


@pytest.mark.parametrize("space", SPACES, ids=str)
@pytest.mark.parametrize("action", ACTIONS, ids=str)
def test_a_model_follows_from_spaces(space, action):
    """Both of its forms agree, and it is trained to tell the next observation."""
    world = Anything(space, action)
    model = SequenceModel(SequenceModelConfig(**SHAPE), world).eval()
    space.seed(0)
    seen = torch.as_tensor(np.stack([[world.view(space.sample()) for _ in range(6)] for _ in range(2)]))
    parallel = model(seen[:, :-1])
    state = model.initial_state(2, 5)
    steps = [model.action_inputs(model.upper_step(model.embed(seen[:, t]), state, 0)) for t in range(5)]
    torch.testing.assert_close(parallel, torch.stack(steps, 1), atol=1e-5, rtol=1e-4)
    batch = irl_ray.data.trajectories.Trajectories(
        world, seen, torch.zeros(2, 5), torch.ones(2, 5, dtype=torch.bool), *torch.zeros(3, 2, 5, dtype=torch.long)
    )
    loss = observation_term(model, model.upper(model.embed(seen[:, :-1]), 0), batch)
    loss.backward()
    assert torch.isfinite(loss) and model.observation_head.weight.grad.abs().sum() > 0


def test_whole_numbers_are_told_as_a_plain_loop_would():
    world = Anything(gym.spaces.MultiDiscrete([3, 4]))
    model = SequenceModel(SequenceModelConfig(**SHAPE), world)
    seen = torch.tensor([[[0, 1], [2, 3], [1, 0]]])
    mask = torch.tensor([[True, False]])
    none = torch.zeros(1, 2, dtype=torch.long)
    batch = irl_ray.data.trajectories.Trajectories(world, seen, none, mask, none[:, 0], none, none)
    top = model.upper(model.embed(seen[:, :-1]), 0)
    logits = model.observation_head(model.norm(top[0, 0]))
    expected = -logits[:3].log_softmax(-1)[2] - logits[3:].log_softmax(-1)[3]
    torch.testing.assert_close(observation_term(model, top, batch), expected)


def test_rows_do_what_single_copies_do(world):
    """Rows stand still, end, wait and are dropped on their own; each is as a copy by itself with its seed."""
    seeds = [5, 6, 7]
    rows, singles = world.rows(3), []
    observed, _ = rows.reset(seed=seeds)
    for row, seed in enumerate(seeds):
        env = gym.make(ENV)
        first, _ = env.reset(seed=int(np.random.SeedSequence(seed).generate_state(1)[0]))
        assert first.tolist() == observed[row].tolist()
        singles.append(env)
    random, numbers, over = np.random.default_rng(0), np.arange(3), np.zeros(3, bool)
    last = observed.copy()
    while not over.all():
        actions, still = random.integers(4, size=3), random.random(3) < 0.3  # walking alone goes on to the horizon
        chosen = actions[: len(numbers)]
        observed, reward, terminated, truncated, info = rows.step(chosen, still[: len(numbers)])
        for row, number in enumerate(numbers):
            if still[row] or over[number]:
                assert observed[row].tolist() == last[number].tolist() and not truncated[row]
                continue
            single, one, ended, cut, told = singles[number].step(int(chosen[row]))
            assert observed[row].tolist() == single.tolist() and reward[row] == one
            assert (terminated[row], truncated[row]) == (ended, cut) and info["subgoal"][row] == told["subgoal"]
            last[number], over[number] = observed[row], ended or cut
        if over.any() and len(numbers) == 3:
            kept = np.flatnonzero(~over)
            rows.keep(kept)
            numbers = numbers[kept]
            assert rows.observe().tolist() == last[numbers].tolist()
    assert not over.all() or rows.elapsed.max() == world.horizon
    rows.close()


def test_success_is_what_the_info_says_or_else_a_reward(bells):
    page: dict = {}
    exec(blocks("python")[1].partition("Path(")[0].replace("from pathlib import Path", ""), page)
    rows = worlds.make(ENV, {}).rows(4)
    rows.reset(seed=[0, 1, 2, 3])
    won, over = np.zeros((2, 4), bool)
    while not over.all():
        envs = [env.unwrapped for env in rows._envs]
        actions = np.array([0 if done else page["expert"](env) for env, done in zip(envs, over)])
        actions[0] = 4  # which is wrong, but where the agent stands on the bell
        _, _, terminated, truncated, info = rows.step(actions)
        won, over = won | info["success"], over | terminated | truncated
    assert won[1:].all() and not won[0]


def test_stored_demonstrations_are_the_episodes(bells, world):
    stored = StoredDemonstrations(bells / "data" / "bells", truth=True)
    assert len(stored) == 120 and stored.world == world
    batch = stored.take(torch.arange(5))
    assert batch.observation.dtype == batch.action.dtype == torch.int64
    for row in range(5):
        with np.load(bells / "demonstrations" / f"{row:05d}.npz") as arrays:
            steps = len(arrays["actions"])
            assert int(batch.mask[row].sum()) == steps
            assert batch.observation[row, : steps + 1].tolist() == arrays["observations"].tolist()
            assert batch.action[row, :steps].tolist() == arrays["actions"].tolist()
            assert batch.subgoal[row, :steps].tolist() == arrays["subgoal"].tolist()
            assert batch.leg[row, :steps].max() == 2


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda a: a | {"actions": a["actions"] + 2}, "actions from"),
        (lambda a: a | {"actions": a["actions"] + 0.5}, "whole numbers"),
        (lambda a: a | {"actions": np.stack([a["actions"]] * 2, 1)}, "shape"),
        (lambda a: a | {"observations": a["observations"] + 81}, "outside"),
        (lambda a: a | {"observations": a["observations"][:, :3]}, "shape"),
        (lambda a: a | {"observations": a["observations"][:-1]}, "one observation more"),
        (lambda a: a | {"subgoal": a["subgoal"] + 1}, "num_subgoals"),
        (lambda a: a | {"subgoal": a["subgoal"][:-1]}, "one for each step"),
        (lambda a: {"actions": a["actions"]}, "observations and actions"),
    ],
)
def test_what_is_wrong_with_an_episode_is_a_line(bells, tmp_path, capsys, change, told):
    with np.load(bells / "demonstrations" / "00000.npz") as arrays:
        good = {name: arrays[name] for name in arrays.files}
    np.savez(tmp_path / "bad.npz", **change(good))
    code = cli.main(["check", ENV, "--env-config", '{"num_subgoals": 4}', "--data", str(tmp_path)])
    printed = capsys.readouterr()
    assert code == 2 and told in printed.out + printed.err and "Traceback" not in printed.err


@pytest.mark.parametrize(
    ("env", "config", "told"),
    [
        ("Nowhere-v0", {}, "unknown"),
        ("no_such_module:Nowhere-v0", {}, "no_such_module"),
        (ENV, {"horizon": 0}, "horizon"),
        (ENV, {"size": "x"}, "cannot be opened"),
        (ENV, {"colour": "x"}, "cannot be opened"),
        (ENV, {"num_subgoals": -1}, "num_subgoals"),
        (3, {}, "unknown"),
    ],
)
def test_a_world_that_is_not_there_is_a_line(bells, env, config, told):
    with pytest.raises(UserError, match=told):
        worlds.make(env, config)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("def observe(self):\n        raise KeyError('lamp')\n", "the environment fails when it is played: KeyError"),
        ("def observe(self):\n        return np.full(4, 99)\n", "outside of the observation space"),
        ("def observe(self):\n        return np.full(4, 1.5)\n", "expected whole numbers, got fractions"),
    ],
)
def test_check_tells_what_an_environment_does_wrong(tmp_path, monkeypatch, capsys, fault, told):
    name = f"faulty_{abs(hash(fault))}"
    module = blocks("python")[0].replace("Bells-v0", f"{name}-v0").replace("bells_world:", f"{name}:")
    (tmp_path / f"{name}.py").write_text(module.replace("def observe(self):\n", f"{fault}\n    def unused(self):\n"))
    monkeypatch.syspath_prepend(tmp_path)
    assert cli.main(["check", f"{name}:{name}-v0"]) == 2
    assert told in capsys.readouterr().out


def test_check_refuses_what_an_import_would(bells, tmp_path, capsys):
    """Too few, or some left out; and alike problems are told three times, not once for each episode."""
    check = ["check", ENV, "--env-config", '{"num_subgoals": 3}', "--data"]
    assert cli.main([*check, str(bells / "demonstrations")]) == 2
    out = capsys.readouterr().out
    assert out.count("left out       0") <= 2 * imports.EXAMPLES and "more like these" in out
    assert "PROBLEM" in out and "episodes are left out" in out
    for file in sorted((bells / "demonstrations").glob("*.npz"))[:20]:
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert cli.main(["check", ENV, "--data", str(tmp_path)]) == 2
    assert "20 usable demonstrations, expected at least 40" in capsys.readouterr().out


def test_a_dict_is_stored_apart_and_the_message_says_so(tmp_path):
    space = gym.spaces.Dict({"a": gym.spaces.Box(-1, 1, (2,)), "b": gym.spaces.Discrete(3)})
    with pytest.raises(UserError, match="observations/KEY"):
        Anything(space).view(np.zeros(5, np.float32))
    np.savez(tmp_path / "0.npz", observations=np.array([{"a": 1}], object), actions=np.zeros(1))
    with pytest.raises(UserError, match="observations/KEY"):
        list(imports.episodes_of(str(tmp_path)))


def test_settings_of_a_later_phase_are_looked_at_before_the_first(bells, tmp_path, capsys):
    file = tmp_path / "bells.yaml"
    text = blocks("yaml")[0].replace("data: data/bells", f"data: {bells / 'data' / 'bells'}")
    file.write_text(text.replace("env_config: {orders: [[0, 3, 2, 1]]}", "env_config: {order: [0]}"))
    assert rllib(["train", "file", str(file), "--storage-path", str(tmp_path)]) == 2
    assert "bells_internal: env" in capsys.readouterr().err
    with pytest.raises(UserError, match="post_task: expected settings"):
        worlds.make(ENV, {"num_subgoals": 4}).with_tasks([[0, 3, 2, 1]])


def test_an_environment_without_an_end_needs_a_horizon():
    gym.register("Endless-v0", entry_point=lambda **_: gym.make("CartPole-v1").unwrapped)
    with pytest.raises(UserError, match=r"env_config\.horizon: missing"):
        worlds.make("Endless-v0", {})
    assert worlds.make("Endless-v0", {"horizon": 7}).horizon == 7


def test_the_three_phases_run_in_a_world_of_others(bells, base, tmp_path):
    """Gates with labels; weights that load, act, and know their world; nothing is trained that should be frozen."""
    told = base.metrics["pretrain"]
    assert {"eval/action_nll", "probe_accuracy/layer_1", "control_success/layer_0"} <= told.keys()
    before = weights.fingerprint(base.base)
    found = irl_ray.discover(base, bells / "data" / "bells", steps=6, batch_size=16, length_groups=2,
                             clean_slate=True, metacontroller={"layer": 0}, post_task={"orders": [[0, 3, 2, 1]]},
                             gate_episodes=16)  # fmt: skip
    assert weights.fingerprint(found.base) == before
    told = found.metrics["discover"]
    assert {"switch_f1", "code_subgoal_accuracy", "injected_success", "prior_success"} <= told.keys()
    assert not any("colour" in name or "location" in name for name in told)
    loaded = weights.load(found.save(tmp_path / "found"), "metacontroller")
    assert loaded.world == found.world and loaded.world.id == ENV
    episodes = sample_raw_episodes(loaded.base, loaded.world, range(5))
    again = sample_raw_episodes(loaded.base, loaded.world, [3])
    assert len(episodes) == 5 and episodes[3].action.tolist() == again[0].action.tolist()
    agent, env = irl_ray.load_agent(tmp_path / "found"), gym.make(ENV)
    observation, _ = env.reset(seed=0)
    assert env.action_space.contains(agent.act(observation))


class Dials(gym.Env):
    """Two dials, counted from 1, are to be set to what is shown; an episode is four settings."""

    def __init__(self):
        self.observation_space, self.action_space = (
            gym.spaces.MultiBinary(2),
            gym.spaces.MultiDiscrete([2, 2], start=[1, 1]),
        )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.step_number, self.shown = 0, self.np_random.integers(2, size=2).astype(np.int8)
        return self.shown, {}

    def step(self, action):
        assert self.action_space.contains(action), action
        right = bool((action == self.shown + 1).all())
        self.step_number, self.shown = self.step_number + 1, self.np_random.integers(2, size=2).astype(np.int8)
        return self.shown, float(right and self.step_number == 4), not right or self.step_number == 4, False, {}


def test_the_phases_run_where_actions_are_several_choices(tmp_path):
    """Imitation learns both dials; raw RL's episodes and codes' episodes hold actions that the world takes."""
    gym.register("Dials-v0", entry_point=Dials, max_episode_steps=4)
    env = gym.make("Dials-v0")
    (tmp_path / "shown").mkdir()
    for number in range(64):
        seen, actions = [env.reset(seed=number)[0]], []
        for _ in range(4):
            actions.append(seen[-1].astype(np.int64) + 1)
            seen.append(env.step(actions[-1])[0])
        np.savez(tmp_path / "shown" / f"{number:02d}", observations=seen, actions=actions, rewards=[0, 0, 0, 1])
    arguments = ["data", "import", str(tmp_path / "shown"), "--env", "Dials-v0", "--out", str(tmp_path / "data")]
    assert cli.main(arguments) == 0
    learning = {"optimizer": {"learning_rate": 0.02}, "observation_weight": 0.0, "batch_size": 32, "gate_episodes": 16}
    base = irl_ray.pretrain("Dials-v0", tmp_path / "data", model=SHAPE, steps=40, **learning)
    assert base.metrics["pretrain"]["eval/action_nll"] < np.log(2)  # guessing both has log 4
    found = irl_ray.discover(base, tmp_path / "data", steps=2, batch_size=16, length_groups=2, gate_episodes=16)
    episodes = sample_raw_episodes(base.base, base.world, range(8))
    assert episodes[0].action.shape == (len(episodes[0].action), 2) and max(e.action.max() for e in episodes) == 1
    agent, (observation, _) = irl_ray.load_agent(found.save(tmp_path / "found")), env.reset(seed=0)
    assert env.action_space.contains(agent.act(observation))
    assert base.world.headings(StoredDemonstrations(tmp_path / "data").take(torch.arange(4))) is None


def test_what_is_not_said_follows_from_the_demonstrations(bells, base, tmp_path):
    """A world and its demonstrations are enough of a file; steps go over them so many times, within bounds."""
    told = {"env": ENV, "data": str(bells / "data" / "bells")}  # of 120 episodes
    config = pretrain_config(told)
    assert (config.steps, config.batch_size, config.window_share) == (1000, 64, 0.7)
    assert [pretrain_config(told | given).steps for given in ({"steps": 7}, {"batch_size": 2})] == [7, 1440]
    assert with_steps(replace(config, batch_size=1), {}, passes=96).steps == 10_000
    for wrong in ({"batch_size": 0}, {"batch_size": "64"}, {"data": 3}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            pretrain_config(told | wrong)
    assert pretrain_config({"preset": "tiny", "env": ENV, "data": "nowhere"}).steps == 20
    found = discover_config(told | {"base": "somewhere", "metacontroller": {"layer": 1}})
    assert (found.steps, found.clean_slate, found.metacontroller.layer) == (1000, True, 1)
    assert discover_config({"env": ENV, "base": "somewhere"}).steps == 64_000  # nothing to follow from
    assert discover_config({"base": str(base.save(tmp_path / "base")), "preset": "tiny"}).gate_episodes == 16
    assert found.metacontroller.switch == "gumbel"  # of a mapping only what is named changes
    with pytest.raises(UserError, match="manifest.json: missing"):
        pretrain_config(told | {"data": "nowhere"})


def test_without_labels_their_gates_are_left_out(bells, base):
    bare = irl_ray.pretrain(ENV, bells / "data" / "bells", model=SHAPE, steps=2, batch_size=16, gate_episodes=16)
    assert [k for k in bare.metrics["pretrain"] if "probe" in k or "control" in k] == []
    found = irl_ray.discover(bare, bells / "data" / "bells", steps=2, batch_size=16, length_groups=2, gate_episodes=16)
    told = found.metrics["discover"]
    assert {"switches_per_episode", "prior_success", "eval/action_nll"} <= told.keys()
    assert not any(name.startswith(("code_", "switch_f1", "injected")) for name in told)


def test_the_priors_success_is_a_share_of_episodes(bells, base):
    found = irl_ray.discover(base, bells / "data" / "bells", steps=1, batch_size=16, length_groups=2, gate_episodes=16)
    share = prior_success(found, found.world, 40, 0, 0.5, 1.0)["prior_success"]
    assert 0 <= share <= 1 and (share * 40) == round(share * 40)
    assert share == prior_success(found, found.world, 40, 0, 0.5, 1.0)["prior_success"]


def test_a_world_of_ones_own_is_found_by_its_id(bells):
    class Mine(GymWorld):
        id = "bells_world:Mine-v0"
        presets = {"world": {"small": {}}}

        def __init__(self):
            pass

    worlds.register(Mine)
    assert worlds.find("bells_world:Mine-v0") is Mine
    del worlds._OWN[Mine.id]


OUTSIDE = {  # who may name a world's own module, and why
    "__init__.py": "registers the environments with Gymnasium",
    "worlds/__init__.py": "finds worlds by name",
    "cli/irl_ray.py": "the commands `economics` and `lessons`, which are of pin-pads",
}


def test_nothing_outside_of_a_worlds_folder_imports_it():
    naming = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if "pinpad" not in path.parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.ImportFrom) and "worlds.pinpad" in (node.module or ""))
        or (isinstance(node, ast.Import) and any("worlds.pinpad" in name.name for name in node.names))
        or (isinstance(node, ast.Constant) and str(node.value).startswith("irl_ray.worlds.pinpad"))
    }
    assert naming == OUTSIDE.keys()


def test_gates_that_fail_cost_a_number_and_not_the_weights(bells, base, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("irl_ray.phases.discover.prior_success", lambda *_: 1 / 0)
    found = irl_ray.discover(base, bells / "data" / "bells", steps=2, batch_size=16, length_groups=2, gate_episodes=16)
    assert found.metrics["discover"]["gates_failed"] == 1 and "division by zero" in capsys.readouterr().out
    assert weights.load(found.save(tmp_path / "kept"), "metacontroller").metacontroller is not None


def promising(bells, settings):
    """A base model of a class in the bells's world, and observations to try it on."""
    world = worlds.make(ENV, {})
    rows = world.rows(3)
    seen = [rows.reset(seed=[0, 1, 2])[0], *(rows.step(np.array([0, 1, 1]))[0] for _ in range(7))]
    return new_base(model_config(settings, "model"), world), torch.from_numpy(np.stack(seen, 1))


GPT2 = {"class": "irl_ray.models.gpt2:GPT2Base", "width": 16, "layers": 2, "heads": 2}


def test_gpt2_is_hugging_faces_and_steps_as_it_runs(bells):
    transformers = pytest.importorskip("transformers")
    model, seen = promising(bells, GPT2)
    assert broken_promises(model, seen) == []
    trunk = transformers.GPT2Model(
        transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=61, vocab_size=1)
    ).eval()
    trunk.h = torch.nn.ModuleList()  # made anew below from the model's own weights
    again = transformers.GPT2Model(trunk.config).eval()
    for theirs, layer in zip(again.h, model.blocks):
        for name in ("ln_1", "ln_2", "mlp"):
            getattr(theirs, name).load_state_dict(getattr(layer, name).state_dict())
        theirs.attn.load_state_dict(layer.attention.state_dict())
    again.wpe.load_state_dict(model.positions.state_dict())
    again.ln_f.load_state_dict(model.norm.state_dict())
    expected = again(inputs_embeds=model.encoder(seen)).last_hidden_state
    torch.testing.assert_close(model.norm(model.upper(model.embed(seen), 0)), expected, atol=1e-5, rtol=1e-4)


def test_the_phases_run_on_a_base_model_of_others(bells, tmp_path):
    pytest.importorskip("transformers")
    base = irl_ray.pretrain(ENV, bells / "data" / "bells", model=GPT2, steps=3, batch_size=16, gate_episodes=16)
    loaded = weights.load(base.save(tmp_path / "base"))
    assert loaded.base.config.plain() == GPT2
    assert weights.fingerprint(loaded.base) == weights.fingerprint(base.base)
    found = irl_ray.discover(base, bells / "data" / "bells", steps=2, batch_size=16, length_groups=2, gate_episodes=16,
                             clean_slate=True, metacontroller={"layer": 1})  # fmt: skip
    agent, env = irl_ray.load_agent(found.save(tmp_path / "found")), gym.make(ENV)
    observation, _ = env.reset(seed=0)
    for _ in range(5):
        assert env.action_space.contains(agent.act(observation))


def test_clean_slates_are_refused_where_the_embedding_tells_positions(bells, tmp_path):
    """At layer 1 what acts in RL is what was found on demonstrations; at layer 0 it would not be."""
    pytest.importorskip("transformers")
    base = irl_ray.pretrain(ENV, bells / "data" / "bells", model=GPT2, steps=1, batch_size=16, gate_episodes=16)
    plain = {"steps": 1, "batch_size": 16, "length_groups": 2, "gate_episodes": 16, "metacontroller": {"layer": 0}}
    with pytest.raises(UserError, match="positions"):
        irl_ray.discover(base, bells / "data" / "bells", **plain)
    arrival = {"metacontroller": {"layer": 0, "read_at": "arrival"}}  # where there are positions for all observations
    found = irl_ray.discover(base, bells / "data" / "bells", clean_slate=False, **plain | arrival)
    with pytest.raises(UserError, match="positions"):
        InternalVectorEnv(found, found.world, 2, clean_slate=True)


class Tangled(BaseModel):
    """Keeps none of its promises that `fault` names."""

    def __init__(self, world, fault="none"):
        super().__init__(world, 16, (Block(SequenceModelConfig(**SHAPE)) for _ in range(2)))
        self.fault = fault

    def lower(self, embedding, layer):
        if self.fault == "future":
            embedding = embedding + embedding.flip(1)
        return super().lower(embedding, layer)

    def upper_step(self, residual, state, layer):
        found = super().upper_step(residual, state, layer)
        return found + 0.1 if self.fault == "step" else found

    def upper(self, residual, layer):
        return super().upper(residual * 0 if self.fault == "deaf" else residual, layer)

    def initial_state(self, rows, steps):
        state = super().initial_state(rows, steps)
        if self.fault == "state":
            state[0]["keys"] += 1
        return state


@pytest.mark.parametrize(
    ("fault", "told"),
    [("none", None), ("future", "earlier"), ("step", "step by step"), ("deaf", "does not change"), ("state", "zero")],
)
def test_a_promise_that_a_base_model_breaks_is_told(bells, fault, told):
    model, seen = promising(bells, {"class": f"{__name__}:Tangled", "fault": fault})
    broken = broken_promises(model, seen)
    assert (broken == []) if told is None else any(told in line for line in broken), broken


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"class": "subprocess:Popen", "args": "ls"}, "no subclass"),
        ({"class": "no_such:Model"}, "cannot be imported"),
        ({"class": "irl_ray.models.gpt2:Nothing"}, "cannot be imported"),
        ({"class": "gpt2"}, "module:Class"),
        ({**GPT2, "colour": 3}, "refuses"),
    ],
)
def test_a_class_that_is_no_base_model_is_a_line(bells, settings, told):
    with pytest.raises(UserError, match=told):
        promising(bells, settings)


def test_check_holds_a_model_to_its_promises(bells, capsys):
    arguments = ["check", ENV, "--model", f"{__name__}:Tangled", "--model-config"]
    assert cli.main([*arguments, '{"fault": "none"}']) == 0
    assert cli.main([*arguments, '{"fault": "future"}']) == 2
    assert "earlier outputs change" in capsys.readouterr().out


BALLS = "irl_ray/BabyAIChain-v0"


def test_babyais_bot_picks_up_the_balls_in_order(tmp_path, capsys):
    """Replayed with the same seed its actions succeed; no chain has a change that is left for later."""
    pytest.importorskip("minigrid")
    from irl_ray.worlds.babyai.chain import BallChain, demonstrate

    assert len(ORDERS) == 20 and not {pair for order in ORDERS for pair in pairwise(order)} & {(0, 1), (1, 2), (2, 3)}
    env, done = BallChain(), 0
    for seed in range(12):
        episode = demonstrate(env, seed)
        if episode is None:
            continue
        observation, info = env.reset(seed=seed)
        for t, action in enumerate(episode.actions):
            assert observation.tolist() == episode.observations[t].tolist()
            assert info == {name: episode.labels[name][t] for name in ("subgoal", "leg")}
            observation, reward, terminated, _, info = env.step(int(action))
            assert terminated == (t == len(episode.actions) - 1)
        assert reward == 1 and info["leg"] == 3
        done += 1
    assert done >= 10
    source = "irl_ray.worlds.babyai.chain:demonstrations"
    arguments = ["data", "import", source, "--env", BALLS, "--env-config", '{"num_subgoals": 4}', "--out"]
    assert cli.main([*arguments, str(tmp_path / "data"), "--episodes", "40"]) == 0
    assert cli.main([*arguments, str(tmp_path / "none")]) == 2 and "--episodes" in capsys.readouterr().err
    assert len(StoredDemonstrations(tmp_path / "data")) == 40


def test_demonstrations_are_exported_in_the_environments_words(tmp_path, monkeypatch, bells):
    """To Minari and back nothing changes, labels included; also where actions are counted from 1."""
    minari = pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    assert cli.main(["data", "export", str(bells / "data" / "bells"), "--minari", "me/bells-v0", "--limit", "50"]) == 0
    told = ["--env", ENV, "--env-config", '{"num_subgoals": 4}', "--out", str(tmp_path / "again")]
    assert cli.main(["data", "import", "minari:me/bells-v0", *told]) == 0
    rows = torch.arange(50)
    folders = bells / "data" / "bells", tmp_path / "again"
    before, after = (StoredDemonstrations(folder, truth=True).take(rows) for folder in folders)
    assert before.subgoal.max() == 3
    for name in ("observation", "action", "mask", "leg", "subgoal"):
        torch.testing.assert_close(getattr(before, name), getattr(after, name))

    gym.register("Dials-v1", entry_point=f"{__name__}:Dials", max_episode_steps=4)
    (tmp_path / "dials").mkdir()
    for number in range(50):
        seen, actions = np.array([[0, 0], [1, 0], [number % 2, 1]]), [[1, 2], [2, 1]]
        np.savez(tmp_path / "dials" / f"{number:02d}", observations=seen, actions=actions, rewards=[0, 1])
    arguments = ["--env", "Dials-v1", "--out", str(tmp_path / "d")]
    assert cli.main(["data", "import", str(tmp_path / "dials"), *arguments]) == 0
    assert cli.main(["data", "export", str(tmp_path / "d"), "--minari", "me/dials-v0"]) == 0
    episode = next(minari.load_dataset("me/dials-v0").iterate_episodes())
    assert episode.actions.tolist() == [[1, 2], [2, 1]] and episode.observations.dtype == np.int8
    assert episode.rewards.tolist() == [0, 1] and episode.terminations.tolist() == [False, True]


def test_failures_are_not_exported_as_successes(tmp_path, monkeypatch, capsys):
    minari = pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    gym.register("Dials-v2", entry_point=f"{__name__}:Dials", max_episode_steps=2)
    (tmp_path / "dials").mkdir()
    for number in range(50):
        seen, actions = np.array([[0, 0], [1, 0], [number % 2, 1]]), [[1, 2], [2, 1]]
        np.savez(tmp_path / "dials" / f"{number:02d}", observations=seen, actions=actions, success=number > 9)
    arguments = ["--env", "Dials-v2", "--out", str(tmp_path / "d")]
    assert cli.main(["data", "import", str(tmp_path / "dials"), *arguments]) == 0
    assert cli.main(["data", "export", str(tmp_path / "d"), "--minari", "me/dials-v1"]) == 0
    assert "40 of 50" in capsys.readouterr().out
    episode = next(minari.load_dataset("me/dials-v1").iterate_episodes())
    assert not episode.rewards.any() and episode.truncations.tolist() == [False, True]
    assert not episode.terminations.any()


def test_a_wrong_ball_ends_the_episode():
    pytest.importorskip("minigrid")
    from irl_ray.worlds.babyai.chain import BallChain, demonstrate

    env = BallChain(orders=[(3, 1, 0)])
    episode = next(e for e in (demonstrate(env, seed) for seed in range(20)) if e is not None)
    number = int(episode.name.split()[1])
    first = int(np.flatnonzero(episode.labels["leg"] == 0)[-1])
    for order, ends in (((3, 1, 0), False), ((2, 1, 0), True)):
        env.orders = [order]
        env.reset(seed=number)
        for action in episode.actions[: first + 1]:
            _, reward, terminated, _, _ = env.step(int(action))
        assert (terminated, reward) == (ends, 0.0)


def test_a_room_is_remembered_as_it_was_last_seen():
    """Against a plain loop over cells: what came into view stays known, from wherever the agent stands."""
    pytest.importorskip("minigrid")
    from irl_ray.worlds.babyai.chain import BALL, COLOURS, FREE, WALL, BallChain, demonstrations

    draw, before = np.random.default_rng(0), 0
    for seed, side in product(range(20), (7, 9)):
        env, reach = BallChain(memory=True, room_size=side), side - 3
        observation, _ = env.reset(seed=seed)
        known, over = np.zeros((side, side), dtype=np.int64), False
        while not over:
            _, visible = env.gen_obs_grid()
            for place in np.ndindex(side, side):
                spot = env.relative_coords(*place)
                if spot is not None and visible[spot] and place != tuple(env.agent_pos):
                    cell = env.grid.get(*place)
                    is_free = cell is None
                    known[place] = (
                        FREE if is_free else WALL if cell.type == "wall" else BALL + COLOURS.index(cell.color)
                    )
            known[tuple(env.agent_pos)] = FREE
            for entry, (ahead, right) in zip(
                observation, product(range(reach, -reach - 1, -1), range(-reach, reach + 1)), strict=False
            ):
                x, y = env.agent_pos + ahead * env.dir_vec + right * env.right_vec
                assert entry == (known[x, y] if 0 <= x < side and 0 <= y < side else WALL)
            held = env.carrying
            assert observation[-1] == (0 if held is None else 1 + COLOURS.index(held.color))
            before += held is not None
            observation, _, over, _, _ = env.step(int(draw.choice(5, p=[0.2, 0.2, 0.3, 0.25, 0.05])))
            over |= env.step_count == 60
    assert before  # something was held
    first, other = (next(demonstrations(1, seed, memory=True)) for seed in (0, 1))
    assert len(first.observations[0]) == 82 and first.name != other.name
    with pytest.raises(UserError, match="room_size"):
        BallChain(room_size=4)


def test_ogbenchs_oracles_toggle_things_in_order():
    """Replayed in another copy their actions succeed, and end at the first thing where another was asked for."""
    pytest.importorskip("ogbench")
    from irl_ray.worlds.ogbench.scene import SceneChain, demonstrate

    assert len(ORDERS) == 20 and not {pair for order in ORDERS for pair in pairwise(order)} & {(0, 1), (1, 2), (2, 3)}
    asked, replayed, wrong = SceneChain(), SceneChain(), SceneChain()
    before = np.random.get_state()[1]
    for seed in range(3):
        episode = demonstrate(asked, seed)
        assert episode is not None and episode.succeeded and np.abs(episode.actions).max() <= 1
        wrong.orders = [((asked.order[0] + 1) % 4, *asked.order[1:])]
        wrong.reset(seed=seed)
        observation, info = replayed.reset(seed=seed)
        ended = False
        for t, action in enumerate(episode.actions):
            np.testing.assert_array_equal(observation, episode.observations[t])
            assert info == {name: episode.labels[name][t] for name in ("subgoal", "leg")}
            observation, reward, terminated, _, info = replayed.step(action)
            assert terminated == (t == len(episode.actions) - 1)
            if not ended:  # beside the other: copies of a process share what does not change
                _, nothing, ended, _, _ = wrong.step(action)
                assert nothing == 0 and ended == (info["leg"] == 1)
        assert ended and reward == 1 and info["leg"] == 3
    assert np.array_equal(before, np.random.get_state()[1])  # which the oracles draw from


def test_a_drawer_is_moved_when_it_comes_near_the_other_end():
    pytest.importorskip("ogbench")
    from irl_ray.worlds.ogbench.scene import SceneChain

    env = SceneChain(orders=[(1, 0, 2)])

    def pushed(*places):
        env.reset(seed=0)
        drawer, window = env._data.joint("drawer_slide"), env._data.joint("window_slide")
        away = 1 - 2 * env.toggled[[1, 3]]  # from where each is to its other end
        for joint, start, end, share, sign in zip(
            (drawer, window), (0.0, 0.0), (-0.16, 0.2), places, away, strict=True
        ):
            joint.qpos[0] = start + (end - start) * (share if sign > 0 else 1 - share)
        return env.step(np.zeros(5))[1:3], env.leg

    assert pushed(0.6, 0.0) == ((0.0, False), 0)  # past half of the way it still counts as where it was
    assert pushed(1.0, 0.0) == ((0.0, False), 1)
    assert pushed(0.0, 1.0) == ((0.0, True), 0)
    assert pushed(1.0, 1.0) == ((0.0, True), 0)  # another thing moved in the same step is wrong too


def test_gates_are_measured_on_the_slate_and_at_the_threshold_they_name(bells, base, monkeypatch):
    """What is found on clean slates is measured on them; `_clean_slate` metrics, and no others, begin anew."""
    from irl_ray.analysis import codes
    from irl_ray.phases import discover

    seen: dict[str, list] = {"found": [], "codes": [], "prior": []}
    found, rolled = codes.found_codes, codes.roll_out

    def finding(*arguments, clean_slate=False, **options):
        seen["found"].append(clean_slate)
        return found(*arguments, clean_slate=clean_slate, **options)

    def rolling(*arguments, anew=None, **options):
        seen["codes"].append(anew)
        return rolled(*arguments, anew=anew, **options)

    def sampling(agent, policy, world, seeds, *, threshold, **options):
        seen["prior"].append((threshold, world.options))
        return sample_code_episodes(agent, policy, world, seeds, threshold=threshold, **options)

    monkeypatch.setattr(codes, "found_codes", finding)
    monkeypatch.setattr(codes, "roll_out", rolling)
    monkeypatch.setattr(codes, "sample_code_episodes", sampling)
    unseen = {"orders": [[0, 3, 2, 1]]}
    for slate in (True, False):
        for calls in seen.values():
            calls.clear()
        settings = {"clean_slate": slate, "switch_threshold": 0.4, "post_task": unseen, "metacontroller": {"layer": 0}}
        irl_ray.discover(base, bells / "data" / "bells", steps=1, batch_size=16, length_groups=2, gate_episodes=16,
                         gates_at_reports=True, **settings)  # fmt: skip
        assert seen["found"] and set(seen["found"]) == {slate}
        assert seen["codes"] == [None, "subgoal"] * 2  # the unseen order, then the training tasks
        assert seen["prior"] == [(0.4, unseen)]
    assert discover.metacontroller_gates is codes.metacontroller_gates
