"""Phase 1: imitate unlabelled expert trajectories (section 3; Eq. 5, Tables A4, A5).

Loss: sum_t -log p(a_t | o_{1:t}) - λ log p(o_{t+1} | o_{1:t}), averaged over steps. The paper does not
give the form of the observation term. In the gridworld it is the log-likelihood of the agent's next
cell (weight λ) and, as an option, of the cells of all static entities (weight `static_weight`); for
the ant it is a Gaussian of unit variance around o_t plus what the model says will change (weight λ)
and, as an option, whenever a cell is entered, the log-likelihood of the one that is entered next
(weight `cell_weight`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F

from irl_ray.analysis.closed_loop import free_walk_gates
from irl_ray.analysis.control import clone_with_goal, control_success, train_controllers
from irl_ray.analysis.probe import subgoal_probe
from irl_ray.config import build, check_above_zero, check_at_least, check_device, check_share
from irl_ray.data.floors import action_floors, arrival_floors, arrivals
from irl_ray.data.gridworld import GridworldExpert
from irl_ray.data.sources import open_demonstrations
from irl_ray.data.trajectories import Trajectories, random_starts
from irl_ray.envs.pinpad import PinpadSpec
from irl_ray.envs.worlds import (
    ANT_ID,
    ANTS,
    GRIDWORLD_ID,
    GRIDWORLDS,
    POST_TRAINING_TASKS,
    WORLDS,
    preset_of,
    world_differences,
)
from irl_ray.errors import UserError
from irl_ray.models import weights
from irl_ray.models.sequence_model import SequenceModel, SequenceModelConfig
from irl_ray.models.weights import Artefact, new_base
from irl_ray.phases.training import OptimizerConfig, Phase, check_usable
from irl_ray.seeding import torch_seed

STATIC_EVERY = 4  # static entities do not move: their loss is taken on every fourth step


@dataclass
class PretrainConfig:
    """Settings of pretraining.

    Attributes:
        world: whose expert is imitated; `env` in the file says which environment.
        data: folder of collected demonstrations; None for the gridworld, whose stream never ends.
        clean_data: the same of the clean expert, for the gates; None for `data`.
        model: shape of the base model.
        optimizer: AdamW and its schedule.
        steps: optimiser steps.
        batch_size: trajectories per step, always fresh.
        start_from: name or folder of a base model to go on from; None for fresh weights. One that is told its
            surroundings alone may go on from one that was told its own cell too.
        window_share: share of the trajectories that are seen from a random step on, as if they had begun there (ours).
            A model that has seen such windows acts on whatever part of the past it is given.
        window_length: steps after which, on average, such a trajectory is cut again and again, all pieces being learned
            from; None for one window that goes on to the end. A model that has seen short ones often knows what a
            single observation tells.
        noise: ε of the gridworld's expert.
        observation_weight: λ of Eq. 5.
        cell_weight: ant, weight of the cell that is entered next. Where the ant goes moves its joints less
            than the gait does; without this term a small model walks, but never learns whereto.
        entries_only: ant, learn nothing but `cell_weight`'s term, on walks seen only where a cell is entered:
            where to go, before a run that starts from here learns how to walk.
        entry_batch_size: ant, further trajectories per step that are seen only where a cell is entered, which
            is cheap; the loss there is that of the next cell alone, with weight `entry_weight`.
        static_weight: gridworld, weight of the cells of colours and walls (mean over entities; ours).
        length_groups: a batch is cut into this many groups of similar length, to save padding;
            the gradient is the same.
        post_task: task on which ground-truth controllers are tried.
        control_steps: training steps of the ground-truth controllers; 0 skips them.
        control_layers: layers at which they are tried; empty means L/2 only.
        control_rank: rank of the controllers; None for full matrices (the ant's).
        goal_steps: training steps of a copy of the base model that is given the goal, the positive
            control of all that follows; 0 skips it.
        action_temperature: at which actions are drawn in the gates.
        gate_episodes: trajectories and episodes behind each gate.
        report_every: optimiser steps per report.
        seed: of initial weights and data.
        device: "cpu" or "cuda".
        precision: "float32", or "bfloat16" for the products of the loss alone; weights, sums and gates stay float32.
            Faster where the processor multiplies bfloat16 itself (AVX512-BF16, AMX, GPUs).
        num_workers: that share each batch; 0 trains where the trial runs.
    """

    world: PinpadSpec
    data: str | None = None
    clean_data: str | None = None
    model: SequenceModelConfig = field(default_factory=SequenceModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    steps: int = 16_000
    batch_size: int = 128
    window_share: float = 0.0
    window_length: float | None = None
    noise: float = 0.0
    observation_weight: float = 0.1
    static_weight: float = 0.05
    cell_weight: float = 0.0
    entries_only: bool = False
    entry_batch_size: int = 0
    entry_weight: float = 3.0
    start_from: str | None = None
    length_groups: int = 4
    post_task: str = "post_three_pairs"
    control_steps: int = 1500
    control_layers: tuple[int, ...] = ()
    control_rank: int | None = 16
    goal_steps: int = 0
    action_temperature: float = 1.0
    gate_episodes: int = 1024
    report_every: int = 100
    seed: int = 0
    device: str = "cpu"
    precision: str = "float32"
    num_workers: int = 0

    def __post_init__(self) -> None:
        check_device(self.device)
        if self.precision not in ("float32", "bfloat16"):
            raise UserError(f"precision: expected 'float32' or 'bfloat16', got {self.precision!r}")
        check_at_least(self, steps=1, batch_size=1, length_groups=1, gate_episodes=1, report_every=1, seed=0)
        check_at_least(self, num_workers=0, noise=0, control_steps=0, goal_steps=0, entry_batch_size=0)
        check_share(self, "window_share")
        check_at_least(self, window_length=1)
        if self.window_length is not None and not self.window_share:
            raise UserError("window_length: has no effect without window_share; give it, or leave window_length out")
        check_at_least(self, observation_weight=0, static_weight=0, cell_weight=0, entry_weight=0, control_rank=1)
        check_above_zero(self, "action_temperature")


_SMALL = {
    "world": GRIDWORLDS["small"],
    "optimizer": {"learning_rate": 4e-3, "schedule": "cosine", "warmup_steps": 200},
    "post_task": POST_TRAINING_TASKS["small"],
    "control_layers": [0, 1, 2],
}
_GRIDWORLD = {
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
        **_SMALL,
        "model": {"encoder": "surroundings"},
        "window_share": 0.7,
        # The agent's own cell is not observed, so its next one is not to be told.
        "observation_weight": 0.0,
        "static_weight": 0.0,
        "steps": 24_000,
        "control_rank": None,
        "control_steps": 600,
    },
    "taught": _SMALL,
    "medium": {
        "world": GRIDWORLDS["medium"],
        "model": {"width": 128, "layers": 6, "heads": 4, "mlp": 256},
        "optimizer": {"learning_rate": 3e-3, "schedule": "cosine", "warmup_steps": 300},
        "steps": 24_000,
        "post_task": POST_TRAINING_TASKS["medium"],
        "control_steps": 800,
        "control_layers": [0, 1, 2, 3, 4, 5, 6],
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
_ANT = {
    "tiny": {
        "world": ANTS["tiny"],
        "model": {"mixer": "hawk", "width": 32, "layers": 2, "heads": 2, "mlp": 48, "encoder": "relative"},
        "optimizer": {"learning_rate": 4e-3, "schedule": "cosine", "warmup_steps": 20},
        "steps": 40,
        "batch_size": 16,
        "post_task": "post_a2",
        "control_steps": 5,
        "control_rank": None,
        "goal_steps": 5,
        "gate_episodes": 16,
        "report_every": 20,
    },
    "small": {
        "world": ANTS["small"],
        "model": {"mixer": "hawk", "width": 96, "layers": 3, "heads": 4, "mlp": 256, "encoder": "relative"},
        "optimizer": {"learning_rate": 3e-3, "schedule": "cosine", "warmup_steps": 100},
        "steps": 5000,
        "batch_size": 64,
        "cell_weight": 10.0,
        "entry_batch_size": 256,
        "post_task": "post_a2",
        "control_steps": 600,
        "control_rank": None,
        "control_layers": [0, 1],
        "goal_steps": 2500,
        "gate_episodes": 512,
        "action_temperature": 0.2,
    },
    "paper": {
        "world": ANTS["paper"],
        "model": {
            "mixer": "hawk", "width": 256, "layers": 8, "heads": 8, "mlp": 512, "encoder": "linear",
            "init_scale": 0.1, "min_log_std": -5.0,
        },
        "optimizer": {"learning_rate": 3e-4},
        "steps": 204_800,
        "batch_size": 512,
        "observation_weight": 10.0,
        "post_task": "post_a2",
        "control_steps": 3200,
        "control_rank": None,
        "control_layers": [0, 2, 4, 6, 8],
        "goal_steps": 3200,
    },
}  # fmt: skip
PRESETS = {GRIDWORLD_ID: _GRIDWORLD, ANT_ID: _ANT}


def started_from(config: PretrainConfig, fresh: SequenceModel) -> dict[str, torch.Tensor]:
    """Weights of the base model to go on from.

    A model of surroundings alone may go on from one that was told its own cell too: what it knew of that cell, the last
    rows of the encoder's table, is left out.

    Raises:
        UserError: if it is not of the shape of the `fresh` one, or observes another world.
    """
    found = weights.load(config.start_from, device=config.device).base
    told = found.config.encoder == "egocentric" and config.model.encoder == "surroundings"
    same = replace(found.config, encoder=config.model.encoder) if told else found.config
    if same != config.model or world_differences(config.world, found.world):
        raise UserError(f"config.start_from: {config.start_from} holds a base model of another shape or world")
    state = found.state_dict()
    if told:
        state["encoder.table.weight"] = state["encoder.table.weight"][: fresh.encoder.num_rows]
    return state


def pretrain_config(values: dict) -> PretrainConfig:
    """Typed settings from a mapping with an optional `preset` and `env`."""
    env, settings = preset_of(values, PRESETS, "config")
    kind, _ = WORLDS[env]
    settings["world"] = build(kind, settings["world"], "config.world")
    return build(PretrainConfig, settings, "config")


class Pretrain(Phase):
    """Trains a base model, from nothing or from `start_from`, on a stream of demonstrations."""

    name = "pretrain"

    def __init__(self, config: PretrainConfig):
        check_usable(config.device)
        with torch.random.fork_rng():
            torch.manual_seed(torch_seed(config.seed, "pretrain", "weights"))
            self.base = new_base(config.model, config.world).to(config.device)
        if config.start_from is not None:
            self.base.load_state_dict(started_from(config, self.base))
        super().__init__(config, self.base)
        self.demonstrations = open_demonstrations(config.world, config.data, noise=config.noise, device=config.device)
        self._windows = torch.Generator(device=config.device)
        self._batches: Iterator[Trajectories] | None = None

    def accumulate_gradients(self) -> dict[str, float]:
        config, base = self.config, self.base
        if self._batches is None:
            source, start = self.demonstrations, self.step_number
            self._batches = source.batches(config.batch_size, config.seed, "pretrain", start=start)
            if config.entry_batch_size:
                self._entries = source.batches(config.entry_batch_size, config.seed, "pretrain", "entries", start=start)
        batch = next(self._batches).to(config.device)
        if config.window_share:
            batch = self._windows_of(batch)
        if config.entries_only:
            return {"entry_nll": self._learn_entries(batch, 1.0)}
        other = config.cell_weight if base.continuous else config.static_weight
        total = batch.mask.sum()
        sums = torch.zeros(3, device=total.device)
        for part in batch.split_by_length(config.length_groups):
            with self._products():
                losses = pretraining_losses(base, self.own(part))
            action, moved, cell = losses
            ((action + config.observation_weight * moved + other * cell) / total).backward()
            sums += torch.stack(losses).detach() / total
        action, moved, cell = self.summed(sums).tolist()
        metrics = {"action_nll": action, "observation_nll": moved}
        if not base.continuous:
            return {**metrics, "static_nll": cell}
        if config.entry_batch_size:
            metrics["entry_nll"] = self._learn_entries(next(self._entries).to(config.device), config.entry_weight)
        return {**metrics, "cell_nll": cell}

    def _products(self) -> torch.autocast:
        """Within it matrix products are of `precision`."""
        config = self.config
        return torch.autocast(torch.device(config.device).type, torch.bfloat16, config.precision == "bfloat16")

    def _windows_of(self, batch: Trajectories) -> Trajectories:
        """The batch with a share of its trajectories cut into windows."""
        share, length, random = self.config.window_share, self.config.window_length, self._windows
        random.manual_seed(torch_seed(self.config.seed, "pretrain", "windows", self.step_number))
        if length is None:
            return batch.since(random_starts(batch.mask, share, random))
        drawn = torch.rand(len(batch), 1 + batch.mask.shape[1], generator=random, device=batch.mask.device)
        return batch.cut((drawn[:, :1] < share) & (drawn[:, 1:] * length < 1))

    def _learn_entries(self, batch: Trajectories, weight: float) -> float:
        """Backpropagates the cells' NLL of the walks seen at entries alone; returns its mean."""
        base, entries = self.base, batch.at_entries()
        nll = torch.zeros((), device=batch.mask.device)
        for part in map(self.own, entries.split_by_length(self.config.length_groups)):
            with self._products():
                top = base.upper(base.embed(part.observation[:, :-1]), 0)
                loss = base.cell_nll(top, part) / entries.mask.sum()
            (weight * loss).backward()
            nll += loss.detach()
        return float(self.summed(nll))

    def load_state(self, state: dict) -> None:
        super().load_state(state)
        self._batches = None

    @torch.no_grad()
    def gates(self) -> dict[str, float]:
        """What the next phases need, in the order in which each depends on the one before.

        Floors (of actions; for the ant, of directions at arrivals), held-out NLL, cloning with the goal
        given, probes by layer, walks without a task (ant), and ground-truth controllers' success.
        Environments, and what acts in them, are on the CPU.
        """
        config, base, result = self.config, self.base.eval().requires_grad_(False), {}
        acting = copy.deepcopy(base).cpu()
        clean = open_demonstrations(config.world, config.clean_data or config.data, truth=True)
        random = torch.Generator().manual_seed(torch_seed(config.seed, "pretrain", "gates"))
        batch = clean.sample(config.gate_episodes, random)
        if isinstance(clean, GridworldExpert):
            result |= {f"floor/{name}": value for name, value in action_floors(clean, batch).items()}
        if base.continuous:
            result |= {f"floor/{name}": value for name, value in arrival_floors(batch).items()}
        batch = batch.to(config.device)
        if base.continuous:
            top = base.upper(base.embed(batch.observation[:, :-1]), 0)[arrivals(batch)]
            direction = batch.directions()[arrivals(batch)]
            result["eval/arrival_nll"] = float(F.cross_entropy(base.direction_logits(base.norm(top)), direction))
        held_out = batch
        if config.clean_data is not None:
            learned = open_demonstrations(config.world, config.data, noise=config.noise)
            held_out = learned.sample(config.gate_episodes, random).to(config.device)
        action, _, _ = pretraining_losses(base, held_out)
        result["eval/action_nll"] = float(action / held_out.mask.sum())
        tasks = {"": replace(config.world, tasks=config.post_task), "_training_tasks": config.world}
        trial = {"episodes": config.gate_episodes, "seed": config.seed, "temperature": config.action_temperature}
        if config.goal_steps:
            stream = clean.batches(64, config.seed, "pretrain", "goal")
            with torch.random.fork_rng():
                torch.manual_seed(torch_seed(config.seed, "pretrain", "goal"))
                given = clone_with_goal(config.model, config.world, stream, config.goal_steps, device=config.device)
            for label, world in tasks.items():
                result[f"goal_given/success{label}"] = control_success(given.base, 0, given.steer, world, **trial)
        result |= subgoal_probe(base, batch)
        if base.continuous:
            result |= free_walk_gates(acting, config.world, **trial)
        for layer in (config.control_layers or (base.num_layers // 2,)) if config.control_steps else ():
            stream = clean.batches(64, config.seed, "pretrain", "control")
            with torch.random.fork_rng():
                torch.manual_seed(torch_seed(config.seed, "pretrain", "controllers", layer))
                controllers = train_controllers(base, layer, stream, config.control_steps, rank=config.control_rank)
            for label, world in tasks.items():
                result[f"control_success{label}/layer_{layer}"] = control_success(
                    acting, layer, controllers, world, **trial
                )
        return result

    def artefact(self) -> Artefact:
        return Artefact(self.config.world, self.base)


def pretraining_losses(base: SequenceModel, batch: Trajectories) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sums over steps, in nats: -log p(a_t), -log p of what moves next, and -log p of the static cells
    (gridworld) or of the cells that are entered (ant)."""
    observation, mask = batch.observation[:, :-1], batch.mask
    top = base.upper(base.embed(observation), 0)
    action = -base.action_log_prob(top[mask], batch.action[mask]).sum()
    hidden = base.norm(top)
    if base.continuous:
        change = (batch.observation[:, 1:] - observation)[mask]
        moved = 0.5 * (base.observation_change(hidden[mask]) - change).square().sum()
        return action, moved, base.cell_nll(top, batch)
    agent = F.cross_entropy(base.agent_logits(hidden[mask]), batch.observation[:, 1:, -1][mask], reduction="sum")
    some = mask[:, ::STATIC_EVERY]
    static_logits = base.static_logits(hidden[:, ::STATIC_EVERY][some])
    cells = observation[:, ::STATIC_EVERY, :-1][some]
    static = F.cross_entropy(static_logits.flatten(0, 1), cells.flatten(), reduction="sum")
    return action, agent, static * (STATIC_EVERY / max(1, cells.shape[1]))
