"""The expert's view of the ant's world: `irl_ray/AntPinpadGuided-v0` (C.1.1).

The paper trains one PPO agent for all tasks on observations with the direction in which the
shortest path leaves each cell, rewarded for its velocity in that direction. Here (ours) that
direction turns the world: the ant always wants to walk along +x. Its legs are renamed by the quarter turn
that brings the body closest to that heading, which the ant's symmetry allows. So one gait serves
all directions, and the expert learns in minutes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from irl_ray.worlds.pinpad import rules
from irl_ray.worlds.pinpad.ant import DIRECTIONS, AntPinpadVectorEnv
from irl_ray.worlds.pinpad.ant_model import ANKLE_CENTRE
from irl_ray.worlds.pinpad.senses import ANKLE_SIGN, NUM_JOINTS
from irl_ray.worlds.pinpad.vector import PinpadEnv

NUM_FEATURES = 42
ANGLES = np.array([np.pi / 2, 0.0, -np.pi / 2, np.pi])  # of UP, RIGHT, DOWN, LEFT
DEATH, VISIT, YAW, CENTRE, EFFORT = 2.0, 1.0, 0.03, 0.03, 0.003  # weights of the guiding reward


class View(NamedTuple):
    """What the expert sees, and how to turn what it does back.

    Attributes:
        features: float32 [N, 42].
        turns: int64 [N], quarter turns by which the legs are renamed.
        direction: float64 [N, 2], the unit vector in which the path leaves the cell.
        yaw: float64 [N], the torso's heading relative to it, within an eighth turn.
    """

    features: np.ndarray
    turns: np.ndarray
    direction: np.ndarray
    yaw: np.ndarray


def path_directions(cells: np.ndarray, target: np.ndarray, distances: np.ndarray, table: np.ndarray) -> np.ndarray:
    """int64 [N]: the first of UP, RIGHT, DOWN, LEFT on a shortest path from cell to target colour.

    Args:
        cells: int64 [N].
        target: int64 [N], colours.
        distances: int16 [C, O, N] of `pinpad.shortest_distances`.
        table: int64 [C, 4] of `pinpad.next_cells`.
    """
    return rules.action_distances(distances, cells, target, table).argmin(1)


def guided_view(
    env: AntPinpadVectorEnv, target: np.ndarray, qpos: np.ndarray | None = None, qvel: np.ndarray | None = None
) -> View:
    """The view of every copy of `env` on its way to the colours `target` [N]."""
    qpos, qvel = env.qpos if qpos is None else qpos, env.qvel if qvel is None else qvel
    count, world, cells = len(target), env.world, env.entities[:, -1]
    table = rules.next_cells(world.grid_size)
    heading = path_directions(cells, target, env.distances, table)
    ahead = table[cells, heading]
    after = path_directions(ahead, target, env.distances, table)
    arrives = env._colour_at[np.arange(count), ahead] == target
    turn = np.where(arrives, 2, (after - heading) % 4)  # 0 straight, 1 right, 3 left, 2 arrived
    # A neighbouring cell is free if the path could go on from there, or if it is the target.
    reach = rules.action_distances(env.distances, cells, target, table) < rules.UNREACHABLE
    off = table[cells] == cells[:, None]
    sides = (heading[:, None] + np.array([1, 2, 3])) % 4
    blocked = np.take_along_axis(~reach | off, sides, 1)

    angle, direction = ANGLES[heading], DIRECTIONS[heading]
    rotation = _rotations(qpos[:, 3:7])
    yaw = np.arctan2(rotation[:, 1, 0], rotation[:, 0, 0]) - angle
    turns = np.rint(-yaw / (np.pi / 2)).astype(np.int64)
    yaw = yaw + turns * np.pi / 2
    body = _about_z(-angle) @ rotation @ _about_z(turns * np.pi / 2)
    linear = (_about_z(-angle) @ qvel[:, :3, None])[..., 0]
    angular = (_about_z(-turns * np.pi / 2) @ qvel[:, 3:6, None])[..., 0]
    local = (qpos[:, :2] - env._centres[cells]) / world.cell_size
    along = (local * direction).sum(1)
    across = local[:, 1] * direction[:, 0] - local[:, 0] * direction[:, 1]
    angles = rename_legs(qpos[:, 7:], turns, sign=True)
    angles[:, 1::2] -= ANKLE_CENTRE
    steps = env.distances[cells, target, np.arange(count)]
    parts = [
        (qpos[:, 2:3] - 0.5) * 4,
        body.reshape(count, 9),
        linear,
        angular * 0.5,
        angles * 2,
        rename_legs(qvel[:, 6:], turns, sign=True) * 0.2,
        along[:, None] * 2,
        across[:, None] * 2,
        blocked,
        np.eye(4)[turn],
        np.minimum(steps, 4)[:, None] / 2 - 1,
    ]
    return View(np.concatenate(parts, 1).astype(np.float32), turns % 4, direction, yaw)


def rename_legs(joints: np.ndarray, turns: np.ndarray, sign: bool) -> np.ndarray:
    """Joint values [N, 8] of a body turned by quarter turns [N]: leg i becomes leg i + turns.

    With `sign` ankles are positive when bent, whatever the leg.
    """
    legs = joints.reshape(-1, 4, 2).copy()
    if sign:
        legs[..., 1] *= ANKLE_SIGN
    order = (np.arange(4) + turns[:, None]) % 4
    return np.take_along_axis(legs, order[..., None], 1).reshape(-1, NUM_JOINTS)


def to_world(actions: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """The expert's actions [N, 8], in its own naming of legs, as actions of the ant."""
    legs = rename_legs(actions, -turns, sign=False).reshape(-1, 4, 2)
    legs[..., 1] *= ANKLE_SIGN
    return legs.reshape(-1, NUM_JOINTS)


