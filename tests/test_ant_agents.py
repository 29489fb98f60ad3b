"""Models, internal environment, phases and commands on the ant: what differs from the gridworld."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from conftest import make_ant_agent
from hypothesis import given
from hypothesis import strategies as st

from irl_ray import load_agent
from irl_ray.cli.irl_ray import main as irl_ray
from irl_ray.cli.rllib import main as rllib
from irl_ray.data.trajectories import Trajectories
from irl_ray.errors import UserError
from irl_ray.internal.internal_env import InternalVectorEnv
from irl_ray.internal.rollout import roll_out
from irl_ray.internal.sampler import sample_code_episodes, sample_raw_episodes
from irl_ray.models import weights
from irl_ray.models.actions import CategoricalActions, GaussianActions
from irl_ray.models.weights import fingerprint
from irl_ray.phases.discover import Discover, discover_config
from irl_ray.phases.hindsight import OutcomeTeacher, TeacherConfig
from irl_ray.phases.pretrain import Pretrain, pretrain_config, pretraining_losses
from irl_ray.worlds.pinpad.free_walks import free_walk_gates
from irl_ray.worlds.pinpad.specs import ANT_ID, AntSpec

WORLD = AntSpec.of({"preset": "small", "horizon": 12, "tasks": "post_a2"})


# Action distributions


@given(st.integers(0, 999), st.floats(-3, 3))
def test_gaussian_actions_are_torchs_normal_with_a_floor(seed, floor):
    random = torch.Generator().manual_seed(seed)
    family = GaussianActions(8, floor)
    outputs, action = 3 * torch.randn(5, 16, generator=random), torch.randn(5, 8, generator=random)
    mean, log_std = (inputs := family.inputs(outputs)).chunk(2, -1)
    assert (log_std > floor - 1e-5).all() and torch.equal(mean, outputs[:, :8])
    expected = torch.distributions.Normal(mean, log_std.exp()).log_prob(action).sum(-1)
    torch.testing.assert_close(family.log_prob(inputs, action), expected, atol=1e-4, rtol=1e-4)


def test_temperature_means_the_same_for_both_kinds_of_actions():
    """p^(1/T), normalised: of a Gaussian the same mean with a variance times T."""
    random = np.random.default_rng(0)
    family, temperature = GaussianActions(8, -1.0), 0.25
    inputs = family.inputs(torch.randn(1, 16, generator=torch.Generator().manual_seed(0)))
    mean, log_std = inputs.chunk(2, -1)
    drawn = family.sample(inputs, torch.from_numpy(family.noise(random, 40_000)), temperature)
    torch.testing.assert_close(drawn.mean(0), mean[0], atol=0.03, rtol=0)
    torch.testing.assert_close(drawn.std(0), log_std.exp()[0] / 2, atol=0, rtol=0.03)
    categorical, logits = CategoricalActions(4), torch.tensor([[0.0, 1.0, 2.0, -1.0]])
    drawn = categorical.sample(logits.expand(40_000, -1), torch.from_numpy(random.random(40_000)), temperature)
    torch.testing.assert_close(drawn.bincount(minlength=4) / 40_000, (logits[0] / 0.25).softmax(-1), atol=0.01, rtol=0)


# Base model


@pytest.mark.parametrize("encoder", ["relative", "linear"])
def test_step_form_equals_parallel_form_on_real_observations(encoder, ant_data):
    agent, batch = make_ant_agent(encoder=encoder), demonstrations(ant_data).take(torch.arange(3))
    base, observed = agent.base, batch.observation[:, :20]
    state, whole = base.initial_state(3, 20), base(observed)
    for t in range(20):
        residual = base.lower_step(observed[:, t], state, 1)
        torch.testing.assert_close(base.action_inputs(base.upper_step(residual, state, 1)), whole[:, t], **CLOSE)


CLOSE = {"atol": 1e-4, "rtol": 1e-4}


def demonstrations(folder):
    from irl_ray.data.shards import StoredDemonstrations

    return StoredDemonstrations(folder, truth=True)


def test_rows_in_view_are_cells_relative_to_the_ant():
    """The table's rows are those of the true cells, whatever the ant's place in its own."""
    env = WORLD.rows(50)
    observation, _ = env.reset(seed=0)
    rows = make_ant_agent().base.encoder.rows(torch.from_numpy(observation)).numpy()
    line, column = np.divmod(env.entities, 4)
    up, right = line[:, -1:] - line[:, :-1], column[:, :-1] - column[:, -1:]
    assert (rows[:, :-1] == np.arange(5) * 49 + (up + 3) * 7 + right + 3).all()
    assert len(set(zip(env.entities[:, -1], rows[:, -1]))) == len(set(env.entities[:, -1]))


# Acting


def test_an_episode_depends_on_its_seed_alone():
    agent, seeds = make_ant_agent(), list(range(20))
    whole = sample_code_episodes(agent, None, WORLD, seeds)
    part = sample_code_episodes(agent, None, WORLD, seeds[::3])
    for a, b in zip(whole[::3], part):
        assert (a.raw_steps, a.legs) == (b.raw_steps, b.legs)
        np.testing.assert_allclose(a.action, b.action, atol=1e-3)
    raw, one = sample_raw_episodes(agent.base, WORLD, seeds), sample_raw_episodes(agent.base, WORLD, [5])
    assert raw[5].action.shape == (raw[5].raw_steps, 8)
    np.testing.assert_allclose(raw[5].action, one[0].action, atol=1e-3)
    frozen = {name: fingerprint(part) for name, part in make_ant_agent().parts.items()}
    assert frozen == {name: fingerprint(part) for name, part in agent.parts.items()}


def test_gymnasium_interface_of_the_internal_environment():
    env = InternalVectorEnv(make_ant_agent(), WORLD, 3)
    observation, _ = env.reset(seed=0)
    for _ in range(5):
        observation, reward, terminated, truncated, info = env.step(np.zeros((3, 4), np.float32))
    assert np.isfinite(observation).all() and (info["raw_steps"] <= 12).all()


def test_the_agent_acts_without_ray(ant_weights):
    agent, env = load_agent(ant_weights, seed=1), WORLD.rows(1)
    observation, _ = env.reset(seed=0)
    assert agent.act(observation[0]).shape == (8,)
    with pytest.raises(UserError, match="shape"):
        agent.act(np.zeros(3))


def test_free_walks_list_visits_and_never_end_by_them():
    base = make_ant_agent().base
    steady = roll_out(base, replace(WORLD, horizon=5), 30, seed=0, free=True)
    assert (steady.legs == 0).all() and not steady.success.any() and len(steady.visits) == 30
    env = WORLD.rows(4)
    env.free = True
    env.reset(seed=0)
    env.physics[:, 1:3] = env._centres[env.entities[:, 2]]  # all go to colour 2 at once
    *_, terminated, truncated, info = env.step(np.zeros((4, 8)))
    assert info["entered"].tolist() == [2] * 4 and not terminated.any() and not env.leg.any()
    gates = free_walk_gates(base, AntSpec.of({"horizon": 3}), 8, 0)
    assert gates["free_walk/random_successor"] == pytest.approx(8 / 12)
    assert gates["free_walk/random_task"] == pytest.approx(16 / 36)


# Phases


def test_pretraining_learns_and_gates_come_in_their_order(ant_data):
    config = {"env": ANT_ID, "preset": "tiny", "world": {"grid_size": 4, "num_walls": 1, "horizon": 20},
              "data": str(ant_data), "steps": 60}  # fmt: skip
    config["world"] |= {"horizon": 200}
    phase = Pretrain(pretrain_config(config))
    batch = demonstrations(ant_data).sample(30, torch.Generator().manual_seed(0))
    before = float(pretraining_losses(phase.base, batch)["action"] / batch.mask.sum())
    while not phase.finished:
        phase.step()
    gates = phase.gates()
    assert gates["eval/action_nll"] < before - 2
    order = [next(i for i, name in enumerate(gates) if name.startswith(part)) for part in
             ("goal_given", "probe_accuracy", "free_walk", "control_success")]  # fmt: skip
    assert order == sorted(order)


def test_discovery_on_the_ant_trains_the_metacontroller_alone(ant_data, ant_weights):
    config = {"env": ANT_ID, "preset": "tiny", "base": str(ant_weights), "data": str(ant_data), "alpha_hold": 0.0}
    phase = Discover(discover_config({**config, "alpha_ramp": 0.0, "metacontroller": {"rank": None}}))
    before = fingerprint(phase.agent.base)
    while not phase.finished:
        phase.step()
    assert fingerprint(phase.agent.base) == before
    gates = phase.gates()
    assert 0 <= gates["switch_f1"] <= 1 and "injected_success" in gates


def test_the_teacher_names_the_colour_that_is_reached(ant_data):
    """A base model that marks the colours' own cells, as trained ones come to do."""
    agent = make_ant_agent()
    for colour in range(4):
        agent.base.encoder.table.weight[colour * 49 + 24, colour] = 60.0
    stored = demonstrations(ant_data)
    batch = stored.take(torch.arange(len(stored)))
    config = TeacherConfig(window=6)
    teacher = OutcomeTeacher(config, agent.base, 4, 0.1, batch, torch.Generator().manual_seed(0))
    assert teacher.outcomes.tolist() == [24, 73, 122, 171]
    assert torch.equal(teacher.reached(batch)[batch.mask], batch.subgoal[batch.mask])
    unmarked = make_ant_agent()
    with pytest.raises(UserError, match="no events"):
        OutcomeTeacher(replace(config, min_contrast=1.3), unmarked.base, 4, 0.1, batch, torch.Generator())
    with pytest.raises(UserError, match="no table"):
        OutcomeTeacher(config, make_ant_agent(encoder="linear").base, 4, 0.1, batch, torch.Generator())


