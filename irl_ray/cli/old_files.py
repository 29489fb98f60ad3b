"""Experiment files of older RLlib: settings, metrics and algorithms by their former names.

RLlib's own record is asked first (`successor`): the translations that its configuration knows, and its setter
methods, which take arguments by their former names and set, or name in an error, what these are called now. The same
methods tell under which attribute a public name is kept, such as `model_config`. The tables below hold what RLlib has
forgotten, and what its new API stack would pass over in silence.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from ray._common.deprecation import DEPRECATED_VALUE
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.connectors.env_to_module import MeanStdFilter
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.models.catalog import MODEL_DEFAULTS

from irl_ray.errors import UserError, did_you_mean

RENAMED = {
    "learning_starts": "num_steps_sampled_before_learning_starts",
    "max_sample_requests_in_flight_per_worker": "max_requests_in_flight_per_env_runner",
    "sample_batch_size": "rollout_fragment_length",
    "sgd_minibatch_size": "minibatch_size",
    "shuffle_sequences": "shuffle_batch_per_epoch",
}
ALWAYS_SO = {  # settings that are gone, and the value that holds for ever since
    "eager": False,
    "no_done_at_end": True,
    "num_gpus": 0,
    "soft_horizon": False,
    "use_pytorch": True,
    "vtrace_drop_last_ts": False,
}
_MODEL = "write model_config, which shapes all networks"
_ADAM = "the optimiser is Adam; for another bring a learner_class"
_TORCH = "leave it out, networks are PyTorch's"
_OLD_SAMPLER = "leave it out, it belongs to the old API stack"
GONE = {  # settings that have no effect any more, and what to do instead
    "Q_model": _MODEL,
    "adam_epsilon": _ADAM,
    "buffer_size": "write replay_buffer_config: {capacity: ...}",
    "clip_rewards": "wrap the environment (gymnasium.wrappers.ClipReward)",
    "compress_observations": _OLD_SAMPLER,
    "decay": _ADAM,
    "eager": _TORCH,
    "eager_max_retraces": _TORCH,
    "eager_tracing": _TORCH,
    "entropy_coeff_schedule": "write entropy_coeff: [[0, FIRST], [STEPS, LAST]]",
    "exploration_config": "write epsilon: [[0, FIRST], [STEPS, LAST]] for DQN; others explore by their own policy",
    "hiddens": "write model_config: {head_fcnet_hiddens: [...]}",
    "horizon": "the environment ends its episodes: env_config: {max_episode_steps: ...} for Gymnasium's",
    "local_tf_session_args": _TORCH,
    "lr_schedule": "write lr: [[0, FIRST], [STEPS, LAST]]",
    "momentum": _ADAM,
    "no_done_at_end": "leave it out, a truncated episode is never taken for one that ended",
    "num_gpus": "write num_gpus_per_learner, and num_learners for more than one",
    "opt_type": _ADAM,
    "optimization": "write actor_lr, critic_lr and alpha_lr",
    "optimization_config": "write actor_lr, critic_lr and alpha_lr",
    "optimizer": "write lr and grad_clip; for another optimiser bring a learner_class",
    "policy_model": _MODEL,
    "policy_model_config": _MODEL,
    "preprocessor_pref": "write env_to_module_connector",
    "prioritized_replay": "write replay_buffer_config: {type: EpisodeReplayBuffer} or PrioritizedEpisodeReplayBuffer",
    "prioritized_replay_alpha": "write replay_buffer_config: {alpha: ...}",
    "prioritized_replay_beta": "write replay_buffer_config: {beta: ...}",
    "prioritized_replay_eps": "leave it out, replay buffers have it no longer",
    "q_model_config": _MODEL,
    "remote_env_batch_wait_ms": _OLD_SAMPLER,
    "render_env": "use `rllib evaluate CHECKPOINT --render OUT`",
    "sample_async": _OLD_SAMPLER,
    "sample_collector": _OLD_SAMPLER,
    "sampler_perf_stats_ema_coef": _OLD_SAMPLER,
    "soft_horizon": "leave it out, an episode that is cut starts anew",
    "tf_session_args": _TORCH,
    "timesteps_per_iteration": "write min_sample_timesteps_per_iteration or min_train_timesteps_per_iteration",
    "use_pytorch": _TORCH,
    "vf_share_layers": "write model_config: {vf_share_layers: ...}",
    "vtrace_drop_last_ts": "leave it out, the last step is bootstrapped",
}
REPLAY_BUFFERS = {
    "MultiAgentPrioritizedReplayBuffer": "PrioritizedEpisodeReplayBuffer",
    "MultiAgentReplayBuffer": "EpisodeReplayBuffer",
    "PrioritizedReplayBuffer": "PrioritizedEpisodeReplayBuffer",
    "ReplayBuffer": "EpisodeReplayBuffer",
}
REPLAY_SETTINGS = ("type", "capacity", "alpha", "beta", "batch_size_B", "batch_length_T", "max_seq_len")
MODEL_KEYS = {field.name for field in dataclasses.fields(DefaultModelConfig)}
MODEL_RENAMED = {"post_fcnet_hiddens": "head_fcnet_hiddens", "post_fcnet_activation": "head_fcnet_activation"}
LEARNING_RATES = {
    "actor_learning_rate": "actor_lr",
    "critic_learning_rate": "critic_lr",
    "entropy_learning_rate": "alpha_lr",
}
IMPORTED = ("_learner_class", "_learner_connector", "_env_to_module_connector", "_module_to_env_connector",
            "callbacks_class")  # fmt: skip
FILTERS = ("MeanStdFilter", "ConcurrentMeanStdFilter")
ALGORITHMS = {  # that left RLlib, and the nearest that stayed
    **dict.fromkeys(("A2C", "A3C", "PG", "DDPPO", "MAML", "MBMPO"), "PPO"),
    **dict.fromkeys(("DDPG", "TD3", "ApexDDPG", "APEX_DDPG"), "SAC"),
    **dict.fromkeys(("ApexDQN", "APEX", "SimpleQ", "R2D2", "SlateQ", "QMIX"), "DQN"),
    **dict.fromkeys(("CRR", "DT"), "CQL"),
    **dict.fromkeys(("AlphaStar",), "APPO"),
    **dict.fromkeys(("Dreamer",), "DreamerV3"),
    **dict.fromkeys(("ARS", "ES", "AlphaZero", "LeelaChessZero", "MADDPG", "BanditLinUCB", "BanditLinTS")),
}
EXPERIMENT_KEYS = {
    "checkpoint_freq": "checkpoint_frequency",
    "checkpoint_at_end": "checkpoint_at_end",
    "keep_checkpoints_num": "num_to_keep",
    "checkpoint_score_attr": "checkpoint_score_attribute",
}
EXPERIMENT_KEYS_GONE = {
    **dict.fromkeys(("local_dir", "storage_path", "upload_dir"), "type --storage-path FOLDER in place of it"),
    **dict.fromkeys(("resources_per_trial", "trial_resources"), "leave it out; settings tell what a trial needs: "
                    "num_env_runners, num_cpus_per_env_runner, num_learners, num_gpus_per_learner"),
    "restore": "type rllib resume FOLDER in place of it",
}  # fmt: skip
METRICS = {  # of results
    "episode_reward_mean": "env_runners/episode_return_mean",
    "episode_reward_min": "env_runners/episode_return_min",
    "episode_reward_max": "env_runners/episode_return_max",
    "episode_len_mean": "env_runners/episode_len_mean",
    "episodes_this_iter": "env_runners/num_episodes",
    "episodes_total": "env_runners/num_episodes_lifetime",
    "timesteps_total": "num_env_steps_sampled_lifetime",
    "num_env_steps_sampled": "num_env_steps_sampled_lifetime",
}


def mean_std_filter(env: Any = None, spaces: Any = None, device: Any = None) -> MeanStdFilter:
    """What `observation_filter: MeanStdFilter` asked for, as a connector of the new API stack."""
    return MeanStdFilter()


def imported(path: str, here: str) -> Any:
    """What a dotted path names, such as `mymodule.MyClass`.

    Raises:
        UserError: if there is no such module or no such name in it.
    """
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"{here}: {path!r} cannot be imported ({' '.join(str(error).split())}); modules are looked for beside "
            "the file, in the working directory and among what is installed"
        ) from None


def spec(given: Mapping[str, Any], here: str) -> tuple[dict[str, Any], list[str]]:
    """An experiment whose older keys for checkpoints are moved to `checkpoint_config`; what was translated.

    Raises:
        UserError: `here`, for keys that are gone.
    """
    for key in given.keys() & EXPERIMENT_KEYS_GONE.keys():
        raise UserError(f"{here}.{key}: {EXPERIMENT_KEYS_GONE[key]}")
    old = {key: value for key, value in given.items() if key in EXPERIMENT_KEYS}
    if not old:
        return dict(given), []
    if not isinstance(given.get("checkpoint_config") or {}, Mapping):
        raise UserError(f"{here}.checkpoint_config: expected a mapping, got {given['checkpoint_config']!r}")
    moved = {EXPERIMENT_KEYS[key]: value for key, value in old.items()}
    rest = {key: value for key, value in given.items() if key not in old}
    rest["checkpoint_config"] = {**moved, **(given.get("checkpoint_config") or {})}
    return rest, [f"{key} -> checkpoint_config.{EXPERIMENT_KEYS[key]}" for key in old]


def metric(name: str) -> str:
    """The present name of a metric."""
    prefix = "evaluation/" if name.startswith("evaluation/") else ""
    inner = re.sub(r"^(sampler_results|env_runner_results|env_runners)/", "", name.removeprefix(prefix))
    return prefix + METRICS[inner] if inner in METRICS else name


def settings(defaults: AlgorithmConfig, config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A configuration in the names that RLlib has now.

    Args:
        defaults: of the algorithm.
        config: as written.

    Returns:
        The configuration, and what was translated, such as "num_workers -> num_env_runners".

    Raises:
        UserError: naming every setting that is gone and what to do instead.
    """
    made: dict[str, Any] = {}
    told: list[str] = []
    gone: list[str] = []
    first: dict[str, str] = {}  # by what name a setting was given
    for key in config:
        if not isinstance(key, str):
            raise UserError(f"config.{key}: expected the name of a setting, got {key!r}")
    new_stack = config.get("enable_rl_module_and_learner") is not False
    names = _names(defaults)
    flat = {**config, **config["multiagent"]} if isinstance(config.get("multiagent"), Mapping) else dict(config)
    if flat.pop("multiagent", None) is not None:
        told.append("multiagent: {...} -> its own keys")
    rates = flat.get("optimization")
    if isinstance(rates, Mapping) and rates.keys() <= LEARNING_RATES.keys() and "actor_lr" in names:
        del flat["optimization"]
        flat = {**{LEARNING_RATES.get(key, key): rate for key, rate in rates.items()}, **flat}
        told.append("optimization -> actor_lr, critic_lr, alpha_lr")

    def put(key: str, value: Any, old: str) -> None:
        value = _resolved(key, value, f"config.{old}")
        if key in made and made[key] != value:
            raise UserError(
                f"config.{old}: the same setting as config.{first[key]}, with another value; keep {key} alone"
            )
        made[key], first[key] = value, old

    for key, value in flat.items():
        options = _options(value)
        if key in ALWAYS_SO and all(option == ALWAYS_SO[key] for option in options):
            told.append(f"{key} left out, now always so")
        elif key == "framework" and any(option in ("tf", "tf2", "tfe") for option in options):
            put(key, "torch", key)
            told.append(f"framework {options[0]} -> torch")
        elif key == "evaluation_config" and isinstance(value, Mapping):
            try:
                made[key], inner = settings(defaults, value)
            except UserError as error:
                raise UserError(f"evaluation_config: {error}") from None
            told += [f"evaluation_config: {text}" for text in inner]
        elif new_stack and key == "model" and not _is_default(defaults, key, options):
            put("_model_config", _model(value), key)
            told.append("model -> model_config")
        elif new_stack and key in ("model_config", "_model_config") and isinstance(value, Mapping):
            for inner in value.keys() - MODEL_KEYS:  # a module of one's own may have others
                close = did_you_mean(inner, MODEL_KEYS, 0.8)
                if close:
                    raise UserError(f"config.model_config.{inner}: unknown key.{close}")
            put("_model_config", value, key)
        elif new_stack and key == "observation_filter" and any(option in FILTERS for option in options):
            connectors = [mean_std_filter if option in FILTERS else None for option in options]
            put("_env_to_module_connector", connectors[0] if options == [value] else {"grid_search": connectors}, key)
            told.append("observation_filter -> env_to_module_connector: MeanStdFilter")
        elif new_stack and key == "replay_buffer_config" and not _is_default(defaults, key, options):
            made[key], changed = _replay_buffer(value)
            told += changed
        elif key in GONE and (new_stack or key not in names) and not _is_default(defaults, key, options):
            gone.append(f"{key} ({GONE[key]})")
        elif key in names:
            put(key, value, key)
        else:
            new, advice = RENAMED.get(key), ""
            if new not in names:
                new, advice = successor(defaults, key)
            if new is not None:
                put(new, value, key)
                if new.lstrip("_") != key:
                    told.append(f"{key} -> {new}")
            elif advice:
                gone.append(f"{key} ({advice})")
            elif key in vars(defaults):
                told.append(f"{key} left out, it has no effect any more")
            else:
                choices = [name for name in (*names, *_public(defaults)) if not name.startswith("_")]
                raise UserError(f"config.{key}: unknown key.{did_you_mean(key, choices, 0.8)}")
    if gone:
        raise UserError(f"config: gone from RLlib: {'; '.join(gone)}")
    return made, told


