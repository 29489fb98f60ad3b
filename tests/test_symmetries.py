"""Turned and mirrored walks are walks of the same world after the same goals."""

import numpy as np
import pytest
import torch

from irl_ray.data.sources import open_demonstrations
from irl_ray.worlds.pinpad.rules import next_cells
from irl_ray.worlds.pinpad.senses import ant_cells
from irl_ray.worlds.pinpad.specs import AntSpec, GridworldSpec
from irl_ray.worlds.pinpad.symmetries import NUM_SYMMETRIES, turned, turned_joints
from irl_ray.worlds.pinpad.walks import target as target_of

ALL = torch.arange(NUM_SYMMETRIES)


def test_the_expert_of_a_turned_gridworld_goes_the_turned_way():
    world = GridworldSpec.of({"preset": "small"})
    walks = open_demonstrations(world, None, truth=True).sample(64, torch.Generator().manual_seed(0))
    table = torch.as_tensor(next_cells(world.grid_size))
    for symmetry in ALL:
        seen = turned(world, walks.observation, symmetry.expand(64))
        target = target_of(walks)[..., None].clamp(min=0)
        met, met_turned = (
            (x[:, 1:, -1:] == x[:, 1:].gather(-1, target))[walks.mask] for x in (walks.observation, seen)
        )
        assert torch.equal(met, met_turned)
        moves = (table[seen[:, :-1, -1]] == seen[:, 1:, -1:])[walks.mask]
        assert moves.any(-1).all()
        assert bool((seen[..., :-1].sort(-1).values.diff() > 0).all())  # no two things in one cell


def test_the_symmetries_are_eight_and_a_group():
    world = GridworldSpec.of({"preset": "small"})
    cells = torch.arange(world.num_cells).reshape(1, 1, -1).expand(NUM_SYMMETRIES, 1, -1)
    seen = turned(world, cells, ALL)[:, 0]
    assert torch.equal(seen[0], torch.arange(world.num_cells))
    found = {tuple(row) for row in seen.tolist()}
    assert len(found) == NUM_SYMMETRIES
    assert {tuple(a[b].tolist()) for a in seen for b in seen} == found
    quarter = turned(world, torch.tensor([[[0, 1, world.grid_size]]]), torch.tensor([1]))  # counterclockwise
    size = world.grid_size
    assert quarter.flatten().tolist() == [size * (size - 1), size * (size - 2), size * (size - 1) + 1]


@pytest.mark.parametrize("control", ["torque", "position"])
def test_a_turned_ant_that_acts_turned_walks_the_turned_walk(control):
    world = AntSpec.of({"preset": "small", "control": control, "horizon": 500})
    env, waiting = world.rows(NUM_SYMMETRIES), np.zeros(NUM_SYMMETRIES, bool)
    env.reset(seed=0)
    observed = torch.as_tensor(env.observe())[:1, None].expand(NUM_SYMMETRIES, -1, -1)
    seen = turned(world, observed, ALL)[:, 0].numpy()
    # The states of which these are the observations.
    env.physics[:, 1:3] = seen[:, 27:29] * world.cell_size * world.grid_size / 2
    env.physics[:, 3:30] = np.sign(seen[:, :27]) * np.expm1(np.abs(seen[:, :27]))
    cells = torch.as_tensor(env.entities)[:1, None].expand(NUM_SYMMETRIES, -1, -1)
    env.entities[:] = turned(GridworldSpec.of({"preset": "small", "grid_size": 4}), cells, ALL)[:, 0]
    random = np.random.default_rng(0)
    for _ in range(12):
        now = torch.as_tensor(env.observe())[:, None]
        assert torch.equal(ant_cells(now, world.grid_size)[:, 0], torch.as_tensor(env.cells()))
        torch.testing.assert_close(now, turned(world, now[:1].expand_as(now), ALL), atol=2e-3, rtol=0)
        action = torch.as_tensor(random.uniform(-0.6, 0.6, 8)).float().expand(NUM_SYMMETRIES, 1, -1)
        env._move(turned_joints(action, ALL)[:, 0].numpy(), waiting)
    assert float((now[0] - observed[0]).abs().max()) > 0.5  # it moved
