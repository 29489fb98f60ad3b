"""Experiment files: reading, checking, and turning them into what Tune wants.

A file is `{name: {run, env, stop, checkpoint_config, num_samples, scheduler, scheduler_config, config}}` in
YAML or JSON, or a Python file that defines a module-level `config` (an AlgorithmConfig) and optionally `stop`.

In place of a value there may stand

    {grid_search: [...]}       each of them
    {choice: [...]}            one of them, drawn for each of `num_samples` trials
    {uniform: [low, high]}     a number drawn between them; {loguniform: [low, high]} evenly in its logarithm
    {result_of: NAME}          in a file of several experiments, for a key that names weights: those of
                               every trial of the experiment NAME above
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import re
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
import torch
import yaml
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.tune import schedulers

from irl_ray import places, worlds
from irl_ray.cli import environments, old_files, progress
from irl_ray.cli.addresses import meant_for
from irl_ray.cli.examples import experiment_file
from irl_ray.cli.metrics import closest
from irl_ray.cli.text import each_once
from irl_ray.config import merge, without_numpy
from irl_ray.data.sources import check_data, check_there
from irl_ray.data.streams import names_function
from irl_ray.errors import UserError, did_you_mean
from irl_ray.models import weights
from irl_ray.models.sequence_model import new_base
from irl_ray.rllib import trainables
from irl_ray.worlds.world import World, check_same

KEYS = ("run", "env", "stop", "checkpoint_config", "num_samples", "scheduler", "scheduler_config", "config",
        "description")  # fmt: skip
LONGEST = 180  # bytes of a name, which is followed by a date and in temporary folders by more
SEARCHES = ("grid_search", "choice", "uniform", "loguniform")
SCHEDULERS = {
    "fifo": (),
    "asha": ("metric", "mode", "time_attr", "max_t", "grace_period", "reduction_factor", "brackets"),
}
CHECKPOINT_KEYS = ("checkpoint_frequency", "checkpoint_at_end", "num_to_keep",
                   "checkpoint_score_attribute", "checkpoint_score_order")  # fmt: skip
WEIGHT_KEYS = ("base", "metacontroller", "start_from")  # config keys that name weights
DATA_KEYS = ("data", "clean_data")  # config keys that name demonstrations: a folder, or a function


# What may stop a run, beside the columns of its progress.
EVERY_RUN = ["training_iteration", "time_total_s", "time_since_restore", "iterations_since_restore"]
OF_A_PHASE = {
    "Pretrain": ["progress", "static_nll", "cell_nll"],
    "Discover": ["progress", "loss", "entry_nll", "teacher/contrast", "teacher/outcomes"],
    "CompILE": ["progress"],
}
OF_RL = [
    "num_env_steps_sampled_lifetime", "env_runners/num_env_steps_sampled_lifetime", "env_runners/num_episodes",
    "env_runners/raw_steps_per_code", "env_runners/episode_return_mean", "learners/default_policy/total_loss",
    "learners/default_policy/policy_loss", "learners/default_policy/clip_fraction",
    "num_updates_with_reward_lifetime", "num_updates_skipped_lifetime",
]  # fmt: skip
GATES = ("gate_score", "switch_f1", "code_subgoal_accuracy")


@dataclass
class Experiment:
    """One experiment, checked.

    Attributes:
        name: from the file.
        run: name of a trainable.
        config: settings, possibly with grid_search.
        stop: metric -> value at or above which a trial ends.
        checkpoint: keys of Tune's CheckpointConfig.
        num_samples: repetitions of the whole grid, and draws where values are drawn.
        scheduler: "fifo", or "asha" to stop trials that fall behind.
        scheduler_config: its settings, as Ray Tune's ASHAScheduler has them.
        translated: what was written in the names of an older RLlib, such as "num_workers -> num_env_runners".
    """

    name: str
    run: str
    config: dict[str, Any]
    stop: dict[str, float] = field(default_factory=dict)
    checkpoint: dict[str, Any] = field(default_factory=dict)
    num_samples: int = 1
    scheduler: str = "fifo"
    scheduler_config: dict[str, Any] = field(default_factory=dict)
    translated: list[str] = field(default_factory=list)

    @property
    def awaited(self) -> str | None:
        """The experiment whose results this one starts from."""
        return next((str(v["result_of"]) for v in self.config.values() if _is_reference(v)), None)


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 3e-5 is a number (YAML 1.1 takes it for text) and every key of a mapping is there once."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node, seen = super().compose_mapping_node(anchor), {}
        for key, _ in node.value:  # before `<<` lays others under them, which may have the same keys
            if not isinstance(key, yaml.ScalarNode):
                continue
            first = seen.setdefault(key.value, key)
            if first is not key:
                lines = f"lines {first.start_mark.line + 1} and {key.start_mark.line + 1}"
                raise UserError(f"{key.value}: stands twice in the same mapping ({lines}); leave one out")
        return node


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def read_file(
    path: str | Path, config: Mapping[str, Any] | None = None, arguments: Sequence[str] = ()
) -> list[Experiment]:
    """All experiments of a .yaml, .json or .py file, checked.

    Args:
        path: the file, or the name of an example.
        config: settings laid over the experiments' before the check: `key` over every one's, `NAME.key` over one's.
        arguments: what a .py file finds in `sys.argv` behind its own name.

    Raises:
        UserError: naming the file and the key at fault.
    """
    path = experiment_file(path)
    environments.import_from(Path.cwd())
    environments.import_from(path.parent)
    if path.suffix == ".py":
        return [_from_python(path, meant_for(path.stem, config or {}, [path.stem]), arguments)]
    if arguments:
        raise UserError(
            f"{path}: takes no arguments after --, which a .py file alone reads; type --config for settings"
        )
    try:
        if path.suffix == ".json":
            content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=each_once)
        elif path.suffix in (".yaml", ".yml"):
            content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506  a SafeLoader
        else:
            raise UserError("expected a .yaml, .json or .py file")
    except (yaml.YAMLError, json.JSONDecodeError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not readable: {reason}") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{path}: expected a mapping of experiment names to settings")
    names = [str(name) for name in content]
    experiments = [
        parse(name, spec, str(path), meant_for(name, config or {}, names))
        for name, spec in zip(names, content.values())
    ]
    for i, experiment in enumerate(experiments):
        references = {key: v for key, v in experiment.config.items() if _is_reference(v)}
        for key, value in references.items():
            if key not in WEIGHT_KEYS or len(references) > 1 or len(value) > 1:
                raise UserError(f"{path}: {experiment.name}.{key}: result_of stands alone, once, for one of "
                                f"{', '.join(WEIGHT_KEYS)}")  # fmt: skip
        above = [other.name for other in experiments[:i]]
        if experiment.awaited is not None and experiment.awaited not in above:
            raise UserError(
                f"{path}: {experiment.name}: result_of: {experiment.awaited!r} is no experiment above it; name one, or "
                f"a folder of results in place of it.{did_you_mean(str(experiment.awaited), above)}"
            )
    return experiments


def parse(name: str, spec: Any, where: str, override: Mapping[str, Any] | None = None) -> Experiment:
    """One experiment from its mapping, `override` laid over its settings, checked."""
    check_name(name, where)
    here = f"{where}: {name}"
    if not isinstance(spec, Mapping):
        raise UserError(f"{here}: expected a mapping with the keys {', '.join(KEYS)}")
    spec, translated = old_files.spec(spec, here)
    _known(spec, KEYS, here)
    run = spec.get("run")
    names = trainables.runnable_names()
    if run not in names and isinstance(run, str) and run in old_files.ALGORITHMS:
        nearest = old_files.ALGORITHMS[run]
        raise UserError(f"{here}.run: {run} has left RLlib; " + (f"the nearest there is: {nearest}" if nearest else
                        "nothing like it is there"))  # fmt: skip
    if run not in names:
        shown = ", ".join([*trainables.PHASES, *trainables.OWN_ALGORITHMS])
        raise UserError(
            f"{here}.run: {run!r} is unknown.{did_you_mean(str(run), names)} "
            f"Expected one of {shown} or an RLlib algorithm such as PPO"
        )
    config = spec.get("config") or {}
    if not isinstance(config, Mapping):
        raise UserError(f"{here}.config: expected a mapping of settings, got {config!r}")
    config = merge(config, override or {})
    if spec.get("env") is not None:
        config["env"] = spec["env"]
    experiment = Experiment(
        name=name,
        run=run,
        config=config,
        stop=stop_criteria(spec.get("stop"), f"{here}.stop"),
        checkpoint=checkpoint_settings(spec.get("checkpoint_config"), f"{here}.checkpoint_config"),
        num_samples=positive(spec.get("num_samples", 1), f"{here}.num_samples"),
        scheduler=scheduler_name(spec.get("scheduler", "fifo"), f"{here}.scheduler"),
        scheduler_config=_mapping(spec.get("scheduler_config"), f"{here}.scheduler_config"),
        translated=translated,
    )
    check_scheduler(experiment, here)
    check_metrics(experiment, here)
    check_config(experiment, where)
    return experiment


def check_name(name: str, where: str) -> None:
    """Refuses names that are no name of a folder, or of one elsewhere than in the storage.

    Raises:
        UserError: naming it.
    """
    if (
        not re.search(r"\w", name)
        or not name.isprintable()
        or set(name) & set("/\\?#%")
        or len(name.encode()) > LONGEST
    ):
        raise UserError(
            f"{where}: {name!r}: an experiment's name becomes a folder in --storage-path; expected at most {LONGEST} "
            "bytes with a letter or digit among them, and none of / \\ ? # %"
        )


def scheduler_name(given: Any, here: str) -> str:
    """A key of `SCHEDULERS` for any name that Tune and its old command have for them, in any case.

    Raises:
        UserError: for a scheduler that is not offered, or none.
    """
    classes = {name: getattr(schedulers, name) for name in schedulers.__all__}
    names = {name.lower(): kind for name, kind in {**schedulers.SCHEDULER_IMPORT, **classes}.items()}
    kind, offered = names.get(str(given).lower()), "expected fifo, or asha, which stops trials that fall behind"
    if str(given).lower() in SCHEDULERS:
        return str(given).lower()
    if kind in (schedulers.FIFOScheduler, schedulers.AsyncHyperBandScheduler):
        return "fifo" if kind is schedulers.FIFOScheduler else "asha"
    if kind is not None:
        raise UserError(f"{here}: {given} is Tune's, and not offered here; {offered}")
    raise UserError(
        f"{here}: {given!r} is unknown.{did_you_mean(str(given).lower(), SCHEDULERS)} {offered.capitalize()}"
    )


def check_scheduler(experiment: Experiment, here: str) -> None:
    """Refuses settings of the scheduler that are not known.

    Raises:
        UserError: naming the key.
    """
    name, given = experiment.scheduler, experiment.scheduler_config
    here = f"{here}.scheduler_config"
    _known(given, SCHEDULERS[name], here)
    if name == "fifo":
        return
    if "metric" not in given or "max_t" not in given:
        raise UserError(f"{here}: expected a `metric`, such as gate_score, and `max_t`, the steps of a whole trial")
    if given.get("mode", "max") not in ("max", "min"):
        raise UserError(f"{here}.mode: expected max or min, got {given['mode']!r}")
    for key in ("metric", "time_attr"):
        if not isinstance(given.get(key, ""), str):
            raise UserError(f"{here}.{key}: expected the name of a metric, got {given[key]!r}")
    numbers = {key: given[key] for key in ("max_t", "grace_period", "reduction_factor", "brackets") if key in given}
    for key, value in numbers.items():
        positive(value, f"{here}.{key}")
    if numbers.get("reduction_factor", 2) < 2:
        raise UserError(f"{here}.reduction_factor: expected at least 2, got {numbers['reduction_factor']}")
    if numbers.get("grace_period", 1) > numbers["max_t"]:
        raise UserError(
            f"{here}.grace_period: expected at most max_t={numbers['max_t']}, got {numbers['grace_period']}"
        )


def check_config(experiment: Experiment, where: str) -> None:
    """Builds every variant of the configuration once, so that mistakes show before Ray starts.

    Names of weights are made absolute: workers run in other folders.

    Raises:
        UserError: naming the file, the experiment and the key.
    """
    try:
        experiment.config = _absolute_paths(experiment.config)
        # Weights that other experiments have yet to make are checked when they exist.
        settings = {k: v["result_of"] if _is_reference(v) else v for k, v in experiment.config.items()}
        if experiment.run in trainables.PHASES:
            for variant in variants(settings):
                config = trainables.PHASE_CONFIGS[experiment.run](variant)
                if experiment.awaited is None:
                    _check_layer(config)
                    _check_gates(experiment, variant, config)
            return
        if experiment.run in trainables.EPISODIC and experiment.config.get("num_env_runners") == "auto":
            del experiment.config["num_env_runners"]
            del settings["num_env_runners"]
        trainables.refuse_unused(experiment.run, settings)
        experiment.config, told = old_files.settings(trainables.algorithm_config(experiment.run), experiment.config)
        experiment.translated += told
        settings = {k: v["result_of"] if _is_reference(v) else v for k, v in experiment.config.items()}
        if experiment.run not in trainables.OWN_ALGORITHMS and not settings.get("env"):
            raise UserError("env: missing; expected an environment's id, such as irl_ray/GridPinpad-v0")
        opened = {}
        for variant in variants(settings):
            env, world = variant.get("env"), variant.get("env_config") or {}
            if experiment.run not in trainables.EPISODIC and opened.get(repr(env)) != world:
                environments.check(experiment.run, env or trainables.algorithm_config(experiment.run).env, world)
                opened[repr(env)] = world
            in_evaluation = variant.get("evaluation_config")
            if experiment.run in trainables.EPISODIC and in_evaluation:
                _check_evaluation(experiment.run, variant, in_evaluation)
            config = built_algorithm_config(experiment.run, variant)
            if hasattr(config, "weights_name"):
                world = worlds.make(config.env, config.env_config)
                if experiment.awaited is None:
                    _check_weights(config, world)
    except UserError as error:
        raise UserError(f"{where}: {experiment.name}: {error}") from None


def _check_evaluation(run: str, variant: Mapping[str, Any], inner: Any) -> None:
    """Refuses settings of evaluations that would be refused of training."""
    if not isinstance(inner, Mapping):
        raise UserError(f"evaluation_config: expected a mapping of settings, got {inner!r}")
    try:
        trainables.refuse_unused(run, inner)
        built_algorithm_config(run, {**variant, **inner, "evaluation_config": None})
    except UserError as error:
        raise UserError(f"evaluation_config: {error}") from None


def _check_layer(config: Any) -> None:
    """Refuses a layer that the base model does not have."""
    layer = getattr(getattr(config, "metacontroller", None), "layer", None)
    if layer is not None:
        told = weights.described(config.base)
        if "base" in told and not 0 <= layer <= told["base"]["layers"]:
            raise UserError(f"metacontroller.layer={layer}: the base model has layers 0..{told['base']['layers']}")


def _check_gates(experiment: Experiment, variant: Mapping[str, Any], config: Any) -> None:
    """Refuses, before anything is trained, a shape or a task that the world does not have."""
    world = _world_of(experiment, variant)
    world.with_tasks(config.post_task)
    if experiment.run == "Pretrain":
        with torch.device("meta"):  # which computes nothing
            new_base(config.model, world)


def check_demonstrations(experiment: Experiment, where: str) -> None:
    """Refuses to start where the demonstrations are not there, or of another world: a file may be written without.

    Raises:
        UserError: naming the folder, and what to type for demonstrations.
    """
    if experiment.run not in trainables.PHASES:
        return
    for variant in variants(experiment.config):
        world = _world_of(experiment, variant)
        if world is not None and variant.get("data") is None and not world.has_stream:
            how = world.how_to_collect(clean=experiment.run != "Pretrain")
            raise UserError(f"{where}: {experiment.name}.data: missing; {how}")
        for key in DATA_KEYS:
            if not isinstance(variant.get(key), str):
                continue
            try:
                if world is None:  # of weights that are yet to be made
                    check_there(variant[key])
                else:
                    check_data(world, variant[key], clean=experiment.run != "Pretrain" or key == "clean_data")
            except UserError as error:
                raise UserError(f"{where}: {experiment.name}.{key}: {error}") from None


def _world_of(experiment: Experiment, variant: Mapping[str, Any]) -> World | None:
    """The world whose demonstrations a phase is to be given; None while nobody knows."""
    if experiment.run == "Pretrain":
        return trainables.PHASE_CONFIGS["Pretrain"](variant).world
    base = variant.get("base", variant.get("start_from"))
    return None if _is_reference(base) else weights.described_world(base)


def _check_weights(config: AlgorithmConfig, world: World) -> None:
    required = ("metacontroller",) if hasattr(config, "metacontroller") else ()
    if not isinstance(config.weights_name, str):
        raise UserError(f"{(*required, 'base')[0]}: expected the name or the folder of weights, got "
                        f"{config.weights_name!r}")  # fmt: skip
    agent = weights.load(config.weights_name, *required)
    check_same(agent.world, world)


def built_algorithm_config(run: str, config: Mapping[str, Any]) -> AlgorithmConfig:
    """The validated AlgorithmConfig of one variant.

    Raises:
        UserError: with the first line of what RLlib says.
    """
    try:
        built = trainables.algorithm_config(run).update_from_dict(dict(config))
        built.validate()
        built.algo_class.default_resource_request(built)  # which counts runners and learners
        return built
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise UserError(f"config: {str(error).strip().splitlines()[0]}") from None


def variants(config: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every combination of the lists in a configuration, and of the ends of its ranges."""
    searches = list(_searches(config, ()))
    for values in itertools.product(*(options for _, options in searches)):
        variant = _copied(config)
        for (path, _), value in zip(searches, values):
            inner = variant
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = value
        yield variant