def _names(defaults: AlgorithmConfig) -> set[str]:
    """Keys that `update_from_dict` takes as they are."""
    kept = {**vars(defaults), **defaults.to_dict()}
    return {key for key, value in kept.items() if type(value) is not int or value != DEPRECATED_VALUE}


def _is_default(defaults: AlgorithmConfig, key: str, options: list[Any]) -> bool:
    held = defaults.to_dict().get(key, NotProvided)
    return held is not NotProvided and held != DEPRECATED_VALUE and all(option == held for option in options)


def _options(value: Any) -> list[Any]:
    """What a setting may be, where it is searched."""
    if isinstance(value, Mapping) and len(value) == 1 and value.keys() <= {"grid_search", "choice"}:
        (options,) = value.values()
        return list(options) if isinstance(options, list) else [options]
    return [value]


def _public(defaults: AlgorithmConfig) -> dict[str, list[str]]:
    """Arguments of the methods that configure an algorithm, and the names of these methods."""
    found: dict[str, list[str]] = {}
    for name, _ in inspect.getmembers(type(defaults), inspect.isfunction):
        for argument in _arguments(type(defaults), name) if not name.startswith("_") else ():
            found.setdefault(argument, []).append(name)
    return found


def _arguments(cls: type, name: str) -> Iterator[str]:
    """Arguments of a method, here and where it is inherited from, that set something."""
    for base in cls.__mro__:
        method = vars(base).get(name)
        if inspect.isfunction(method):
            for parameter in inspect.signature(method).parameters.values():
                if parameter.default is NotProvided or parameter.default is DEPRECATED_VALUE:
                    yield parameter.name


