"""Complete episodes for RL, each a function of its own seed alone.

An episode's layout, task, actions and codes derive from its seed, so a set of episodes is the same
however it is split over workers. Every episode of a set is run to its end (no bias towards short
ones) and rows are asked for a code as they switch, so none waits for another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

from irl_ray.internal.internal_env import InternalVectorEnv
from irl_ray.models.code_policy import CodePolicy, gaussian_log_prob
from irl_ray.models.sequence_model import BaseModel
from irl_ray.models.state import select_rows
from irl_ray.models.weights import Artefact
from irl_ray.worlds.rows import Rows
from irl_ray.worlds.world import World

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
        legs: of the task that were done.
    """

    observation: np.ndarray
    action: np.ndarray
    log_prob: np.ndarray
    reward: np.ndarray
    terminated: bool
    success: bool
    raw_steps: int
    legs: int


@dataclass(frozen=True, eq=False)
class Episodes(Sequence[Episode]):
    """N complete episodes in a few arrays, so that a thousand cost no more to send than one.

    Attributes:
        decisions: int [N], how many each episode has.
        observation: [sum of decisions, ...] at the decisions, episode after episode.
        action, log_prob: [sum of decisions, ...].
        final: [N, ...] the last observation.
        reward: [N], which a pin-pad episode gives at its end only.
        terminated, success: bool [N].
        raw_steps, legs: int [N].
    """

    decisions: np.ndarray
    observation: np.ndarray
    action: np.ndarray
    log_prob: np.ndarray
    final: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    success: np.ndarray
    raw_steps: np.ndarray
    legs: np.ndarray

    def __len__(self) -> int:
        return len(self.decisions)

    def __getitem__(self, number: int | slice) -> Episode | Episodes:
        if isinstance(number, slice):
            return self.select(np.arange(len(self))[number])
        last = self.decisions.cumsum()[number]
        steps = slice(last - self.decisions[number], last)
        reward = np.zeros(self.decisions[number])
        reward[-1] = self.reward[number]
        return Episode(
            np.concatenate([self.observation[steps], self.final[number][None]]),
            self.action[steps],
            self.log_prob[steps],
            reward,
            bool(self.terminated[number]),
            bool(self.success[number]),
            int(self.raw_steps[number]),
            int(self.legs[number]),
        )

    @classmethod
    def joined(cls, parts: Sequence[Episodes]) -> Episodes:
        """All episodes of several sets, in their order."""
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))

    def select(self, numbers: np.ndarray) -> Episodes:
        """The episodes with these numbers, in this order."""
        decisions = self.decisions[numbers]
        shift = (self.decisions.cumsum() - self.decisions)[numbers] - (decisions.cumsum() - decisions)
        steps = np.repeat(shift, decisions) + np.arange(decisions.sum())
        each = {f.name: getattr(self, f.name) for f in fields(self)}
        return Episodes(**{k: v[steps if k in PER_DECISION else numbers] for k, v in each.items()})

    def padded(self, name: str) -> np.ndarray:
        """A column of decisions as [N, longest, ...], zeros on the right."""
        column = getattr(self, name)
        result = np.zeros((len(self), self.decisions.max(), *column.shape[1:]), column.dtype)
        result[self.mask()] = column
        return result

    def mask(self) -> np.ndarray:
        """bool [N, longest]: where a padded column has a decision."""
        return np.arange(self.decisions.max()) < self.decisions[:, None]


PER_DECISION = ("observation", "action", "log_prob")


class _Recorder:
    """Collects decisions of many rows and puts them in the order of episodes."""

    def __init__(self, count: int):
        self._decided: list[tuple[np.ndarray, ...]] = []
        self._ended: list[tuple[np.ndarray, ...]] = []
        self._reward = np.zeros(count)

    def decided(self, episode: np.ndarray, observation: np.ndarray, action: np.ndarray, log_prob: np.ndarray) -> None:
        self._decided.append((episode, observation, action, log_prob))

    def rewarded(self, episode: np.ndarray, reward: np.ndarray) -> None:
        self._reward[episode] += reward

    def ended(self, episode: np.ndarray, *ends: np.ndarray) -> None:
        """Final observation, terminated, success, raw steps and legs of episodes that are over."""
        self._ended.append((episode, *ends))

    def episodes(self) -> Episodes:
        def in_order(chunks: list[tuple[np.ndarray, ...]]) -> list[np.ndarray]:
            episode, *columns = (np.concatenate(column) for column in zip(*chunks))
            order = np.argsort(episode, kind="stable")
            return [column[order] for column in (episode, *columns)]

        episode, observation, action, log_prob = in_order(self._decided)
        _, final, terminated, success, raw_steps, legs = in_order(self._ended)
        decisions = np.bincount(episode, minlength=len(self._reward))
        return Episodes(
            decisions, observation, action, log_prob, final, self._reward, terminated, success, raw_steps, legs
        )


@torch.no_grad()
def sample_code_episodes(
    agent: Artefact,
    policy: CodePolicy | None,
    world: World,
    seeds: Sequence[int],
    *,
    threshold: float | None = None,
    action_temperature: float | None = None,
    clean_slate: bool | None = None,
    explore: bool = True,
) -> Episodes:
    """One episode of internal RL per seed, in the order of `seeds`.

    Args:
        agent: frozen base model and metacontroller.
        policy: the policy over codes; None draws from the prior N(0, I).
        world: the raw environment, with its tasks.
        seeds: one per episode.
        threshold: of the switch; None for the policy's own, 0.5 without a policy.
        action_temperature: of the base model's actions; None for the policy's own, 1 without one.
        clean_slate: whether the base model's memory starts anew with every code; None for the policy's own, no
            without one.
        explore: sample codes; else take the policy's mean.
    """
    count = len(seeds)
    if threshold is None:
        threshold = policy.config.switch_threshold if policy else 0.5
    if action_temperature is None:
        action_temperature = policy.config.action_temperature if policy else 1.0
    if clean_slate is None:
        clean_slate = policy.config.clean_slate if policy else False
    env = InternalVectorEnv(
        agent,
        world,
        count,
        threshold=threshold,
        action_temperature=action_temperature,
        clean_slate=clean_slate,
        autoreset="disabled",
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
    base: BaseModel,
    world: World,
    seeds: Sequence[int],
    *,
    action_temperature: float = 1.0,
    explore: bool = True,
) -> Episodes:
    """One episode per seed in which `base` itself chooses raw actions (baseline of C.5.3).

    Args:
        base: the policy.
        world: the environment, with its tasks.
        seeds: one per episode.
        action_temperature: of the policy, whose log probabilities are those at this temperature.
        explore: sample actions; else take the most likely one.
    """
    count = len(seeds)
    env = world.rows(count)
    observed, _ = env.reset(seed=list(seeds))
    horizon = world.horizon
    noise = torch.from_numpy(np.stack([base.actions.noise(np.random.default_rng([s, 1]), horizon + 1) for s in seeds]))
    state = base.initial_state(count, horizon + 1)
    recorder, episode, running = _Recorder(count), np.arange(count), np.ones(count, bool)
    while running.any():
        embedding = base.lower_step(torch.from_numpy(observed), state, 0)
        outputs = base.action_inputs(base.upper_step(embedding, state, 0))
        inputs = base.actions.tempered(outputs, action_temperature)
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
    raw: Rows,
) -> None:
    outcome = (final[over], terminated[over], success[over], raw.elapsed[over], raw.leg[over])
    recorder.ended(episode[over], *outcome)
