"""Any Gymnasium environment as a world: copies of it that are stepped one after the other."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import gymnasium as gym
import numpy as np

from irl_ray.config import merge
from irl_ray.errors import UserError
from irl_ray.worlds.rows import rows_to_reset, seeds_of_rows
from irl_ray.worlds.spaces import act_as, read_as
from irl_ray.worlds.world import World

SUCCESS = ("success", "is_success")  # keys of an environment's info

# What found goals in a world that nobody had looked at before (docs/worlds.md). Steps follow from the demonstrations,
# `phases.training.steps_for`, where they are not given.
TINY = {"steps": 20, "batch_size": 8, "gate_episodes": 16}
PRETRAIN = {
    "tiny": {**TINY, "model": {"width": 16, "layers": 2, "heads": 2, "mlp": 32}, "control_steps": 5},
    "small": {
        "model": {"width": 64, "layers": 3, "heads": 4, "mlp": 128},
        "optimizer": {"learning_rate": 4e-3, "schedule": "cosine", "warmup_steps": 100},
        "window_share": 0.7,
        "observation_weight": 0.0,
        "batch_size": 64,
        "control_rank": None,
        "control_steps": 300,
        "control_layers": [0],
        "gate_episodes": 512,
    },
}
DISCOVER = {
    "tiny": TINY,
    "small": {
        "metacontroller": {
            "layer": 0, "rank": None, "controller_scale": 1.0, "decoder_hidden": None, "switch": "gumbel",
        },
        "optimizer": {"learning_rate": 5e-3, "schedule": "cosine"},
        "clean_slate": True,
        "alpha": 0.1,
        "alpha_hold": 0.3,
        "alpha_ramp": 0.8,
        "batch_size": 64,
        "gate_episodes": 512,
    },
}  # fmt: skip
COMPILE = {"tiny": TINY, "small": {"batch_size": 64, "gate_episodes": 512}}


@dataclass(frozen=True)
class GymWorld(World):
    """An environment by its id, as it is; arguments of its own cannot be called `horizon` or `num_subgoals`.

    Attributes:
        id: Gymnasium's, such as "CartPole-v1" or "my_worlds:Chain-v0".
        horizon: steps after which an episode is cut.
        num_subgoals: K, where the environment's info tells `subgoal`, 0 to K - 1, at every step and at the start, and
            perhaps `leg`, how many subgoals are done; for analysis alone.
        options: what else `env_config` says, which the environment is given.
    """

    id: str
    horizon: int
    num_subgoals: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)

    presets = {"world": {}, "pretrain": PRETRAIN, "discover": DISCOVER, "compile": COMPILE}

    @property
    def title(self) -> str:
        return GymKind(self.id).title

    @property
    def settings(self) -> dict[str, Any]:
        return {**self.options, "horizon": self.horizon, "num_subgoals": self.num_subgoals}

    @property
    def observation_space(self) -> gym.Space:
        return self._read[0]

    @property
    def action_space(self) -> gym.Space:
        return self._acting[0]

    @cached_property
    def _read(self) -> tuple[gym.Space, Callable[..., Any], Callable[..., Any]]:
        return read_as(self._spaces[0])

    @cached_property
    def _acting(self) -> tuple[gym.Space, Callable[..., Any], Callable[..., Any]]:
        return act_as(self._spaces[1])

    @property
    def _spaces(self) -> tuple[gym.Space, gym.Space]:
        return _spaces(self.id, json.dumps(dict(self.options), sort_keys=True))

    def changed(self, given: Mapping[str, Any], where: str = "env_config") -> GymWorld:
        return _made(self.id, merge(self.settings, given), where)

    def with_tasks(self, tasks: Any) -> GymWorld:
        if tasks is not None and not isinstance(tasks, Mapping):
            raise UserError(f"post_task: expected settings of the environment, such as {{tasks: ...}}, got {tasks!r}")
        return self if tasks is None else self.changed(tasks, "post_task")

    def difference(self, other: World) -> str:
        if other.id != self.id:
            return f"the environment is {other.id}, expected {self.id}"
        pairs = {
            "observation space": (self.observation_space, other.observation_space),
            "action space": (self.action_space, other.action_space),
        }
        return ", ".join(f"the {name} is {b}, expected {a}" for name, (a, b) in pairs.items() if a != b)

    def view(self, observation: Any) -> np.ndarray:
        space = self._spaces[0]
        if isinstance(observation, np.ndarray) and observation.shape != (space.shape or observation.shape):
            raise UserError(f"observation of shape {observation.shape}: expected {space.shape}")
        try:
            return self._read[1](observation)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            parts = "; it is stored by an array for each key, observations/KEY" if space.shape is None else ""
            raise UserError(f"observation: not of {space} ({type(error).__name__}: {error}){parts}") from None

    def shown(self, observation: np.ndarray) -> Any:
        return self._read[2](observation)

    def act(self, action: np.ndarray) -> Any:
        return self._acting[1](action)

    def acted(self, actions: np.ndarray) -> np.ndarray:
        return self._acting[2](actions)

    def rows(self, count: int, **options: Any) -> GymRows:
        return GymRows(self, count, **options)

    def drawn_row(self) -> GymRows:
        return self.rows(1, render_mode="rgb_array")

    def single(self, **options: Any) -> gym.Env:
        """One copy of the environment."""
        return _open(self.id, {**self.options, "max_episode_steps": self.horizon, **options})


@dataclass(frozen=True)
class GymKind:
    """All worlds of one environment's id; what `worlds.find` gives for an id that no world of its own has."""

    id: str
    presets = GymWorld.presets

    @property
    def title(self) -> str:
        return self.id.rpartition(":")[2].rpartition("/")[2]

    def of(self, settings: Mapping[str, Any], where: str = "env_config") -> GymWorld:
        """The world that settings describe: the horizon, where the environment has none, and the environment's own."""
        return _made(self.id, settings, where)

    told = of