def successor(defaults: AlgorithmConfig, key: str) -> tuple[str | None, str]:
    """What RLlib calls a setting now: its key, or else RLlib's advice in words ("" where it has none)."""
    names, cls, methods = _names(defaults), type(defaults), _public(defaults).get(key, [])
    known = key in vars(defaults) or isinstance(getattr(cls, key, None), property)
    if not (known or methods or cls._translate_special_keys(key, warn_deprecated=False) != key):
        return None, ""
    mark = object()
    attempts: list[Callable[[AlgorithmConfig], Any]] = [
        lambda fresh: setattr(fresh, fresh._translate_special_keys(key), mark),
        *(partial(_call, method, {key: mark}) for method in methods),
    ]
    advice = ""
    for attempt in attempts:
        fresh = cls()
        try:
            attempt(fresh)
        except ValueError as error:  # a name that is gone; the error tells the new one
            _, _, use = str(error).partition(" Use ")
            named = [name for name in dict.fromkeys(re.findall(r"\w+", use)) if name in names]
            if len(named) == 1:
                return named[0], ""
            advice = advice or " ".join((f"use {use}" if use else str(error).partition("deprecated.")[2]).split())
        except (AttributeError, TypeError):  # a property without a setter; a method that looks at the value
            continue
        kept = next((name for name, value in vars(fresh).items() if value is mark), None)
        if kept in names:
            return kept, ""
    return None, advice.removesuffix(" instead.").replace("`", "").strip()