def count_trials(experiment: Experiment) -> int:
    """How many trials an experiment has."""

    def grid(node: Any) -> int:
        if not isinstance(node, Mapping):
            return 1
        return len(node["grid_search"]) if "grid_search" in node else math.prod(map(grid, node.values()))

    return experiment.num_samples * grid(experiment.config)


def _searches(node: Any, path: tuple) -> Iterator[tuple[tuple, list]]:
    if not isinstance(node, Mapping):
        return
    kind = next((kind for kind in SEARCHES if kind in node), None)
    if kind is not None:
        options, here = node[kind], ".".join(path)
        if len(node) > 1 or not isinstance(options, list) or not options:
            raise UserError(f"{here}: {kind} needs a non-empty list and stands alone")
        if kind in ("uniform", "loguniform"):
            numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in options)
            if len(options) != 2 or not numbers or not options[0] < options[1] or (kind[0] == "l" and options[0] <= 0):
                raise UserError(f"{here}: {kind} needs [low, high], numbers with low < high, got {options}")
            options = [float(value) for value in options]  # which is what is drawn: no setting for whole numbers
        yield path, options
        return
    for key, value in node.items():
        yield from _searches(value, (*path, key))


def _is_reference(value: Any) -> bool:
    return isinstance(value, Mapping) and "result_of" in value


