"""`InternalRL` and `RawRL`: critic-free PPO over complete episodes (C.5, Algorithm 3).

    repeat  sample `train_batch_episodes` complete episodes, whatever number of workers there is
            A = (R - mean R) / (std R + 1e-3), the same for every decision of an episode
            up to `num_epochs` steps of AdamW on PPO's clipped surrogate, none where all returns are the same

Internal RL trains a small policy over controller codes; raw RL finetunes the base model on raw
actions, as the baseline of C.5.3.

Run it:      rllib train file tuned_configs/gridworld_internal.yaml
Expect:      the README's table of results.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import ray
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    ENV_RUNNER_SAMPLING_TIMER,
    EVALUATION_RESULTS,
    LEARNER_RESULTS,
    LEARNER_UPDATE_TIMER,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    SYNCH_WORKER_WEIGHTS_TIMER,
    TIMERS,
)
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from irl_ray.config import build
from irl_ray.errors import UserError
from irl_ray.internal.sampler import Episodes
from irl_ray.models import weights
from irl_ray.models.code_policy import CodePolicyConfig
from irl_ray.rllib.checkpoints import seal
from irl_ray.rllib.env_runner import EpisodeRunner, InternalRunner, RawRunner
from irl_ray.rllib.episodes import episode_advantages, log_episodes, to_batch
from irl_ray.rllib.learner import EpisodePolicyGradientLearner
from irl_ray.rllib.modules import BasePolicyModule, CodePolicyModule
from irl_ray.rllib.settings import check_numbers, check_used

logger = logging.getLogger(__name__)
BATCH_TIMER = "batch_building_timer"
REWARDED_UPDATES, SKIPPED_UPDATES = "num_updates_with_reward_lifetime", "num_updates_skipped_lifetime"
FAILURES = 3  # of all runners, one after the other, before an error is no accident
DERIVED = {
    "observation_size",
    "code_size",
    "switch_threshold",
    "action_temperature",
    "clean_slate",
}  # keys of a code policy
PATIENCE = {  # settings: how long to wait for an answer, and for dead runners to come back
    "train": ("sample_timeout_s", "env_runner_restore_timeout_s"),
    "evaluate": ("evaluation_sample_timeout_s", "evaluation_unhealthy_workers_timeout_s"),
}


class NoRunnerError(RuntimeError):
    """Nobody is there to sample."""


class EpisodePolicyGradientConfig(AlgorithmConfig):
    """Settings that internal and raw RL share; RLlib's own stay as they are."""

    def __init__(self, algo_class: type | None = None):
        super().__init__(algo_class=algo_class)
        self.env = "irl_ray/GridPinpad-v0"
        self.train_batch_episodes = 512
        self.clip_param = 0.2
        self.target_kl = None
        self.entropy_coeff = 0.0
        self.weight_decay = 0.0
        self.action_temperature = 1.0
        self.num_epochs = 4
        self.torch_threads = 1
        self.num_env_runners = 0
        self.num_envs_per_env_runner = 512
        self.sample_timeout_s = 600.0
        self.evaluation_sample_timeout_s = 600.0
        self.custom_evaluation_function = EpisodePolicyGradient.evaluated
        self.batch_mode = "complete_episodes"
        self.normalize_actions = False
        self.clip_actions = False
        self.seed = 0

    @property
    def weights_name(self) -> str:
        """Name or folder of the frozen weights."""
        raise NotImplementedError

    def training(
        self,
        *,
        train_batch_episodes: int = NotProvided,
        clip_param: float = NotProvided,
        target_kl: float | None = NotProvided,
        entropy_coeff: float = NotProvided,
        weight_decay: float = NotProvided,
        **kwargs: Any,
    ) -> EpisodePolicyGradientConfig:
        """RLlib's training settings and those of Algorithm 3.

        Args:
            train_batch_episodes: complete episodes per update (1024 for the paper's gridworld).
            clip_param: ε of the clipped surrogate.
            target_kl: how far an update's policy may be from the one that sampled, in nats per decision (ours; None,
                any distance, in the paper): a step beyond it is halved by each of the `num_epochs` passes that are
                left, and taken back after the last. Clipping bounds what a step wants, not how far it goes.
            entropy_coeff: weight of the entropy bonus (0 in the paper).
            weight_decay: of AdamW (0 in the paper).
            **kwargs: as for `AlgorithmConfig.training`.
        """
        super().training(**kwargs)
        given = {
            "train_batch_episodes": train_batch_episodes,
            "clip_param": clip_param,
            "target_kl": target_kl,
            "entropy_coeff": entropy_coeff,
            "weight_decay": weight_decay,
        }
        for name, value in given.items():
            if value is not NotProvided:
                setattr(self, name, value)
        return self

    def validate(self) -> None:
        check_numbers(self)
        check_used(self)
        super().validate()
        if self.train_batch_episodes < max(2, self.num_learners):
            raise UserError(
                f"config.train_batch_episodes={self.train_batch_episodes}: advantages are relative to "
                "the batch, which needs at least 2 episodes, and one for every learner"
            )
        if self.evaluation_duration_unit != "episodes" or not isinstance(self.evaluation_duration, int):
            raise UserError(
                "config.evaluation_duration: expected a number of complete episodes, got "
                f"{self.evaluation_duration} {self.evaluation_duration_unit}"
            )
        for key in ("time_s", "train_timesteps", "sample_timesteps"):
            name = f"min_{key}_per_iteration"
            if getattr(self, name):
                raise UserError(f"config.{name}: leave it out; an iteration is one update on train_batch_episodes")

    def get_default_learner_class(self) -> type:
        return EpisodePolicyGradientLearner


