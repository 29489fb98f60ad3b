"""ant-pinpad (Appendix A): `irl_ray/AntPinpad-v0`, vector first, stepped by `mujoco.rollout`."""

from __future__ import annotations

from typing import Any

import numpy as np

from irl_ray.errors import UserError
from irl_ray.worlds.pinpad.ant_model import ANKLE_CENTRE, TIMESTEP, ant_model, mujoco
from irl_ray.worlds.pinpad.ant_picture import AntCamera
from irl_ray.worlds.pinpad.senses import ANKLE_SIGN, NUM_JOINTS
from irl_ray.worlds.pinpad.specs import CONTROL_STEPS, AntSpec
from irl_ray.worlds.pinpad.vector import PinpadEnv, PinpadVectorEnv

HEIGHT_RANGE = (0.2, 1.0)  # metres; outside it the episode ends
START_HEIGHT, START_NOISE = 0.55, 0.1
EXPLODED = 200.0  # a velocity no ant reaches (m/s or rad/s)
DIRECTIONS = np.array([(0.0, 1.0), (1.0, 0.0), (0.0, -1.0), (-1.0, 0.0)])  # of UP, RIGHT, DOWN, LEFT


def cell_centres(world: AntSpec) -> np.ndarray:
    """Centre of every cell in metres, [C, 2] as x (to the right) and y (up)."""
    rows, columns = np.divmod(np.arange(world.num_cells), world.grid_size)
    middle = (world.grid_size - 1) / 2
    return np.stack([columns - middle, middle - rows], 1) * world.cell_size


def symlog(x: np.ndarray) -> np.ndarray:
    """sign(x) log(1 + |x|)."""
    return np.sign(x) * np.log1p(np.abs(x))


