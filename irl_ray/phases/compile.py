"""The baseline CompILE: segments and codes from observations, not from the residual stream (C.4.3).

Loss, averaged over steps: -log p(a_t | o_{1:t}, z of t's segment) + w_z KL(q(z_i) || N(0, I)) +
w_b KL(q(b_i) || prior), with the decoder and the layer of the metacontroller. The base model starts from
pretraining and is trained along. CompILE's boundaries see the future; for internal RL a causal
switch of the metacontroller's shape (Eq. 16) learns to fire where segments begin, without a
gradient to anything else (ours: the paper does not say how its CompILE switches when it acts).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from irl_ray import worlds
from irl_ray.analysis.codes import alignment_and_meaning
from irl_ray.config import build, check_at_least
from irl_ray.data.sources import open_demonstrations
from irl_ray.data.trajectories import Trajectories
from irl_ray.errors import UserError
from irl_ray.models import weights
from irl_ray.models.metacontroller import Metacontroller
from irl_ray.models.segmenter import Segmentation, SegmenterConfig, gumbel_noise
from irl_ray.models.sequence_model import SequenceModelConfig
from irl_ray.models.weights import Artefact, new_segmenter
from irl_ray.phases.discover import CodesConfig, code_gates, in_the_world_of_its_base
from irl_ray.phases.training import Phase, check_usable, with_steps
from irl_ray.seeding import torch_seed

PASSES = 16  # over stored demonstrations, where nothing says how many steps to take


@dataclass
class CompileConfig(CodesConfig):
    """Settings of CompILE, and those of `CodesConfig`; of the metacontroller only decoder and switch are trained.

    Attributes:
        segmenter: shape and prior of the segment encoder; its codes are as large as the decoder's.
        code_weight: w_z.
        boundary_weight: w_b.
    """

    segmenter: SegmenterConfig = field(default_factory=SegmenterConfig)
    code_weight: float = 0.1
    boundary_weight: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, code_weight=0, boundary_weight=0)
        if self.metacontroller.read_at != "start":
            raise UserError("metacontroller.read_at: CompILE reads codes by its own segment encoder; leave it out")
        self.segmenter.code_size = self.metacontroller.code_size


def compile_config(values: dict) -> CompileConfig:
    """Typed settings from a mapping with an optional `preset` and `env`; presets are discovery's."""
    _, settings = worlds.with_phase_preset("compile", in_the_world_of_its_base(values))
    return with_steps(build(CompileConfig, settings, "config"), settings, PASSES)


