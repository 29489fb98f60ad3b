"""The internal environment: base model, controller decoder and switch as one Gymnasium VectorEnv.

An abstract action is a controller code z. It stays in force until the switching unit lets go of it
(beta >= threshold) or the episode ends (Algorithms 1 and 2):

    repeat  U = f_hyp(z);  a ~ upper(e + U e);  o, r, done = env.step(a)
            e = lower(o);  beta = f_switch(e, h, z);  h = GRU(e, h)
    until   beta >= threshold or done

Shape legend: N rows, d residual width, z code dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from irl_ray.errors import UserError
from irl_ray.models.state import reset_rows, select_rows, write_rows
from irl_ray.models.steering import check_slate
from irl_ray.models.weights import Artefact
from irl_ray.worlds.rows import autoreset_mode, rows_to_reset, seeds_of_rows
from irl_ray.worlds.world import World, check_same


class RawStep(NamedTuple):
    """One raw step of the rows that were advanced, in their order; each [n]."""

    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    success: np.ndarray
    beta: np.ndarray
    entered: np.ndarray  # the target that was entered, -1 for none


class InternalVectorEnv(gym.vector.VectorEnv):
    """N internal environments; the frozen model runs once per batch.

    | | |
    |---|---|
    | Action | `Box(-inf, inf, (n_z,))`: the code to hold until the next switch |
    | Observation | `Box(-inf, inf, (d,))`: the residual stream e_l where a code is asked for |
    | Reward | sum of the raw rewards while the code was held |
    | Termination, truncation | the raw environment's |
    | Info | `raw_steps` taken under the code, `success` |

    `reset` and `step` are Gymnasium's: a step lasts until every row asks again, rows that switch
    early wait. Samplers that want no row to wait use `residual`, `hold` and `advance` instead.

    The recurrent states of both halves of the base model, of the switch's memory and the code are
    carried along; the first code of an episode is always asked for at t = 1 (ours).

    Args:
        agent: base model and metacontroller.
        world: the raw environment, with its tasks.
        num_envs: N.
        threshold: beta at or above it is a switch (0.5 in the paper); at 0 every raw step is one.
        action_temperature: at which the base model's actions are drawn (1 in the paper).
        clean_slate: whether the base model's memory starts anew with every code (ours, for models that were
            trained on windows): what it expects after what it has seen cannot resist a code then.
        autoreset: "next_step" or "disabled", as for the raw environment.

    Raises:
        UserError: on a mode or a world that does not fit; on codes that are not finite or of another shape; on steps
            before the first reset, or, without autoreset, in rows whose episode is over.
    """

    def __init__(
        self,
        agent: Artefact,
        world: World,
        num_envs: int,
        *,
        threshold: float = 0.5,
        action_temperature: float = 1.0,
        clean_slate: bool = False,
        autoreset: str = "next_step",
    ):
        if agent.metacontroller is None:
            raise UserError("the internal environment needs a metacontroller; run discovery first")
        self.base, self.meta, self.threshold = agent.base, agent.metacontroller, threshold
        self.action_temperature, self.clean_slate = action_temperature, clean_slate
        check_same(agent.world, world)
        if clean_slate:
            check_slate(self.base, self.meta.layer)
        self.raw = world.rows(num_envs)
        self.metadata = {"autoreset_mode": autoreset_mode(autoreset)}
        self._autoreset = autoreset == "next_step"
        self.num_envs = num_envs
        width, codes = self.base.width, self.meta.config.code_size
        self.single_observation_space = gym.spaces.Box(-np.inf, np.inf, (width,), np.float32)
        self.single_action_space = gym.spaces.Box(-np.inf, np.inf, (codes,), np.float32)
        self.observation_space = gym.vector.utils.batch_space(self.single_observation_space, num_envs)
        self.action_space = gym.vector.utils.batch_space(self.single_action_space, num_envs)
        self.residual = torch.zeros(num_envs, width)
        self._state = {
            "base": self.base.initial_state(num_envs, self.raw.world.horizon + 1),
            "meta": self.meta.initial_state(num_envs),
        }
        self._generators = [np.random.default_rng() for _ in range(num_envs)]
        drawn = self._draw(0)
        self._noise = np.zeros((num_envs, *drawn.shape), drawn.dtype)
        self._started, self._finished = np.zeros((2, num_envs), bool)

    def _draw(self, row: int) -> np.ndarray:
        """The random numbers behind the raw actions of one episode."""
        return self.base.actions.noise(self._generators[row], self.raw.world.horizon + 1)

    @torch.no_grad()
    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts episodes in all rows, or in those of `options["reset_mask"]`."""
        rows = rows_to_reset(options, self.num_envs)
        seeds = seeds_of_rows(seed, rows, self.num_envs)
        for row, one in zip(rows, seeds):
            if one is not None:
                self._generators[row] = np.random.default_rng([one, 1])
        self._start(rows, seeds)
        return self.residual.numpy().copy(), {}

    def _start(self, rows: np.ndarray, seeds: Sequence[int | None] | None = None) -> None:
        mask = np.zeros(self.num_envs, bool)
        mask[rows] = True
        self.raw.reset(seed=seeds, options={"reset_mask": mask})
        for row in rows:
            self._noise[row] = self._draw(row)
        self._started[rows], self._finished[rows] = True, False
        index = torch.from_numpy(rows)
        reset_rows(self._state, index)
        self._perceive(None if len(rows) == self.num_envs else index)

    def _perceive(self, rows: Tensor | None, observation: np.ndarray | None = None) -> np.ndarray:
        """e = lower(o); beta = f_switch(e, h, z); h = GRU(e, h), for all rows or some."""
        observation = torch.from_numpy(self.raw.observe() if observation is None else observation)
        if rows is None:
            self.residual = self.base.lower_step(observation, self._state["base"], self.meta.layer)
            return self.meta.switch_step(self.residual, self._state["meta"]).numpy()
        state = select_rows(self._state, rows)
        residual = self.base.lower_step(observation[rows], state["base"], self.meta.layer)
        beta = self.meta.switch_step(residual, state["meta"]).numpy()
        write_rows(self._state, rows, state)
        self.residual[rows] = residual
        return beta

    def hold(self, rows: Tensor, codes: Tensor) -> None:
        """Puts codes [n, z] in force in the given rows.

        Raises:
            UserError: if one is not finite.
        """
        if not bool(torch.isfinite(codes).all()):
            row = int(rows[~torch.isfinite(codes).all(-1)][0])
            raise UserError(f"code of row {row} is not finite: has its policy diverged? Train it at a lower lr")
        held = self._state["meta"]["code"]
        held[rows] = codes.to(held.dtype)
        if self.clean_slate and len(rows):  # none decides where all wait to start anew
            self._forget(rows)

    @torch.no_grad()
    def _forget(self, rows: Tensor) -> None:
        """The base model has seen nothing but the present observation of these rows."""
        reset_rows(self._state["base"], rows)
        if self.meta.layer:
            state = select_rows(self._state["base"], rows)
            observation = torch.from_numpy(self.raw.observe())[rows]
            self.residual[rows] = self.base.lower_step(observation, state, self.meta.layer)
            write_rows(self._state["base"], rows, state)

    @torch.no_grad()
    def advance(self, rows: Tensor | None = None) -> RawStep:
        """One raw step of all rows, or of the given ones while the others stand still."""
        everyone = rows is None
        index = torch.arange(self.num_envs) if everyone else rows
        chosen = index.numpy()
        state = self._state if everyone else select_rows(self._state, index)
        residual = self.meta.control(self.residual[index], state["meta"]["code"])
        inputs = self.base.action_inputs(self.base.upper_step(residual, state["base"], self.meta.layer))
        if not everyone:
            write_rows(self._state, index, state)
        noise = torch.from_numpy(self._noise[chosen, self.raw.elapsed[chosen]])
        drawn = self.base.actions.sample(inputs, noise, self.action_temperature).numpy()
        actions = np.zeros((self.num_envs, *drawn.shape[1:]), drawn.dtype)
        actions[chosen] = drawn
        still = None if everyone else ~_mask(chosen, self.num_envs)
        observation, reward, terminated, truncated, info = self.raw.step(actions, still)
        beta = self._perceive(None if everyone else index, observation)
        self._finished[chosen] |= (terminated | truncated)[chosen]
        success, entered = info["success"][chosen], info["entered"][chosen]
        return RawStep(reward[chosen], terminated[chosen], truncated[chosen], success, beta, entered)

    def keep(self, rows: np.ndarray) -> None:
        """Shrinks the environment to the given rows, for samplers whose other episodes are over."""
        index = torch.from_numpy(rows)
        self._state = select_rows(self._state, index)
        self.residual = self.residual[index]
        self._noise = self._noise[rows]
        self._started, self._finished = self._started[rows], self._finished[rows]
        self._generators = [self._generators[row] for row in rows]
        self.raw.keep(rows)
        self.num_envs = len(rows)

    @torch.no_grad()
    def step(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Holds each row's code until its next switch or the end of its episode."""
        given = torch.as_tensor(codes, dtype=torch.float32)
        if given.shape != self.action_space.shape:
            raise UserError(
                f"codes of shape {tuple(given.shape)}: expected {self.action_space.shape}, one for each row"
            )
        if not self._started.all():
            raise UserError("step before reset: call reset() first, in every row")
        waiting = self._finished.copy()
        if self._autoreset and waiting.any():
            self._start(np.flatnonzero(waiting))
        elif waiting.any():
            over = np.flatnonzero(waiting).tolist()
            raise UserError(f"rows {over} are over: start them anew with reset(options={{'reset_mask': ...}})")
        reward, raw_steps = np.zeros(self.num_envs), np.zeros(self.num_envs, np.int64)
        terminated, truncated, success = (np.zeros(self.num_envs, bool) for _ in range(3))
        busy = np.flatnonzero(~waiting)
        self.hold(torch.from_numpy(busy), given[busy])
        while len(busy):
            rows = torch.from_numpy(busy)
            result = self.advance(None if len(busy) == self.num_envs else rows)
            reward[busy] += result.reward
            raw_steps[busy] += 1
            terminated[busy], truncated[busy] = result.terminated, result.truncated
            success[busy] = result.success
            busy = busy[~(result.terminated | result.truncated | (result.beta >= self.threshold))]
        everyone = np.ones(self.num_envs, bool)
        info = {"raw_steps": raw_steps, "_raw_steps": everyone, "success": success, "_success": everyone}
        return self.residual.numpy().copy(), reward, terminated, truncated, info


def _mask(rows: np.ndarray, size: int) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[rows] = True
    return mask
