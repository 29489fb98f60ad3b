"""Between the sampler's episodes, RLlib's episodes and the learner's padded batch."""

from __future__ import annotations

import numpy as np
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME, NUM_EPISODES, NUM_EPISODES_LIFETIME
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from irl_ray.internal.sampler import Episode, Episodes

DECISIONS = "decisions"  # a batch's column


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


def log_episodes(metrics: MetricsLogger, episodes: Episodes, seconds: float, key: tuple[str, ...] = ()) -> None:
    """What the results tell of a set of episodes that took so many seconds, under a key."""
    raw_steps, decisions = int(episodes.raw_steps.sum()), int(episodes.decisions.sum())
    means = {
        "success_rate": float(episodes.success.mean()),
        "legs_mean": float(episodes.legs.mean()),
        "episode_return_mean": float(episodes.reward.mean()),
        "raw_steps_per_code": raw_steps / max(1, decisions),
        "codes_per_episode": decisions / len(episodes),
        "raw_steps_per_s": raw_steps / seconds,
    }
    for name, value in means.items():
        metrics.log_value((*key, name), value, window=1)
    metrics.log_value((*key, NUM_EPISODES), len(episodes), reduce="sum")
    counted = {NUM_EPISODES_LIFETIME: len(episodes), "num_raw_steps_lifetime": raw_steps}
    for name, value in {**counted, NUM_ENV_STEPS_SAMPLED_LIFETIME: decisions}.items():
        metrics.log_value((*key, name), value, reduce="lifetime_sum")


def episode_advantages(returns: np.ndarray) -> np.ndarray:
    """A = (R - mean R) / (std R + 1e-3) over a batch of episodes (Eq. 10): [n] -> [n]."""
    return (returns - returns.mean()) / (returns.std() + 1e-3)


def to_batch(episodes: Episodes, advantages: np.ndarray, decisions: float | None = None) -> MultiAgentBatch:
    """Whole episodes, padded on the right: [B, K, ...] with a loss mask; advantages [B].

    Args:
        episodes: of one learner.
        advantages: [B], theirs.
        decisions: by which the learner divides its sums: those of all learners' episodes, per learner, so that the
            average over learners is the mean over all decisions, however unequal their shares. None for one learner.
    """
    own = int(episodes.decisions.sum())
    columns = {
        Columns.OBS: episodes.padded("observation"),
        Columns.ACTIONS: episodes.padded("action"),
        Columns.ACTION_LOGP: episodes.padded("log_prob"),
        Columns.LOSS_MASK: episodes.mask(),
        Columns.ADVANTAGES: advantages.astype(np.float32),
        DECISIONS: np.full(len(episodes), own if decisions is None else decisions, np.float32),
    }
    return MultiAgentBatch({DEFAULT_MODULE_ID: SampleBatch(columns)}, env_steps=own)