def with_results(experiment: Experiment, folders: Mapping[str, str], where: str) -> Experiment:
    """The experiment with `result_of` replaced by the weights of every trial that ran, checked.

    Args:
        experiment: as read.
        folders: results of the experiments that ran before, by name.
        where: its file, for errors.

    Raises:
        UserError: if there are none, or they do not fit.
    """
    found = {}
    for key, value in experiment.config.items():
        if _is_reference(value):
            artefacts = weights.artefacts_of_trials(folders[value["result_of"]])
            found[key] = artefacts[0] if len(artefacts) == 1 else {"grid_search": artefacts}
    experiment = replace(experiment, config={**experiment.config, **found})
    check_config(experiment, where)
    return experiment


def _copied(node: Any) -> Any:
    return {k: _copied(v) for k, v in node.items()} if isinstance(node, Mapping) else node


def _absolute_paths(config: dict[str, Any]) -> dict[str, Any]:
    def absolute(value: Any) -> Any:
        if isinstance(value, Mapping) and value.keys() <= {"grid_search", "choice"}:
            return {kind: [absolute(option) for option in options] for kind, options in value.items()}
        if not isinstance(value, str) or (weights.RELEASED / value / "config.json").is_file():
            return value
        return weights.remote_artefact(value) if places.is_remote(value) else str(weights.resolve(value).resolve())

    def folder(value: Any) -> Any:
        is_folder = isinstance(value, str) and not names_function(value)
        return str(places.local(value).resolve()) if is_folder else value

    made = {**dict.fromkeys(WEIGHT_KEYS, absolute), **dict.fromkeys(DATA_KEYS, folder)}
    named = {key: made[key](value) if key in made else value for key, value in config.items()}
    if isinstance(config.get("env_config"), Mapping):  # of the internal environment
        named["env_config"] = {k: absolute(v) if k in WEIGHT_KEYS else v for k, v in config["env_config"].items()}
    return named