# Bad input


def test_mistakes_cost_one_line(tmp_path, ant_data, ant_weights, tiny_weights, capsys):
    internal = "x: {{run: InternalRL, env: {env}, config: {{metacontroller: {weights}, env_config: {world}}}}}\n"
    ant, grid = "irl_ray/AntPinpad-v0", "irl_ray/GridPinpad-v0"
    cases = [
        (internal.format(env=ant, weights=tiny_weights, world="{}"), "environment is irl_ray/AntPinpad-v0"),
        (internal.format(env=grid, weights=ant_weights, world="{}"), "environment is irl_ray/GridPinpad-v0"),
        (internal.format(env=ant, weights=ant_weights, world="{tasks: 0-1-7}"), "colours 0..3"),
        (internal.format(env=ant, weights=ant_weights, world="{preset: paper}"), "control is torque"),
        (internal.format(env=ant, weights="ant_expert", world="{}"), "metacontroller"),
        (internal.format(env="irl_ray/AntPinpad-v1", weights=ant_weights, world="{}"), "AntPinpad-v0"),
        (f"x: {{run: Pretrain, env: {ant}, config: {{data: {ant_data}, model: {{encoder: absolute}}}}}}", "encoder"),
    ]
    for number, (text, told) in enumerate(cases):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text)
        out = ["phase", str(path), "--out", str(tmp_path / "w")]
        assert (irl_ray(out) if "Pretrain" in text else rllib(["train", "file", str(path)])) == 2
        error = capsys.readouterr().err
        assert told in error and error.count("\n") == 1, error