def _made(env: str, settings: Mapping[str, Any], where: str) -> GymWorld:
    if not isinstance(settings, Mapping):
        raise UserError(f"{where}: expected a mapping of settings, got {settings!r}")
    options = {key: value for key, value in settings.items() if key not in ("horizon", "num_subgoals")}
    subgoals = settings.get("num_subgoals", 0)
    if not isinstance(subgoals, int) or isinstance(subgoals, bool) or subgoals < 0:
        raise UserError(f"{where}.num_subgoals: expected a whole number of at least 0, got {subgoals!r}")
    horizon = settings.get("horizon", gym.spec(env.rpartition(":")[2]).max_episode_steps)
    if horizon is None:
        raise UserError(f"{where}.horizon: missing; {env} cuts no episode by itself: say after how many steps to")
    if not isinstance(horizon, int) or isinstance(horizon, bool) or horizon < 1:
        raise UserError(f"{where}.horizon: expected a positive integer, got {horizon!r}")
    world = GymWorld(env, horizon, subgoals, options)
    _ = world.observation_space  # which tells at once what is wrong with the settings
    return world


def _open(env: str, options: Mapping[str, Any]) -> gym.Env:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return gym.make(env, disable_env_checker=True, **options)
    except (gym.error.Error, TypeError, ValueError, ImportError) as error:
        shown = {key: value for key, value in options.items() if key != "max_episode_steps"}
        raise UserError(f"env: {env} cannot be opened with env_config {shown}: {error}") from None


@lru_cache(maxsize=64)
def _spaces(env: str, options: str) -> tuple[gym.Space, gym.Space]:
    opened = _open(env, json.loads(options))
    try:
        return opened.observation_space, opened.action_space
    except AttributeError as error:
        raise UserError(f"env: {env} tells no spaces ({error})") from None
    finally:
        opened.close()