def _known(given: Mapping[str, Any], known: Any, here: str) -> None:
    for key in given:
        if key not in known:
            raise UserError(f"{here}.{key}: unknown key.{did_you_mean(str(key), known)}")


def stop_criteria(value: Any, here: str) -> dict[str, float]:
    """Metrics and the numbers at or above which a trial ends.

    Raises:
        UserError: naming the metric.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise UserError(f"{here}: expected a mapping of metrics to numbers, got {value!r}")
    for metric, limit in value.items():
        if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not math.isfinite(limit):
            raise UserError(f"{here}.{metric}: expected a finite number, got {limit!r}")
    return dict(value)


def check_metrics(experiment: Experiment, here: str) -> None:
    """Refuses metrics that a run of ours never reports: Tune would wait for them for ever.

    RLlib's algorithms tell what they report with their results (`irl_ray.cli.metrics`).

    Raises:
        UserError: naming the key and the metric.
    """
    run, known = experiment.run, [metric for _, metric, _ in progress.columns_of(experiment.run)]
    if run not in trainables.PHASES:
        for old in [old for old in experiment.stop if old_files.metric(old) != old]:
            experiment.stop[old_files.metric(old)] = experiment.stop.pop(old)
            experiment.translated.append(f"{old} -> {old_files.metric(old)}")
    if run in trainables.PHASES:
        known += [*EVERY_RUN, *OF_A_PHASE[run], *(GATES if experiment.config.get("gates_at_reports") else ())]
    elif run in ("InternalRL", "RawRL"):
        known += EVERY_RUN + OF_RL
        if any(variant.get("evaluation_interval") for variant in variants(experiment.config)):
            known += [f"evaluation/{metric}" for metric in known if metric.startswith("env_runners/")]
    else:
        return
    for key, metric in watched(experiment).items():
        if metric not in known:
            hint = closest(metric, known)
            if run == "Discover" and metric in GATES:
                hint = " It is measured on the way with gates_at_reports: true alone."
            elif metric.startswith("evaluation/") and not any(name.startswith("evaluation/") for name in known):
                hint = " It is there with an evaluation_interval alone."
            raise UserError(f"{here}.{key}: {run} reports no {metric}.{hint}")


def watched(experiment: Experiment) -> dict[str, str]:
    """The metrics that an experiment asks for, by their keys."""
    named = {f"stop.{metric}": metric for metric in experiment.stop} | compared(experiment)
    if experiment.checkpoint.get("checkpoint_score_attribute"):
        named["checkpoint_config.checkpoint_score_attribute"] = experiment.checkpoint["checkpoint_score_attribute"]
    return named


def compared(experiment: Experiment) -> dict[str, str]:
    """The metrics that an experiment's scheduler reads, by their keys."""
    settings = experiment.scheduler_config
    return {f"scheduler_config.{key}": settings[key] for key in ("metric", "time_attr") if key in settings}