def to_expert(actions: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """The inverse of `to_world`."""
    return rename_legs(actions, turns, sign=True)


def _rotations(quaternion: np.ndarray) -> np.ndarray:
    """Rotation matrices [N, 3, 3] of quaternions w, x, y, z [N, 4]."""
    w, x, y, z = (quaternion / np.linalg.norm(quaternion, axis=1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), -1, 0)


def _about_z(angle: np.ndarray) -> np.ndarray:
    """Rotations [N, 3, 3] about the vertical axis."""
    c, s, o, i = np.cos(angle), np.sin(angle), np.zeros_like(angle), np.ones_like(angle)
    return np.moveaxis(np.array([[c, -s, o], [s, c, o], [o, o, i]]), -1, 0)


class GuidedAntVectorEnv(AntPinpadVectorEnv):
    """What the expert is trained on: the guided view, a reward for walking along the path.

    Observation: `Box(-inf, inf, (42,))`, see `guided_view`. Actions: as the ant's, in the turned frame.

    Reward per step: metres walked along the path's direction; +1 for a visit in order; -2 for an
    end that is a failure; little costs for heading away, leaving the middle of the lane and effort.

    Goals are chained: a task that is done is followed by another one without a reset, so an
    episode ends only by failure or after `horizon` steps.
    """

    def __init__(self, num_envs: int = 1, **settings: Any):
        super().__init__(num_envs, **settings)
        self.single_observation_space = gym.spaces.Box(-np.inf, np.inf, (NUM_FEATURES,), np.float32)
        self.observation_space = gym.vector.utils.batch_space(self.single_observation_space, num_envs)
        self._view: View | None = None

    @property
    def target(self) -> np.ndarray:
        """int64 [N]: the colour to visit next (the last one, once a task is done)."""
        return self._tasks[self.task, np.minimum(self.leg, self._task_lengths[self.task] - 1)]

    def observe(self) -> np.ndarray:
        """float32 [N, 42]: the guided view of every copy."""
        self._view = guided_view(self, self.target)
        return self._view.features

    def _judge(self, entered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        before = self.leg.copy()
        done, wrong = super()._judge(entered)
        self._visited = self.leg > before
        for row in np.flatnonzero(done):
            # Chained: some task that does not begin where the ant stands.
            owner, here = self._generators[row], self._tasks[self.task[row], self.leg[row] - 1]
            fresh = np.flatnonzero(self._tasks[:, 0] != here)
            self.task[row], self.leg[row] = fresh[owner.integers(len(fresh))], 0
        return np.zeros_like(done), wrong

    def step(
        self, actions: np.ndarray, still: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """As the ant's, with the guiding reward."""
        view, before, waiting = self._view, self.qpos[:, :2].copy(), self._finished.copy()
        across = np.abs(view.features[:, 33]) / 2
        actions = np.asarray(actions)
        observation, _, terminated, truncated, info = super().step(to_world(actions, view.turns), still)
        walked = ((self.qpos[:, :2] - before) * view.direction).sum(1)
        # A copy that starts anew jumps; the step of a start earns nothing.
        reward = walked + VISIT * self._visited - DEATH * terminated
        reward -= YAW * np.abs(view.yaw) + CENTRE * across + EFFORT * (np.clip(actions, -1, 1) ** 2).sum(1)
        reward = np.where(waiting, 0.0, reward)
        return observation, reward, terminated, truncated, info


class GuidedAntEnv(PinpadEnv):
    """One copy of `GuidedAntVectorEnv`."""

    metadata = GuidedAntVectorEnv.metadata
    vector_class = GuidedAntVectorEnv
