"""Analyses against known answers: a planted subgoal, walks by hand, a bandit's gradient variance."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import make_agent

from irl_ray.analysis.codes import random_code_gates, random_code_reach
from irl_ray.analysis.probe import read_subgoals, steps_since_start
from irl_ray.analysis.variance import first_is, gradient_statistics, variance_by_steps
from irl_ray.cli.irl_ray import main
from irl_ray.internal.rollout import RolloutSummary
from irl_ray.worlds.pinpad.injection import (
    Walks,
    codes_of_one_subgoal,
    free_walks,
    injection,
    last_subgoal,
    next_colour,
)
from irl_ray.worlds.pinpad.specs import GridworldSpec
from irl_ray.worlds.pinpad.stream import GridworldExpert


def test_a_subgoal_planted_at_layer_2_is_read_there_and_nowhere_else(tiny_world):
    """From the subgoal's third step on, layer 2 holds it; layers 0, 1 and 3 hold noise."""
    random = torch.Generator().manual_seed(0)
    batch = GridworldExpert(tiny_world).sample(300, random)
    stream = torch.randn(4, *batch.mask.shape, 8, generator=random)
    known = (steps_since_start(batch) >= 2) & batch.mask
    stream[2][known] += 6 * torch.nn.functional.one_hot(batch.subgoal[known], 8).float()
    readings = read_subgoals(stream, batch)
    accuracy = readings.right.float().mean(1)
    early, late = (readings.true_probability[2][c].mean() for c in (readings.since < 2, readings.since >= 2))
    assert accuracy.argmax() == 2
    assert late > 0.95 > 0.75 > early
    assert all(abs(float(accuracy[n]) - readings.chance) < 0.08 for n in (0, 1, 3))


def test_steps_since_start_counts_within_each_subgoal(tiny_world):
    batch = GridworldExpert(tiny_world).sample(50, torch.Generator().manual_seed(0))
    since, part = steps_since_start(batch), batch.leg // tiny_world.colours_per_subgoal
    for row in range(50):
        for step in range(int(batch.mask[row].sum())):
            same = [s for s in range(step + 1) if part[row, s] == part[row, step]]
            assert since[row, step] == step - same[0]


def walks_by_hand():
    """One walk: code 0 leads to 0-1, code 1 to 2 and 1, code 2 to 2-3, code 3 is cut by the end."""
    hold = np.array([[0, 0, 0, 1, 1, 2, 2, 2, 3, 3]])
    entered = np.array([[-1, 0, 1, 2, 1, -1, 2, 3, 0, 1]])
    code = np.repeat(hold[..., None], 2, -1).astype(np.float32)
    return Walks(code, hold, entered)


def test_codes_of_exactly_one_subgoal(tiny_world):
    codes, subgoals = codes_of_one_subgoal(walks_by_hand(), tiny_world)
    assert codes[:, 0].tolist() == [0, 2] and subgoals.tolist() == [0, 1]


def test_next_colour_and_last_subgoal(tiny_world):
    walks = walks_by_hand()
    assert [int(next_colour(walks, step)[0]) for step in (0, 3, 5, 8)] == [0, 2, 2, 0]
    assert [int(last_subgoal(walks, step, tiny_world)[0]) for step in (2, 3, 4, 8)] == [-1, 0, -1, 1]


def test_walks_do_not_depend_on_the_future_and_hold_what_is_injected(tiny_agent, tiny_world):
    """Injection at step 10 changes nothing before it, and its codes are in force at it."""
    codes = torch.arange(32.0).reshape(8, 4)
    alone = free_walks(tiny_agent, tiny_world, 8, seed=0)
    steered = free_walks(tiny_agent, tiny_world, 8, seed=0, inject=(10, codes))
    np.testing.assert_array_equal(alone.entered[:, :10], steered.entered[:, :10])
    np.testing.assert_array_equal(steered.code[:, 10], codes.numpy())
    assert (np.diff(steered.hold, axis=1) >= 0).all() and (steered.hold[:, 10] == steered.hold[:, 9] + 1).all()


def test_walks_forget_where_discovery_did(tiny_world):
    """With a code at every step, a memory that starts anew with each is one observation long."""

    def walks(clean_slate):
        agent = make_agent(tiny_world, forced_switch=True)
        agent.provenance["discover"] = {"config": {"clean_slate": clean_slate}}
        return free_walks(agent, tiny_world, 8, seed=0)

    forgets, remembers = walks(True), walks(False)
    np.testing.assert_array_equal(forgets.code[:, 0], remembers.code[:, 0])
    assert (forgets.entered != remembers.entered).any()


