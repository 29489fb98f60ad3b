"""The env runner: samples complete episodes by index, so results do not depend on who samples."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from irl_ray import worlds
from irl_ray.internal.internal_env import InternalVectorEnv
from irl_ray.internal.sampler import Episodes, sample_code_episodes, sample_raw_episodes
from irl_ray.models import weights
from irl_ray.rllib.episodes import log_episodes, to_rllib
from irl_ray.seeding import seed_sequence
from irl_ray.worlds.rows import Rows
from irl_ray.worlds.world import check_same


def episode_seed(seed: int, purpose: str, round_number: int, index: int) -> int:
    """The seed of one episode: a function of the run's seed, the round and the episode's index."""
    return int(seed_sequence(seed, purpose, round_number, index).generate_state(1, "uint64")[0]) >> 1


class EpisodeRunner(SingleAgentEnvRunner):
    """Base of the two runners: seeds, and RLlib's `sample` interface with its metrics."""

    def make_env(self) -> None:
        """Loads the frozen weights (by path, once per process) and opens the environment's spaces."""
        torch.set_num_threads(self.config.torch_threads)
        self.agent = weights.load(self.config.weights_name)
        self.world = worlds.make(self.config.env, self.config.env_config)
        self.env = self.make_spaces()
        self.num_envs = self.config.num_envs_per_env_runner
        self._rounds = 0

    def make_spaces(self) -> Any:
        """A one-row environment that carries observation and action space."""
        raise NotImplementedError

    def run_episodes(self, seeds: Sequence[int], explore: bool) -> Episodes:
        """One complete episode per seed."""
        raise NotImplementedError

    def sample_indices(
        self, round_number: int, indices: Sequence[int], purpose: str, explore: bool | None = None
    ) -> Episodes:
        """The episodes with these indices of a round, `num_envs_per_env_runner` at a time."""
        explore = self.config.explore if explore is None else explore
        self.module.eval()
        parts: list[Episodes] = []
        for first in range(0, len(indices), self.num_envs):
            chosen = indices[first : first + self.num_envs]
            seeds = [episode_seed(self.config.seed or 0, purpose, round_number, i) for i in chosen]
            parts.append(self.run_episodes(seeds, explore))
        return Episodes.joined(parts)

    def sample(
        self,
        *,
        num_timesteps: int | None = None,
        num_episodes: int | None = None,
        explore: bool | None = None,
        random_actions: bool = False,
        force_reset: bool = False,
    ) -> list[SingleAgentEpisode]:
        """RLlib's interface: a fresh round of complete episodes."""
        self._rounds += 1
        count = num_episodes or self.num_envs
        offset = (self.worker_index or 0) * 10**6
        started = time.perf_counter()
        episodes = self.sample_indices(self._rounds, range(offset, offset + count), "sample", explore)
        log_episodes(self.metrics, episodes, time.perf_counter() - started)
        return [to_rllib(episode) for episode in episodes]


class InternalRunner(EpisodeRunner):
    """Samples episodes of the internal environment: one decision per switch."""

    def make_spaces(self) -> InternalVectorEnv:
        return InternalVectorEnv(self.agent, self.world, 1)

    def run_episodes(self, seeds: Sequence[int], explore: bool) -> Episodes:
        return sample_code_episodes(
            self.agent,
            self.module.policy,
            self.world,
            seeds,
            threshold=self.config.switch_threshold,
            action_temperature=self.config.action_temperature,
            clean_slate=self.config.clean_slate,
            explore=explore,
        )


class RawRunner(EpisodeRunner):
    """Samples episodes in which the base model chooses raw actions."""

    def make_spaces(self) -> Rows:
        check_same(self.agent.world, self.world)
        return self.world.rows(1)

    def run_episodes(self, seeds: Sequence[int], explore: bool) -> Episodes:
        temperature = self.config.action_temperature
        return sample_raw_episodes(
            self.module.policy, self.world, seeds, action_temperature=temperature, explore=explore
        )
