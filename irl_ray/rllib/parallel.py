"""Supervised phases on several workers: Ray Train starts them, one process group joins them, each takes its rows.

A trial is then a Tune function that waits for a `TorchTrainer`. It costs about half a minute to start, so that trials
with one worker run as `PhaseTrainable` instead. Every report is a checkpoint, the last two are kept, and Ray Train
starts lost workers anew from the last.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ray import train, tune
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.result import DONE

from irl_ray import places
from irl_ray.rllib.checkpoints import is_whole, seal, whole_before
from irl_ray.rllib.trainables import PHASES, STATE

WORKERS = "workers"  # a trial's folder of what Ray Train keeps


def parallel_phase(run: str, folder: str) -> Callable[[dict[str, Any]], None]:
    """A trial of a phase on `num_workers` workers, as Tune runs it.

    Args:
        run: name of the phase.
        folder: of the experiment, a path or a URI.
    """

    def trial(settings: dict[str, Any]) -> None:
        name = Path(tune.get_context().get_trial_dir()).name
        cuda = str(settings.get("device", "cpu")).startswith("cuda")
        TorchTrainer(
            work,
            train_loop_config={"run": run, "settings": settings},
            scaling_config=ScalingConfig(num_workers=settings["num_workers"], use_gpu=cuda),
            run_config=RunConfig(
                name=WORKERS,
                storage_path=places.join(folder, name),
                callbacks=[TuneReportCallback()],
                checkpoint_config=CheckpointConfig(num_to_keep=2),
                failure_config=FailureConfig(max_failures=2),
            ),
        ).fit()

    trial.__name__ = PHASES[run].__name__  # which names its folder
    return tune.with_resources(trial, {"memory": 1})  # a byte: it waits for its workers, which ask for theirs


def work(config: dict[str, Any]) -> None:
    """What each worker does: the phase's steps, from the newest checkpoint if there is one."""
    torch.set_num_threads(1)
    first = train.get_context().get_world_rank() == 0
    settings = config["settings"]
    if str(settings.get("device", "cpu")).startswith("cuda"):
        settings = {**settings, "device": str(get_device())}
    phase, gates = PHASES[config["run"]].make_phase(settings), {}
    checkpoint = train.get_checkpoint()
    if checkpoint is not None and not is_whole(checkpoint):
        checkpoint = whole_before(checkpoint)
    if checkpoint is not None:
        with checkpoint.as_directory() as saved:
            state = torch.load(Path(saved) / STATE, weights_only=True, map_location="cpu")
        gates = state.pop("gates")
        phase.load_state(state)
        gates = gates if phase.finished else {}
    while not phase.finished:
        metrics = phase.step() | phase.gates_on_the_way()
        if phase.finished and first:
            gates = phase.measured()
        told = {**metrics, **gates, "progress": metrics["step"] / phase.config.steps, DONE: phase.finished}
        with tempfile.TemporaryDirectory() as kept:
            if first:
                torch.save({**phase.state(), "gates": gates}, Path(kept) / STATE)
                phase.export(Path(kept) / "artefact", gates)
                seal(kept)
            train.report(told, checkpoint=Checkpoint.from_directory(kept) if first else None)
