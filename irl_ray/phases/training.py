"""What the supervised phases share: optimiser, schedule, reporting, resuming."""

from __future__ import annotations

import logging
import math
import os
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import distributed, nn

from irl_ray.config import check_at_least, to_plain
from irl_ray.data.shards import read_manifest
from irl_ray.data.streams import names_function
from irl_ray.data.trajectories import Trajectories
from irl_ray.errors import UserError
from irl_ray.models import weights
from irl_ray.models.weights import Artefact

logger = logging.getLogger(__name__)
Rows = TypeVar("Rows", torch.Tensor, Trajectories)
Settings = TypeVar("Settings")
FEWEST_STEPS, MOST_STEPS = 1000, 10_000  # that follow from demonstrations alone


@dataclass
class OptimizerConfig:
    """AdamW and its learning-rate schedule.

    Attributes:
        learning_rate: peak learning rate.
        weight_decay: decoupled weight decay.
        schedule: "cosine" to zero over the run, or "constant" (the paper's).
        warmup_steps: linear warm-up.
        max_grad_norm: clips the global gradient norm.
    """

    learning_rate: float = 3e-4
    weight_decay: float = 0.03
    schedule: str = "constant"
    warmup_steps: int = 0
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        if self.schedule not in ("cosine", "constant"):
            raise UserError(f"schedule: expected 'cosine' or 'constant', got {self.schedule!r}")
        check_at_least(self, learning_rate=0, weight_decay=0, warmup_steps=0, max_grad_norm=0)

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of optimiser step `step` out of `steps`."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        if self.schedule == "constant":
            return self.learning_rate * warm
        return self.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))


def with_steps(config: Settings, given: Mapping[str, Any], passes: int) -> Settings:
    """A phase's settings with as many steps as go over the stored demonstrations so often, within what is worth a try,
    where neither its file nor its world's presets say how many; the most where they never end.

    Args:
        config: the settings.
        given: those that were said.
        passes: over the demonstrations.
    """
    if "steps" in given or config.data is None:
        return config
    if names_function(config.data):
        return replace(config, steps=MOST_STEPS)
    steps = round(passes * read_manifest(config.data).get("kept", 0) / config.batch_size)
    return replace(config, steps=min(max(steps, FEWEST_STEPS), MOST_STEPS))


def check_usable(device: str) -> None:
    """Refuses a device that PyTorch does not find on this machine.

    Raises:
        UserError: naming the setting.
    """
    found = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    kind = device.partition(":")[0]
    if kind in found and not found[kind]():
        raise UserError(f"device: {device} is not there, PyTorch finds none on this machine; write device: cpu")