def _mapping(value: Any, here: str) -> dict[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise UserError(f"{here}: expected a mapping, got {value!r}")
    return dict(value or {})


def scored(attribute: str) -> dict[str, str]:
    """Keys of Tune's CheckpointConfig for a metric as the command line has it: `min-METRIC` prefers the lowest."""
    order = "min" if attribute.startswith("min-") else "max"
    return {"checkpoint_score_attribute": attribute.removeprefix("min-"), "checkpoint_score_order": order}


def checkpoint_settings(value: Any, here: str) -> dict[str, Any]:
    settings = _mapping(value, here)
    _known(settings, CHECKPOINT_KEYS, here)
    score, order = settings.get("checkpoint_score_attribute"), settings.get("checkpoint_score_order")
    if score is not None and not isinstance(score, str):
        raise UserError(f"{here}.checkpoint_score_attribute: expected the name of a metric, got {score!r}")
    if order not in (None, "min", "max") or (order == "max" and str(score).startswith("min-")):
        raise UserError(f"{here}.checkpoint_score_order: expected min or max, as {score!r} says, got {order!r}")
    if score is not None:
        settings |= scored(score) | ({"checkpoint_score_order": order} if order else {})
    for key, least in (("checkpoint_frequency", 0), ("num_to_keep", 1)):
        given = settings.get(key)
        if given is not None and (type(given) is not int or given < least):
            raise UserError(f"{here}.{key}: expected a whole number of at least {least}, got {given!r}")
    if not isinstance(settings.get("checkpoint_at_end", True), bool):
        raise UserError(f"{here}.checkpoint_at_end: expected true or false, got {settings['checkpoint_at_end']!r}")
    return settings


def positive(value: Any, here: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{here}: expected a positive integer, got {value!r}")
    return value


def _from_python(path: Path, override: Mapping[str, Any], arguments: Sequence[str]) -> Experiment:
    known = set(gym.registry)
    module = _run_python(path, arguments)
    environments.carry(known)
    config = getattr(module, "config", None)
    if not isinstance(config, AlgorithmConfig) or config.algo_class is None:
        raise UserError(
            f"{path}: expected a module-level `config` that is an algorithm's configuration, such as PPOConfig()"
        )
    standard = config.algo_class.get_default_config().to_dict()
    given = without_numpy(config.to_dict())
    changed = {key: value for key, value in given.items() if value != standard.get(key)}
    stop = stop_criteria(without_numpy(getattr(module, "stop", None)), f"{path}: stop")
    experiment = Experiment(path.stem, config.algo_class.__name__, merge(changed, override), stop)
    check_config(experiment, str(path))
    return experiment


def _run_python(path: Path, arguments: Sequence[str]) -> ModuleType:
    """Runs a file as `python FILE ARGUMENTS` would, as far as it can tell from `sys.argv`."""
    spec = importlib.util.spec_from_file_location("irl_ray_experiment", path)
    module = importlib.util.module_from_spec(spec)
    ours, sys.argv = sys.argv, [str(path), *arguments]
    try:
        spec.loader.exec_module(module)
    except UserError:
        raise
    except SystemExit as error:
        if not error.code:
            raise  # as after --help
        raise UserError(f"{path}: ended by itself ({error.code}); expected a module-level `config`") from None
    except Exception as error:
        steps = traceback.extract_tb(error.__traceback__)
        here = [step.lineno for step in steps if Path(step.filename).resolve() == path.resolve()]
        lines = here or [getattr(error, "lineno", None)]
        told = " ".join(str(error).split())
        raise UserError(f"{path}, line {lines[-1]}: {type(error).__name__}: {told}") from error
    finally:
        sys.argv = ours
    return module
