"""The `rllib` command: train, evaluate, resume, example.

Ray removed its own after 2.40; this one keeps the interface and runs the new API stack.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

from irl_ray import places
from irl_ray.cli import examples, old_options
from irl_ray.cli.addresses import addressed, check_addresses, meant_for
from irl_ray.cli.text import json_object, run_command
from irl_ray.errors import UserError, did_you_mean


class _OnlyOne(argparse.Action):
    """One name, where a shell's wildcard may have found several."""

    def __call__(self, parser: argparse.ArgumentParser, options: argparse.Namespace, values: Any, *_: Any) -> None:
        if len(values) > 1:
            parser.error(f"one {self.dest} at a time, got {', '.join(values)}; of one name the last is the newest")
        setattr(options, self.dest, values[0])


def parser() -> argparse.ArgumentParser:
    """Arguments of every subcommand."""
    top = argparse.ArgumentParser(prog="rllib", description="Train, evaluate and resume experiments.")
    commands = top.add_subparsers(dest="command", required=True, metavar="{train,evaluate,resume,example}")

    train = commands.add_parser("train", help="run an experiment: `train file X.yaml`, or --run and --env")
    train.add_argument("source", nargs="?", choices=["file"], help="read the experiment from FILE")
    train.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help=".yaml, .json, .py, or an example's name; several run one after the other; "
        "what follows ` -- ` at the end is what a .py file finds in sys.argv",
    )
    train.add_argument("--run", "--algo", "-r", "-a", dest="run", help="a trainable, such as InternalRL or PPO")
    _experiment(train)

    evaluate = commands.add_parser(
        "evaluate",
        help="roll a checkpoint out and print its success",
        description="Rolls a checkpoint out and prints its success, or the return of RLlib's own algorithms. "
        "Checkpoints of the latter hold pickles, which run code: they are read with --trust-pickle alone.",
    )
    evaluate.add_argument(
        "checkpoint", nargs="+", action=_OnlyOne, help="checkpoint, trial, run, artefact folder or released name"
    )
    evaluate.add_argument("--episodes", type=int, help="whole ones (default: 512; of RLlib's own algorithms 100)")
    evaluate.add_argument("--trust-pickle", action="store_true", help="read a checkpoint of RLlib's own, made by you")
    evaluate.add_argument("--env", "-e", help="environment id, in place of the checkpoint's")
    evaluate.add_argument("--config", "-c", type=json_object, help="settings as JSON, laid over the checkpoint's")
    evaluate.add_argument("--env-config", type=json_object, default=None, help="world settings, such as the tasks")
    evaluate.add_argument("--prior", action="store_true", help="draw codes from N(0, I) instead of the policy")
    evaluate.add_argument("--switch-threshold", type=float, help="in place of the policy's own")
    evaluate.add_argument(
        "--clean-slate",
        action=argparse.BooleanOptionalAction,
        help="start the base model's memory anew with every code, in place of the policy's own way",
    )
    evaluate.add_argument("--action-temperature", type=float, help="in place of the policy's own")
    evaluate.add_argument("--greedy", action="store_true", help="take the policy's mean code")
    evaluate.add_argument("--seed", type=int, default=0)
    evaluate.add_argument(
        "--render",
        metavar="OUT",
        help="draw an episode into OUT, .gif or .mp4: the first successful of 20 (seeds from --seed on), else the last",
    )
    evaluate.add_argument("--out", help="write the results as JSON")
    evaluate.add_argument("--framework", type=old_options.framework, metavar="torch", help="torch, and nothing else")
    old_options.add_gone(evaluate, old_options.OF_EVALUATE)

    resume = commands.add_parser("resume", help="carry an interrupted experiment on")
    resume.add_argument("folder", nargs="+", action=_OnlyOne, help="a folder under results/")
    resume.add_argument("--stop", "-s", type=json_object, help="stop criteria as JSON, in place of the run's")
    resume.add_argument("--config", type=json_object, help="what may change, as JSON: where weights or data lie, steps")
    _ray(resume)

    example = commands.add_parser("example", help="the experiments in tuned_configs")
    actions = example.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="one line each")
    actions.add_parser("get", help="print the file").add_argument("name")
    run = actions.add_parser("run", help="run it, with the options of `train file`")
    run.add_argument("name")
    _experiment(run)
    return top


