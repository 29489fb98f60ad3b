"""Phase 2: find codes and switches inside the frozen base model (D.2; Eqs. 3 and 9).

Loss: mean over steps of -log p(a_t | o_{1:t}, z_{1:t}) + α KL(N(mu_t, Sigma_t) || N(0, I)), on clean
demonstrations. The KL is summed over code dimensions and not weighted by the switch: where the
switch is closed the proposal is ignored and may sit on the prior for free, and that alone is what
rewards sparse switching, unless a switch is given a cost of its own (ours). A label-free teacher
(ours) may go before it; the preset `taught`, and the ant's, are taught from beginning to end. As a baseline
(C.4.1) the base model may be trained along.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from irl_ray import worlds
from irl_ray.analysis.codes import (
    class_mean_codes,
    codes_of,
    injected_success,
    metacontroller_gates,
    prior_success,
    random_code_gates,
    ways_to_tell,
)
from irl_ray.config import build, check_above_zero, check_at_least, check_device, check_share, to_plain
from irl_ray.data.sources import TIES, open_demonstrations
from irl_ray.data.trajectories import Trajectories, chosen_starts
from irl_ray.errors import UserError
from irl_ray.models import weights
from irl_ray.models.metacontroller import Metacontroller, MetacontrollerConfig
from irl_ray.models.sequence_model import BaseModel, new_base
from irl_ray.models.steering import check_slate, found_codes, steered_log_prob
from irl_ray.models.weights import Artefact
from irl_ray.phases.hindsight import OutcomeTeacher, TeacherConfig
from irl_ray.phases.training import OptimizerConfig, Phase, check_usable, with_steps
from irl_ray.seeding import torch_seed

PASSES = 16  # over stored demonstrations, where nothing says how many steps to take


@dataclass
class CodesConfig:
    """What every phase that finds codes can be told.

    Attributes:
        base: released name or folder of the pretrained base model.
        data: folder of the clean expert's demonstrations, or module:function, which makes them; None where the
            world does.
        metacontroller: shape and initial values.
        optimizer: AdamW and its schedule.
        steps: optimiser steps.
        batch_size: trajectories per step, always fresh.
        ties: how the gridworld's clean expert chooses between equally short paths: "free", with equal probability, or
            by "rule", so that it is deterministic, as the ant's is.
        length_groups: as in pretraining.
        switch_threshold: beta at or above it is a switch in the gates; what internal RL will use.
        switch_tolerance: steps by which a switch may miss a subgoal change in the gates.
        action_temperature: at which actions are drawn in the gates.
        post_task: tasks of unseen transitions on which class-mean codes are injected, by the world's names for them;
            None for its own.
        gate_episodes: trajectories and episodes behind each gate.
        report_every: optimiser steps per report.
        seed: of initial weights, data and code noise.
        device: "cpu" or "cuda".
        num_workers: that share each batch; 0 trains where the trial runs.
    """

    base: str
    data: str | None = None
    metacontroller: MetacontrollerConfig = field(default_factory=MetacontrollerConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    steps: int = 64_000
    batch_size: int = 512
    ties: str = "free"
    length_groups: int = 4
    switch_threshold: float = 0.5
    switch_tolerance: int = 1
    action_temperature: float = 1.0
    post_task: Any = None
    gate_episodes: int = 1024
    report_every: int = 100
    seed: int = 0
    device: str = "cpu"
    num_workers: int = 0

    def __post_init__(self) -> None:
        check_device(self.device)
        check_at_least(self, steps=1, batch_size=1, length_groups=1, gate_episodes=1, report_every=1)
        check_at_least(self, seed=0, num_workers=0, switch_threshold=0, switch_tolerance=0)
        check_above_zero(self, "action_temperature")
        if self.ties not in TIES:
            raise UserError(f"ties: expected one of {', '.join(TIES)}, got {self.ties!r}")


@dataclass
class DiscoverConfig(CodesConfig):
    """Settings of discovery, and those of `CodesConfig`.

    Attributes:
        co_training: None keeps the base model frozen. "pretrained" trains it along under the same loss,
            "scratch" does so from fresh weights of its shape (the baseline of C.4.1).
        start_from: name or folder of a metacontroller of the same shape to go on from, in whose base model it goes on
            where no `base` is told; None for fresh weights. A
            decoder that is linear in z there (`decoder_hidden: null`) may have a hidden layer here: it begins as the
            same U(z), with units for the positive and the negative part of each number of a code.
        teacher: label-free warm start (ours), off unless its `steps` are given.
        alpha: α, weight of the KL.
        clean_slate: whether the base model's memory starts anew at every switch, as it may in internal RL (ours; False
            in the paper): a code then has to say all that the past before it told. While training that is where beta,
            drawn or soft, is above one half, whatever the gates' `switch_threshold`. With `co_training` at layer 0
            alone; a teacher teaches with the whole past.
        cut_share: share of the trajectories in which it starts anew at random steps, while codes and switches come from
            the sequence as it would be without them (ours; 0 in the paper): a code has to be worth something wherever
            the past begins.
        cuts: at how many steps of such a trajectory (of which some may fall together).
        turned_summaries: whether the summary, and it alone, reads each walk turned or mirrored at random as it is
            learned from (ours; False in the paper): of the future a code can then say what a world's symmetries leave
            as it is, such as what is reached, but no places. Where codes are not read at the start of their steps, all
            that they are read from is turned.
        alpha_hold: share of the run during which α is zero.
        alpha_ramp: share of the run at whose end α has grown, linearly, to its full value.
        switch_cost: nats that a switch costs, beside those of the actions (ours; 0 in the paper, where a closed switch
            saves KL alone): as under a prior by which a step switches with probability 1 / (1 + exp(switch_cost)).
        switch_cost_hold: as `alpha_hold`.
        switch_cost_ramp: as `alpha_ramp`.
        gates_at_reports: measure alignment and meaning with every report, not only at the end. They use
            labels: for searches that stop what leads nowhere.
    """

    co_training: str | None = None
    start_from: str | None = None
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    clean_slate: bool = False
    cut_share: float = 0.0
    cuts: int = 1
    turned_summaries: bool = False
    alpha: float = 0.17
    alpha_hold: float = 0.0
    alpha_ramp: float = 0.0
    switch_cost: float = 0.0
    switch_cost_hold: float = 0.0
    switch_cost_ramp: float = 0.0
    gates_at_reports: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, alpha=0, cuts=1, switch_cost=0)
        check_share(self, "cut_share", "alpha_hold", "alpha_ramp", "switch_cost_hold", "switch_cost_ramp")
        if not self.cut_share and self.cuts != 1:
            raise UserError("cuts: has no effect without cut_share; give it, or leave cuts out")
        fewest = min(map(len, torch.arange(self.batch_size).chunk(self.length_groups)))
        if (self.clean_slate or self.cut_share) and self.num_workers > fewest:
            raise UserError(
                f"num_workers: expected at most {fewest}, the sequences in the smallest of {self.length_groups} "
                f"length_groups of a batch_size of {self.batch_size}, got {self.num_workers}"
            )
        if self.switch_cost and self.metacontroller.forced_switch:
            raise UserError("switch_cost: has no effect on forced switches; leave one of them out")
        if self.switch_cost and self.teacher.steps >= self.steps:
            raise UserError("switch_cost: has no effect while the teacher tells the switches; set teacher.steps: 0")
        if self.co_training not in (None, "pretrained", "scratch"):
            raise UserError(f"co_training: expected null, 'pretrained' or 'scratch', got {self.co_training!r}")
        if self.turned_summaries and self.teacher.steps >= self.steps:
            raise UserError("turned_summaries: has no effect on what the teacher teaches; set teacher.steps: 0")
        if (self.clean_slate or self.cut_share) and self.teacher.steps >= self.steps:
            key = "clean_slate" if self.clean_slate else "cut_share"
            raise UserError(
                f"{key}: has no effect on what the teacher teaches, with the whole past; set teacher.steps: 0"
            )
        if self.metacontroller.read_at != "start" and self.teacher.steps >= self.steps:
            raise UserError("metacontroller.read_at: has no effect on what the teacher teaches; set teacher.steps: 0")
        if self.co_training and self.teacher.steps:
            raise UserError("co_training: the teacher needs a frozen base model; set teacher.steps: 0")


def in_the_world_of_its_base(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings with the `env` of their base model, where they name none and it can be read.

    Without a `base` it is that of the weights to go on from.
    """
    if "base" not in values and values.get("start_from") is not None:
        values = {**values, "base": values["start_from"]}
    if "env" in values or not isinstance(values.get("base"), str):
        return values
    try:
        return {**values, "env": weights.described_world(values["base"]).id}
    except UserError:  # told where the base is loaded
        return values


