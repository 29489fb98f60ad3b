"""Between the sampler's episodes, RLlib's episodes and the learner's padded batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch

from irl_ray.internal.sampler import Episode


def to_rllib(episode: Episode) -> SingleAgentEpisode:
    """One RLlib episode per sampled episode; its last info tells success, raw steps and legs."""
    outcome = {"success": episode.success, "raw_steps": episode.raw_steps, "legs": episode.legs}
    decisions = len(episode.action)
    return SingleAgentEpisode(
        observations=episode.observation,
        actions=episode.action,
        rewards=episode.reward,
        infos=[{}] * decisions + [outcome],
        terminated=episode.terminated,
        truncated=not episode.terminated,
        extra_model_outputs={Columns.ACTION_LOGP: episode.log_prob},
        len_lookback_buffer=0,
    )


def outcome(episode: SingleAgentEpisode) -> dict[str, Any]:
    """Success, raw steps and legs of a finished episode."""
    return episode.get_infos(-1)


def episode_advantages(returns: np.ndarray) -> np.ndarray:
    """A = (R - mean R) / (std R + 1e-3) over a batch of episodes (Eq. 10): [n] -> [n]."""
    return (returns - returns.mean()) / (returns.std() + 1e-3)


def to_batch(episodes: Sequence[SingleAgentEpisode], advantages: np.ndarray) -> MultiAgentBatch:
    """Whole episodes, padded on the right: [B, K, ...] with a loss mask; advantages [B]."""
    lengths = np.array([len(episode) for episode in episodes])
    longest = int(lengths.max())

    def pad(arrays: list[np.ndarray]) -> np.ndarray:
        shape = (len(arrays), longest, *arrays[0].shape[1:])
        padded = np.zeros(shape, arrays[0].dtype)
        for row, array in zip(padded, arrays):
            row[: len(array)] = array
        return padded

    columns = {
        Columns.OBS: pad([np.asarray(e.get_observations())[:-1] for e in episodes]),
        Columns.ACTIONS: pad([np.asarray(e.get_actions()) for e in episodes]),
        Columns.ACTION_LOGP: pad([np.asarray(e.get_extra_model_outputs(Columns.ACTION_LOGP)) for e in episodes]),
        Columns.LOSS_MASK: np.arange(longest) < lengths[:, None],
        Columns.ADVANTAGES: advantages.astype(np.float32),
    }
    return MultiAgentBatch({DEFAULT_MODULE_ID: SampleBatch(columns)}, env_steps=int(lengths.sum()))