def _experiment(command: argparse.ArgumentParser) -> None:
    """What can be said of an experiment beside its file."""
    command.add_argument("--env", "-e", help="environment id")
    command.add_argument(
        "--config", "-c", type=json_object, help="settings as JSON, laid over the file's; NAME.key for one experiment"
    )
    command.add_argument(
        "--stop",
        "-s",
        type=json_object,
        help="stop criteria as JSON, in place of the file's; NAME.metric for one experiment of several",
    )
    command.add_argument("--experiment-name", "-n", help="name of the results folder")
    command.add_argument("--num-samples", type=int, help="repetitions")
    command.add_argument("--checkpoint-freq", type=int, help="iterations between checkpoints")
    command.add_argument("--checkpoint-at-end", action="store_true", default=None)
    command.add_argument("--keep-checkpoints-num", type=int, help="checkpoints to keep")
    command.add_argument("--checkpoint-score-attr", help="metric whose highest decide which ones; min-METRIC: lowest")
    command.add_argument("--scheduler", help="of the trials: fifo, or asha, which stops those that fall behind")
    command.add_argument("--scheduler-config", type=json_object, help="its settings as JSON, such as the metric")
    command.add_argument(
        "--resume", action="store_true", help="carry on the newest run of each experiment; start those without one"
    )
    command.add_argument("--framework", type=old_options.framework, metavar="torch", help="torch, and nothing else")
    command.add_argument("--storage-path", default="results", help="where results go (default: results)")
    command.add_argument("--log-info", "-v", dest="v", action="store_true", help="more messages")
    command.add_argument("--log-debug", "-vv", dest="vv", action="store_true", help="all messages")
    _ray(command)
    old_options.add_gone(command, old_options.OF_TRAIN)


def _ray(command: argparse.ArgumentParser) -> None:
    command.add_argument("--ray-address", help="address of a running cluster, or 'auto'")
    command.add_argument("--ray-num-cpus", type=int, help="CPUs of the Ray started here")
    command.add_argument("--ray-num-gpus", type=int, help="GPUs of the Ray started here")


def main(arguments: list[str] | None = None) -> int:
    """Entry point of the console script; returns the exit code."""
    return run_command("rllib", partial(_main, sys.argv[1:] if arguments is None else arguments))


def _main(arguments: list[str]) -> int:
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = parser().parse_args(arguments[:end])
    options.arguments = arguments[end + 1 :]
    if options.arguments and options.command not in ("train", "example"):
        raise UserError(f"{options.command}: takes nothing after --")
    _set_messages(options)
    return COMMANDS[options.command](options)


def _set_messages(options: argparse.Namespace) -> None:
    level = logging.DEBUG if getattr(options, "vv", False) else logging.INFO if getattr(options, "v", False) else None
    # RLlib warns about its own migration on every start; its errors are still shown.
    for name in ("ray", "ray._common.deprecation", "ray.rllib.algorithms.algorithm_config"):
        logging.getLogger(name).setLevel(level or logging.ERROR)


