"""Options of the command that Ray had until 2.40 and that are gone: each says in one line what to type instead."""

from __future__ import annotations

import argparse
from typing import Any

from irl_ray.errors import UserError

_CLUSTER = "start Ray with it (ray start --head) and type --ray-address auto"
_NO_TENSORFLOW = "leave it out; RLlib's new API stack runs on PyTorch alone"
_ONE_PROCESS = "Ray has no local mode any more; type --config '{\"num_env_runners\": 0}' --ray-num-cpus 1, or in Python"
OF_BOTH = {
    ("--local-mode",): f"{_ONE_PROCESS} PPOConfig().build_algo().train()",
    ("--torch", "--eager", "--trace"): _NO_TENSORFLOW,
}
OF_TRAIN = {
    **OF_BOTH,
    ("--config-file", "-f"): "type rllib train file FILE",
    ("--restore",): "type rllib resume FOLDER to carry on a run under results/; weights to start from are settings, "
    'such as --config \'{"metacontroller": "FOLDER"}\'',
    ("--local-dir", "--upload-dir"): "type --storage-path FOLDER, a path or a URI such as s3://bucket/runs",
    ("--resources-per-trial", "--queue-trials"): "leave it out; settings tell what a trial needs: num_env_runners, "
    "num_cpus_per_env_runner, num_learners, num_gpus_per_learner",
    ("--wandb-key", "--wandb-project", "--wandb-run-name"): "results hold TensorBoard's event files; type wandb sync "
    "--sync-tensorboard RESULT when they are there",
    ("--ray-ui", "--no-ray-ui", "--ray-object-store-memory"): _CLUSTER,
    ("--ray-num-nodes",): "nodes are not emulated; start a cluster (ray start) and type --ray-address auto",
}
OF_EVALUATE = {
    **OF_BOTH,
    ("--algo", "--run", "-a", "-r"): "leave it out; a checkpoint tells its algorithm",
    ("--steps",): "type --episodes N; episodes are whole",
    ("--video-dir",): "type --render OUT",
    ("--save-info", "--use-shelve", "--track-progress"): "type --out X.json, which has the results",
}


class _Gone(argparse.Action):
    def __init__(self, option_strings: list[str], dest: str, instead: str):
        super().__init__(option_strings, argparse.SUPPRESS, nargs="?", help=argparse.SUPPRESS)
        self.instead = instead

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        raise UserError(f"{option_string}: {self.instead}")


def add_gone(command: argparse.ArgumentParser, options: dict[tuple[str, ...], str]) -> None:
    """Lets a subcommand know options that are gone."""
    for names, instead in options.items():
        command.add_argument(*names, action=_Gone, instead=instead)


def framework(name: str) -> str:
    """The value of --framework."""
    if name != "torch":
        raise UserError(f"--framework {name}: RLlib's new API stack runs on PyTorch alone; type torch, or leave it out")
    return name
