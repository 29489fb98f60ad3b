"""Phase 1: imitate unlabelled expert trajectories (section 3; Eq. 5, Tables A4, A5).

Loss: sum_t -log p(a_t | o_{1:t}) - λ log p(o_{t+1} | o_{1:t}), averaged over steps. The paper does not
give the form of the observation term; each world has its own (`World.terms`), and may have further ones.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from irl_ray import worlds
from irl_ray.analysis.control import clone_with_goal, control_success, train_controllers
from irl_ray.analysis.probe import subgoal_probe
from irl_ray.config import build, check_above_zero, check_at_least, check_device, check_share, check_weights
from irl_ray.data.sources import open_demonstrations
from irl_ray.data.trajectories import Trajectories, random_starts
from irl_ray.errors import UserError
from irl_ray.models import weights
from irl_ray.models.sequence_model import BaseModel, SequenceModelConfig, model_config, new_base
from irl_ray.models.weights import Artefact
from irl_ray.phases.training import OptimizerConfig, Phase, check_usable, with_steps
from irl_ray.seeding import torch_seed
from irl_ray.worlds.world import World

PASSES = 24  # over stored demonstrations, where nothing says how many steps to take


@dataclass
class PretrainConfig:
    """Settings of pretraining.

    Attributes:
        world: whose expert is imitated; `env` in the file says which environment.
        data: folder of collected demonstrations, or module:function, which makes them; None where the world does.
        clean_data: the same of the clean expert, for the gates; None for `data`.
        model: shape of the base model (`SequenceModelConfig`), or {class: module:Class, ...} of somebody else's.
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
        noise: ε of the expert, where the world has a stream of its demonstrations.
        observation_weight: λ of Eq. 5.
        term_weights: weights of the world's further terms, by name (ours). Of the ant, "cell": where it goes moves its
            joints less than the gait does, and without this term a small model walks, but never learns whereto.
        entries_only: learn nothing but where the agent goes, on trajectories seen only at `World.entries`, before a run
            that starts from here learns how.
        entry_batch_size: further trajectories per step that are seen only there, which is cheap; the loss on them is
            that of where the agent goes alone.
        entry_weight: weight of that loss.
        length_groups: a batch is cut into this many groups of similar length, to save padding;
            the gradient is the same.
        post_task: tasks on which ground-truth controllers are tried, by the world's names for them; None for its own.
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

    world: World
    data: str | None = None
    clean_data: str | None = None
    model: Any = field(default_factory=SequenceModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    steps: int = 16_000
    batch_size: int = 128
    window_share: float = 0.0
    window_length: float | None = None
    noise: float = 0.0
    observation_weight: float = 0.1
    term_weights: dict[str, float] = field(default_factory=dict)
    entries_only: bool = False
    entry_batch_size: int = 0
    entry_weight: float = 3.0
    start_from: str | None = None
    length_groups: int = 4
    post_task: Any = None
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
        check_at_least(self, observation_weight=0, entry_weight=0, control_rank=1)
        check_weights(self, "term_weights", self.world.further_terms)
        if (self.entries_only or self.entry_batch_size) and not self.world.has_entries:
            key = "entries_only" if self.entries_only else "entry_batch_size"
            raise UserError(f"{key}: {self.world.id} has no steps of their own at which it shows where the agent goes")
        check_above_zero(self, "action_temperature")


def started_from(config: PretrainConfig, fresh: BaseModel) -> dict[str, torch.Tensor]:
    """Weights of the base model to go on from.

    A model of surroundings alone may go on from one that was told its own cell too: what it knew of that cell, the last
    rows of the encoder's table, is left out.

    Raises:
        UserError: if it is not of the shape of the `fresh` one, or observes another world.
    """
    found = weights.load(config.start_from, device=config.device).base
    ours = isinstance(found.config, SequenceModelConfig) and isinstance(fresh.config, SequenceModelConfig)
    told = ours and found.config.encoder == "egocentric" and fresh.config.encoder == "surroundings"
    same = replace(found.config, encoder=fresh.config.encoder) if told else found.config
    if same != fresh.config or config.world.difference(found.world):
        raise UserError(f"config.start_from: {config.start_from} holds a base model of another shape or world")
    state = found.state_dict()
    if told:
        state["encoder.table.weight"] = state["encoder.table.weight"][: fresh.encoder.num_rows]
    return state


def pretrain_config(values: dict) -> PretrainConfig:
    """Typed settings from a mapping with an optional `preset` and `env`."""
    kind, settings = worlds.with_phase_preset("pretrain", values)
    given = values.get("model", {})
    shape = given if "class" in given else settings.get("model", {})
    settings["model"] = model_config(shape, "config.model")
    settings["world"] = kind.told(settings.get("world", {}), "config.world")
    return with_steps(build(PretrainConfig, settings, "config"), settings, PASSES)


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
        further = dict.fromkeys(config.world.further_terms, 0.0) | config.term_weights
        self._weights = {"action": 1.0, "observation": config.observation_weight, **further}
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
        told = {name: weight for name, weight in self._weights.items() if weight}
        total, sums = batch.mask.sum(), dict.fromkeys(told, 0.0)
        for part in batch.split_by_length(config.length_groups):
            with self._products():
                losses = pretraining_losses(base, self.own(part), terms=len(told) > 1)
            (sum(weight * losses[name] for name, weight in told.items()) / total).backward()
            sums = {name: found + losses[name].detach() / total for name, found in sums.items()}
        metrics = dict(zip((f"{name}_nll" for name in sums), self.summed(torch.stack([*sums.values()])).tolist()))
        if config.entry_batch_size:
            metrics["entry_nll"] = self._learn_entries(next(self._entries).to(config.device), config.entry_weight)
        return metrics

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
        base, world, entries = self.base, batch.world, batch.at(batch.world.entries(batch))
        nll = torch.zeros((), device=batch.mask.device)
        for part in map(self.own, entries.split_by_length(self.config.length_groups)):
            with self._products():
                top = base.upper(base.embed(part.observation[:, :-1]), 0)
                loss = world.entry_nll(base, top, part) / entries.mask.sum()
            (weight * loss).backward()
            nll += loss.detach()
        return float(self.summed(nll))

    def load_state(self, state: dict) -> None:
        super().load_state(state)
        self._batches = None

    @torch.no_grad()
    def gates(self) -> dict[str, float]:
        """What the next phases need, in the order in which each depends on the one before.

        What the world knows of floors, held-out NLL, cloning with the goal given, probes by layer, walks without a task
        where the world has them, and ground-truth controllers' success.
        Environments, and what acts in them, are on the CPU.
        """
        config, base, result = self.config, self.base.eval().requires_grad_(False), {}
        acting = copy.deepcopy(base).cpu()
        clean = open_demonstrations(config.world, config.clean_data or config.data, truth=True)
        random = torch.Generator().manual_seed(torch_seed(config.seed, "pretrain", "gates"))
        batch = clean.sample(config.gate_episodes, random)
        result |= config.world.floors(base, batch.to(config.device), clean)
        batch = batch.to(config.device)
        held_out = batch
        if config.clean_data is not None:
            learned = open_demonstrations(config.world, config.data, noise=config.noise)
            held_out = learned.sample(config.gate_episodes, random).to(config.device)
        action = pretraining_losses(base, held_out, terms=False)["action"]
        result["eval/action_nll"] = float(action / held_out.mask.sum())
        tasks = {"": config.world.with_tasks(config.post_task), "_training_tasks": config.world}
        trial = {"episodes": config.gate_episodes, "seed": config.seed, "temperature": config.action_temperature}
        labelled = config.world.num_subgoals > 0
        if config.goal_steps and labelled:
            stream = clean.batches(64, config.seed, "pretrain", "goal")
            with torch.random.fork_rng():
                torch.manual_seed(torch_seed(config.seed, "pretrain", "goal"))
                given = clone_with_goal(config.model, config.world, stream, config.goal_steps, device=config.device)
            for label, world in tasks.items():
                result[f"goal_given/success{label}"] = control_success(given.base, 0, given.steer, world, **trial)
        result |= subgoal_probe(base, batch) if labelled else {}
        result |= config.world.walk_gates(acting, **trial)
        for layer in (config.control_layers or (base.num_layers // 2,)) if config.control_steps and labelled else ():
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


def pretraining_losses(base: BaseModel, batch: Trajectories, terms: bool = True) -> dict[str, torch.Tensor]:
    """Sums over steps, in nats: -log p(a_t) ("action"), and the `terms` of the world, where they are asked for."""
    top = base.upper(base.embed(batch.observation[:, :-1]), 0)
    action = -base.action_log_prob(top[batch.mask], batch.action[batch.mask]).sum()
    return {"action": action, **(batch.world.terms(base, top, batch) if terms else {})}
