"""Checks of an algorithm's settings: their types as RLlib declares them, their bounds, and that each has an effect."""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Sequence
from itertools import pairwise
from numbers import Integral, Real
from typing import Any

import numpy as np
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided

from irl_ray.errors import UserError

_BATCH = "write train_batch_episodes, the complete episodes of an update"
_RETURNS = "an episode's return is not discounted and its advantage is relative to the batch; leave it out"
_CRITIC = "there is no critic; leave it out"
_KL = "there is no penalty on the KL; write clip_param, or target_kl"
_POLICY = "write policy: {hidden: ..., log_std: ...} for InternalRL; RawRL trains the base model as it is"
_ACTIONS = "actions and observations are the model's own; leave it out"
UNUSED = {  # RLlib's settings that internal and raw RL never read, and what to write instead
    **dict.fromkeys(("train_batch_size", "train_batch_size_per_learner", "_train_batch_size_per_learner"), _BATCH),
    **dict.fromkeys(("minibatch_size", "sgd_minibatch_size", "shuffle_batch_per_epoch", "shuffle_sequences"),
                    "the whole batch is one minibatch, num_epochs times; write train_batch_episodes"),
    **dict.fromkeys(("rollout_fragment_length", "batch_mode", "sample_batch_size"),
                    "episodes are always complete; write train_batch_episodes"),
    **dict.fromkeys(("gamma", "lambda", "lambda_", "use_gae"), _RETURNS),
    **dict.fromkeys(("use_critic", "vf_loss_coeff", "vf_clip_param", "vf_share_layers"), _CRITIC),
    **dict.fromkeys(("kl_coeff", "kl_target", "use_kl_loss"), _KL),
    **dict.fromkeys(("model", "model_config", "_model_config", "model_config_dict"), _POLICY),
    **dict.fromkeys(("exploration_config", "epsilon"), "codes are drawn from the policy; write policy: {log_std: ...}"),
    **dict.fromkeys(("normalize_actions", "clip_actions", "observation_filter", "preprocessor_pref",
                     "env_to_module_connector", "_env_to_module_connector", "module_to_env_connector",
                     "_module_to_env_connector"), _ACTIONS),
    **dict.fromkeys(("learner_connector", "_learner_connector"), "batches are made of whole episodes; leave it out"),
    **dict.fromkeys(("clip_rewards",), "the reward is 0 or 1; leave it out"),
    **dict.fromkeys(("gym_env_vectorize_mode", "remote_worker_envs"),
                    "the environment is always stepped as one; write num_envs_per_env_runner"),
    **dict.fromkeys(("optimizer", "lr_schedule"), "write lr and weight_decay, of AdamW"),
    "num_gpus": "write num_gpus_per_learner",
    "entropy_coeff_schedule": "write entropy_coeff",
    **dict.fromkeys(("input", "input_", "output"), "episodes are sampled and not stored; leave it out"),
    **dict.fromkeys(("multiagent", "policies", "policy_mapping_fn"), "there is one agent; leave it out"),
    **dict.fromkeys(("enable_rl_module_and_learner", "enable_env_runner_and_connector_v2"),
                    "they run on the new API stack; leave it out"),
    "replay_buffer_config": "episodes are used once; leave it out",
}  # fmt: skip
POSITIVE = ("lr", "clip_param", "target_kl", "action_temperature", "sample_timeout_s",
            "evaluation_sample_timeout_s")  # fmt: skip
AT_LEAST_ONE = ("num_epochs", "torch_threads", "num_envs_per_env_runner", "evaluation_duration")
_DECLARED = {"int": int, "float": float, "bool": bool, "float | None": float}


def check_used(config: AlgorithmConfig) -> None:
    """Refuses settings that are changed and would change nothing.

    Raises:
        UserError: naming the setting and what to write instead.
    """
    if config.in_evaluation:  # RLlib sets some by itself there
        return
    fresh = vars(type(config)())
    for key, advice in UNUSED.items():
        if key not in ("policies", "policy_mapping_fn") and key in fresh and getattr(config, key) != fresh[key]:
            raise UserError(f"config.{key.strip('_')}: has no effect on {type(config).__name__}: {advice}")


