"""The environment `irl_ray/SceneChain-v0`, and OGBench's own oracles as its demonstrators."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np

from irl_ray.data.imports import Episode
from irl_ray.errors import UserError
from irl_ray.worlds.chains import ORDERS, successes

try:
    from ogbench.manipspace.envs.scene_env import SceneEnv
    from ogbench.manipspace.oracles.plan.button_plan import ButtonPlanOracle
    from ogbench.manipspace.oracles.plan.drawer_plan import DrawerPlanOracle
    from ogbench.manipspace.oracles.plan.plan_oracle import PlanOracle
    from ogbench.manipspace.oracles.plan.window_plan import WindowPlanOracle
except ImportError:
    raise UserError("irl_ray/SceneChain-v0 needs OGBench: pip install 'irl_ray[ogbench]'") from None

THINGS = ("button 0", "drawer", "button 1", "window")
DRAWER = np.array([0.0, -0.16])  # where the drawer is closed and open, in metres
WINDOW = np.array([0.0, 0.2])
THERE = 0.04  # so near to the other end a drawer or window has been moved
PATIENCE = 160  # steps of a demonstration
DAMPING = 2.0  # of a drawer or window that is not locked


@cache
def _built() -> SceneEnv:
    """OGBench's scene, which takes a second and 140 MB to build: copies of a process differ in their data alone."""
    scene = SceneEnv("scene", mode="data_collection", visualize_info=False)
    scene.reset(seed=0)
    return scene


class SceneChain(SceneEnv):
    """Two buttons, a drawer and a window are to be toggled in an order that the agent is not told.

    Another thing toggled ends the episode; the last of the order ends it with a reward of 1. Unlike in OGBench's tasks
    buttons lock nothing, and drawer and window begin at one of their ends.

    Actions: `Box(5)` in [-1, 1]: the gripper's displacement (5 cm each), yaw (0.3 rad) and opening, at 20 Hz.

    Observation: OGBench's 40 numbers: joints, gripper, cube, buttons, drawer and window.

    Info: `subgoal`, the thing that is next, and `leg`, how many were toggled (ground truth, for analysis only).

    Args:
        orders: from which each episode draws one.
        render_mode: "rgb_array" or None.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(self, orders: Sequence[Sequence[int]] = ORDERS, render_mode: str | None = None):
        vars(self).update(vars(_built()))
        self._data, self._np_random, self.render_mode = mujoco.MjData(self._model), None, render_mode
        self._cur_button_states, self._target_button_states = np.zeros((2, 2), dtype=np.int64)
        self.orders = [tuple(order) for order in orders]
        self.order, self.leg, self.toggled = self.orders[0], 0, np.zeros(len(THINGS), dtype=np.int64)

    @property
    def observation_space(self) -> gym.spaces.Box:
        return gym.spaces.Box(-np.inf, np.inf, (40,), np.float32)

    @property
    def action_space(self) -> gym.spaces.Box:
        return gym.spaces.Box(-1.0, 1.0, (5,), np.float32)

    def initialize_episode(self) -> None:
        """A scene drawn by OGBench but for drawer and window, and an order."""
        super().initialize_episode()
        self._data.joint("drawer_slide").qpos[0] = self.np_random.choice(DRAWER)
        self._data.joint("window_slide").qpos[0] = self.np_random.choice(WINDOW)
        self.toggled = self._nearest()
        self.order, self.leg = self.orders[self.np_random.integers(len(self.orders))], 0
        self.aim()

    def set_new_target(self, return_info: bool = True, p_stack: float = 0.5) -> None:
        """OGBench draws targets of its own; here the order says them."""

    def aim(self) -> None:
        """Makes the next thing of the order the oracles' target."""
        thing = self.order[self.leg]
        self._target_task = THINGS[thing].split()[0]
        if self._target_task == "button":
            self._target_button = thing // 2
        self._target_drawer_pos = DRAWER[1 - self.toggled[1]]
        self._target_window_pos = WINDOW[1 - self.toggled[3]]
        self._model.site("drawer_handle_center_target").pos[1] = self._target_drawer_pos
        self._model.site("window_handle_center_target").pos[0] = self._target_window_pos
        mujoco.mj_forward(self._model, self._data)

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        observation, _ = super().reset(**kwargs)
        return observation.astype(np.float32), self._info()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, _, _, truncated, _ = super().step(action)
        now = self._now()
        changed = np.flatnonzero(now != self.toggled)
        self.toggled = now
        wrong = success = False
        if len(changed):
            wrong = changed.tolist() != [self.order[self.leg]]
            self.leg += not wrong
            success = self.leg == len(self.order)
            if not (wrong or success):
                self.aim()
        return observation.astype(np.float32), float(success), bool(wrong or success), truncated, self._info()

    def render(self, **kwargs: Any) -> np.ndarray:
        """uint8 [H, W, 3]."""
        self._apply_button_states()  # whose colours belong to the model, which other copies share
        return super().render(**kwargs)

    def _apply_button_states(self) -> None:
        super()._apply_button_states()
        for name in ("drawer_slide", "window_slide"):
            self._model.joint(name).damping[0] = DAMPING

    def _nearest(self) -> np.ndarray:
        """Each thing's state: of a button as OGBench counts it, of drawer and window whether they are open."""
        drawer, window = (self._data.joint(name).qpos[0] for name in ("drawer_slide", "window_slide"))
        ends = (np.abs(DRAWER - drawer).argmin(), np.abs(WINDOW - window).argmin())
        first, second = self._cur_button_states
        return np.array([first, ends[0], second, ends[1]])

    def _now(self) -> np.ndarray:
        """The same, but drawer and window keep their state until they come near the other end."""
        now = self._nearest()
        for thing, name, ends in ((1, "drawer_slide", DRAWER), (3, "window_slide", WINDOW)):
            if abs(self._data.joint(name).qpos[0] - ends[now[thing]]) > THERE:
                now[thing] = self.toggled[thing]
        return now

    def _info(self) -> dict[str, int]:
        return {"subgoal": self.order[min(self.leg, len(self.order) - 1)], "leg": self.leg}


