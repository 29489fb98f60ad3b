"""The expert obeys the rules and is optimal; the floors are what they claim to be."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import MOVES, ReferencePinpad, path_length

from irl_ray.data.trajectories import random_starts
from irl_ray.errors import UserError
from irl_ray.worlds.pinpad.floors import action_floors, next_colour_priors
from irl_ray.worlds.pinpad.specs import GridworldSpec
from irl_ray.worlds.pinpad.stream import GridworldExpert

SPEC = GridworldSpec(5, 6, 1, 60, "three_pairs")


def replay(spec, batch, i):
    """Replays trajectory i in the slow reference; yields (reference, leg, step) before each step."""
    place = lambda cell: tuple(int(x) for x in divmod(int(cell), spec.grid_size))
    entities = batch.observation[i, 0]
    reference = ReferencePinpad(
        spec.grid_size,
        [place(c) for c in entities[: spec.num_colours]],
        [place(c) for c in entities[spec.num_colours : -1]],
        place(entities[-1]),
        spec.tasks[batch.task[i]],
        spec.horizon,
    )
    for t in range(int(batch.mask[i].sum())):
        assert place(batch.observation[i, t, -1]) == reference.agent
        assert batch.leg[i, t] == reference.progress
        yield reference, t
        reference.step(int(batch.action[i, t]))
        assert place(batch.observation[i, t + 1, -1]) == reference.agent
    assert reference.done or reference.cut


def test_trajectories_obey_the_rules_and_are_shortest():
    batch = GridworldExpert(SPEC).sample(40, torch.Generator().manual_seed(0))
    for i in range(len(batch)):
        for reference, t in replay(SPEC, batch, i):
            target = reference.task[reference.progress]
            assert batch.subgoal[i, t] == target // 2
            obstacles = reference.walls | {c for k, c in enumerate(reference.colours) if k != target}
            distance = path_length(5, obstacles, reference.agent, reference.colours[target])
            after = tuple(int(x) for x in divmod(int(batch.observation[i, t + 1, -1]), 5))
            assert path_length(5, obstacles, after, reference.colours[target]) == distance - 1
        assert reference.progress == len(reference.task)


@given(st.floats(0.05, 0.5), st.integers(0, 1000))
def test_noise_never_ends_an_episode_in_failure(noise, seed):
    batch = GridworldExpert(SPEC, noise).sample(8, torch.Generator().manual_seed(seed))
    for i in range(len(batch)):
        *_, (reference, _) = replay(SPEC, batch, i)
        assert reference.cut or reference.progress == len(reference.task)


def test_all_optimal_actions_are_equally_likely():
    expert = GridworldExpert(SPEC)
    batch = expert.sample(2000, torch.Generator().manual_seed(1))
    probabilities = expert.action_probabilities(batch)
    target = expert.tasks[batch.task[:, None], batch.leg.clamp(max=5)]
    own = probabilities.gather(2, target[..., None, None].expand(-1, -1, 1, 4))[:, :, 0][batch.mask]
    taken = batch.action[batch.mask]
    assert (own.gather(1, taken[:, None]) > 0).all()
    for action in range(4):
        frequency = (taken == action).float().mean()
        assert abs(frequency - own[:, action].mean()) < 0.01


def test_ties_by_rule_make_the_expert_deterministic():
    """The first of the shortest ways, in the order up, right, down, left: on no step is anything left to chance."""
    by_rule = GridworldExpert(SPEC, ties="rule")
    batch = by_rule.sample(50, torch.Generator().manual_seed(4))
    for i in range(50):
        for reference, t in replay(SPEC, batch, i):
            goal = reference.colours[reference.task[reference.progress]]
            blocked = (reference.walls | set(reference.colours)) - {goal}
            lengths = []
            for down, right in MOVES.values():
                cell = (reference.agent[0] + down, reference.agent[1] + right)
                inside = 0 <= cell[0] < 5 and 0 <= cell[1] < 5 and cell not in blocked
                length = path_length(5, blocked, cell, goal) if inside else None
                lengths.append(np.inf if length is None else length)
            assert int(batch.action[i, t]) == int(np.argmin(lengths))
    assert action_floors(by_rule, batch)["oracle"] == 0.0
    with pytest.raises(UserError, match="ties"):
        GridworldExpert(SPEC, ties="fair")


@given(st.integers(0, 1000), st.sampled_from([0.0, 0.5, 1.0]))
def test_windows_are_the_rest_of_the_walk(seed, share):
    random = torch.Generator().manual_seed(seed)
    batch = GridworldExpert(SPEC).sample(6, random)
    start = random_starts(batch.mask, share, random)
    assert share or not bool(start.any())
    windows = batch.since(start)
    for i, (begin, length) in enumerate(zip(start.tolist(), batch.mask.sum(1).tolist())):
        kept = length - begin
        assert kept >= 1 and windows.mask[i].tolist() == [t < kept for t in range(windows.mask.shape[1])]
        for name in ("action", "leg", "subgoal"):
            assert getattr(windows, name)[i, :kept].equal(getattr(batch, name)[i, begin:length])
        assert windows.observation[i, : kept + 1].equal(batch.observation[i, begin : length + 1])


@given(st.integers(0, 1000), st.sampled_from([0.0, 0.2, 1.0]))
def test_pieces_of_walks_are_the_walks(seed, often):
    """Each piece is a walk of its own, with the observation that ends it; together they are all steps, once each."""
    random = torch.Generator().manual_seed(seed)
    batch = GridworldExpert(SPEC).sample(5, random)
    begins = torch.rand(batch.mask.shape, generator=random) < often
    pieces, number = batch.cut(begins), 0
    for i, length in enumerate(batch.mask.sum(1).tolist()):
        bounds = sorted({0, *(t for t in range(length) if begins[i, t]), length})
        for begin, end in pairwise(bounds):
            kept = end - begin
            assert pieces.mask[number].tolist() == [t < kept for t in range(pieces.mask.shape[1])]
            for name in ("action", "leg", "subgoal"):
                assert getattr(pieces, name)[number, :kept].equal(getattr(batch, name)[i, begin:end])
            assert pieces.observation[number, : kept + 1].equal(batch.observation[i, begin : end + 1])
            assert pieces.task[number] == batch.task[i]
            number += 1
    assert number == len(pieces)


def test_windows_begin_anywhere_and_as_often_as_asked():
    random = torch.Generator().manual_seed(0)
    mask = torch.arange(10)[None] < torch.full((4000, 1), 8)
    start = random_starts(mask, 0.8, random)
    counts = start.bincount(minlength=8) / 4000
    assert start.max() == 7
    torch.testing.assert_close(counts, torch.tensor([0.3] + [0.1] * 7), atol=0.02, rtol=0)


def test_stream_is_endless_reproducible_and_resumable():
    expert = GridworldExpert(SPEC)
    stream = expert.stream(4, 7, "x")
    first, second = next(stream), next(stream)
    resumed = next(expert.stream(4, 7, "x", start=1))
    assert torch.equal(second.observation, resumed.observation)
    assert not torch.equal(first.observation[:, 0], second.observation[:, 0])
    assert not torch.equal(next(expert.stream(4, 7, "y")).observation[:, 0], first.observation[:, 0])


def test_groups_by_length_are_the_same_set():
    batch = GridworldExpert(SPEC).sample(32, torch.Generator().manual_seed(2))
    parts = batch.split_by_length(4)
    assert sum(len(p) for p in parts) == 32
    assert sum(int(p.mask.sum()) for p in parts) == int(batch.mask.sum())
    assert sum(p.mask.numel() for p in parts) < batch.mask.numel()


def test_floors_are_ordered_and_close_to_the_paper_worlds():
    expert = GridworldExpert(GridworldSpec(7, 8, 4, 100, "table_a1"))
    floors = action_floors(expert, expert.sample(1500, torch.Generator().manual_seed(3)))
    assert floors["oracle"] < floors["bayes"] < floors["colour_blind"]
    assert floors["oracle"] == pytest.approx(0.17, abs=0.01)
    assert floors["bayes"] == pytest.approx(0.257, abs=0.01)


def test_floor_of_a_single_task_is_the_oracle():
    expert = GridworldExpert(GridworldSpec(5, 4, 0, 60, [[0, 1, 2, 3]]))
    floors = action_floors(expert, expert.sample(300, torch.Generator().manual_seed(4)))
    assert floors["bayes"] == pytest.approx(floors["oracle"], abs=1e-6)
    assert floors["colour_blind"] > floors["bayes"] + 0.1


def test_colour_blind_prior_knows_repetitions_only():
    priors = next_colour_priors(GridworldSpec(5, 4, 0, 60, [[0, 1, 0, 1], [2, 3, 2, 3]]))["colour_blind"]
    np.testing.assert_allclose(priors[0, 0], 0.25)
    np.testing.assert_allclose(priors[0, 1], [0, 1 / 3, 1 / 3, 1 / 3])
    np.testing.assert_allclose(priors[1, 2], [0, 0, 1, 0])


def test_noisy_expert_has_no_floor():
    expert = GridworldExpert(SPEC, noise=0.1)
    with pytest.raises(ValueError):
        action_floors(expert, expert.sample(4, torch.Generator()))
