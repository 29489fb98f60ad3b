"""The ant: rules, spaces, physics, seeding, the expert's view."""

from __future__ import annotations

import os
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from reference import ReferencePinpad

import irl_ray  # noqa: F401
from irl_ray.errors import UserError
from irl_ray.worlds.pinpad import rules
from irl_ray.worlds.pinpad.ant import AntPinpadEnv, AntPinpadVectorEnv
from irl_ray.worlds.pinpad.guided import GuidedAntVectorEnv, guided_view, rename_legs, to_expert, to_world
from irl_ray.worlds.pinpad.senses import ant_cells
from irl_ray.worlds.pinpad.specs import ANT_ID, GUIDED_ANT_ID, AntSpec


def ants(count, autoreset="disabled", **settings):
    return AntPinpadVectorEnv(count, autoreset=autoreset, **settings)


def actions(seed, steps, count, scale=1.0):
    return np.random.default_rng(seed).uniform(-scale, scale, (steps, count, 8)).astype(np.float32)


@pytest.mark.parametrize("name", [ANT_ID, GUIDED_ANT_ID])
@pytest.mark.filterwarnings("ignore")
def test_passes_gymnasiums_checker(name):
    check_env(gym.make(name).unwrapped, skip_render_check=True)


def test_the_papers_world():
    """Appendix A: 4x4, four colours, one wall, 500 steps, torques, random yaw, Table A2."""
    world = AntSpec.of({"preset": "paper"})
    assert (world.grid_size, world.num_colours, world.num_walls, world.horizon) == (4, 4, 1, 500)
    assert (world.control, world.yaw, len(world.tasks)) == ("torque", "random", 16)
    transitions = {pair for task in world.tasks for pair in zip(task, task[1:])}
    assert not transitions & {(0, 1), (1, 2), (2, 3)}


def test_rules_agree_with_the_slow_reference():
    """Ants put down in neighbouring cells at will: visits, walls and ends are those of the reference."""
    env = ants(6, preset="small", horizon=40)
    env.reset(seed=4)
    world, random = env.world, np.random.default_rng(0)
    place = lambda cell: tuple(int(x) for x in divmod(int(cell), world.grid_size))
    references = [
        ReferencePinpad(
            world.grid_size,
            [place(c) for c in row[:4]],
            [],
            place(row[-1]),
            world.tasks[env.task[i]],
            world.horizon,
        )
        for i, row in enumerate(env.entities)
    ]
    walls = env.entities[:, 4]
    table, over = rules.next_cells(world.grid_size), np.zeros(6, bool)
    for _ in range(25):
        moves = random.integers(4, size=6)
        cells = table[env.entities[:, -1], moves]
        env.physics[:, 1:3] = env._centres[cells]
        env.physics[:, 3], env.physics[:, 16:30] = 0.55, 0
        _, reward, terminated, truncated, info = env.step(np.zeros((6, 8)))
        for i, reference in enumerate(references):
            if over[i]:
                assert reward[i] == 0 and not terminated[i] and not truncated[i]
                continue
            expected = reference.step(moves[i])
            hit = cells[i] == walls[i]
            assert info["wall"][i] == hit
            assert reward[i] == (0 if hit else expected)
            assert terminated[i] == (reference.done or hit)
            assert info["leg"][i] == reference.progress or hit
            over[i] |= terminated[i] | truncated[i]
    assert over.all()


def test_leaving_the_grid_and_falling_end_an_episode():
    env = ants(3, preset="small")
    env.reset(seed=0)
    env.physics[0, 1] = 50.0
    env.physics[1, 3] = 3.0
    _, _, terminated, _, info = env.step(np.zeros((3, 8)))
    assert terminated.tolist() == [True, True, False]
    assert info["off_grid"].tolist() == [True, False, False] and info["fallen"][1]


def test_exploding_physics_ends_its_own_copy_alone():
    env, other = ants(4, preset="small"), ants(4, preset="small")
    env.reset(seed=2), other.reset(seed=2)
    env.physics[1, 20] = 1e9
    env.physics[3, 25] = np.nan
    for row in actions(0, 5, 4, 0.3):
        observation, reward, terminated, truncated, info = env.step(row)
        expected, *_ = other.step(row)
        assert np.isfinite(observation).all()
        np.testing.assert_array_equal(observation[[0, 2]], expected[[0, 2]])
        if env.elapsed[0] == 1:
            assert info["exploded"].tolist() == [False, True, False, True]
            assert terminated[[1, 3]].all() and not reward.any()


def test_actions_that_are_not_finite_are_refused():
    env = ants(2, preset="small")
    env.reset(seed=0)
    with pytest.raises(UserError, match="row 1 .* not finite"):
        env.step(np.array([[0.0] * 8, [np.nan] + [0.0] * 7]))