class CompILE(Phase):
    """Trains a segment encoder, a decoder, a switch and the base model, without labels and without rewards."""

    name = "compile"

    def __init__(self, config: CompileConfig):
        check_usable(config.device)
        self.agent = weights.load(config.base, device=config.device)
        base = self.agent.base.requires_grad_(True)
        if not isinstance(base.config, SequenceModelConfig):
            raise UserError(f"base: {config.base} is of a class of its own; CompILE reads observations as ours do")
        with torch.random.fork_rng():
            torch.manual_seed(torch_seed(config.seed, "compile", "weights"))
            meta = Metacontroller(config.metacontroller, base.width, base.num_layers)
            segmenter = new_segmenter(config.segmenter, base.config, self.agent.world)
        self.agent.metacontroller, self.agent.segmenter = meta.to(config.device), segmenter.to(config.device)
        self.agent.policy = None
        self.agent.forget("discover", "InternalRL", "RawRL")
        super().__init__(config, nn.ModuleDict({"metacontroller": meta, "base": base, "segmenter": segmenter}))
        self.demonstrations = open_demonstrations(self.agent.world, config.data, ties=config.ties, device=config.device)
        self._noise = torch.Generator(device=config.device)
        self._batches: Iterator[Trajectories] | None = None

    def accumulate_gradients(self) -> dict[str, float]:
        config = self.config
        if self._batches is None:
            batches, seed = self.demonstrations.batches, config.seed
            self._batches = batches(config.batch_size, seed, "compile", start=self.step_number)
        batch = next(self._batches).to(config.device)
        self._noise.manual_seed(torch_seed(config.seed, "compile", "noise", self.step_number))
        total, sums = batch.mask.sum(), torch.zeros(4, device=batch.mask.device)
        for part in batch.split_by_length(config.length_groups):
            losses = nll, code_kl, boundary_kl, switch = self.losses(part)
            loss = nll + config.code_weight * code_kl + config.boundary_weight * boundary_kl + switch
            (loss / total).backward()
            sums += torch.stack(losses).detach() / total
        nll, code_kl, boundary_kl, switch = self.summed(sums).tolist()
        return {"action_nll": nll, "kl": code_kl, "boundary_kl": boundary_kl, "switch_nll": switch}

    def losses(self, batch: Trajectories) -> tuple[torch.Tensor, ...]:
        """Sums over the steps of this worker's rows: action NLL; over their segments: KL of codes, KL of boundaries
        (nats); the switch's NLL."""
        shape, segmenter = self.agent.segmenter.config, self.agent.segmenter
        draw = {"generator": self._noise, "device": batch.mask.device}
        noise = torch.randn(len(batch), shape.segments, shape.code_size, **draw)
        uniform = torch.rand(len(batch), shape.segments - 1, batch.mask.shape[1] + 1, **draw)
        batch, noise, uniform = map(self.own, (batch, noise, uniform))
        found = segmenter(batch.observation, batch.mask, noise, gumbel_noise(uniform))
        nll, logit = self._under(found, batch)
        later = batch.mask[:, 1:]
        starts = found.switch[:, 1:][later].float()
        switch = F.binary_cross_entropy_with_logits(logit[later], starts, reduction="sum")
        return nll, found.code_kl.sum(), found.boundary_kl.sum(), switch

    def _under(self, found: Segmentation, batch: Trajectories) -> tuple[torch.Tensor, torch.Tensor]:
        """Summed action NLL under the segments' codes, and the causal switch's logits from the second step on
        [B, T-1]."""
        base, meta = self.agent.base, self.agent.metacontroller
        residual = base.lower(base.embed(batch.observation[:, :-1]), meta.layer)
        top = base.upper(meta.control(residual, found.code), meta.layer)
        nll = -base.action_log_prob(top[batch.mask], batch.action[batch.mask]).sum()
        seen = residual.detach()
        logit = meta.switch_logit(seen[:, 1:], meta.memory(seen)[:, 1:], found.code.detach()[:, :-1])
        return nll, logit

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self._batches = None

    @torch.no_grad()
    def gates(self) -> dict[str, float]:
        """As of discovery; `causal/...` is the alignment of the switch that internal RL will use."""
        config, agent = self.config, self.agent
        self.trained.cpu().eval()
        expert = open_demonstrations(agent.world, config.data, ties=config.ties, truth=True)
        random = torch.Generator().manual_seed(torch_seed(config.seed, "compile", "gates"))
        batch = expert.sample(config.gate_episodes, random)
        found, total = agent.segmenter(batch.observation, batch.mask), batch.mask.sum()
        nll, _ = self._under(found, batch)
        # As it acts: the switch sees the code that it holds, not the segmenter's next one.
        residual = agent.base.lower(agent.base.embed(batch.observation[:, :-1]), agent.metacontroller.layer)
        memory = agent.metacontroller.memory(residual)
        causal, held = agent.metacontroller.integrate(residual, memory, found.code, batch.mask, config.switch_threshold)
        aligned = alignment_and_meaning(causal, held, batch, config.switch_tolerance)
        return {
            "eval/action_nll_hard": float(nll / total),
            "eval/kl": float(found.code_kl.sum() / total),
            "eval/boundary_kl": float(found.boundary_kl.sum() / total),
            **alignment_and_meaning(found.switch.float(), found.code, batch, config.switch_tolerance),
            **{f"causal/{name}": aligned[name] for name in ("switches_per_episode", "switch_f1")},
            **code_gates(config, agent, found.code, batch),
        }

    def artefact(self) -> Artefact:
        return self.agent