def check_numbers(config: AlgorithmConfig) -> None:
    """Refuses what is no number, not finite, negative, or a fraction where a whole number is needed.

    NumPy's numbers become plain ones, which RLlib asks for.

    Raises:
        UserError: naming the setting and what is expected.
    """
    standard, fresh = vars(AlgorithmConfig()), vars(type(config)())
    kinds = {**_kinds(type(config)), "lr": float, "torch_threads": int, "evaluation_duration": int}
    for key, kind in kinds.items():
        if key not in fresh:
            continue
        value = getattr(config, key)
        if isinstance(value, np.generic):
            value = value.item()
            setattr(config, key, value)
        if type(value) is type(fresh[key]) and value == fresh[key]:
            continue
        if value is None and standard.get(key, NotProvided) is None:
            continue
        here = f"config.{key}"
        if key == "lr" and isinstance(value, (list, tuple)):
            _check_schedule(here, value)
            continue
        if kind is bool:
            if not isinstance(value, bool):
                raise UserError(f"{here}: expected true or false, got {value!r}")
            continue
        sort = Integral if kind is int else Real
        if isinstance(value, bool) or not isinstance(value, sort) or not math.isfinite(value):
            raise UserError(f"{here}: expected {'a whole' if kind is int else 'a finite'} number, got {value!r}")
        if key in POSITIVE and value <= 0:
            raise UserError(f"{here}: expected a number above 0, got {value!r}")
        if key == "seed" and value >= 2**32:
            raise UserError(f"{here}: expected below 2**32, got {value!r}")
        least = 1 if key in AT_LEAST_ONE else 0
        if value < least:
            raise UserError(f"{here}: expected at least {least}, got {value!r}")

    if config.grad_clip_by not in ("value", "norm", "global_norm"):
        raise UserError(f"config.grad_clip_by: expected value, norm or global_norm, got {config.grad_clip_by!r}")


def _check_schedule(here: str, value: Sequence[Any]) -> None:
    """RLlib's [[0, first], [decisions, later], ...], linear in between and constant after the last.

    Raises:
        UserError: naming the setting, where it is something else.
    """
    numbers = [x for point in value if isinstance(point, (list, tuple)) and len(point) == 2 for x in point]
    usable = all(isinstance(x, Real) and not isinstance(x, bool) and math.isfinite(x) for x in numbers)
    steps, rates = numbers[::2], numbers[1::2]
    if (
        len(numbers) != 2 * len(value)
        or len(value) < 2
        or not usable
        or steps[0] != 0
        or any(b <= a for a, b in pairwise(steps))
        or min(rates) <= 0
    ):
        raise UserError(
            f"{here}: expected a number above 0, or [[0, FIRST], [DECISIONS, LATER], ...] with growing numbers of "
            f"decisions and rates above 0, got {value!r}"
        )


def _kinds(cls: type) -> dict[str, type]:
    """Which settings are whole numbers, numbers or switches, by the arguments of the methods that set them."""
    found: dict[str, type] = {}
    for base in cls.__mro__:
        for name, method in vars(base).items():
            if name.startswith("_") or not inspect.isfunction(method):
                continue
            for parameter in inspect.signature(method).parameters.values():
                if parameter.default is NotProvided:
                    # Ray shares cores and GPUs out in fractions, whatever RLlib declares.
                    shared = parameter.name.startswith(("num_cpus_", "num_gpus_"))
                    kind = float if shared else _kind(parameter.annotation)
                    if kind is not None:
                        found.setdefault(parameter.name, kind)
    return found


def _kind(annotation: Any) -> type | None:
    annotation = _DECLARED.get(annotation, annotation) if isinstance(annotation, str) else annotation
    options = set(typing.get_args(annotation) or (annotation,)) - {type(None)}
    if options == {bool, str}:
        return None
    options -= {str}  # "auto", which is the default where it may stand
    if options == {bool} or options == {int}:
        return options.pop()
    return float if options and options <= {int, float} else None
