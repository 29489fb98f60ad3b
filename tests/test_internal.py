"""The internal environment, the samplers and the agent without Ray."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import make_agent
from hypothesis import given
from hypothesis import strategies as st

from irl_ray import load_agent
from irl_ray.errors import UserError
from irl_ray.internal.agent import Agent
from irl_ray.internal.internal_env import InternalVectorEnv
from irl_ray.internal.rollout import roll_out
from irl_ray.internal.sampler import Episodes, sample_code_episodes, sample_raw_episodes
from irl_ray.models.actions import CategoricalActions
from irl_ray.models.code_policy import CodePolicy, CodePolicyConfig
from irl_ray.models.weights import fingerprint
from irl_ray.worlds.pinpad.gridworld import GridPinpadVectorEnv
from irl_ray.worlds.pinpad.specs import GridworldSpec

WORLD = GridworldSpec.of({"preset": "tiny", "tasks": "post_two_pairs"})
sample_actions = CategoricalActions(4).sample


def policy():
    torch.manual_seed(1)
    made = CodePolicy(CodePolicyConfig(observation_size=32, code_size=4, hidden=8)).requires_grad_(False)
    torch.nn.init.normal_(made.mean[-1].weight, std=0.3)
    return made


def by_hand(agent, seed, codes, threshold=0.5, temperature=1.0, clean_slate=False):
    """Algorithms 1 and 2 for one episode, in the parallel form, one decision per switch.

    With a clean slate both halves of the base model read the observations since the last decision alone; what was
    perceived before it stays in the switch's memory.
    """
    base, meta = agent.base, agent.metacontroller
    raw = WORLD.rows(1)
    observation, _ = raw.reset(seed=[seed])
    uniforms = np.random.default_rng([seed, 1]).random(raw.world.horizon + 1)
    seen, perceived, controlled, observed_at_switch, code, over, used = [], [], [], [], None, False, 0
    lower = lambda: base.lower(base.embed(torch.stack(seen, 1)), meta.layer)[:, -1]  # noqa: E731
    while not over:
        seen.append(torch.from_numpy(observation))
        perceived.append(lower())
        memory = meta.memory(torch.stack(perceived, 1))
        beta = 1.0 if code is None else float(meta.switch(perceived[-1], memory[:, -1], code))
        if beta >= threshold:
            code, used = codes[used][None], used + 1
            observed_at_switch.append(perceived[-1][0])
            if clean_slate:
                seen, controlled = seen[-1:], []
        controlled.append(meta.control(lower(), code))
        logits = base.action_inputs(base.upper(torch.stack(controlled, 1), meta.layer))[:, -1]
        action = sample_actions(logits / temperature, torch.tensor([uniforms[len(perceived) - 1]]))
        observation, _, terminated, truncated, _ = raw.step(action.numpy())
        over = bool(terminated[0] | truncated[0])
    return torch.stack(observed_at_switch), len(perceived)


@pytest.mark.parametrize("threshold, temperature", [(0.5, 1.0), (0.45, 0.2), (0.55, 4.0)])
@pytest.mark.parametrize("mixer", ["transformer", "hawk"])
@pytest.mark.parametrize("slate", [{}, {"clean_slate": True}, {"clean_slate": True, "layer": 0}])
def test_internal_episode_equals_the_algorithm_by_hand(tiny_world, mixer, threshold, temperature, slate):
    shape = {key: slate[key] for key in slate.keys() & {"layer"}}
    clean = slate.get("clean_slate", False)
    agent, acting = make_agent(tiny_world, mixer, **shape), {"threshold": threshold, "action_temperature": temperature}
    for seed in range(6):
        (episode,) = sample_code_episodes(agent, None, WORLD, [seed], clean_slate=clean, **acting)
        expected, raw_steps = by_hand(agent, seed, torch.from_numpy(episode.action), threshold, temperature, clean)
        assert episode.raw_steps == raw_steps
        torch.testing.assert_close(torch.from_numpy(episode.observation[:-1]), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("mixer", ["transformer", "hawk"])
def test_episodes_follow_one_another_on_a_clean_slate(tiny_world, mixer):
    """Also where no row decides, since all wait to start anew."""
    env = InternalVectorEnv(make_agent(tiny_world, mixer, layer=1), WORLD, 1, clean_slate=True)
    env.reset(seed=0)
    random, ended = np.random.default_rng(0), 0
    for _ in range(60):
        _, _, terminated, truncated, _ = env.step(random.standard_normal((1, 4), np.float32))
        ended += int(terminated[0] | truncated[0])
    assert ended > 1


def test_an_episode_depends_on_its_seed_alone(tiny_agent):
    seeds = list(range(40))
    together = sample_code_episodes(tiny_agent, policy(), WORLD, seeds)
    halves = sample_code_episodes(tiny_agent, policy(), WORLD, seeds[::2])
    for a, b in zip(together[::2], halves):
        assert (a.raw_steps, a.success, a.legs) == (b.raw_steps, b.success, b.legs)
        np.testing.assert_allclose(a.action, b.action, atol=1e-4)
    raw, one = sample_raw_episodes(tiny_agent.base, WORLD, seeds), sample_raw_episodes(tiny_agent.base, WORLD, [7])
    assert (raw[7].action == one[0].action).all()


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=8),
    st.lists(st.integers(0, 10**6), min_size=1, max_size=8),
)
def test_sets_of_episodes_equal_lists_of_them(decisions, numbers):
    count, total = len(decisions), sum(decisions)
    made = Episodes(
        np.array(decisions), np.arange(total * 2).reshape(total, 2), np.arange(total), -np.arange(total),
        np.arange(count * 2).reshape(count, 2), np.arange(count) / 2, *(np.arange(count) % k == 0 for k in (2, 3)),
        np.arange(count), np.arange(count),
    )  # fmt: skip
    chosen = np.array(numbers) % count
    assert_same(list(made.select(chosen)), [made[n] for n in chosen])
    assert_same(list(Episodes.joined([made, made])), [*made, *made])
    assert [e.action.tolist() for e in made] == [r[m].tolist() for r, m in zip(made.padded("action"), made.mask())]


def assert_same(some, others):
    assert len(some) == len(others)
    for one, other in zip(some, others):
        for name, value in vars(one).items():
            np.testing.assert_array_equal(value, getattr(other, name))


def test_episodes_are_complete_and_unbiased_by_length(tiny_agent):
    episodes = sample_code_episodes(tiny_agent, None, WORLD, range(60))
    assert len(episodes) == 60
    lengths = [e.raw_steps for e in episodes]
    assert max(lengths) > 3 * min(lengths)  # long ones are there
    for episode in episodes:
        assert episode.terminated or episode.raw_steps == 30
        assert len(episode.observation) == len(episode.action) + 1
        assert episode.reward.sum() == float(episode.success)


def test_gymnasium_interface_gives_the_same_episode(tiny_agent):
    env = InternalVectorEnv(tiny_agent, WORLD, 3, action_temperature=0.5, autoreset="disabled")
    sampled = sample_code_episodes(tiny_agent, None, WORLD, [11, 12, 13], action_temperature=0.5)
    observation, _ = env.reset(seed=[11, 12, 13])
    done, steps = np.zeros(3, bool), np.zeros(3, int)
    for k in range(max(len(e.action) for e in sampled)):
        for row, episode in enumerate(sampled):
            if not done[row]:
                np.testing.assert_allclose(observation[row], episode.observation[k], atol=1e-4)
        codes = np.stack([e.action[min(k, len(e.action) - 1)] for e in sampled])
        observation, _, terminated, truncated, info = env.step(codes)
        steps += info["raw_steps"] * ~done
        done |= terminated | truncated
        if (terminated | truncated).any():  # rows that are over go on with any episode: the others do not notice
            env.reset(options={"reset_mask": terminated | truncated})
    assert done.all() and steps.tolist() == [e.raw_steps for e in sampled]


def played(env, codes, rows=slice(None)):
    """Observations, rewards, ends and raw steps of some decisions, of the given rows."""
    told = []
    for code in codes:
        observation, reward, terminated, truncated, info = env.step(code)
        told.append([observation[rows], reward[rows], terminated[rows], truncated[rows], info["raw_steps"][rows]])
    return told


@pytest.mark.parametrize("mixer", ["transformer", "hawk"])
def test_autoreset_starts_a_new_episode(tiny_world, mixer):
    """Whatever came before, a new episode is that of an environment that has just been opened."""
    agent = make_agent(tiny_world, mixer)
    env, fresh = (InternalVectorEnv(agent, replace(WORLD, horizon=6), 2) for _ in range(2))
    random = np.random.default_rng(0)
    env.reset(seed=3)
    over = np.zeros(2, bool)
    while not over.any():
        *_, terminated, truncated, _ = env.step(random.standard_normal((2, 4), np.float32))
        over = terminated | truncated
    observation, reward, terminated, truncated, info = env.step(np.ones((2, 4), np.float32))
    again = np.flatnonzero(over)
    assert not (reward[again].any() or terminated[again].any() or truncated[again].any())
    assert not info["raw_steps"][again].any() and not env.raw.elapsed[again].any()
    assert (env._state["meta"]["code"][again] == 0).all()
    seeds = [100, 101]
    first, _ = env.reset(seed=seeds)
    expected, _ = fresh.reset(seed=seeds)
    np.testing.assert_array_equal(first, expected)
    for name, value in fresh._state["meta"].items():
        assert torch.equal(env._state["meta"][name], value), name
    codes = random.standard_normal((5, 2, 4), np.float32)
    for one, other in zip(played(env, codes), played(fresh, codes)):
        for a, b in zip(one, other):
            np.testing.assert_array_equal(a, b)


def test_rows_that_are_reset_get_their_own_seeds(tiny_agent):
    """By mask, with a seed for every row or for those rows, as in an environment where all start with them."""
    codes = np.random.default_rng(0).standard_normal((6, 3, 4), np.float32)
    whole = InternalVectorEnv(tiny_agent, WORLD, 3)
    whole.reset(seed=[50, 51, 52])
    expected = played(whole, codes, rows=[1, 2])
    mask = np.array([False, True, True])
    for seeds in ([50, 51, 52], [51, 52]):
        env = InternalVectorEnv(tiny_agent, WORLD, 3)
        env.reset(seed=7)
        env.step(codes[0])
        env.reset(seed=seeds, options={"reset_mask": mask})
        for one, other in zip(played(env, codes, rows=[1, 2]), expected):
            for a, b in zip(one, other):
                np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("make, told", [
    (lambda env: env.step(np.zeros((2, 4))), "before reset"),
    (lambda env: (env.reset(seed=0), env.step(np.zeros((2, 3)))), "shape"),
    (lambda env: (env.reset(seed=0), env.step(np.zeros(4))), "shape"),
    (lambda env: (env.reset(seed=0), env.step(np.array([[0.0] * 4, [0, np.nan, 0, 0]]))), "row 1 is not finite"),
    (lambda env: (env.reset(seed=[1, 2, 3])), "2 seeds"),
    (lambda env: (env.reset(options={"reset_mask": np.ones(3, bool)})), "2 booleans"),
    (lambda env: (env.reset(seed=0), [env.step(np.zeros((2, 4))) for _ in range(40)]), "are over"),
])  # fmt: skip
def test_misuse_costs_one_line(make, told, tiny_agent):
    with pytest.raises(UserError, match=told):
        make(InternalVectorEnv(tiny_agent, WORLD, 2, autoreset="disabled"))


@pytest.mark.parametrize("mode", ["same_step", "Next_step", ""])
def test_other_modes_of_autoreset_are_refused(mode, tiny_agent):
    with pytest.raises(UserError, match="expected 'next_step' or 'disabled'"):
        InternalVectorEnv(tiny_agent, WORLD, 1, autoreset=mode)


@pytest.mark.parametrize("bias", [-1000.0, 0.0, 1000.0])
def test_thresholds_at_the_extremes(tiny_world, bias):
    """At 0 there is a decision at every raw step, however firmly the switch is shut; at 1 where it is wide open."""
    agent = make_agent(tiny_world, initial_switch_bias=bias)
    forced = sample_code_episodes(agent, None, WORLD, range(12), threshold=0.0)
    assert (forced.decisions == forced.raw_steps).all() and forced.raw_steps.max() > 5
    once = sample_code_episodes(agent, None, WORLD, range(12), threshold=1.0)
    assert (once.decisions == (once.raw_steps if bias > 0 else 1)).all()


def test_sampling_leaves_the_frozen_parts_alone(tiny_agent):
    before = {name: fingerprint(part) for name, part in tiny_agent.parts.items()}
    sample_code_episodes(tiny_agent, policy(), WORLD, range(8))
    assert before == {name: fingerprint(part) for name, part in tiny_agent.parts.items()}


def test_foreign_worlds_are_refused(tiny_agent):
    with pytest.raises(UserError, match="grid_size"):
        InternalVectorEnv(tiny_agent, GridworldSpec.of({}), 1)


def test_actions_follow_the_distribution():
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]]).expand(20000, -1)
    actions = sample_actions(logits, torch.rand(20000, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(actions.bincount() / 20000, logits[0].softmax(-1), atol=0.01, rtol=0)


def test_roll_out_counts_every_episode(tiny_agent):
    summary = roll_out(tiny_agent.base, WORLD, 20, seed=0)
    assert len(summary.success) == 20 and (summary.steps >= 1).all()


def test_agent_acts_without_ray(tiny_weights):
    agent = load_agent(tiny_weights, seed=3)
    env = GridPinpadVectorEnv(1, preset="tiny", tasks="post_two_pairs")
    onehot, _ = env.reset(seed=0)
    first = agent.act(onehot[0])
    agent = load_agent(tiny_weights, seed=3)
    assert first == agent.act(env.entities[0])  # one-hot and cells are the same observation
    with pytest.raises(UserError, match="shape"):
        agent.act(np.zeros(3))
    code = (
        "import sys, irl_ray, numpy; a = irl_ray.load_agent(sys.argv[1]); a.act(numpy.zeros(5, int));"
        "assert 'ray' not in sys.modules, 'ray was imported'"
    )
    subprocess.run([sys.executable, "-c", code, str(tiny_weights)], check=True)


@pytest.mark.parametrize("layer", [0, 1])
def test_an_agent_starts_its_memory_anew_as_it_was_trained(tiny_world, layer):
    """The caches of both halves hold the steps since the last code, and the switch's memory all of them."""
    for clean in (False, True):
        parts = make_agent(tiny_world, layer=layer, initial_switch_bias=0.3)
        parts.policy = CodePolicy(CodePolicyConfig(32, 4, 8, clean_slate=clean)).requires_grad_(False)
        agent, env, since = Agent(parts, seed=1), GridPinpadVectorEnv(1, preset="tiny"), 0
        env.reset(seed=[5])
        for _ in range(12):
            before = agent.decisions
            action = agent.act(env.entities[0])
            since = 1 if agent.decisions > before and clean else since + 1
            assert [int(cache["length"]) for cache in agent._base] == [since] * 2
            env.step(np.array([action]))
        assert 1 < agent.decisions < 12


def test_a_low_action_temperature_takes_the_most_likely_action():
    logits = torch.tensor([[0.0, 1.0, 0.9, -1.0]]).expand(200, -1)
    uniforms = torch.rand(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert set(sample_actions(logits, uniforms, 0.01).tolist()) == {1}
    shares = sample_actions(logits, uniforms).bincount(minlength=4) / 200
    torch.testing.assert_close(shares, logits[0].softmax(-1), atol=0.08, rtol=0)
