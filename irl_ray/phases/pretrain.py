"""Phase 1: imitate unlabelled expert trajectories (section 3; Eq. 5, Tables A4, A5).

Loss: sum_t -log p(a_t | o_{1:t}) - λ log p(o_{t+1} | o_{1:t}), averaged over steps. The observation
term is the log-likelihood of the agent's next cell (weight λ) and, as an option, of the cells of
all static entities (weight `static_weight`); the paper does not give its form.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from irl_ray.analysis.control import control_success, train_controllers
from irl_ray.analysis.probe import subgoal_probe
from irl_ray.config import build, to_plain, with_preset
from irl_ray.data.floors import action_floors
from irl_ray.data.gridworld import GridworldExpert, Trajectories
from irl_ray.envs.pinpad import PinpadSpec
from irl_ray.envs.worlds import GRIDWORLDS, POST_TRAINING_TASKS
from irl_ray.models.sequence_model import SequenceModel, SequenceModelConfig
from irl_ray.models.weights import Artefact, new_base
from irl_ray.phases.training import OptimizerConfig, Phase
from irl_ray.seeding import torch_seed

STATIC_EVERY = 4  # static entities do not move: their loss is taken on every fourth step


@dataclass
class PretrainConfig:
    """Settings of pretraining.

    Attributes:
        world: settings of the gridworld whose expert is imitated.
        model: shape of the base model.
        optimizer: AdamW and its schedule.
        steps: optimiser steps.
        batch_size: trajectories per step, always fresh.
        noise: ε of the expert.
        observation_weight: λ of Eq. 5, on the agent's next cell.
        static_weight: weight of the cells of colours and walls (mean over entities; ours).
        length_groups: a batch is cut into this many groups of similar length, to save padding;
            the gradient is the same.
        post_task: task on which ground-truth controllers are tried.
        control_steps: training steps of the ground-truth controllers; 0 skips them.
        control_layers: layers at which they are tried; empty means L/2 only.
        gate_episodes: trajectories and episodes behind each gate.
        report_every: optimiser steps per report.
        seed: of initial weights and data.
        device: "cpu" or "cuda".
    """

    world: PinpadSpec
    model: SequenceModelConfig = field(default_factory=SequenceModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    steps: int = 16_000
    batch_size: int = 128
    noise: float = 0.0
    observation_weight: float = 0.1
    static_weight: float = 0.05
    length_groups: int = 4
    post_task: str = "post_three_pairs"
    control_steps: int = 1500
    control_layers: tuple[int, ...] = ()
    gate_episodes: int = 1024
    report_every: int = 100
    seed: int = 0
    device: str = "cpu"


PRESETS = {
    "tiny": {
        "world": GRIDWORLDS["tiny"],
        "model": {"width": 32, "layers": 2, "heads": 2, "mlp": 64},
        "optimizer": {"learning_rate": 4e-3, "schedule": "cosine", "warmup_steps": 20},
        "steps": 60,
        "batch_size": 32,
        "post_task": POST_TRAINING_TASKS["tiny"],
        "control_steps": 10,
        "gate_episodes": 64,
        "report_every": 20,
    },
    "small": {
        "world": GRIDWORLDS["small"],
        "optimizer": {"learning_rate": 4e-3, "schedule": "cosine", "warmup_steps": 200},
        "post_task": POST_TRAINING_TASKS["small"],
        "control_layers": [0, 1, 2],
    },
    "paper": {
        "world": GRIDWORLDS["paper"],
        "model": {
            "width": 256, "layers": 6, "heads": 4, "mlp": 512, "encoder": "absolute",
            "init_scale": 0.1, "embedding_std": 0.02,
        },
        "optimizer": {"learning_rate": 3e-4},
        "steps": 256_000,
        "batch_size": 1024,
        "observation_weight": 0.01,
        "static_weight": 0.0,
        "post_task": POST_TRAINING_TASKS["paper"],
        "control_steps": 3200,
        "control_layers": [0, 1, 2, 3, 4, 5, 6],
    },
}  # fmt: skip


def pretrain_config(values: dict) -> PretrainConfig:
    """Typed settings from a mapping with an optional `preset`."""
    return build(PretrainConfig, with_preset(values, PRESETS, "config"), "config")


class Pretrain(Phase):
    """Trains a base model from nothing on the endless demonstration stream."""

    name = "pretrain"

    def __init__(self, config: PretrainConfig):
        with torch.random.fork_rng():
            torch.manual_seed(torch_seed(config.seed, "pretrain", "weights"))
            self.base = new_base(config.model, config.world).to(config.device)
        super().__init__(config, self.base)
        self.expert = GridworldExpert(config.world, config.noise, config.device)
        self._batches: Iterator[Trajectories] | None = None

    def accumulate_gradients(self) -> dict[str, float]:
        if self._batches is None:
            self._batches = self.expert.batches(
                self.config.batch_size, self.config.seed, "pretrain", start=self.step_number
            )
        batch = next(self._batches)
        total = batch.mask.sum()
        sums = torch.zeros(3, device=total.device)
        for part in batch.split_by_length(self.config.length_groups):
            losses = pretraining_losses(self.base, part)
            action, agent, static = losses
            weights = self.config.observation_weight, self.config.static_weight
            ((action + weights[0] * agent + weights[1] * static) / total).backward()
            sums += torch.stack(losses).detach() / total
        action, agent, static = sums.tolist()
        return {"action_nll": action, "observation_nll": agent, "static_nll": static}

    def load_state(self, state: dict) -> None:
        super().load_state(state)
        self._batches = None

    @torch.no_grad()
    def gates(self) -> dict[str, float]:
        """Floors, held-out NLL, probes by layer, ground-truth controllers' success."""
        config, base = self.config, self.base.eval().requires_grad_(False).cpu()
        expert = GridworldExpert(config.world)
        random = torch.Generator().manual_seed(torch_seed(config.seed, "pretrain", "gates"))
        batch = expert.sample(config.gate_episodes, random)
        result = {f"floor/{name}": value for name, value in action_floors(expert, batch).items()}
        action, _, _ = pretraining_losses(base, batch)
        result["eval/action_nll"] = float(action / batch.mask.sum())
        result |= subgoal_probe(base, batch)
        if config.control_steps:
            world = to_plain(config.world)
            for layer in config.control_layers or (base.num_layers // 2,):
                stream = expert.stream(64, config.seed, "pretrain", "control")
                with torch.random.fork_rng():
                    torch.manual_seed(torch_seed(config.seed, "pretrain", "controllers", layer))
                    controllers = train_controllers(
                        base, layer, config.world.num_subgoals, stream, config.control_steps
                    )
                for label, tasks in (("", config.post_task), ("_training_tasks", world["tasks"])):
                    result[f"control_success{label}/layer_{layer}"] = control_success(
                        base, layer, controllers, {**world, "tasks": tasks}, config.gate_episodes, config.seed
                    )
        return result

    def artefact(self) -> Artefact:
        return Artefact(self.config.world, self.base)


def pretraining_losses(base: SequenceModel, batch: Trajectories) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sums over steps, in nats: -log p(a_t), -log p(agent's next cell), -log p(static cells)."""
    observation, mask = batch.observation[:, :-1], batch.mask
    hidden = base.norm(base.upper(base.embed(observation), 0))
    action = F.cross_entropy(base.action_head(hidden)[mask], batch.action[mask], reduction="sum")
    agent_logits = base.agent_logits(hidden)
    agent = F.cross_entropy(agent_logits[mask], batch.observation[:, 1:, -1][mask], reduction="sum")
    some = mask[:, ::STATIC_EVERY]
    static_logits = base.static_logits(hidden[:, ::STATIC_EVERY][some])
    cells = observation[:, ::STATIC_EVERY, :-1][some]
    static = F.cross_entropy(static_logits.flatten(0, 1), cells.flatten(), reduction="sum")
    return action, agent, static * (STATIC_EVERY / max(1, cells.shape[1]))