class _Brief:
    """An oracle that does not wander off when it is done."""

    def compute_keyframes(self, plan_input: dict[str, Any]) -> tuple[dict, dict, dict]:
        frames = super().compute_keyframes(plan_input)
        for part in frames:
            part.pop("final")
        return frames


class _Button(_Brief, ButtonPlanOracle):
    pass


class _Drawer(_Brief, DrawerPlanOracle):
    pass


class _Window(_Brief, WindowPlanOracle):
    pass


ORACLES: dict[str, type[PlanOracle]] = {"button": _Button, "drawer": _Drawer, "window": _Window}


def demonstrate(env: SceneChain, seed: int, noise: float = 0.1) -> Episode | None:
    """One episode of OGBench's oracles, one after the other; None where they fail or need too long.

    Args:
        env: not in use elsewhere.
        seed: of the scene and of the oracles' noise.
        noise: of their plans, as OGBench's.
    """
    observation, info = env.reset(seed=seed)
    observations, actions, subgoals, legs = [observation], [], [], []
    oracles = {name: kind(env=env, noise=noise) for name, kind in ORACLES.items()}
    state = np.random.get_state()
    np.random.seed(seed)  # OGBench's oracles draw from NumPy's global state
    try:
        over, reward, oracle = False, 0.0, None
        while not over and len(actions) < PATIENCE:
            if oracle is None or oracle.done:  # also where it missed, once more
                oracle = oracles[env._target_task]
                env.aim()  # marks on the model, which other copies share
                oracle.reset(None, env.compute_ob_info())
            action = oracle.select_action(None, env.compute_ob_info()).astype(np.float32)
            subgoals.append(info["subgoal"])
            legs.append(info["leg"])
            actions.append(action)
            observation, reward, over, _, info = env.step(action)
            observations.append(observation)
    finally:
        np.random.set_state(state)
    labels = {"subgoal": np.array(subgoals), "leg": np.array(legs)}
    return Episode(f"episode {seed}", observations, np.array(actions), True, labels) if reward > 0 else None


def demonstrations(count: int, seed: int = 0, **settings: Any) -> Iterator[Episode]:
    """So many of the oracles' episodes, for `irl-ray data import`.

    Args:
        count: of episodes.
        seed: from which theirs derive.
        **settings: of the environment.
    """
    env = SceneChain(**settings)
    return successes(lambda one: demonstrate(env, one), count, seed)