def train(options: argparse.Namespace) -> int:
    """`rllib train file FILE` and `rllib train --run X --env Y`."""
    from irl_ray.cli import environments, runner
    from irl_ray.cli import experiment as files

    if options.source == "file":
        if options.run:
            raise UserError(f"--run {options.run}: a file names its own; leave one of the two out")
        if not options.files:
            raise UserError("train file: which one? Such as: rllib train file gridworld_internal")
        told = {**(options.config or {}), **({"env": options.env} if options.env else {})}
        batches = [(files.read_file(path, told, options.arguments), path) for path in options.files]
    elif options.run:
        environments.import_from(Path.cwd())
        name = options.run.lower() if options.experiment_name is None else options.experiment_name
        config = meant_for(name, options.config or {}, [name])
        spec = {"run": options.run, "env": options.env, "config": config}
        batches = [([files.parse(name, spec, "command line")], "command line")]
    else:
        raise UserError("train: give `file FILE`, or --run and --env")
    names = [experiment.name for experiments, _ in batches for experiment in experiments]
    for flag, given in (("--config", options.config), ("--stop", options.stop)):
        check_addresses(flag, given or {}, names)
    for experiments, where in batches:
        _refuse_shared_flags(experiments, where, options)
        for experiment in experiments:
            _apply_flags(experiment, options, names)
            files.check_name(experiment.name, where)
            if options.env:
                files.check_config(experiment, where)
            files.check_scheduler(experiment, where)
            files.check_metrics(experiment, where)
            files.check_demonstrations(experiment, where)
            if experiment.translated:
                print(f"{experiment.name}: names of an older RLlib: {', '.join(experiment.translated)}", flush=True)
    if options.resume and (options.config or options.stop or options.num_samples):
        raise UserError(
            "--resume: runs go on with the settings they began with; leave out --config, --stop, --num-samples"
        )
    storage = options.storage_path
    storage = places.absolute(storage) if places.is_remote(storage) else os.path.expanduser(storage)
    runner.start_ray(options.ray_address, options.ray_num_cpus, options.ray_num_gpus)
    for experiments, where in batches:
        code = runner.run_all(experiments, storage, where, options.resume)
        if code:
            return code
    return 0


def _refuse_shared_flags(experiments: list[Any], where: str, options: argparse.Namespace) -> None:
    """Flags that can be meant for one experiment alone, where a file holds several."""
    if len(experiments) < 2:
        return
    names = [experiment.name for experiment in experiments]
    several = f"{where} holds {len(names)} experiments ({', '.join(names)})"
    for name in ("experiment_name", "env", "num_samples", "scheduler", "scheduler_config"):
        if getattr(options, name) is not None:
            raise UserError(f"--{name.replace('_', '-')}: {several}; write it into the file")
    for metric in options.stop or {}:
        if addressed(metric, names)[0] is None:
            raise UserError(f'--stop: {several}; say which one is meant, such as "{names[-1]}.{metric}"')


def _apply_flags(experiment: Any, options: argparse.Namespace, names: list[str]) -> None:
    """Flags win over the file, and only when given."""
    from irl_ray.cli.experiment import checkpoint_settings, positive, scheduler_name, stop_criteria

    if options.env:
        experiment.config["env"] = options.env
    if options.stop is not None:
        stop = stop_criteria(meant_for(experiment.name, options.stop, names), "--stop")
        experiment.stop = stop if stop or not options.stop else experiment.stop
    if options.experiment_name is not None:
        experiment.name = options.experiment_name
    if options.num_samples is not None:
        experiment.num_samples = positive(options.num_samples, "--num-samples")
    if options.scheduler is not None:
        experiment.scheduler = scheduler_name(options.scheduler, "--scheduler")
        experiment.scheduler_config = {} if experiment.scheduler == "fifo" else experiment.scheduler_config
    if options.scheduler_config is not None:
        experiment.scheduler_config = options.scheduler_config
    flags = {
        "checkpoint_frequency": options.checkpoint_freq,
        "checkpoint_at_end": options.checkpoint_at_end,
        "num_to_keep": options.keep_checkpoints_num,
        "checkpoint_score_attribute": options.checkpoint_score_attr,
    }
    given = {key: value for key, value in flags.items() if value is not None}
    experiment.checkpoint |= checkpoint_settings(given, "command line")


