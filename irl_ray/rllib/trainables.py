"""Tune trainables of the supervised phases, and the registry of everything `run:` may name."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from ray import tune
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.registry import ALGORITHMS
from ray.tune.result import DONE

from irl_ray.errors import UserError
from irl_ray.phases.compile import CompILE, compile_config
from irl_ray.phases.discover import Discover, discover_config
from irl_ray.phases.pretrain import Pretrain, pretrain_config
from irl_ray.phases.training import Phase
from irl_ray.rllib.algorithms import InternalRL, RawRL
from irl_ray.rllib.checkpoints import seal
from irl_ray.rllib.expert import ExpertPPO
from irl_ray.rllib.settings import UNUSED
from irl_ray.seeding import seed_sequence

STATE = "state.pt"


class PhaseTrainable(tune.Trainable):
    """Runs a phase under Tune: one call of `step` is `report_every` optimiser steps.

    When the last step is done the gates are measured, so the last result and the last checkpoint's
    artefact carry them.
    """

    def setup(self, config: dict[str, Any]) -> None:
        torch.set_num_threads(1)
        self.phase = self.make_phase(config)
        self.gates: dict[str, float] = {}

    @staticmethod
    def make_phase(config: dict[str, Any]) -> Phase:
        """The phase that plain settings describe."""
        raise NotImplementedError

    def step(self) -> dict[str, Any]:
        metrics = self.phase.step() | self.phase.gates_on_the_way()
        if self.phase.finished:
            kept = Path(self.logdir) / "ungated"
            self.phase.export(kept / "artefact", {})
            self.gates = self.phase.measured()
            shutil.rmtree(kept)
        steps = self.phase.config.steps
        return {**metrics, **self.gates, "progress": metrics["step"] / steps, DONE: self.phase.finished}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        torch.save({**self.phase.state(), "gates": self.gates}, Path(checkpoint_dir) / STATE)
        self.phase.export(Path(checkpoint_dir) / "artefact", self.gates)
        seal(checkpoint_dir)

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        state = torch.load(Path(checkpoint_dir) / STATE, weights_only=True, map_location="cpu")
        gates = state.pop("gates")
        self.phase.load_state(state)
        self.gates = gates if self.phase.finished else {}  # it may have been given more steps


class PretrainTrainable(PhaseTrainable):
    """Phase 1 under Tune."""

    @staticmethod
    def make_phase(config: dict[str, Any]) -> Phase:
        return Pretrain(pretrain_config(config))


class DiscoverTrainable(PhaseTrainable):
    """Phase 2 under Tune."""

    @staticmethod
    def make_phase(config: dict[str, Any]) -> Phase:
        return Discover(discover_config(config))


class CompileTrainable(PhaseTrainable):
    """The baseline CompILE under Tune."""

    @staticmethod
    def make_phase(config: dict[str, Any]) -> Phase:
        return CompILE(compile_config(config))


PHASES = {"Pretrain": PretrainTrainable, "Discover": DiscoverTrainable, "CompILE": CompileTrainable}
PHASE_CONFIGS = {"Pretrain": pretrain_config, "Discover": discover_config, "CompILE": compile_config}
OWN_ALGORITHMS = {"InternalRL": InternalRL, "RawRL": RawRL, "ExpertPPO": ExpertPPO}
EPISODIC = ("InternalRL", "RawRL")  # of these, the ones that open their world by themselves


def runnable_names() -> list[str]:
    """Everything that `run:` may name: the project's own first, then RLlib's algorithms."""
    return [*PHASES, *OWN_ALGORITHMS, *sorted(ALGORITHMS)]


def trainable_class(name: str) -> type:
    """The Tune trainable called `name`."""
    return PHASES.get(name) or OWN_ALGORITHMS.get(name) or ALGORITHMS[name]()[0]


def algorithm_config(name: str) -> AlgorithmConfig:
    """The default configuration of an RLlib algorithm or of the project's own."""
    return trainable_class(name).get_default_config()


def refuse_unused(run: str, settings: Mapping[str, Any]) -> None:
    """Refuses settings that an algorithm of ours never reads, whatever their value.

    Raises:
        UserError: naming the setting and what to write instead.
    """
    for key in settings if run in EPISODIC else ():
        if key in UNUSED:
            raise UserError(f"config.{key}: has no effect on {run}: {UNUSED[key]}")


class SpreadSeeds(gym.vector.VectorWrapper):
    """A vector whose rows have seeds far apart.

    Gymnasium gives row i the seed + i, and RLlib its env runner w the run's seed + w: row i of one runner would live
    through what row i + 1 of the one before does.
    """

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Starts episodes, with a seed for each row made of one number."""
        if isinstance(seed, (int, np.integer)):
            seed = [int(s) >> 1 for s in seed_sequence(int(seed), "rows").generate_state(self.num_envs, "uint64")]
        return self.env.reset(seed=seed, options=options)


def open_env(name: str | EnvSpec, config: Mapping[str, Any]) -> Any:
    """Gymnasium's environment of this name, a vector of them where the configuration says how many."""
    settings = dict(config)
    count = settings.pop("num_envs", None)
    return SpreadSeeds(gym.make_vec(name, num_envs=count, **settings)) if count else gym.make(name, **settings)


def register_everything() -> None:
    """Makes names resolvable on every worker: trainables and environments."""
    for name, cls in {**PHASES, **OWN_ALGORITHMS}.items():
        tune.register_trainable(name, cls)
    for name in [name for name in gym.registry if name.startswith("irl_ray/")]:
        tune.register_env(name, partial(open_env, name))


def trainable_of(trial: str) -> str | None:
    """The trainable whose trial has this name; None if it is no trial's."""
    for name in runnable_names():
        cls = trainable_class(name) if name in (*PHASES, *OWN_ALGORITHMS) else None
        if trial.startswith(f"{cls.__name__ if cls else name}_"):
            return name
    return None