def _call(method: str, arguments: dict[str, Any], config: AlgorithmConfig) -> None:
    getattr(config, method)(**arguments)


def _model(value: Any) -> Any:
    """`model_config` of what `model` described."""
    if not isinstance(value, Mapping):
        raise UserError(f"config.model: expected a mapping of settings, got {value!r}")
    if value.keys() <= {"grid_search", "choice"} and value:
        return {kind: [_model(option) for option in _options(value)] for kind in value}
    made = {MODEL_RENAMED.get(key, key): inner for key, inner in value.items()}
    made = {key: v for key, v in made.items() if key in MODEL_KEYS or v != MODEL_DEFAULTS.get(key, NotProvided)}
    strange = [key for key in made if key not in MODEL_KEYS]
    if strange:
        raise UserError(
            f"config.model: {', '.join(strange)}: RLlib's networks have it no longer; leave it out, wrap the "
            "environment for what changes observations, or bring an rl_module_spec"
        )
    return made


def _replay_buffer(value: Any) -> tuple[Any, list[str]]:
    if not isinstance(value, Mapping):
        return value, []
    made, told = dict(value), []
    kind = str(made.get("type", "")).rpartition(".")[2]
    if kind in REPLAY_BUFFERS:
        made["type"] = REPLAY_BUFFERS[kind]
        told.append(f"replay_buffer_config.type {kind} -> {made['type']}")
        for old in ("min_size_for_sampling", "learning_starts"):
            if old in made:
                raise UserError(
                    f"config.replay_buffer_config.{old}: write num_steps_sampled_before_learning_starts: {made[old]}"
                )
        for key in [key for key in made if key not in REPLAY_SETTINGS]:
            raise UserError(
                f"config.replay_buffer_config.{key}: unknown to {made['type']}; expected {', '.join(REPLAY_SETTINGS)}"
            )
    return made, told


def _resolved(key: str, value: Any, here: str) -> Any:
    """A setting that holds a class or a function, where a file names it by its path; also where it is searched."""
    if _options(value) != [value]:
        return {kind: [_resolved(key, option, here) for option in _options(value)] for kind in value}
    if isinstance(value, str) and (key in IMPORTED or key.startswith("callbacks_on_")):
        return imported(value, here)
    if key == "_rl_module_spec" and isinstance(value, Mapping):
        if not isinstance(value.get("module_class"), str):
            raise UserError(f"{here}: expected module_class, such as mymodule.MyModule, and optionally model_config")
        return RLModuleSpec(**{**value, "module_class": imported(value["module_class"], f"{here}.module_class")})
    return value