def discover_config(values: dict) -> DiscoverConfig:
    """Typed settings from a mapping with an optional `preset` and `env`."""
    _, settings = worlds.with_phase_preset("discover", in_the_world_of_its_base(values))
    return with_steps(build(DiscoverConfig, settings, "config"), settings, PASSES)


def go_on_from(config: DiscoverConfig, base: BaseModel, fresh: Metacontroller) -> None:
    """Makes the `fresh` metacontroller that in `config.start_from`, whose linear decoder may go on in a hidden layer.

    Raises:
        UserError: if it is not of the shape of the `fresh` one, or was found in another model than `base`.
    """
    agent = weights.load(config.start_from, "metacontroller")
    found = agent.metacontroller
    there, here = ({**to_plain(m.config), "layer": m.layer} for m in (found, fresh))
    widened = there["decoder_hidden"] is None and here["decoder_hidden"] is not None and there["rank"] == here["rank"]
    kept, own = (
        {name: tensor for name, tensor in m.state_dict().items() if not (widened and name.startswith("decoder."))}
        for m in (found, fresh)
    )
    if {n: t.shape for n, t in kept.items()} != {n: t.shape for n, t in own.items()} or found.layer != fresh.layer:
        different = [
            f"{key} is {there[key]} there and {here[key]} here"
            for key in here
            if there[key] != here[key] and not (widened and key == "decoder_hidden")
        ]
        raise UserError(
            f"config.start_from: {config.start_from} holds a metacontroller of another shape: "
            f"metacontroller.{', '.join(different)}"
        )
    if widened and here["decoder_hidden"] < 2 * here["code_size"]:
        raise UserError(
            f"config.start_from: the linear decoder in {config.start_from} goes on in a hidden layer of two units or "
            f"more for each of {here['code_size']} numbers; set metacontroller.decoder_hidden: "
            f"{2 * here['code_size']} or more, or null, got {here['decoder_hidden']}"
        )
    if weights.fingerprint(agent.base) != weights.fingerprint(base):
        raise UserError(
            f"config.start_from: the metacontroller in {config.start_from} was found in another base model than "
            f"{config.base}; give its own as base, or leave start_from out"
        )
    fresh.load_state_dict({**fresh.state_dict(), **kept})
    if widened:
        fresh.decoder.compute_as(found.decoder)