class AntPinpadVectorEnv(PinpadVectorEnv):
    """N ants, each on its own pin-pad, stepped together without a Python loop over copies.

    The ant must enter the coloured cells in the order of a task that it is not told.

    Actions: `Box(-1, 1, (8,))`, hip and ankle of legs 1 to 4. With `control="torque"` the joint
    torques in units of 150 Nm, held for 0.05 s; with `control="position"` joint targets, followed
    by a PD law inside MuJoCo for 0.1 s.

    Observation, `Box(-inf, inf, (31 + 2 (O + W),), float32)`:

    | entries | what |
    |---|---|
    | 0-12 | symlog of torso height, orientation (quaternion) and the 8 joint angles |
    | 13-26 | symlog of the velocities of torso (6) and joints (8) |
    | 27-28 | the torso's x and y, scaled so that the grid spans [-1, 1] |
    | 29- | for each colour and each wall, its cell's centre minus the torso, x and y in cells |
    | last two | the torso's place in its own cell, x and y in cells from -0.5 to 0.5 |

    Reward: 1 when the last colour of the task is visited in order, else 0.

    Termination: the task is done; a colour is visited that is not the next; the torso enters a
    wall's cell, leaves the grid (ours), or leaves heights of 0.2 to 1.0 m; or the physics explodes
    (values that are not finite, or speeds above 200). Truncation: after `horizon` actions.

    Reset: colours, walls and ant on distinct random cells, all colours within reach of each other
    (as in the gridworld; ours); the torso anywhere in its cell; yaw random or aligned; joints and
    velocities within 0.1 of rest. "Rest" of an ankle is the middle of its range: zero, which
    the paper names, lies outside the limits of the joint.

    Info: `success`, `task`, `leg`, `subgoal` (ground truth, for analysis only), and the causes of
    an end: `wrong_colour`, `wall`, `off_grid`, `fallen`, `exploded`.

    Physics: Gymnasium's ant with semi-implicit Euler steps of 0.025 s instead of RK4 with 0.01 s.
    `rgb_array` and `human` draw with MuJoCo; on a machine without a screen set `MUJOCO_GL=egl`
    (or `osmesa`) before Python starts.

    Registered as `irl_ray/AntPinpad-v0`.

    Args:
        num_envs: N.
        preset: "tiny", "small" (position control, aligned yaw) or "paper" (torques, random yaw).
        threads: of the physics; 0 steps in the calling thread. Results do not depend on it.
        autoreset: "next_step" or "disabled", as for the gridworld.
        render_mode: "rgb_array" or "human"; draws the first copy.
        **world: see `irl_ray.worlds.pinpad.specs.AntSpec`.
    """

    metadata = {"render_modes": ["rgb_array", "human"], "render_fps": 20}
    per_row = (*PinpadVectorEnv.per_row, "physics")

    def __init__(
        self,
        num_envs: int = 1,
        *,
        threads: int = 0,
        autoreset: str = "next_step",
        render_mode: str | None = None,
        **world: Any,
    ):
        spec = AntSpec.of(world)
        self.single_observation_space, self.single_action_space = spec.observation_space, spec.action_space
        super().__init__(num_envs, spec, autoreset, render_mode)
        self.metadata["render_fps"] = round(1 / (TIMESTEP * CONTROL_STEPS[spec.control]))
        self.model = ant_model(spec.control)
        self.substeps = CONTROL_STEPS[spec.control]
        self._rollout = mujoco.rollout.Rollout(nthread=threads)
        self._data = [mujoco.MjData(self.model) for _ in range(max(1, threads))]
        # A row is MuJoCo's full physics state: time, 15 positions, 14 velocities.
        self.physics = np.zeros((num_envs, mujoco.mj_stateSize(self.model, mujoco.mjtState.mjSTATE_FULLPHYSICS)))
        self._centres = cell_centres(spec)
        self._camera: AntCamera | None = None

    @property
    def qpos(self) -> np.ndarray:
        """Positions [N, 15]: torso x, y, z, quaternion, joints."""
        return self.physics[:, 1:16]

    @property
    def qvel(self) -> np.ndarray:
        """Velocities [N, 14]: torso (linear in the world's frame, angular in its own), joints."""
        return self.physics[:, 16:30]

    def _place(self, rows: np.ndarray, owners: list[np.random.Generator]) -> None:
        if not len(rows):
            return
        noise = np.stack([owner.random(3 + NUM_JOINTS + 14) for owner in owners]) * 2 - 1
        state = np.zeros((len(rows), self.physics.shape[1]))
        position, velocity = state[:, 1:16], state[:, 16:30]
        position[:, :2] = self._centres[self.entities[rows, -1]] + noise[:, :2] * self.world.cell_size / 2
        position[:, 2] = START_HEIGHT
        half_yaw = noise[:, 2] * (np.pi if self.world.yaw == "random" else START_NOISE) / 2
        position[:, 3], position[:, 6] = np.cos(half_yaw), np.sin(half_yaw)
        position[:, 8::2] = ANKLE_CENTRE * np.array(ANKLE_SIGN)
        position[:, 7:] += START_NOISE * noise[:, 3 : 3 + NUM_JOINTS]
        velocity[:] = START_NOISE * noise[:, 3 + NUM_JOINTS :]
        self.physics[rows] = state

    def _move(self, actions: np.ndarray, waiting: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        finite = np.isfinite(actions).all(-1)
        if not finite.all():
            raise UserError(
                f"actions: row {int(np.flatnonzero(~finite)[0])} holds values that are not finite; expected 8 "
                "numbers in [-1, 1] per row. Look for a diverged policy"
            )
        moving = np.flatnonzero(~waiting)
        exploded = np.zeros(self.num_envs, bool)
        if len(moving):
            control = np.repeat(np.clip(actions[moving].astype(np.float64), -1, 1)[:, None], self.substeps, 1)
            start = self.physics[moving]
            states, _ = self._rollout.rollout(self.model, self._data, start, control)
            after = states[:, -1]
            with np.errstate(invalid="ignore"):
                sound = np.isfinite(after).all(1) & (np.abs(after[:, 16:30]) < EXPLODED).all(1)
            after[~sound] = np.where(np.isfinite(start[~sound]), start[~sound], 0.0)
            exploded[moving] = ~sound
            self.physics[moving] = after
        cell = self.cells()
        ends = {
            "wall": (cell >= 0) & self._wall_at[self._rows, cell],
            "off_grid": cell < 0,
            "fallen": (self.qpos[:, 2] < HEIGHT_RANGE[0]) | (self.qpos[:, 2] > HEIGHT_RANGE[1]),
        }
        return cell, {**{cause: rows & ~exploded & ~waiting for cause, rows in ends.items()}, "exploded": exploded}

    def cells(self) -> np.ndarray:
        """int64 [N]: the cell each torso is over; -1 off the grid."""
        size = self.world.grid_size
        column, up = np.floor(self.qpos[:, :2] / self.world.cell_size + size / 2).astype(np.int64).T
        inside = (column >= 0) & (column < size) & (up >= 0) & (up < size)
        return np.where(inside, (size - 1 - up) * size + column, -1)

    def observe(self) -> np.ndarray:
        """float32 [N, F]: the present observation of every copy."""
        torso, world = self.qpos[:, :2], self.world
        relative = (self._centres[self.entities[:, :-1]] - torso[:, None]) / world.cell_size
        local = (torso - self._centres[self.entities[:, -1]]) / world.cell_size
        parts = [
            symlog(self.physics[:, 3:30]),
            torso / (world.cell_size * world.grid_size / 2),
            relative.reshape(self.num_envs, -1),
            local,
        ]
        return np.concatenate(parts, 1).astype(np.float32)

    def frame(self, beta: float | None = None, code: int | None = None) -> np.ndarray:
        self._camera = self._camera or AntCamera(self.world)
        return self._camera.frame(self.physics[0], self.entities[0], self.caption(beta, code))

    def close_extras(self, **kwargs: Any) -> None:
        """Closes window, camera and threads."""
        super().close_extras()
        if self._camera is not None:
            self._camera.close()
            self._camera = None
        self._rollout.close()


class AntPinpadEnv(PinpadEnv):
    """One copy of `AntPinpadVectorEnv`; same actions, observations, rewards and settings."""

    metadata = AntPinpadVectorEnv.metadata
    vector_class = AntPinpadVectorEnv