def test_an_expert_is_trained_by_a_file_and_shows_the_tasks_of_its_world(tmp_path, capsys):
    settings = {"preset": "tiny"}
    small = {"num_envs_per_env_runner": 4, "rollout_fragment_length": 8, "train_batch_size": 32, "minibatch_size": 16}
    config = {"env_config": settings, "num_env_runners": 0, **small}
    file = tmp_path / "expert.yaml"
    written = {"run": "ExpertPPO", "env": "irl_ray/AntPinpadGuided-v0", "stop": {"training_iteration": 1}}
    file.write_text(yaml.safe_dump({"expert": {**written, "config": config}}))
    assert rllib(["train", "file", str(file), "--storage-path", str(tmp_path)]) == 2
    assert "config.world" in capsys.readouterr().err
    file.write_text(yaml.safe_dump({"expert": {**written, "config": {**config, "world": ANT_ID}}}))
    assert rllib(["train", "file", str(file), "--storage-path", str(tmp_path)]) == 0
    found = next(tmp_path.rglob("artefact"))
    artefact = weights.load(str(found), "expert")
    assert artefact.world == AntSpec.of(settings) and artefact.expert.config.action_size == 8


def test_phases_say_what_is_wrong_with_the_data(tmp_path, ant_data, capsys):
    path = tmp_path / "x.yaml"
    for settings, told in (
        ("preset: small", "irl-ray collect"),
        (f"preset: small, data: {tmp_path}/nothing", "manifest.json: missing"),
        (f"preset: paper, data: {ant_data}", "another world"),
    ):
        path.write_text(f"x: {{run: Pretrain, env: irl_ray/AntPinpad-v0, config: {{{settings}}}}}\n")
        assert irl_ray(["phase", str(path), "--out", str(tmp_path / "w")]) == 2
        assert told in capsys.readouterr().err


def test_selecting_rows_keeps_what_belongs_together(ant_data):
    stored = demonstrations(ant_data)
    batch = stored.take(torch.arange(len(stored)))
    parts = batch.split_by_length(3)
    assert isinstance(parts[0], Trajectories) and sum(len(p) for p in parts) == len(batch)
    assert Counter(int(m.sum()) for p in parts for m in p.mask) == Counter(batch.mask.sum(1).tolist())
    for part in parts:
        last = part.mask.sum(1) - 1
        rows = torch.arange(len(part))
        assert (part.leg[rows, last] == 2).all()