@pytest.mark.parametrize("preset", ["small", "paper"])
def test_resets_are_as_described(preset):
    env = ants(300, preset=preset)
    observation, _ = env.reset(seed=1)
    world, torso = env.world, env.qpos[:, :2]
    offset = (torso - env._centres[env.entities[:, -1]]) / world.cell_size
    assert np.abs(offset).max() <= 0.5 and np.abs(offset).max() > 0.45
    assert (env.cells() == env.entities[:, -1]).all()
    yaw = 2 * np.arctan2(env.qpos[:, 6], env.qpos[:, 3])
    assert np.abs(yaw).max() < 0.1 if world.yaw == "aligned" else np.abs(yaw).max() > 2.5
    assert np.abs(env.qvel).max() <= 0.1
    # What is seen tells the cells of everything exactly.
    size = world.grid_size
    assert (ant_cells(torch.from_numpy(observation), size).numpy() == env.entities[:, -1]).all()
    between = (observation[:, 29:-2].reshape(300, -1, 2) + observation[:, None, -2:]).round()
    rows, columns = np.divmod(env.entities, size)
    assert (between[..., 0] == columns[:, :-1] - columns[:, -1:]).all()
    assert (between[..., 1] == rows[:, -1:] - rows[:, :-1]).all()


def test_same_seed_same_run_whatever_the_batch_and_the_threads():
    one, many, threaded = ants(1, preset="small"), ants(3, preset="small"), ants(3, preset="small", threads=2)
    seen = one.reset(seed=[8])[0], many.reset(seed=[7, 8, 9])[0], threaded.reset(seed=[7, 8, 9])[0]
    assert (seen[0][0] == seen[1][1]).all() and (seen[1] == seen[2]).all()
    for row in actions(3, 12, 3, 0.5):
        a, b, c = one.step(row[1:2])[0], many.step(row)[0], threaded.step(row)[0]
        assert (a[0] == b[1]).all() and (b == c).all()
    many.keep(np.array([1]))
    row = actions(4, 1, 1)[0]
    assert (one.step(row)[0] == many.step(row)[0]).all()


def test_single_equals_vector_and_autoreset_starts_anew():
    single, vector = AntPinpadEnv(preset="small"), gym.make_vec(ANT_ID, num_envs=2, preset="small", horizon=4)
    alone, batch = single.reset(seed=6)[0], vector.reset(seed=5)[0]
    random = np.random.default_rng(0)
    for step in range(4):
        assert (alone == batch[1]).all() and not (batch[0] == batch[1]).all()
        action = random.uniform(-1, 1, (2, 8))
        alone, reward, terminated, _, _ = single.step(action[1])
        batch, rewards, ends, truncated, _ = vector.step(action)
        assert (reward, terminated) == (rewards[1], ends[1]) == (0, False)
        assert truncated.tolist() == [step == 3] * 2
    old = vector.entities.copy()
    _, reward, terminated, truncated, _ = vector.step(np.zeros((2, 8)))
    assert not (reward.any() or terminated.any() or truncated.any()) and not vector.elapsed.any()
    assert not (old == vector.entities).all(1).any()


def test_bad_settings_are_named():
    for settings, told in (
        ({"control": "speed"}, "control"),
        ({"yaw": "left"}, "yaw"),
        ({"cell_size": 0.1}, "cell_size"),
        ({"tasks": [[0, 7]]}, "colours 0..3"),
        ({"grid_sise": 4}, "grid_size"),
    ):
        with pytest.raises(UserError, match=told):
            AntPinpadVectorEnv(1, **settings)


def test_physics_follow_the_control_that_was_chosen():
    """Position control brings a joint to its target; an ankle's target 0 is the middle of its range."""
    env = ants(1, preset="small")
    env.reset(seed=0)
    command = np.zeros((1, 8))
    command[0, 0] = 0.5
    for _ in range(10):
        env.step(command)
    assert abs(env.qpos[0, 7] - 0.3) < 0.15
    assert abs(abs(env.qpos[0, 8]) - 0.87) < 0.25


# The expert's view


def rotated(env, source, quarter_turns, row):
    """Puts into `row` the world of `source`, turned counterclockwise."""
    size = env.world.grid_size

    def turn(cell):
        r, c = divmod(int(cell), size)
        for _ in range(quarter_turns):
            r, c = size - 1 - c, r
        return r * size + c

    env.entities[row] = [turn(cell) for cell in env.entities[source]]
    env.task[row] = env.task[source]
    env._colour_at[row], env._wall_at[row] = -1, False
    env._colour_at[row, env.entities[row, :4]] = np.arange(4)
    env._wall_at[row, env.entities[row, 4:-1]] = True
    angle, state = quarter_turns * np.pi / 2, env.physics[source].copy()
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    state[1:3], state[16:18] = rotation @ state[1:3], rotation @ state[16:18]
    (w, x, y, z), c, s = state[4:8], np.cos(angle / 2), np.sin(angle / 2)
    state[4:8] = [c * w - s * z, c * x - s * y, c * y + s * x, c * z + s * w]
    env.physics[row] = state


