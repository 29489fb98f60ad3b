"""Complete episodes for RL, each a function of its own seed alone.

An episode's layout, task, actions and codes derive from its seed, so a set of episodes is the same
however it is split over workers. Every episode of a set is run to its end (no bias towards short
ones) and rows are asked for a code as they switch, so none waits for another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from irl_ray.envs.pinpad import PinpadSpec
from irl_ray.envs.vector import PinpadVectorEnv
from irl_ray.envs.worlds import vector_env
from irl_ray.internal.internal_env import InternalVectorEnv
from irl_ray.models.code_policy import CodePolicy, gaussian_log_prob
from irl_ray.models.sequence_model import SequenceModel
from irl_ray.models.state import select_rows
from irl_ray.models.weights import Artefact

SHRINK = 0.6  # drop finished rows once fewer than this share of the rows still run


@dataclass
class Episode:
    """One complete episode; K decisions.

    Attributes:
        observation: [K + 1, d] residuals or [K + 1, ...] raw observations; the last one is final.
        action: [K, z] codes or [K, ...] raw actions.
        log_prob: [K] of the actions under the policy that took them.
        reward: [K].
        terminated: whether it ended by itself; else the horizon cut it.
        success: whether the task was done.
        raw_steps: environment steps taken.
        legs: colours visited in order.
    """

    observation: np.ndarray
    action: np.ndarray
    log_prob: np.ndarray
    reward: np.ndarray
    terminated: bool
    success: bool
    raw_steps: int
    legs: int


class _Recorder:
    """Collects decisions of many rows and cuts them into episodes."""

    def __init__(self, count: int):
        self._decisions: list[tuple[np.ndarray, ...]] = []
        self._final: dict[int, np.ndarray] = {}
        self._ends: dict[int, tuple[bool, bool, int, int]] = {}
        self._rewards = np.zeros(count)

    def decided(self, rows: np.ndarray, observation: np.ndarray, action: np.ndarray, log_prob: np.ndarray):
        self._decisions.append((rows.copy(), observation, action, log_prob))

    def rewarded(self, rows: np.ndarray, reward: np.ndarray) -> None:
        self._rewards[rows] += reward

    def ended(self, rows, final, terminated, success, raw_steps, legs) -> None:
        for row, *rest in zip(rows, final, terminated, success, raw_steps, legs):
            self._final[int(row)] = rest[0].copy()
            self._ends[int(row)] = (bool(rest[1]), bool(rest[2]), int(rest[3]), int(rest[4]))

    def episodes(self) -> list[Episode]:
        rows = np.concatenate([d[0] for d in self._decisions])
        order = np.argsort(rows, kind="stable")
        columns = [np.concatenate([d[i] for d in self._decisions])[order] for i in (1, 2, 3)]
        bounds = np.searchsorted(rows[order], np.arange(len(self._ends) + 1))
        result = []
        for row, (first, last) in enumerate(zip(bounds[:-1], bounds[1:])):
            observation, action, log_prob = (column[first:last] for column in columns)
            reward = np.zeros(last - first)
            reward[-1] = self._rewards[row]  # the only reward of a pin-pad episode comes at its end
            observation = np.concatenate([observation, self._final[row][None]])
            result.append(Episode(observation, action, log_prob, reward, *self._ends[row]))
        return result


@torch.no_grad()
def sample_code_episodes(
    agent: Artefact,
    policy: CodePolicy | None,
    world: PinpadSpec,
    seeds: Sequence[int],
    *,
    threshold: float | None = None,
    action_temperature: float | None = None,
    explore: bool = True,
) -> list[Episode]:
    """One episode of internal RL per seed, in the order of `seeds`.

    Args:
        agent: frozen base model and metacontroller.
        policy: the policy over codes; None draws from the prior N(0, I).
        world: the raw environment, with its tasks.
        seeds: one per episode.
        threshold: of the switch; None for the policy's own, 0.5 without a policy.
        action_temperature: of the base model's actions; None for the policy's own, 1 without one.
        explore: sample codes; else take the policy's mean.
    """
    count = len(seeds)
    if threshold is None:
        threshold = policy.config.switch_threshold if policy else 0.5
    if action_temperature is None:
        action_temperature = policy.config.action_temperature if policy else 1.0
    env = InternalVectorEnv(
        agent, world, count, threshold=threshold, action_temperature=action_temperature, autoreset="disabled"
    )
    env.reset(seed=list(seeds))
    horizon, code_size = env.raw.world.horizon, agent.metacontroller.config.code_size
    noise = torch.from_numpy(
        np.stack([np.random.default_rng([s, 2]).standard_normal((horizon, code_size), np.float32) for s in seeds])
    )
    state = policy.initial_state(count) if policy else None
    recorder, episode = _Recorder(count), np.arange(count)  # episode[row]: which one a row runs
    asking, running = np.ones(count, bool), np.ones(count, bool)
    while running.any():
        rows = np.flatnonzero(asking & running)
        if len(rows):
            index = torch.from_numpy(rows)
            observed = env.residual[index]
            drawn = noise[torch.from_numpy(episode[rows]), torch.from_numpy(env.raw.elapsed[rows])]
            inputs = policy.step(observed, state, index) if policy else torch.zeros(len(rows), 2 * code_size)
            mean, log_std = inputs.chunk(2, -1)
            code = mean + log_std.exp() * drawn if explore else mean
            env.hold(index, code)
            log_prob = gaussian_log_prob(inputs, code).numpy()
            recorder.decided(episode[rows], observed.numpy(), code.numpy(), log_prob)
        step = env.advance()
        recorder.rewarded(episode[running], step.reward[running])
        over = running & (step.terminated | step.truncated)
        _record_ends(recorder, episode, over, env.residual.numpy(), step.terminated, step.success, env.raw)
        running &= ~over
        asking = step.beta >= threshold
        if running.any() and running.mean() < SHRINK:
            rows = np.flatnonzero(running)
            env.keep(rows)
            state = select_rows(state, torch.from_numpy(rows)) if policy else None
            episode, asking, running = episode[rows], asking[rows], running[rows]
    return recorder.episodes()


@torch.no_grad()
def sample_raw_episodes(
    base: SequenceModel, world: PinpadSpec, seeds: Sequence[int], *, explore: bool = True
) -> list[Episode]:
    """One episode per seed in which `base` itself chooses raw actions (baseline of C.5.3).

    Without `explore` the most likely action is taken.
    """
    count = len(seeds)
    env = vector_env(world, count)
    observed, _ = env.reset(seed=list(seeds))
    horizon = world.horizon
    noise = torch.from_numpy(np.stack([base.actions.noise(np.random.default_rng([s, 1]), horizon + 1) for s in seeds]))
    state = base.initial_state(count, horizon + 1)
    recorder, episode, running = _Recorder(count), np.arange(count), np.ones(count, bool)
    while running.any():
        inputs = base.action_inputs(base.upper_step(base.embed(torch.from_numpy(observed)), state, 0))
        chosen = noise[torch.from_numpy(episode), torch.from_numpy(env.elapsed)]
        action = base.actions.sample(inputs, chosen) if explore else base.actions.mode(inputs)
        log_prob = base.actions.log_prob(inputs, action).numpy()
        recorder.decided(episode[running], observed[running], action.numpy()[running], log_prob[running])
        observed, reward, terminated, truncated, info = env.step(action.numpy())
        recorder.rewarded(episode[running], reward[running])
        over = running & (terminated | truncated)
        _record_ends(recorder, episode, over, observed, terminated, info["success"], env)
        running &= ~over
        if running.any() and running.mean() < SHRINK:
            rows = np.flatnonzero(running)
            env.keep(rows)
            state = select_rows(state, torch.from_numpy(rows))
            episode, running, observed = episode[rows], running[rows], observed[rows]
    return recorder.episodes()


def _record_ends(
    recorder: _Recorder,
    episode: np.ndarray,
    over: np.ndarray,
    final: np.ndarray,
    terminated: np.ndarray,
    success: np.ndarray,
    raw: PinpadVectorEnv,
) -> None:
    outcome = (final[over], terminated[over], success[over], raw.elapsed[over], raw.leg[over])
    recorder.ended(episode[over], *outcome)
