"""The environment: rules, spaces, seeding, autoreset, pictures."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given
from hypothesis import strategies as st
from reference import ReferencePinpad, path_length

import irl_ray  # noqa: F401
from irl_ray.errors import UserError
from irl_ray.worlds.pinpad import rules
from irl_ray.worlds.pinpad.gridworld import GridPinpadEnv, GridPinpadVectorEnv
from irl_ray.worlds.pinpad.rules import chained_tasks
from irl_ray.worlds.pinpad.specs import GridworldSpec

worlds = st.fixed_dictionaries(
    {
        "grid_size": st.integers(3, 6),
        "num_colours": st.integers(2, 4),
        "num_walls": st.integers(0, 2),
        "horizon": st.integers(1, 25),
        "tasks": st.sampled_from([[[0, 1]], [[0, 1], [1, 0, 1, 0]], [[1, 0]]]),
    }
)


def coordinates(env, cells):
    return [tuple(int(x) for x in divmod(int(c), env.world.grid_size)) for c in cells]


@given(worlds, st.integers(0, 10**6))
def test_rules_agree_with_the_slow_reference(world, seed):
    env = GridPinpadVectorEnv(4, observation="cells", autoreset="disabled", **world)
    observation, _ = env.reset(seed=seed)
    colours = env.world.num_colours
    references = [
        ReferencePinpad(
            env.world.grid_size,
            coordinates(env, row[:colours]),
            coordinates(env, row[colours:-1]),
            coordinates(env, row[-1:])[0],
            env.world.tasks[env.task[i]],
            env.world.horizon,
        )
        for i, row in enumerate(observation)
    ]
    actions = np.random.default_rng(seed).integers(4, size=(30, 4))
    for action in actions:
        before = [(r.done or r.cut) for r in references]
        observation, reward, terminated, truncated, info = env.step(action)
        for i, reference in enumerate(references):
            if before[i]:
                assert reward[i] == 0 and not terminated[i] and not truncated[i]
                continue
            assert reward[i] == reference.step(action[i])
            assert (terminated[i], truncated[i]) == (reference.done, reference.cut)
            assert coordinates(env, observation[i][-1:])[0] == reference.agent
            assert info["leg"][i] == reference.progress


@given(worlds, st.integers(0, 10**6))
def test_layouts_are_solvable_and_distances_exact(world, seed):
    env = GridPinpadVectorEnv(3, observation="cells", **world)
    observation, _ = env.reset(seed=seed)
    distances = rules.shortest_distances(env.entities, env.world)
    colours = env.world.num_colours
    for i, row in enumerate(observation):
        assert len(set(row.tolist())) == len(row)
        places = coordinates(env, row)
        for target in range(colours):
            obstacles = {place for e, place in enumerate(places[:-1]) if e != target}
            for start in [*range(colours), len(row) - 1]:
                if start != target:
                    length = path_length(env.world.grid_size, obstacles, places[start], places[target])
                    assert length is not None
            start = places[-1]
            if start not in obstacles:
                expected = path_length(env.world.grid_size, obstacles, start, places[target])
                assert distances[row[-1], target, i] == expected


@given(worlds, st.integers(0, 10**6))
def test_observation_changes_exactly_when_the_state_does(world, seed):
    cells = GridPinpadVectorEnv(5, observation="cells", autoreset="disabled", **world)
    onehot = GridPinpadVectorEnv(5, autoreset="disabled", **world)
    seen, _ = onehot.reset(seed=seed)
    cells.reset(seed=seed)
    for action in np.random.default_rng(seed).integers(4, size=(10, 5)):
        state = cells.entities.copy()
        cells.step(action)
        after, *_ = onehot.step(action)
        moved = (state != cells.entities).any(1)
        assert ((seen != after).any(1) == moved).all()
        decoded = after.reshape(5, cells.world.num_entities, -1).argmax(-1)
        assert (decoded == cells.entities).all()
        seen = after


def test_single_env_passes_gymnasiums_checker():
    check_env(gym.make("irl_ray/GridPinpad-v0", preset="tiny").unwrapped, skip_render_check=True)


def test_same_seed_same_run_and_single_equals_vector():
    """Row 1 of a batch seeded with 5 is the single environment seeded with 6, to the end of its episode."""
    single = GridPinpadEnv(preset="small")
    vector, again = (
        gym.make_vec("irl_ray/GridPinpad-v0", num_envs=2, preset="small", autoreset="disabled") for _ in range(2)
    )
    alone, info = single.reset(seed=6)
    batch, infos = vector.reset(seed=5)
    assert (again.reset(seed=5)[0] == batch).all() and not (batch[0] == batch[1]).all()
    actions, over = np.random.default_rng(0), False
    while not over:
        assert (alone == batch[1]).all()
        assert {name: infos[name][1] for name in info} == info
        action = actions.integers(4, size=2)
        alone, reward, *ends, info = single.step(action[1])
        batch, rewards, terminated, truncated, infos = vector.step(action)
        assert [reward, *ends] == [rewards[1], terminated[1], truncated[1]]
        over = any(ends)
    assert single.vector.elapsed[0] > 1


def test_next_step_autoreset_starts_a_new_layout():
    env = GridPinpadVectorEnv(1, preset="tiny", horizon=1, observation="cells")
    env.reset(seed=0)
    old = env.entities.copy()
    *_, terminated, truncated, _ = env.step(np.array([0]))
    assert (terminated | truncated).all()
    _, reward, terminated, truncated, _ = env.step(np.array([0]))
    assert reward[0] == 0 and not terminated[0] and not truncated[0]
    assert env.elapsed[0] == 0 and not (env.entities == old).all()


def test_reset_mask_restarts_only_the_named_rows():
    env = GridPinpadVectorEnv(3, preset="tiny", observation="cells", autoreset="disabled")
    before, _ = env.reset(seed=1)
    after, _ = env.reset(seed=[7, 8, 9], options={"reset_mask": np.array([False, True, False])})
    assert (before[[0, 2]] == after[[0, 2]]).all()
    other, _ = GridPinpadVectorEnv(3, preset="tiny", observation="cells").reset(seed=[0, 8, 0])
    assert (after[1] == other[1]).all()
    for mask, seed, told in (([0, 1, 0], None, "booleans"), ([True], None, "booleans"), ([True] * 3, [1], "seeds")):
        with pytest.raises(UserError, match=told):
            env.reset(seed=seed, options={"reset_mask": np.array(mask)})


def test_render_modes(monkeypatch):
    text = GridPinpadEnv(preset="tiny", render_mode="ansi")
    text.reset(seed=0)
    assert "@" in text.render() and "to visit" in text.render()
    picture = GridPinpadEnv(preset="tiny", render_mode="rgb_array")
    picture.reset(seed=0)
    frame = picture.render()
    assert frame.dtype == np.uint8 and frame.ndim == 3 and len(np.unique(frame.reshape(-1, 3), axis=0)) > 5
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    window = GridPinpadEnv(preset="tiny", render_mode="human")
    window.reset(seed=0)
    window.step(0)
    window.close()


@pytest.mark.parametrize(
    "settings, culprit",
    [
        ({"grid_sise": 5}, "grid_size"),
        ({"grid_size": 2, "num_colours": 6}, "grid_size"),
        ({"tasks": "table_a"}, "table_a1"),
        ({"tasks": [[0, 0]]}, "twice in a row"),
        ({"tasks": [[0, 9]]}, "num_colours"),
        ({"tasks": "0-x"}, "0-x"),
        ({"preset": "smal"}, "small"),
        ({"horizon": 0}, "horizon"),
        ({"observation": "pixels"}, "observation"),
        ({"render_mode": "tv"}, "render_mode"),
    ],
)
def test_bad_settings_name_the_culprit(settings, culprit):
    with pytest.raises(UserError, match=culprit):
        GridPinpadVectorEnv(1, **settings)


def test_unsolvable_worlds_are_refused():
    with pytest.raises(UserError, match="no layout"):
        GridPinpadVectorEnv(1, grid_size=3, num_colours=5, num_walls=3, horizon=5, tasks=[[0, 1]]).reset(seed=0)


def test_task_tables():
    paper = GridworldSpec(7, 8, 4, 100, "table_a1")
    assert len(paper.tasks) == 16 and paper.num_subgoals == 4
    successors = {(s[i], s[i + 1]) for s in map(paper.task_subgoals, paper.tasks) for i in range(len(s) - 1)}
    post = paper.task_subgoals(rules.TASKS["post_a1"][0])
    assert not successors & set(zip(post, post[1:]))
    small = GridworldSpec(5, 6, 1, 60, "three_pairs")
    seen = {(s[i], s[i + 1]) for s in map(small.task_subgoals, small.tasks) for i in range(len(s) - 1)}
    unseen = small.task_subgoals(rules.TASKS["post_three_pairs"][0])
    assert not seen & set(zip(unseen, unseen[1:]))
    assert len(chained_tasks(3, 2, [])) == 9