@pytest.mark.parametrize("control", ["position", "torque"])
def test_turning_the_world_does_not_change_the_view_nor_the_walk(control):
    compared = 0
    for seed in range(6):
        env = GuidedAntVectorEnv(4, preset="paper", control=control, autoreset="disabled")
        env.reset(seed=seed)
        for turns in (1, 2, 3):
            rotated(env, 0, turns, turns)
        env.distances = rules.shortest_distances(env.entities, env.world)
        view = env.observe()
        same = np.abs(view - view[0]).max(1) < 1e-5  # where paths tie, the first direction is taken
        for row in np.repeat(actions(seed, 8, 1, 0.3), 4, 1):
            view, reward, terminated, *_ = env.step(row)
        for row in np.flatnonzero(same[1:]) + 1:
            np.testing.assert_allclose(view[row], view[0], atol=1e-3)
            assert reward[row] == pytest.approx(reward[0], abs=1e-4)
            compared += 1
    assert compared >= 6


def test_renaming_legs_can_be_undone():
    random = np.random.default_rng(0)
    values, turns = random.normal(size=(20, 8)), random.integers(-4, 5, 20)
    np.testing.assert_allclose(to_expert(to_world(values, turns), turns), values)
    np.testing.assert_allclose(rename_legs(rename_legs(values, turns, False), -turns, False), values)


def test_guidance_rewards_the_way_and_punishes_failure():
    env = GuidedAntVectorEnv(64, preset="small", autoreset="disabled")
    env.reset(seed=0)
    direction = guided_view(env, env.target).direction
    env.physics[:, 16:18] = 2.0 * direction
    _, ahead, terminated, *_ = env.step(np.zeros((64, 8)))
    assert ahead[~terminated].mean() > 0.05
    env.physics[:, 3] = 5.0
    _, fallen, _, _, info = env.step(np.zeros((64, 8)))
    assert (fallen[~terminated & (info["entered"] < 0)] < -1.5).all()


# Pictures

DRAW = """
import sys
import numpy as np
from irl_ray.worlds.pinpad.ant import AntPinpadVectorEnv
try:
    env = AntPinpadVectorEnv(1, preset="small", render_mode="rgb_array")
    env.reset(seed=0)
    frame = env.render()
except Exception as error:
    print(error); sys.exit(77)
assert frame.dtype == np.uint8 and frame.ndim == 3
colours = {tuple(c) for c in frame.reshape(-1, 3)}
assert len(colours) > 200, len(colours)
other = AntPinpadVectorEnv(1, preset="small", render_mode="rgb_array"); other.reset(seed=1)
assert (other.render()[:320] != frame[:320]).any()
assert (env.frame(0.5, 3) != frame).any() and env.frame(0.5).shape == frame.shape
env.physics[:, 1:3] = 0.0  # the ant alone has moved, to the middle
moved = (env.frame() != frame).any(-1)
assert 0.005 < moved.mean() < 0.2 and moved[174, 174]
"""


def test_draws_with_mujoco_where_there_is_opengl():
    environment = {"MUJOCO_GL": "egl", **os.environ}
    done = subprocess.run([sys.executable, "-c", DRAW], env=environment, capture_output=True, text=True)
    if done.returncode == 77:
        assert "MUJOCO_GL" in done.stdout
        pytest.skip("no OpenGL on this machine")
    assert done.returncode == 0, done.stderr


NO_SCREEN = """
from irl_ray.worlds.pinpad.ant import AntPinpadVectorEnv
from irl_ray.errors import UserError
for _ in range(2):
    env = AntPinpadVectorEnv(1, preset="tiny", render_mode="rgb_array")
    env.reset(seed=0)
    try:
        env.render()
    except UserError as error:
        assert "MUJOCO_GL" in str(error)
    else:
        raise AssertionError("drawn")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is a screen")
def test_drawing_again_without_opengl_is_refused_again():
    screens = ("DISPLAY", "WAYLAND_DISPLAY")
    environment = {**{k: v for k, v in os.environ.items() if k not in screens}, "MUJOCO_GL": "glfw"}
    done = subprocess.run([sys.executable, "-c", NO_SCREEN], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_unusable_opengl_is_one_line():
    line = [sys.executable, "-m", "irl_ray.cli.rllib", "evaluate", "ant", "--episodes", "1"]
    environment = {**os.environ, "MUJOCO_GL": "foo"}
    done = subprocess.run(line, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "MUJOCO_GL=foo" in done.stderr and "osmesa" in done.stderr