class EpisodePolicyGradient(Algorithm):
    """Sample complete episodes, compare their returns, take a few clipped steps, sync."""

    def __init__(self, config: AlgorithmConfig | dict[str, Any] | None = None, **kwargs: Any):
        self._told = told_settings(config, self.get_default_config())
        super().__init__(config, **kwargs)

    def training_step(self) -> None:
        started = time.perf_counter()
        with self.metrics.log_time((TIMERS, ENV_RUNNER_SAMPLING_TIMER)):
            episodes = self._sample(self.config.train_batch_episodes, self.env_runner_group, "train")
        log_episodes(self.metrics, episodes, time.perf_counter() - started, (ENV_RUNNER_RESULTS,))
        # Where no episode did better than another there is nothing to learn: AdamW would follow its momentum alone.
        learns = bool(np.ptp(episodes.reward)) or self.config.entropy_coeff != 0
        self.metrics.log_value(REWARDED_UPDATES, int(episodes.reward.any()), reduce="lifetime_sum")
        self.metrics.log_value(SKIPPED_UPDATES, int(not learns), reduce="lifetime_sum")
        if learns:
            self._learn(episodes)

    def _learn(self, episodes: Episodes) -> None:
        """The update on a batch; the local runner then acts with the new policy."""
        with self.metrics.log_time((TIMERS, BATCH_TIMER)):
            advantages = episode_advantages(episodes.reward)
            shards = max(1, self.config.num_learners)
            order, each = np.arange(len(episodes)), episodes.decisions.sum() / shards
            batches = [to_batch(episodes.select(order[i::shards]), advantages[i::shards], each) for i in range(shards)]
            data = TrainingData(batches=batches) if shards > 1 else TrainingData(batch=batches[0])
        with self.metrics.log_time((TIMERS, LEARNER_UPDATE_TIMER)):
            decided = self.metrics.peek((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME))
            results = self.learner_group.update(
                training_data=data,
                num_epochs=self.config.num_epochs,
                timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: decided},
            )
        self.metrics.aggregate(results, key=LEARNER_RESULTS)
        with self.metrics.log_time((TIMERS, SYNCH_WORKER_WEIGHTS_TIMER)):
            local = self.env_runner_group.local_env_runner
            if local is not None:
                local.set_state(self._policy_state())

    def get_auto_filled_metrics(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """RLlib's, with the settings that were told as `config`, which Tune's `Result.config` is.

        The whole configuration, hundreds of keys, would be in every line of a run's results.
        """
        filled = super().get_auto_filled_metrics(*args, **kwargs)
        return filled | {"config": self._told} if "config" in filled else filled

    def _policy_state(self) -> dict[str, Any]:
        """What a runner needs to act as the learner's present policy."""
        component = f"{COMPONENT_LEARNER}/{COMPONENT_RL_MODULE}/{DEFAULT_MODULE_ID}"
        state = self.learner_group.get_state(components=[component], inference_only=True)[COMPONENT_LEARNER]
        return {COMPONENT_RL_MODULE: state[COMPONENT_RL_MODULE]}

    def _sample(self, count: int, group: EnvRunnerGroup, purpose: str) -> Episodes:
        """Episodes 0..count-1 of this round, in order, over all healthy runners of a group.

        What a failed runner owed is asked of the others; an index is never used twice. The policy travels with
        the question, so that no runner ever acts with an older one.

        Args:
            count: how many.
            group: the runners.
            purpose: "train" or "evaluate", whose episodes are never the same.

        Raises:
            NoRunnerError: if no runner answers in time, or all fail again and again.
        """
        if group.num_remote_workers() == 0:
            return group.local_env_runner.sample_indices(self.iteration, range(count), purpose)
        timeout, patience = PATIENCE[purpose]
        missing: Sequence[int] = range(count)
        found, parts, silent, in_vain = [], [], set(), 0
        kwargs = {"policy": ray.put(self._policy_state())}
        while len(missing):
            alive = self._alive(group, getattr(self.config, patience) or 0.0)
            asked = [worker for worker in alive if worker not in silent][: len(missing)]
            if not alive or in_vain >= FAILURES:
                raise NoRunnerError("no env runner is alive, or all fail again and again; see the errors above")
            if not asked:
                raise NoRunnerError(
                    f"no env runner had its episodes within config.{timeout}={getattr(self.config, timeout):g}: "
                    "raise it, ask for fewer episodes, or for more runners"
                )
            answers = group.foreach_env_runner(
                partial(sample_share, purpose=purpose, round_number=self.iteration, missing=missing, workers=asked),
                kwargs=kwargs,
                local_env_runner=False,
                remote_worker_ids=asked,
                timeout_seconds=getattr(self.config, timeout),
            )
            for _, indices, episodes in answers:
                found.extend(indices)
                parts.append(episodes)
            answered = {worker for worker, *_ in answers}
            silent.update(w for w in asked if w not in answered and w in group.healthy_worker_ids())
            in_vain = 0 if answered else in_vain + 1
            missing = sorted(set(range(count)).difference(found))
        return Episodes.joined(parts).select(np.argsort(found))

    def _alive(self, group: EnvRunnerGroup, patience: float) -> list[int]:
        """Healthy runners of a group; waits so many seconds for dead ones to come back if there are none."""
        deadline = time.monotonic() + patience
        while not group.healthy_worker_ids() and time.monotonic() < deadline:
            time.sleep(1)
            self.restore_env_runners(group)
        return group.healthy_worker_ids()

    def evaluated(self, runners: EnvRunnerGroup | None) -> tuple[dict[str, Any], int, int]:
        """RLlib's evaluation function: logs `evaluation_duration` episodes, the same ones for any number of workers.

        Without a runner it is left out, `evaluation_error_after_n_consecutive_skips` times in a row at most.
        """
        started, skipped = time.perf_counter(), "num_consecutive_eval_no_workers_iterations"
        try:
            episodes = self._sample(self.config.evaluation_duration, runners or self.env_runner_group, "evaluate")
        except NoRunnerError as error:
            self._counters[skipped] += 1
            most = self.config.evaluation_error_after_n_consecutive_skips
            if most is not None and self._counters[skipped] >= most:
                raise
            logger.warning("evaluation left out: %s", error)
            return {}, 0, 0
        self._counters[skipped] = 0
        found = MetricsLogger(root=False)  # RLlib looks for what was merged
        log_episodes(found, episodes, time.perf_counter() - started)
        self.metrics.aggregate([found.reduce()], key=(EVALUATION_RESULTS, ENV_RUNNER_RESULTS))
        decisions = int(episodes.decisions.sum())
        return {}, decisions, decisions


def told_settings(config: AlgorithmConfig | dict[str, Any] | None, default: AlgorithmConfig) -> dict[str, Any]:
    """Settings that someone chose: those of a mapping, of a whole configuration all but RLlib's own defaults."""
    if isinstance(config, dict) and "class" in config:  # the state of one, from a checkpoint
        config = AlgorithmConfig.from_state(config)
    given = config.to_dict() if isinstance(config, AlgorithmConfig) else dict(config or {})
    stock, own = AlgorithmConfig().to_dict(), default.to_dict()
    kept = {key for key in given if not key.startswith("__")}  # without what Tune adds
    if given.keys() >= stock.keys():
        kept = {key for key in own if key not in stock or own[key] != stock[key] or given[key] != stock[key]}
    return {key: value for key, value in given.items() if key in kept and not callable(value)}


def sample_share(
    runner: EpisodeRunner,
    purpose: str,
    round_number: int,
    missing: Sequence[int],
    workers: list[int],
    policy: dict[str, Any],
) -> tuple[int, Sequence[int], Episodes]:
    """A runner's number, its share of the missing indices, and their episodes under a policy."""
    runner.set_state(policy)
    indices = missing[workers.index(runner.worker_index) :: len(workers)]
    return runner.worker_index, indices, runner.sample_indices(round_number, indices, purpose)


class InternalRLConfig(EpisodePolicyGradientConfig):
    """Configuration of internal RL.

    .. code-block:: python

        algo = (InternalRLConfig()
                .environment("irl_ray/GridPinpad-v0", env_config={"tasks": "post_three_pairs"})
                .internal(metacontroller="gridworld_taught", action_temperature=0.3)
                .training(lr=3e-3, train_batch_episodes=512)).build_algo()
    """

    def __init__(self, algo_class: type | None = None):
        super().__init__(algo_class or InternalRL)
        self.lr = 3e-3
        self.metacontroller = "gridworld"
        self.switch_threshold = 0.5
        self.clean_slate = False
        self.policy = {}

    @property
    def weights_name(self) -> str:
        return self.metacontroller

    def internal(
        self,
        *,
        metacontroller: str = NotProvided,
        switch_threshold: float = NotProvided,
        action_temperature: float = NotProvided,
        clean_slate: bool = NotProvided,
        policy: dict[str, Any] = NotProvided,
    ) -> InternalRLConfig:
        """What the internal environment is made of.

        Args:
            metacontroller: released name or folder of base model and metacontroller.
            switch_threshold: beta at or above it asks for a new code (0.5 in the paper). At 0 every raw step asks
                for one, whatever the switch says: forced switching in RL.
            action_temperature: at which the frozen base model's actions are drawn (1 in the paper).
            clean_slate: whether the frozen base model's memory starts anew with every code (ours; False in the
                paper). It needs a base model that was trained on windows.
            policy: keys of `irl_ray.models.code_policy.CodePolicyConfig`.
        """
        given = {
            "metacontroller": metacontroller,
            "switch_threshold": switch_threshold,
            "action_temperature": action_temperature,
            "clean_slate": clean_slate,
            "policy": policy,
        }
        for name, value in given.items():
            if value is not NotProvided:
                setattr(self, name, value)
        return self

    def validate(self) -> None:
        super().validate()
        if self.switch_threshold > 1:
            raise UserError(f"config.switch_threshold: expected in [0, 1], got {self.switch_threshold}")
        build(CodePolicyConfig, self.policy, "config.policy")
        for key in DERIVED & self.policy.keys():
            raise UserError(f"config.policy.{key}: follows from the weights and the other settings; leave it out")
        self.env_runner_cls = InternalRunner

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        policy = {
            **self.policy,
            "switch_threshold": float(self.switch_threshold),
            "action_temperature": float(self.action_temperature),
            "clean_slate": self.clean_slate,
        }
        return RLModuleSpec(module_class=CodePolicyModule, model_config={"policy": policy})


class InternalRL(EpisodePolicyGradient):
    """RL over controller codes inside the frozen base model."""

    @classmethod
    def get_default_config(cls) -> InternalRLConfig:
        return InternalRLConfig()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """RLlib's checkpoint, and beside it a portable artefact without pickle."""
        super().save_checkpoint(checkpoint_dir)
        agent = weights.load(self.config.weights_name)
        agent.policy = self.get_module().policy
        _export(self, agent, f"{checkpoint_dir}/artefact")
        seal(checkpoint_dir)


class RawRLConfig(EpisodePolicyGradientConfig):
    """Configuration of raw-action RL: the base model is finetuned on raw actions (C.5.3)."""

    def __init__(self, algo_class: type | None = None):
        super().__init__(algo_class or RawRL)
        self.lr = 3e-5
        self.base = "gridworld"

    @property
    def weights_name(self) -> str:
        return self.base

    def raw(self, *, base: str = NotProvided, action_temperature: float = NotProvided) -> RawRLConfig:
        """What is finetuned.

        Args:
            base: released name or folder of the base model.
            action_temperature: at which its actions are drawn, in training and after (1 in the paper).
        """
        if base is not NotProvided:
            self.base = base
        if action_temperature is not NotProvided:
            self.action_temperature = action_temperature
        return self

    def validate(self) -> None:
        super().validate()
        self.env_runner_cls = RawRunner

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        model = {"base": self.base, "action_temperature": float(self.action_temperature)}
        return RLModuleSpec(module_class=BasePolicyModule, model_config=model)


class RawRL(EpisodePolicyGradient):
    """The baseline: the same algorithm on raw actions."""

    @classmethod
    def get_default_config(cls) -> RawRLConfig:
        return RawRLConfig()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """RLlib's checkpoint, and beside it the finetuned base model as a portable artefact."""
        super().save_checkpoint(checkpoint_dir)
        agent = weights.load(self.config.weights_name)
        agent.base, agent.metacontroller, agent.policy = self.get_module().policy, None, None
        _export(self, agent, f"{checkpoint_dir}/artefact")
        seal(checkpoint_dir)


def _export(algorithm: Algorithm, agent: weights.Artefact, folder: str) -> None:
    name = type(algorithm).__name__
    results = algorithm.metrics.peek(ENV_RUNNER_RESULTS, default={})
    agent.metrics[name] = {
        key: float(value)
        for key in ("success_rate", "num_episodes_lifetime", "num_raw_steps_lifetime")
        if (value := results.get(key)) is not None
    }
    config = algorithm.config
    agent.provenance[name] = {
        "seed": config.seed,
        "revision": weights.code_revision(),
        "weights": str(config.weights_name),
        "env_config": dict(config.env_config),
        "lr": config.lr,
        "action_temperature": config.action_temperature,
        "train_batch_episodes": config.train_batch_episodes,
    }
    weights.save(agent, folder)
