"""The metacontroller: finds codes and switches inside a frozen base model (D.2, Fig. 5, Tables A9, A10).

One function per equation:

    memory       h_t = GRU(e_t, h_{t-1})                          Eq. 12   causal
    summarise    s   = f_emb(e_{1:T})                             Eq. 13   one vector, sees the whole sequence
    encode       mu_t, Sigma_t = f_enc(e_t, h_{t-1}, s)           Eq. 14
    propose      z~_t ~ N(mu_t, Sigma_t)                          Eq. 15
    switch       beta_t = f_switch(e_t, h_{t-1}, z_{t-1})         Eq. 16   causal
    integrate    z_t = beta_t z~_t + (1 - beta_t) z_{t-1}         Eq. 17
    decode       U_t = f_hyp(z_t)                                 Eq. 18
    control      e^_t = e_t + U_t e_t                             Eq. 11

With `read_at: end` (ours) a code is that of the last step it is in force for, where what was reached shows:
z_t = beta_{t+1} z~_t + (1 - beta_{t+1}) z_{t+1}. The switch then does without z_{t-1}, which is not known before it.
With `read_at: arrival` (ours) it is read where that step led to: mu_t, Sigma_t = f_enc(e_{t+1}, h_t, s).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irl_ray.config import check_above_zero, check_at_least
from irl_ray.errors import UserError
from irl_ray.models.hawk import RGLRU
from irl_ray.models.sequence_model import Block, SequenceModelConfig
from irl_ray.models.state import State


@dataclass
class MetacontrollerConfig:
    """Shape and initial values of a metacontroller; defaults are Table A9, initial values are ours.

    Attributes:
        layer: l, the residual layer it reads and writes; None for L/2.
        code_size: n_z.
        memory_size: n_h, width of the causal GRU.
        summary: "sequence", one vector for the whole sequence (the paper's), or "step" (ours, kept for comparison),
            which is read at each step and so hands the encoder the actions that follow it.
        summary_layers: L_emb, Hawk blocks of the "sequence" summary.
        summary_size: n_s, width of the summary.
        encoder_hidden: hidden width of f_enc and f_switch.
        read_at: where a code is read from the sequence: at the "start" of the steps that share it, where the switch
            opened (the paper's Eq. 17), at their "end" (ours), the step before it opens again, or at the "arrival"
            (ours), the observation after that step: a sequence's last one, too, which no action follows.
        decoder_hidden: hidden width of f_hyp; None for a U(z) that is linear in z (ours), whose units cannot die.
        rank: rank of U; None for a full matrix (the ant's).
        controller_scale: standard deviation of U e relative to e at a code drawn from the prior.
        initial_log_std: initial log standard deviation of the proposal.
        initial_switch_bias: initial logit of the switch.
        switch: how beta is trained. "soft" uses the sigmoid as it is; "gumbel" draws binary switches
            (Gumbel-sigmoid, straight-through gradient; C.6).
        switch_temperature: of the Gumbel-sigmoid.
        forced_switch: beta = 1 at every step (baseline of C.4.2).
    """

    layer: int | None = None
    code_size: int = 8
    memory_size: int = 32
    summary: str = "sequence"
    summary_layers: int = 2
    summary_size: int = 32
    encoder_hidden: int = 64
    read_at: str = "start"
    decoder_hidden: int | None = 32
    rank: int | None = 16
    controller_scale: float = 0.5
    initial_log_std: float = -1.5
    initial_switch_bias: float = -1.0
    switch: str = "soft"
    switch_temperature: float = 1.0
    forced_switch: bool = False

    def __post_init__(self) -> None:
        expected = {"summary": tuple(SUMMARIES), "switch": ("soft", "gumbel"), "read_at": ("start", "end", "arrival")}
        for name, choices in expected.items():
            if getattr(self, name) not in choices:
                raise UserError(f"{name}: expected one of {', '.join(choices)}, got {getattr(self, name)!r}")
        if self.forced_switch and self.read_at != "start":
            raise UserError("read_at: has no effect where a code lasts for one step; leave it or forced_switch out")
        check_at_least(self, layer=0, code_size=1, memory_size=1, summary_layers=1, summary_size=1, encoder_hidden=1)
        check_at_least(self, decoder_hidden=1, rank=1, controller_scale=0)
        check_above_zero(self, "switch_temperature")


class Proposal(NamedTuple):
    """N(mean, exp(log_std)²) per step, each [B, T, z]."""

    mean: Tensor
    log_std: Tensor

    def kl(self) -> Tensor:
        """KL(N(mu, Sigma) || N(0, I)) in nats, summed over code dimensions: [B, T] (Eq. 9)."""
        return 0.5 * (self.mean**2 + (2 * self.log_std).exp() - 1 - 2 * self.log_std).sum(-1)


class Codes(NamedTuple):
    """What the metacontroller found in a batch of sequences.

    Attributes:
        code: [B, T, z], the integrated codes z_t.
        beta: [B, T], the switch.
        proposal: the distribution each proposal was drawn from.
    """

    code: Tensor
    beta: Tensor
    proposal: Proposal


class SequenceSummary(nn.Module):
    """f_emb: Hawk blocks over the residual stream, read once, at the last real step (Eq. 13). Not causal, by design.

    Args:
        width: d, also of the blocks.
        layers: L_emb.
        size: n_s.
    """

    def __init__(self, width: int, layers: int, size: int):
        super().__init__()
        shape = SequenceModelConfig(mixer="hawk", width=width, heads=math.gcd(width, 8), mlp=2 * width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(layers))
        self.norm = nn.RMSNorm(width)
        self.out = nn.Linear(width, size)

    def forward(self, residual: Tensor, mask: Tensor) -> Tensor:
        """e [B, T, d], mask [B, T] -> s [B, T, s], the same at every t."""
        x = residual
        for block in self.blocks:
            x = block(x, mask)
        steps = torch.arange(mask.shape[1], device=mask.device)
        last = (steps * mask).argmax(1)
        summary = self.out(self.norm(x[torch.arange(len(x), device=x.device), last]))
        return summary[:, None].expand(-1, x.shape[1], -1)


class StepSummary(nn.Module):
    """A bidirectional RG-LRU that is read at every step (ours): unlike Eq. 13 it tells t from t'."""

    def __init__(self, width: int, size: int):
        super().__init__()
        if size % 2:
            raise UserError(f"summary_size={size} must be even: half runs forward, half backward")
        self.input = nn.Sequential(nn.Linear(width, 2 * size), nn.ReLU(), nn.Linear(2 * size, size))
        self.forward_scan = RGLRU(size // 2, 1)
        self.backward_scan = RGLRU(size // 2, 1)
        self.out = nn.Linear(size, size)

    def forward(self, residual: Tensor, mask: Tensor) -> Tensor:
        """e [B, T, d], mask [B, T] -> s_t [B, T, s]."""
        past, future = self.input(residual).chunk(2, -1)
        past = self.forward_scan(past, mask)
        future = self.backward_scan(future.flip(1), mask.flip(1)).flip(1)
        return self.out(F.gelu(torch.cat([past, future], -1)))


SUMMARIES: dict[str, Callable[[int, MetacontrollerConfig], nn.Module]] = {
    "sequence": lambda width, config: SequenceSummary(width, config.summary_layers, config.summary_size),
    "step": lambda width, config: StepSummary(width, config.summary_size),
}


class ControllerDecoder(nn.Module):
    """f_hyp: code -> linear controller U(z), never formed (Eq. 18).

    The hypernetwork is linear in its hidden layer k(z), or in k(z) = z without one, so U(z) = B(z) A(z) with
    A(z) = sum_k k(z)_k A_k and B(z) = sum_k k(z)_k B_k, and U(z) e is contracted over k as it is
    computed: neither U nor, per token, A and B are materialised.

    Args:
        rank: r, or None for a full matrix U(z) = sum_k k(z)_k U_k.
        scale: standard deviation of U(z) e relative to e for z ~ N(0, I).
    """

    def __init__(self, code_size: int, hidden: int | None, width: int, rank: int | None, scale: float):
        super().__init__()
        self.rank = rank
        self.hidden = None if hidden is None else nn.Linear(code_size, hidden)
        # The hidden layer and a constant: the bias of the hypernetwork's output.
        basis = (code_size if hidden is None else hidden) + 1
        if self.hidden is not None:
            nn.init.normal_(self.hidden.weight, std=code_size**-0.5)
        if rank is None:
            self.full = nn.Parameter(torch.randn(basis, width, width) * scale * (basis * width) ** -0.5)
        else:
            self.down = nn.Parameter(torch.randn(basis, rank, width) * (basis * width) ** -0.5)
            self.up = nn.Parameter(torch.randn(basis, rank, width) * scale * (basis * rank) ** -0.5)

    @torch.no_grad()
    def compute_as(self, linear: ControllerDecoder) -> None:
        """Takes on the U(z) of a decoder of the same rank that is linear in z (ours): of the hidden layer, of two units
        or more for each number of a code, two hold its positive and its negative part; what the others are for is
        yet to be learned.
        """
        size, scale = self.hidden.in_features, 2**-0.5
        self.hidden.weight[: 2 * size] = torch.cat([torch.eye(size), -torch.eye(size)])
        self.hidden.bias[: 2 * size] = 0
        for name in ("full",) if self.rank is None else ("down", "up"):
            mine, given = getattr(self, name), getattr(linear, name)
            mine.zero_()
            mine[:size], mine[size : 2 * size], mine[-1] = given[:-1] * scale, given[:-1] * -scale, given[-1]

    def basis(self, code: Tensor) -> Tensor:
        """k(z): [..., z] -> [..., hidden + 1]."""
        units = code if self.hidden is None else F.relu(self.hidden(code)) * 2**0.5
        return F.pad(units, (0, 1), value=1.0)

    def forward(self, code: Tensor, residual: Tensor) -> Tensor:
        """U(z) e: codes [..., z] and residuals [..., d] -> [..., d]."""
        k = self.basis(code)
        if self.rank is None:
            parts = (residual @ self.full.flatten(0, 1).T).unflatten(-1, (k.shape[-1], -1))
            return (k[..., None, :] @ parts).squeeze(-2)
        parts = (residual @ self.down.flatten(0, 1).T).unflatten(-1, (k.shape[-1], self.rank))
        inner = (k[..., None, :] @ parts).squeeze(-2)  # A(z) e: [..., r]
        return (k[..., :, None] * inner[..., None, :]).flatten(-2) @ self.up.flatten(0, 1)

    def matrix(self, code: Tensor) -> Tensor:
        """U(z) as a dense matrix, for analysis: [..., z] -> [..., d, d]."""
        k = self.basis(code)
        if self.rank is None:
            return torch.einsum("...k,kij->...ij", k, self.full)
        down = torch.einsum("...k,krd->...rd", k, self.down)
        up = torch.einsum("...k,krd->...rd", k, self.up)
        return up.transpose(-1, -2) @ down


class Metacontroller(nn.Module):
    """Encoder, switch, memory and decoder around one layer of a base model.

    Args:
        config: shape and initial values.
        width: d of the base model.
        num_layers: L of the base model.
    """

    def __init__(self, config: MetacontrollerConfig, width: int, num_layers: int):
        super().__init__()
        self.config, self.width = config, width
        self.layer = num_layers // 2 if config.layer is None else config.layer
        if not 0 <= self.layer <= num_layers:
            raise UserError(f"layer={self.layer}: the base model has layers 0..{num_layers}")
        z, hidden = config.code_size, config.encoder_hidden
        self.norm = nn.RMSNorm(width)
        self.gru = nn.GRU(width, config.memory_size, batch_first=True)
        self.summary = SUMMARIES[config.summary](width, config)
        context = width + config.memory_size
        self.encoder = nn.Sequential(
            nn.Linear(context + config.summary_size, hidden), nn.ReLU(), nn.Linear(hidden, 2 * z)
        )
        self.switch_context = nn.Linear(context, hidden)
        self.switch_code = nn.Linear(z, hidden, bias=False) if config.read_at == "start" else None
        self.switch_out = nn.Linear(hidden, 1)
        self.decoder = ControllerDecoder(z, config.decoder_hidden, width, config.rank, config.controller_scale)
        with torch.no_grad():
            self.encoder[-1].bias[z:] = config.initial_log_std
            self.switch_out.bias.fill_(config.initial_switch_bias)

    def memory(self, residual: Tensor) -> Tensor:
        """h_{t-1} for every t (Eq. 12): [B, T, d] -> [B, T, h], zero at t = 1."""
        hidden, _ = self.gru(self.norm(residual))
        return F.pad(hidden[:, :-1], (0, 0, 1, 0))

    def summarise(self, residual: Tensor, mask: Tensor) -> Tensor:
        """s (Eq. 13): [B, T, d] -> [B, T, s], the same at every t unless the configuration asks for one per step."""
        return self.summary(self.norm(residual), mask)

    def encode(self, residual: Tensor, memory: Tensor, summary: Tensor) -> Proposal:
        """mu_t and log sigma_t (Eq. 14)."""
        mean, log_std = self.encoder(torch.cat([self.norm(residual), memory, summary], -1)).chunk(2, -1)
        return Proposal(mean, log_std.clamp(-7, 3))

    def propose(self, proposal: Proposal, noise: Tensor) -> Tensor:
        """z~_t, reparameterised (Eq. 15)."""
        return proposal.mean + proposal.log_std.exp() * noise

    def _switch_context(self, residual: Tensor, memory: Tensor) -> Tensor:
        return self.switch_context(torch.cat([self.norm(residual), memory], -1))

    def _switch_logit(self, context: Tensor, previous: Tensor | None) -> Tensor:
        read = context if self.switch_code is None else context + self.switch_code(previous)
        return self.switch_out(F.relu(read)).squeeze(-1)

    def switch(self, residual: Tensor, memory: Tensor, previous: Tensor | None) -> Tensor:
        """beta_t (Eq. 16) from e_t, h_{t-1} and z_{t-1}, which is not read where codes are read late: [...] in (0, 1).

        Sees no future.
        """
        if self.config.forced_switch:
            return torch.ones_like(memory[..., 0])
        return torch.sigmoid(self.switch_logit(residual, memory, previous))

    def switch_logit(self, residual: Tensor, memory: Tensor, previous: Tensor | None) -> Tensor:
        """The logit of beta_t."""
        return self._switch_logit(self._switch_context(residual, memory), previous)

    def integrate(
        self,
        residual: Tensor,
        memory: Tensor,
        proposed: Tensor,
        mask: Tensor,
        threshold: float | None = None,
        switch_noise: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """beta_t and z_t over a sequence (Eqs. 16, 17, or as `read_at` says): [B, T], [B, T, z].

        z_0 = 0, and the first step always has a code of its own (ours). With a `threshold` the switch is
        binary, as in internal RL. With `switch_noise`, uniform [B, T], and `switch="gumbel"` it is
        drawn, and its gradient is that of the relaxed switch.
        """
        context, (first, *later) = self._switch_context(residual, memory), proposed.unbind(1)
        if self.config.read_at != "start":
            beta = self._beta(context, None, threshold, switch_noise)
            beta = torch.cat([torch.ones_like(beta[:, :1]), beta[:, 1:]], 1)
            return beta, self._codes_of_ends(proposed, beta, mask)
        contexts = context.unbind(1)
        uniform = switch_noise.unbind(1) if switch_noise is not None else [None] * len(contexts)
        code = first
        codes, betas = [code], [torch.ones_like(code[:, 0])]
        for t, proposal in enumerate(later, start=1):
            beta = self._beta(contexts[t], code, threshold, uniform[t])
            code = torch.lerp(code, proposal, beta[:, None])
            codes.append(code)
            betas.append(beta)
        return torch.stack(betas, 1), torch.stack(codes, 1)

    @staticmethod
    def _codes_of_ends(proposed: Tensor, beta: Tensor, mask: Tensor) -> Tensor:
        """z_t = beta_{t+1} z~_t + (1 - beta_{t+1}) z_{t+1}, the last real step's being its own: [B, T, z]."""
        ends = F.pad(torch.where(mask, beta, 1.0)[:, 1:], (0, 1), value=1.0)
        code, codes = proposed[:, -1], []
        for proposal, end in zip(reversed(proposed.unbind(1)), reversed(ends.unbind(1))):
            code = torch.lerp(code, proposal, end[:, None])
            codes.append(code)
        return torch.stack(codes[::-1], 1)

    def _beta(
        self, context: Tensor, previous: Tensor | None, threshold: float | None, switch_noise: Tensor | None
    ) -> Tensor:
        """beta [...] of contexts [..., hidden] and codes before them [..., z], as `integrate` describes it."""
        if self.config.forced_switch:
            return torch.ones_like(context[..., 0])
        logit = self._switch_logit(context, previous)
        if switch_noise is not None and self.config.switch == "gumbel":
            logistic = torch.logit(switch_noise.clamp(1e-6, 1 - 1e-6))
            relaxed = torch.sigmoid((logit + logistic) / self.config.switch_temperature)
            beta = (relaxed > 0.5).to(relaxed.dtype) + relaxed - relaxed.detach()
        else:
            beta = torch.sigmoid(logit)
        return beta if threshold is None else (beta >= threshold).to(beta.dtype)

    def control(self, residual: Tensor, code: Tensor) -> Tensor:
        """e^ = e + U(z) e (Eqs. 11, 18)."""
        return residual + self.decoder(code, residual)

    def forward(
        self,
        residual: Tensor,
        mask: Tensor,
        noise: Tensor,
        threshold: float | None = None,
        switch_noise: Tensor | None = None,
        summary: Tensor | None = None,
        read: Tensor | None = None,
    ) -> Codes:
        """Parallel form over whole sequences; what the codes do to the residual stream is `control`.

        Args:
            residual: e_l of the base model, [B, T, d].
            mask: bool [B, T], true on real steps.
            noise: standard normal [B, T, z]; zeros give the mean code.
            threshold: binarises the switch where given.
            switch_noise: uniform [B, T], draws the switch where it is trained with Gumbel noise.
            summary: s [B, T, s], where it is not that of `residual`.
            read: e_l as the encoder alone reads it, [B, T, d], with the memory of it, where it is not `residual`;
                [B, T + 1, d] of all observations for codes that are read at the arrival, which need it.
        """
        memory = self.memory(residual)
        summary = self.summarise(residual, mask) if summary is None else summary
        read, remembered = (residual, memory) if read is None else (read, self.memory(read))
        if self.config.read_at == "arrival":
            read, remembered = read[:, 1:], remembered[:, 1:]
        proposal = self.encode(read, remembered, summary)
        beta, code = self.integrate(residual, memory, self.propose(proposal, noise), mask, threshold, switch_noise)
        return Codes(code, beta, proposal)

    @torch.no_grad()
    def forward_step(
        self,
        residual: Tensor,
        summary: Tensor,
        noise: Tensor,
        state: State,
        threshold: float | None = None,
        switch_noise: Tensor | None = None,
    ) -> Tensor:
        """One step of `forward`, without gradients, for what cannot be known before its switch: beta_t [B].

        Where codes are read late, the code in `state` is not the one in force, which is known only then, nor is it
        read.

        Args:
            residual: e_l, [B, d].
            summary: s, [B, s].
            noise: standard normal [B, z].
            state: of `initial_state`; h and z are updated in place.
            threshold: as in `forward`.
            switch_noise: uniform [B], as in `forward`.
        """
        proposed = self.propose(self.encode(residual, state["memory"], summary), noise)
        beta = self._beta(self._switch_context(residual, state["memory"]), state["code"], threshold, switch_noise)
        beta = torch.where(state["started"] > 0, beta, 1.0)
        state["code"].copy_(torch.lerp(state["code"], proposed, beta[:, None]))
        self._remember(residual, state)
        return beta

    def _remember(self, residual: Tensor, state: State) -> None:
        """h_t from e_t (Eq. 12), in place; the row has seen its first step."""
        _, hidden = self.gru(self.norm(residual)[:, None], state["memory"][None])
        state["memory"].copy_(hidden[0])
        state["started"].fill_(1)

    def initial_state(self, rows: int) -> State:
        """Memory h, code z and a flag that is zero before the first step, for `rows` sequences."""
        like = self.switch_out.weight
        return {
            "memory": like.new_zeros(rows, self.config.memory_size),
            "code": like.new_zeros(rows, self.config.code_size),
            "started": like.new_zeros(rows),
        }

    def switch_step(self, residual: Tensor, state: State) -> Tensor:
        """beta_t for [N, d] and the memory's update (Algorithm 1): [N], 1 on a row's first step.

        Updates h in place; z stays until `state["code"]` is written.
        """
        beta = self.switch(residual, state["memory"], state["code"])
        beta = torch.where(state["started"] > 0, beta, 1.0)
        self._remember(residual, state)
        return beta