class Discover(Phase):
    """Trains a metacontroller inside a base model, without labels and without rewards."""

    name = "discover"

    def __init__(self, config: DiscoverConfig):
        check_usable(config.device)
        self.agent = weights.load(config.base, device=config.device)
        base, teacher = self.agent.base, config.teacher
        given = base
        if config.turned_summaries and self.agent.world.num_symmetries == 1:
            raise UserError(f"turned_summaries: {self.agent.world.id} has no symmetries; leave it out")
        if 0 < teacher.steps <= teacher.weigh_after:
            raise UserError(
                f"teacher.weigh_after={teacher.weigh_after}: expected below teacher.steps={teacher.steps}, or no "
                "change of code would ever be weighed"
            )
        with torch.random.fork_rng():
            torch.manual_seed(torch_seed(config.seed, "discover", "weights"))
            meta = Metacontroller(config.metacontroller, base.width, base.num_layers)
            if config.co_training == "scratch":
                base = new_base(base.config, self.agent.world).to(config.device)
        if config.clean_slate:
            check_slate(base, meta.layer)
        if config.co_training and config.clean_slate and meta.layer:
            raise UserError(
                f"clean_slate: with co_training it works at layer 0 alone, got layer {meta.layer}; set "
                "metacontroller.layer: 0, or leave one of the other two out"
            )
        late = meta.config.read_at == "arrival" or (config.turned_summaries and meta.config.read_at == "end")
        if late and config.clean_slate and meta.layer:
            key = "metacontroller.read_at: arrival" if meta.config.read_at == "arrival" else "turned_summaries"
            raise UserError(
                f"{key}: with clean_slate and codes that are read late it works at layer 0 alone, got layer "
                f"{meta.layer}; set metacontroller.layer: 0, or leave one of them out"
            )
        if config.start_from is not None:
            go_on_from(config, given, meta)
        self.agent.base, self.agent.metacontroller = base, meta.to(config.device)
        self.agent.segmenter = self.agent.policy = None
        self.agent.forget("compile", "InternalRL", "RawRL", *(("pretrain",) if config.co_training == "scratch" else ()))
        trained = nn.ModuleDict({"metacontroller": meta})
        if config.co_training:
            trained["base"] = base.requires_grad_(True)
        super().__init__(config, trained)
        self.demonstrations = open_demonstrations(self.agent.world, config.data, ties=config.ties, device=config.device)
        self.teacher: OutcomeTeacher | None = None
        self._noise = torch.Generator(device=config.device)
        self._batches: Iterator[Trajectories] | None = None

    def _some_demonstrations(self, key: str) -> Trajectories:
        """Demonstrations for the teacher alone; like all that is learned from, none that the gates see."""
        count = self.config.teacher.trajectories
        batches = self.demonstrations.batches(count, self.config.seed, "discover", "teacher", key)
        return next(batches).to(self.config.device)

    def _guide(self) -> None:
        """Makes the teacher at the first step, and has it weigh its changes when it is time."""
        config = self.config
        if self.step_number == 0:
            random = torch.Generator().manual_seed(torch_seed(config.seed, "discover", "teacher"))
            self.teacher = OutcomeTeacher(
                config.teacher,
                self.agent.base,
                config.metacontroller.code_size,
                config.alpha,
                self._some_demonstrations("cluster"),
                random,
            )
        if self.step_number == config.teacher.weigh_after:
            self.teacher.weigh(self.agent.metacontroller, self._some_demonstrations("weigh"))
        if self.workers > 1 and self.step_number in (0, config.teacher.weigh_after):
            state = self.agreed(self.teacher.state())
            self.teacher = OutcomeTeacher.from_state(config.teacher, self.agent.base, config.alpha, state)

    @property
    def alpha(self) -> float:
        """The weight of the KL at the present step."""
        return self.config.alpha * self._share(self.config.alpha_hold, self.config.alpha_ramp)

    @property
    def switch_cost(self) -> float:
        """What a switch costs at the present step, in nats."""
        return self.config.switch_cost * self._share(self.config.switch_cost_hold, self.config.switch_cost_ramp)

    def _share(self, hold: float, ramp: float) -> float:
        """How much is in force of what is held at zero up to a share of the run, and ramped up to another."""
        done = self.step_number / self.config.steps
        if done >= max(hold, ramp):
            return 1.0
        return max(0.0, done - hold) / (ramp - hold) if ramp > hold else 0.0

    def accumulate_gradients(self) -> dict[str, float]:
        if self._batches is None:
            source, seed, start = self.demonstrations, self.config.seed, self.step_number
            self._batches = source.batches(self.config.batch_size, seed, "discover", start=start)
            if self.config.teacher.entry_batch_size:
                entries = self.config.teacher.entry_batch_size
                self._entries = source.batches(entries, seed, "discover", "entries", start=start)
        batch = next(self._batches).to(self.config.device)
        self._noise.manual_seed(torch_seed(self.config.seed, "discover", "noise", self.step_number))
        if self.step_number < self.config.teacher.steps:
            self._guide()
            return self._taught(batch)
        total, alpha, cost = batch.mask.sum(), self.alpha, self.switch_cost
        sums = torch.zeros(3, device=total.device)
        for part in batch.split_by_length(self.config.length_groups):
            nll, kl, beta = self.losses(part)
            ((nll + alpha * kl + cost * beta) / total).backward()
            sums += torch.stack([nll, kl, beta]).detach() / total
        nll, kl, beta = self.summed(sums).tolist()
        weights = {"alpha": alpha, "switch_cost": cost}
        return {"action_nll": nll, "kl": kl, **weights, "beta_mean": beta, "loss": nll + alpha * kl + cost * beta}

    def _taught(self, batch: Trajectories) -> dict[str, float]:
        """Gradients of the warm start: decoder, encoder and switch each learn the teacher's codes."""
        base, meta, teacher = self.agent.base, self.agent.metacontroller, self.teacher
        config, total = self.config.teacher, batch.mask.sum()
        sums = torch.zeros(3, device=batch.mask.device)
        for part in batch.split_by_length(self.config.length_groups):
            outcome, change = teacher.segments(part)
            residual, top = self._steered(part, outcome)
            code, noisy = teacher.codes[outcome.clamp(min=0)], self._drawn(outcome)
            part, change, code, noisy = map(self.own, (part, change, code, noisy))
            mask = part.mask
            action = -base.action_log_prob(top[mask], part.action[mask]).sum()
            cell = config.cell_weight * part.world.entry_nll(base, top, part) if config.cell_weight else 0.0
            memory = meta.memory(residual)
            proposal = meta.encode(residual, memory, meta.summarise(residual, mask))
            error = ((proposal.mean - code) ** 2 + config.code_noise**2) / (2 * (2 * proposal.log_std).exp())
            encoder = (error + proposal.log_std).sum(-1)[mask].sum()
            logit = meta.switch_logit(residual[:, 1:], memory[:, 1:], noisy[:, :-1])
            later = mask[:, 1:]
            switch = F.binary_cross_entropy_with_logits(logit[later], change[:, 1:][later].float(), reduction="sum")
            ((action + cell + 0.1 * encoder + switch) / total).backward()
            sums += torch.stack([action, encoder, switch]).detach() / total
        action, encoder, switch = self.summed(sums).tolist()
        metrics = {
            "action_nll": action,
            "teacher/code_nll": encoder,
            "teacher/switch_nll": switch,
            "teacher/contrast": teacher.contrast,
            "teacher/outcomes": float(len(teacher.codes)),
        }
        if config.entry_batch_size:
            walks, nll = next(self._entries).to(self.config.device), torch.zeros_like(sums[0])
            entries = walks.at(walks.world.entries(walks))
            for part in entries.split_by_length(self.config.length_groups):
                _, top = self._steered(part, teacher.segments(part)[0])
                loss = part.world.entry_nll(base, top, self.own(part)) / entries.mask.sum()
                (config.cell_weight * loss).backward()
                nll += loss.detach()
            metrics["entry_nll"] = float(self.summed(nll))
        return metrics

    def _drawn(self, outcome: torch.Tensor) -> torch.Tensor:
        """What is taught as codes of the outcomes [B, T]: [B, T, z]."""
        code = self.teacher.codes[outcome.clamp(min=0)]
        noise = torch.randn(code.shape, generator=self._noise, device=code.device)
        return code + self.config.teacher.code_noise * noise

    def _steered(self, batch: Trajectories, outcome: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """e_l, and e_L under the codes of outcomes, both [B, T], of this worker's rows; while changes are yet to be
        weighed, a share of them is skipped."""
        base, meta = self.agent.base, self.agent.metacontroller
        if self.step_number < self.config.teacher.weigh_after:
            outcome = self.teacher.skip(outcome, self._noise)
        code = self.own(self._drawn(outcome))
        with torch.no_grad():
            residual = base.lower(base.embed(self.own(batch).observation[:, :-1]), meta.layer)
        return residual, base.upper(meta.control(residual, code), meta.layer)

    def losses(self, batch: Trajectories) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Sums over the steps of this worker's rows: action NLL, KL (nats) and beta."""
        config, base, meta = self.config, self.agent.base, self.agent.metacontroller
        shape = (*batch.mask.shape, meta.config.code_size)
        noise = torch.randn(shape, generator=self._noise, device=batch.mask.device)
        switch_noise = torch.rand(batch.mask.shape, generator=self._noise, device=batch.mask.device)
        cuts = config.cuts if config.cut_share else 0
        drawn = torch.rand(len(batch), cuts, 2, generator=self._noise, device=batch.mask.device)
        symmetry = None
        if config.turned_summaries:
            symmetry = torch.randint(
                batch.world.num_symmetries, (len(batch),), generator=self._noise, device=batch.mask.device
            )
            symmetry = self.own(symmetry)
        batch, noise, switch_noise, drawn = map(self.own, (batch, noise, switch_noise, drawn))
        residual, codes = found_codes(base, meta, batch, noise, None, switch_noise, config.clean_slate, symmetry)
        begins = self._begins(codes.beta, batch.mask, drawn)
        log_prob = steered_log_prob(base, meta, batch, residual, codes.code, begins)
        return -log_prob.sum(), codes.proposal.kl()[batch.mask].sum(), codes.beta[batch.mask].sum()

    def _begins(self, beta: torch.Tensor, mask: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor | None:
        """bool [B, T]: where the base model's memory starts anew, None where it sees the whole past. Numbers in [0, 1)
        [B, cuts, 2] say whether a row is cut at all, by its first cut's first, and, by the second ones, where."""
        config = self.config
        if not (config.clean_slate or config.cut_share):
            return None
        begins = (beta > 0.5) & config.clean_slate
        for place in drawn[..., 1].unbind(1):
            start = chosen_starts(mask, config.cut_share, torch.stack([drawn[:, 0, 0], place], 1))
            begins = begins | F.one_hot(start, mask.shape[1]).bool()
        return begins

    def state(self) -> dict[str, Any]:
        """As for every phase, and the teacher."""
        return {**super().state(), "teacher": self.teacher.state() if self.teacher else {}}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        if state["teacher"]:
            config = self.config
            teacher = {name: value.to(config.device) for name, value in state["teacher"].items()}
            self.teacher = OutcomeTeacher.from_state(config.teacher, self.agent.base, config.alpha, teacher)
        self._batches = None

    def _held_out(self) -> Trajectories:
        """Clean demonstrations with labels, for the gates alone."""
        config = self.config
        expert = open_demonstrations(self.agent.world, config.data, ties=config.ties, truth=True)
        random = torch.Generator().manual_seed(torch_seed(config.seed, "discover", "gates"))
        return expert.sample(config.gate_episodes, random)

    @torch.no_grad()
    def gates_on_the_way(self) -> dict[str, float]:
        """Alignment and meaning of the codes as they are now; empty unless `gates_at_reports` asks for them."""
        config = self.config
        if not config.gates_at_reports:
            return {}
        self.agent.base.cpu(), self.agent.metacontroller.cpu()
        found = metacontroller_gates(
            self.agent, self._held_out(), config.switch_threshold, config.switch_tolerance, config.clean_slate
        )
        self.agent.base.to(config.device), self.agent.metacontroller.to(config.device)
        return found

    @torch.no_grad()
    def gates(self) -> dict[str, float]:
        """Alignment, meaning of the codes, and what class-mean codes can do."""
        config, agent = self.config, self.agent
        agent.base.cpu().eval(), agent.metacontroller.cpu().eval()
        batch = self._held_out()
        result = metacontroller_gates(
            agent, batch, config.switch_threshold, config.switch_tolerance, config.clean_slate
        )
        codes, _ = codes_of(agent, batch, config.switch_threshold, config.clean_slate)
        return result | code_gates(config, agent, codes.code, batch)

    def artefact(self) -> Artefact:
        return self.agent


def code_gates(config: CodesConfig, agent: Artefact, codes: torch.Tensor, batch: Trajectories) -> dict[str, float]:
    """What the codes buy over the base model alone, what class-mean codes can do when injected, and what random ones.

    Args:
        config: of the phase that found the codes.
        agent: base model and metacontroller.
        codes: [B, T, z], in force on `batch` under binary switches.
        batch: held-out demonstrations with labels.
    """
    alone = agent.base.upper(agent.base.embed(batch.observation[:, :-1]), 0)[batch.mask]
    log_prob = agent.base.action_log_prob(alone, batch.action[batch.mask])
    result = {"eval/action_nll_without_codes": -float(log_prob.mean())}
    unseen, episodes, seed = agent.world.with_tasks(config.post_task), config.gate_episodes, config.seed
    result |= prior_success(agent, unseen, episodes, seed, config.switch_threshold, config.action_temperature)
    if not agent.world.num_subgoals:
        return result
    for way, told in ways_to_tell(agent.world).items():
        means = class_mean_codes(codes, batch, told)
        for label, world in (("", unseen), ("_training_tasks", agent.world)):
            for slate in (False, True):
                result[f"injected_success{way}{label}{'_clean_slate' if slate else ''}"] = injected_success(
                    agent, means, world, episodes, seed, config.action_temperature, told=told, clean_slate=slate
                )
    return result | random_code_gates(agent, codes, unseen, batch, episodes, seed, config.action_temperature)