def test_random_codes_come_after_the_first_subgoal(tiny_agent, tiny_world, monkeypatch):
    """Class means until it is done; then for each subgoal and episode one draw. Episodes that got so far count."""
    means, held = 100.0 + torch.arange(8.0).reshape(2, 4), []
    monkeypatch.setattr(tiny_agent.metacontroller, "control", lambda residual, codes: held.append(codes))

    def roll_out(base, world, episodes, seed, layer, steer, temperature, anew):
        assert world.tasks == ((0, 1, 2, 3),) and anew == "subgoal"
        for legs, subgoals in (
            ([0, 1, 1, 0], [0, 0, 0, 0]),
            ([0, 2, 2, 3], [0, 1, 0, 1]),
            ([0, 3, 2, 3], [0, 1, 0, 1]),
        ):
            steer(torch.zeros(4, 8), {"leg": np.array(legs), "subgoal": np.array(subgoals)})
        return RolloutSummary(np.zeros(4, bool), np.array([1, 3, 2, 4]), np.zeros(4, int), [])

    monkeypatch.setattr("irl_ray.analysis.codes.roll_out", roll_out)
    world = replace(tiny_world, tasks=((0, 1, 2, 3, 0, 1),))
    reach = random_code_reach(tiny_agent, means, world, 4, seed=0, clean_slate=True)
    assert reach == pytest.approx(2 / 3)
    first, second, third = held
    assert torch.equal(first, means[[0, 0, 0, 0]]) and torch.equal(second[0], means[0])
    assert torch.equal(second, third) and len(torch.unique(second[1:], dim=0)) == 3
    assert second[1:].abs().max() < 6


@pytest.mark.parametrize("steps", [1, 5])
def test_gradient_variance_of_a_gaussian_bandit(steps):
    """π = N(0, I) in P dimensions, acting `steps` times: known in closed form.

    ∇ log π = Σ z. With a return that does not depend on it the variance is P x steps; with return
    z_1 of the first step the signal is 1 and the variance P x steps + 1.
    """
    size, count = 6, 200_000
    random = np.random.default_rng(0)
    first = random.standard_normal((count, size))
    rest = random.standard_normal((count, size)) * (steps - 1) ** 0.5
    scores = torch.from_numpy(first + rest)
    blind = gradient_statistics(scores, random.standard_normal(count).tolist())
    told = gradient_statistics(scores, first[:, 0].tolist())
    assert blind["score"] == pytest.approx(size * steps, rel=0.02)
    assert blind["variance"] == pytest.approx(size * steps, rel=0.02)
    assert blind["signal"] == pytest.approx(0, abs=0.01)
    assert told["signal"] == pytest.approx(1, rel=0.05)
    assert told["variance"] == pytest.approx(size * steps + 1, rel=0.03)


def test_internal_gradients_do_not_see_how_long_a_code_lasts(tiny_agent, tiny_world):
    found = variance_by_steps(tiny_agent, tiny_world, (1, 4, 16), 24, seed=0)
    assert found["internal/score"][0] == found["internal/score"][2]
    assert found["raw/score"][0] < found["raw/score"][1] < found["raw/score"][2]
    assert not any(p.requires_grad for p in tiny_agent.base.parameters())


def test_a_walk_that_ended_gives_no_more_scores(tiny_agent, tiny_world):
    found = variance_by_steps(tiny_agent, replace(tiny_world, horizon=3), (3, 8), 16, seed=0)
    assert found["raw/score"][0] == found["raw/score"][1]


def test_codes_that_lead_nowhere_are_counted_as_such(tiny_world):
    """A code that lasts one step can visit no pair of colours: there is nothing to inject."""
    agent = make_agent(tiny_world, forced_switch=True)
    assert injection(agent, tiny_world, 16, seed=0, step=5) == {"codes": 0, "walks": 16}


def test_first_colour_by_hand():
    entered = np.array([[-1, 2, 0], [0, -1, 2], [-1, -1, -1]])
    assert first_is(entered, 2).tolist() == [1, 0, 0]


@pytest.mark.parametrize("command", ["probe", "control", "codes", "variance"])
def test_commands_write_what_the_report_reads(command, tiny_weights, tmp_path, capsys):
    extra = {
        "control": ["--steps", "3", "--layers", "0", "1"],
        "codes": ["--step", "5"],
        "variance": ["--lengths", "1", "3"],
    }
    out = tmp_path / "x.json"
    arguments = [command, str(tiny_weights), "--episodes", "48", "--out", str(out), *extra.get(command, [])]
    assert main(arguments) == 0
    found = json.loads(out.read_text())
    assert found["kind"] == command and found["world"] == "gridworld" and "revision" in found
    assert str(out) in capsys.readouterr().out


def test_mistakes_cost_one_line(tiny_weights, tmp_path, capsys):
    for arguments in (
        ["control", str(tiny_weights), "--layers", "9"],
        ["codes", str(tiny_weights), "--step", "99"],
        ["variance", str(tiny_weights), "--lengths", "0"],
        ["probe", str(tiny_weights), "--episodes", "9"],
        ["probe", "ant"],
    ):
        assert main(arguments) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_a_world_without_a_preset_needs_its_tasks(tmp_path, capsys):
    from irl_ray.models import weights

    world = GridworldSpec.of({"grid_size": 3, "num_colours": 2, "num_walls": 0, "horizon": 8, "tasks": [[0, 1]]})
    folder = weights.save(make_agent(world), tmp_path / "w")
    assert main(["control", str(folder), "--episodes", "16", "--steps", "1"]) == 2
    assert "--tasks" in capsys.readouterr().err
    assert main(["codes", str(folder), "--episodes", "48", "--step", "5"]) == 0
    assert "random_code_reach: left out" in capsys.readouterr().out


def test_a_task_of_one_subgoal_says_nothing_of_random_codes(tiny_agent, tiny_world):
    world = replace(tiny_world, tasks=((0, 1),))
    batch = GridworldExpert(tiny_world).sample(8, torch.Generator().manual_seed(0))
    assert random_code_gates(tiny_agent, torch.zeros(*batch.mask.shape, 4), world, batch, 4, 0, 1.0) == {}
