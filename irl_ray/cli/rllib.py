"""The `rllib` command: train, evaluate, resume, example.

Ray removed its own after 2.40; this one keeps the interface and runs the new API stack.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import Any

from irl_ray import places
from irl_ray.cli.text import json_object
from irl_ray.errors import UserError, did_you_mean

EXAMPLES = Path("tuned_configs")


def parser() -> argparse.ArgumentParser:
    """Arguments of every subcommand."""
    top = argparse.ArgumentParser(prog="rllib", description="Train, evaluate and resume experiments.")
    commands = top.add_subparsers(dest="command", required=True, metavar="{train,evaluate,resume,example}")

    train = commands.add_parser("train", help="run an experiment: `train file X.yaml`, or --run and --env")
    train.add_argument("source", nargs="?", choices=["file"], help="read the experiment from FILE")
    train.add_argument("files", nargs="*", metavar="FILE", help=".yaml, .json or .py; several run one after the other")
    train.add_argument("--run", "--algo", dest="run", help="a trainable, such as InternalRL or PPO")
    train.add_argument("--env", "-e", help="environment id")
    train.add_argument("--config", type=json_object, help="settings as JSON, laid over the file's")
    train.add_argument("--stop", "-s", type=json_object, help="stop criteria as JSON, in place of the file's")
    train.add_argument("--experiment-name", help="name of the results folder")
    train.add_argument("--num-samples", type=int, help="repetitions")
    train.add_argument("--checkpoint-freq", type=int, help="iterations between checkpoints")
    train.add_argument("--checkpoint-at-end", action="store_true", default=None)
    train.add_argument("--keep-checkpoints-num", type=int, help="checkpoints to keep")
    train.add_argument("--checkpoint-score-attr", help="metric that decides which ones")
    train.add_argument("--scheduler", choices=["fifo", "asha"], help="of the trials; asha stops those that fall behind")
    train.add_argument("--scheduler-config", type=json_object, help="its settings as JSON, such as the metric")
    train.add_argument(
        "--resume", action="store_true", help="carry on the newest run of each experiment; start those without one"
    )
    _common(train)

    evaluate = commands.add_parser("evaluate", help="roll a checkpoint out and print its success")
    evaluate.add_argument("checkpoint", help="checkpoint, artefact folder or released name")
    evaluate.add_argument("--episodes", type=int, default=512)
    evaluate.add_argument("--env-config", type=json_object, default=None, help="world settings, such as the tasks")
    evaluate.add_argument("--prior", action="store_true", help="draw codes from N(0, I) instead of the policy")
    evaluate.add_argument("--switch-threshold", type=float, help="in place of the policy's own")
    evaluate.add_argument("--action-temperature", type=float, help="in place of the policy's own")
    evaluate.add_argument("--greedy", action="store_true", help="take the policy's mean code")
    evaluate.add_argument("--seed", type=int, default=0)
    evaluate.add_argument("--render", metavar="OUT", help="write one episode as an animated GIF")
    evaluate.add_argument("--out", help="write the results as JSON")

    resume = commands.add_parser("resume", help="carry an interrupted experiment on")
    resume.add_argument("folder", help="a folder under results/")
    _ray(resume)

    example = commands.add_parser("example", help="the experiments in tuned_configs")
    actions = example.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="one line each")
    for name, what in (("get", "print the file"), ("run", "run it")):
        action = actions.add_parser(name, help=what)
        action.add_argument("name")
        if name == "run":
            _common(action)
    return top


def _common(command: argparse.ArgumentParser) -> None:
    command.add_argument("--storage-path", default="results", help="where results go (default: results)")
    command.add_argument("-v", action="store_true", help="more messages")
    command.add_argument("-vv", action="store_true", help="all messages")
    _ray(command)


def _ray(command: argparse.ArgumentParser) -> None:
    command.add_argument("--ray-address", help="address of a running cluster, or 'auto'")
    command.add_argument("--ray-num-cpus", type=int, help="CPUs of the Ray started here")
    command.add_argument("--ray-num-gpus", type=int, help="GPUs of the Ray started here")


def main(arguments: list[str] | None = None) -> int:
    """Entry point of the console script; returns the exit code."""
    options = parser().parse_args(arguments)
    level = logging.DEBUG if getattr(options, "vv", False) else logging.INFO if getattr(options, "v", False) else None
    # RLlib warns about its own migration on every start; its errors are still shown.
    for name in ("ray", "ray._common.deprecation", "ray.rllib.algorithms.algorithm_config"):
        logging.getLogger(name).setLevel(level or logging.ERROR)
    try:
        return COMMANDS[options.command](options)
    except UserError as error:
        print(f"rllib: {error}", file=sys.stderr)
        return 2


def train(options: argparse.Namespace) -> int:
    """`rllib train file FILE` and `rllib train --run X --env Y`."""
    from irl_ray.cli import environments, runner
    from irl_ray.cli import experiment as files

    if options.source == "file":
        if not options.files:
            raise UserError("train file: which one? Such as: rllib train file tuned_configs/gridworld_internal.yaml")
        batches = [(files.read_file(path, options.config), path) for path in options.files]
    elif options.run:
        environments.import_from(Path.cwd())
        name = options.experiment_name or options.run.lower()
        spec = {"run": options.run, "env": options.env, "config": options.config or {}}
        batches = [([files.parse(name, spec, "command line")], "command line")]
    else:
        raise UserError("train: give `file FILE`, or --run and --env")
    for experiments, where in batches:
        _refuse_shared_flags(experiments, where, options)
        for experiment in experiments:
            _apply_flags(experiment, options)
            if options.env:
                files.check_config(experiment, where)
            files.check_stop(experiment, where)
            files.check_scheduler(experiment, where)
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
    for name in ("experiment_name", "stop", "env", "num_samples", "scheduler", "scheduler_config"):
        if len(experiments) > 1 and getattr(options, name):
            names = ", ".join(e.name for e in experiments)
            flag = name.replace("_", "-")
            raise UserError(f"--{flag}: {where} holds {len(experiments)} experiments ({names}); write it into the file")


def _apply_flags(experiment: Any, options: argparse.Namespace) -> None:
    """Flags win over the file, and only when given."""
    if options.env:
        experiment.config["env"] = options.env
    if options.stop is not None:
        experiment.stop = options.stop
    if options.experiment_name:
        experiment.name = options.experiment_name
    if options.num_samples:
        experiment.num_samples = options.num_samples
    if options.scheduler:
        experiment.scheduler = options.scheduler
        experiment.scheduler_config = {} if options.scheduler == "fifo" else experiment.scheduler_config
    if options.scheduler_config is not None:
        experiment.scheduler_config = options.scheduler_config
    flags = {
        "checkpoint_frequency": options.checkpoint_freq,
        "checkpoint_at_end": options.checkpoint_at_end,
        "num_to_keep": options.keep_checkpoints_num,
        "checkpoint_score_attribute": options.checkpoint_score_attr,
    }
    experiment.checkpoint |= {key: value for key, value in flags.items() if value is not None}


def resume(options: argparse.Namespace) -> int:
    """`rllib resume FOLDER`."""
    from irl_ray.cli import runner

    folder = os.path.expanduser(options.folder).rstrip("/")
    if not places.names_in(folder):
        storage, name = places.split(folder)
        raise UserError(f"{folder}: no such folder.{did_you_mean(name, places.names_in(storage))}")
    runner.start_ray(options.ray_address, options.ray_num_cpus, options.ray_num_gpus)
    return runner.resume(folder)


def evaluate(options: argparse.Namespace) -> int:
    """`rllib evaluate CHECKPOINT`; needs no Ray."""
    from irl_ray.cli import evaluation

    return evaluation.evaluate(options)


def example(options: argparse.Namespace) -> int:
    """`rllib example list|get|run`."""
    import yaml

    found = {path.stem: path for path in sorted(EXAMPLES.glob("*.yaml"))}
    if not found:
        raise UserError(f"no examples: run this in a checkout, where {EXAMPLES}/ lies")
    if options.action == "list":
        for name, path in found.items():
            content = yaml.safe_load(path.read_text())
            spec = next(iter(content.values()))
            print(f"{name:<32} {spec['run']:<12} {spec.get('description', '')}")
        return 0
    if options.name not in found:
        raise UserError(f"example {options.name!r}: unknown.{did_you_mean(options.name, found)}")
    if options.action == "get":
        print(found[options.name].read_text(), end="")
        return 0
    arguments = ["train", "file", str(found[options.name]), "--storage-path", options.storage_path]
    return main(arguments)


COMMANDS = {"train": train, "evaluate": evaluate, "resume": resume, "example": example}

if __name__ == "__main__":
    sys.exit(main())