class GymRows(gym.vector.VectorEnv):
    """Copies of an environment; see `worlds.rows.Rows`.

    A row succeeds where its episode ends with `success` or `is_success` in the info or, without such a key, with a
    reward above 0. Seeds are folded to 32 bits, which all environments take.
    """

    free = False
    metadata = {"autoreset_mode": gym.vector.AutoresetMode.DISABLED}

    def __init__(self, world: GymWorld, count: int, render_mode: str | None = None):
        self.world, self.num_envs, self._envs = world, count, []
        self._envs = [world.single(**({"render_mode": render_mode} if render_mode else {})) for _ in range(count)]
        self._view = read_as(self._envs[0].observation_space)[1]
        self._act = act_as(self._envs[0].action_space)[1]
        self.single_observation_space, self.single_action_space = world.observation_space, world.action_space
        self.observation_space = gym.vector.utils.batch_space(self.single_observation_space, count)
        self.action_space = gym.vector.utils.batch_space(self.single_action_space, count)
        dtype = np.int64 if world.discrete else np.float32
        self._observation = np.zeros((count, *self.single_observation_space.shape), dtype)
        self.elapsed, self.leg, self._subgoal = np.zeros((3, count), np.int64)
        self._finished = np.zeros(count, bool)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts episodes in all rows, or in those of `options["reset_mask"]` (bool [N])."""
        rows = rows_to_reset(options, self.num_envs)
        for row, one in zip(rows, seeds_of_rows(seed, rows, self.num_envs)):
            folded = None if one is None else int(np.random.SeedSequence(one).generate_state(1)[0])
            observation, info = self._envs[row].reset(seed=folded)
            self._see(row, observation, info)
        self.elapsed[rows] = 0
        self._finished[rows] = False
        return self.observe(), self._info(np.zeros(self.num_envs, bool))

    def step(
        self, actions: np.ndarray, still: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One step of every row whose episode is not over, but for those of the mask `still` [N]."""
        reward = np.zeros(self.num_envs)
        terminated, truncated, success = np.zeros((3, self.num_envs), bool)
        for row in np.flatnonzero(~self._finished if still is None else ~self._finished & ~still):
            observation, reward[row], terminated[row], truncated[row], info = self._envs[row].step(
                self._act(actions[row])
            )
            self._see(row, observation, info)
            told = next((info[key] for key in SUCCESS if key in info), reward[row] > 0)
            success[row] = bool(told) and bool(terminated[row] or truncated[row])
            self.elapsed[row] += 1
        self._finished |= terminated | truncated
        return self.observe(), reward, terminated, truncated, self._info(success)

    def _see(self, row: int, observation: Any, info: Mapping[str, Any]) -> None:
        self._observation[row] = self._view(observation)
        self._subgoal[row], self.leg[row] = info.get("subgoal", -1), info.get("leg", 0)

    def _info(self, success: np.ndarray) -> dict[str, np.ndarray]:
        entered = np.full(self.num_envs, -1)
        return {"success": success, "leg": self.leg.copy(), "subgoal": self._subgoal.copy(), "entered": entered}

    def observe(self) -> np.ndarray:
        """The present observation of every row, as models read it."""
        return self._observation.copy()

    def frame(self, beta: float | None = None, code: int | None = None) -> np.ndarray:
        """uint8 [H, W, 3]: the first row, as the environment draws itself."""
        return self._envs[0].render()

    def keep(self, rows: np.ndarray) -> None:
        """Shrinks to the given rows."""
        kept = set(rows.tolist())
        for row in range(self.num_envs):
            if row not in kept:
                self._envs[row].close()
        self._envs = [self._envs[row] for row in rows]
        for name in ("_observation", "elapsed", "leg", "_subgoal", "_finished"):
            setattr(self, name, getattr(self, name)[rows])
        self.num_envs = len(rows)

    def close_extras(self, **kwargs: Any) -> None:
        """Closes all copies."""
        for env in self._envs:
            env.close()