def resume(options: argparse.Namespace) -> int:
    """`rllib resume FOLDER`."""
    from irl_ray.cli import runner
    from irl_ray.cli.experiment import stop_criteria

    stop = None if options.stop is None else stop_criteria(options.stop, "--stop")
    folder = os.path.expanduser(options.folder).rstrip("/")
    if not places.names_in(folder):
        storage, name = places.split(folder)
        raise UserError(f"{folder}: no such folder.{did_you_mean(name, places.names_in(storage))}")
    start = partial(runner.start_ray, options.ray_address, options.ray_num_cpus, options.ray_num_gpus)
    return runner.resume(folder, stop, options.config, start)


def evaluate(options: argparse.Namespace) -> int:
    """`rllib evaluate CHECKPOINT`; needs no Ray, but for RLlib's own algorithms."""
    from irl_ray.cli import evaluation, stock

    checkpoint = stock.stock_checkpoint(options.checkpoint)
    if options.episodes is None:
        options.episodes = 512 if checkpoint is None else stock.EPISODES
    if checkpoint is not None:
        return stock.evaluate(options, checkpoint)
    _settings_as_flags(options)
    return evaluation.evaluate(options)


def _settings_as_flags(options: argparse.Namespace) -> None:
    """`evaluate --env X --config JSON` for agents of ours, of whose settings few matter when they act; checked."""
    from irl_ray import worlds
    from irl_ray.models import weights

    lives_in = weights.described(options.checkpoint).get("environment", worlds.DEFAULT_ID)
    if options.env not in (None, lives_in):
        raise UserError(f"--env {options.env}: {options.checkpoint} acts in {lives_in} alone; leave it out")
    known = ("env_config", "switch_threshold", "action_temperature", "clean_slate", "seed")
    for key, value in (options.config or {}).items():
        if key not in known:
            raise UserError(
                f"--config: {key}: does nothing in an evaluation.{did_you_mean(key, known)} Expected {', '.join(known)}"
            )
        if getattr(options, key) is None or key == "seed":
            setattr(options, key, value)
    if not isinstance(options.env_config or {}, dict):
        raise UserError(f"env_config: expected a mapping of settings, got {options.env_config!r}")
    if type(options.seed) is not int or options.seed < 0:
        raise UserError(f"--seed: expected a whole number of at least 0, got {options.seed!r}")
    if not isinstance(options.clean_slate, bool | None):
        raise UserError(f"--config: clean_slate: expected true or false, got {options.clean_slate!r}")
    for name, least, most in (("switch_threshold", 0, 1), ("action_temperature", 1e-9, math.inf)):
        value = getattr(options, name)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value is not None and not (number and math.isfinite(value) and least <= value <= most):
            span = "in [0, 1]" if most == 1 else "above 0"
            raise UserError(f"--{name.replace('_', '-')}: expected a number {span}, got {value!r}")


def example(options: argparse.Namespace) -> int:
    """`rllib example list|get|run`."""
    if options.action == "run":
        examples.example(options.name)
        options.source, options.files, options.run = "file", [options.name], None
        return train(options)
    if options.action == "get":
        print(examples.example(options.name).read_text(encoding="utf-8"), end="")
        return 0
    import yaml

    found = examples.examples()
    width = max(map(len, found), default=0)
    for name, path in found.items():
        for number, (own, spec) in enumerate(yaml.safe_load(path.read_text(encoding="utf-8")).items()):
            shown = name if number == 0 else "  then"
            print(f"{shown:<{width}} {spec['run']:<12} {spec.get('description', own)}")
    print(
        f"Files: {examples.come_along('tuned_configs')}; for clusters: {examples.come_along('cluster')}",
        file=sys.stderr,
    )
    return 0


COMMANDS = {"train": train, "evaluate": evaluate, "resume": resume, "example": example}

if __name__ == "__main__":
    sys.exit(main())