class Phase(ABC):
    """A supervised phase: calls of `step` until `finished`, then `gates` once.

    Subclasses hold `config` with the fields `steps`, `report_every`, `optimizer`, `seed`.
    """

    name: str

    def __init__(self, config: Any, trained: nn.Module):
        self.config = config
        if config.device.startswith("cuda"):
            torch.set_float32_matmul_precision("high")  # TF32, several times as fast
        self.step_number = 0
        self.trained = trained
        self.optimizer = torch.optim.AdamW(
            [p for p in trained.parameters() if p.requires_grad],
            lr=config.optimizer.learning_rate,
            weight_decay=config.optimizer.weight_decay,
            betas=(0.9, 0.999),
        )
        self.metrics: dict[str, float] = {}
        among = distributed.is_available() and distributed.is_initialized()
        self.rank, self.workers = (distributed.get_rank(), distributed.get_world_size()) if among else (0, 1)
        smallest = config.batch_size // config.length_groups
        if self.workers > max(1, smallest):
            raise UserError(
                f"num_workers={self.workers}: each of the {config.length_groups} length groups of a batch has "
                f"{smallest} trajectories; expected no more workers than that"
            )
        if self.workers > 1:
            for parameter in trained.parameters():
                distributed.broadcast(parameter.data, 0)

    @property
    def finished(self) -> bool:
        return self.step_number >= self.config.steps

    def step(self) -> dict[str, float]:
        """Some optimiser steps (`report_every`, or what is left); means of their metrics."""
        sums: dict[str, float] = defaultdict(float)
        count = min(self.config.report_every, self.config.steps - self.step_number)
        started = time.perf_counter()
        for _ in range(count):
            rate = self.config.optimizer.rate(self.step_number, self.config.steps)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.zero_grad()
            for name, value in self.accumulate_gradients().items():
                sums[name] += value / count
            self._sum_gradients()
            nn.utils.clip_grad_norm_(self.trained.parameters(), self.config.optimizer.max_grad_norm)
            self.optimizer.step()
            self.step_number += 1
        elapsed = time.perf_counter() - started
        self.metrics = {
            "step": self.step_number,
            "trajectories": self.step_number * self.config.batch_size,
            "trajectories_per_s": count * self.config.batch_size / elapsed,
            **sums,
        }
        return self.metrics

    @abstractmethod
    def accumulate_gradients(self) -> dict[str, float]:
        """Backpropagates one batch, of which each worker takes its `own` rows, and returns what to log.

        Losses are sums divided by what the whole batch holds, so that gradients add up over workers.
        """

    def own(self, rows: Rows) -> Rows:
        """This worker's share of a batch, or of what was drawn for it: the same rows for every number of workers."""
        return rows if self.workers == 1 else rows[self.rank :: self.workers]

    def summed(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over workers of what each found."""
        if self.workers > 1:
            distributed.all_reduce(values)
        return values

    def agreed(self, values: Any) -> Any:
        """What the first worker has, for all: choices that hang on the last bits of floats must not differ."""
        held = [values]
        if self.workers > 1:
            distributed.broadcast_object_list(held, 0)
        return held[0]

    def _sum_gradients(self) -> None:
        """Every worker gets the gradient of the whole batch, and so takes the same step."""
        if self.workers == 1:
            return
        reached = [p for p in self.trained.parameters() if p.grad is not None]
        flat = self.summed(torch.cat([p.grad.flatten() for p in reached]))
        for parameter, gradient in zip(reached, flat.split([p.numel() for p in reached])):
            parameter.grad = gradient.view_as(parameter)

    def gates_on_the_way(self) -> dict[str, float]:
        """Gates that are measured with every report; none unless a phase has some."""
        return {}

    @abstractmethod
    def gates(self) -> dict[str, float]:
        """What the next phase needs, measured on held-out data."""

    def measured(self) -> dict[str, float]:
        """The gates or, if one cannot be measured, `gates_failed` and a line that tells why: training is not lost."""
        try:
            return self.gates()
        except Exception as error:
            logger.exception("%s: the gates could not be measured", self.name)
            told = " ".join(str(error).split()) or type(error).__name__
            print(f"gates could not be measured: {told}; the weights are kept without them", flush=True)
            return {"gates_failed": 1.0}

    @abstractmethod
    def artefact(self) -> Artefact:
        """The trained parts, without metrics and provenance."""

    def export(self, folder: str | os.PathLike[str], gates: dict[str, float]) -> Path:
        """Writes the artefact with its card."""
        return weights.save(self.finish(gates), folder)

    def finish(self, gates: dict[str, float]) -> Artefact:
        """The artefact with what was measured, and how it was made."""
        artefact, config = self.artefact(), to_plain(self.config)
        if hasattr(self.config, "world"):
            config["world"] = self.config.world.settings
        artefact.metrics[self.name] = {**self.metrics, **gates}
        artefact.provenance[self.name] = {
            "seed": self.config.seed,
            "revision": weights.code_revision(),
            "torch": torch.__version__,
            "config": config,
        }
        return artefact

    def state(self) -> dict[str, Any]:
        """Everything that resuming needs; safe to read with `torch.load(weights_only=True)`."""
        return {
            "step": self.step_number,
            "trained": self.trained.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues where `state` was taken; data and noise follow from the step number."""
        self.step_number = state["step"]
        self.trained.load_state_dict(state["trained"])
        self.optimizer.load_state_dict(state["optimizer"])
