"""CompILE's segment encoder: cuts a sequence into segments and names each by a code (C.4.3).

After Kipf et al. 2019, "CompILE: Compositional Imitation Learning and Execution"
(arXiv 1812.01483). Segment after segment, a recurrent encoder reads the observations from the
segment's start on; q(b_i | x), a categorical over steps, says where it ends, and q(z_i | x), a
Gaussian, what it was about:

    boundaries  q(b_i) = softmax over the steps after b_{i-1}; Gumbel-softmax, straight through
    codes       q(z_i) = N(mu, Sigma) from the hidden state at the end b_i
    prior       b_i - b_{i-1} ~ Poisson(segment_length), at least 1, cut at the sequence's end;
                z_i ~ N(0, I)

Shape legend: B sequences, T steps (T + 1 observations), M segments, z code dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irl_ray.config import check_above_zero, check_at_least
from irl_ray.models.metacontroller import Proposal
from irl_ray.models.sequence_model import Block, SequenceModelConfig


@dataclass
class SegmenterConfig:
    """Shape and prior of a segment encoder.

    Attributes:
        segments: M, the most there can be.
        code_size: n_z.
        hidden: width of the heads' hidden layer.
        layers: recurrent blocks; None for half as many as the base model has.
        segment_length: mean of the prior over a segment's steps.
        temperature: of the Gumbel-softmax over boundaries (0.5 or 1 in the paper).
    """

    segments: int = 4
    code_size: int = 8
    hidden: int = 32
    layers: int | None = None
    segment_length: float = 10.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_at_least(self, segments=1, code_size=1, hidden=1, layers=1)
        check_above_zero(self, "segment_length", "temperature")


class Segmentation(NamedTuple):
    """A batch of sequences, cut.

    Attributes:
        code: [B, T, z], the code of the segment that each step belongs to.
        switch: bool [B, T], the first step of every segment.
        code_kl: [B], sum over segments of KL(q(z_i) || N(0, I)) in nats.
        boundary_kl: [B], sum over boundaries of KL(q(b_i) || prior) in nats.
    """

    code: Tensor
    switch: Tensor
    code_kl: Tensor
    boundary_kl: Tensor


class Segmenter(nn.Module):
    """q(b, z | o_{1:T+1}).

    Args:
        config: shape and prior.
        shape: of the base model, whose lower half the encoder resembles.
        embedding: maps observations to [B, T + 1, d]; trained along.
    """

    def __init__(self, config: SegmenterConfig, shape: SequenceModelConfig, embedding: nn.Module):
        super().__init__()
        self.config, self.embedding = config, embedding
        layers = max(1, shape.layers // 2) if config.layers is None else config.layers
        self.blocks = nn.ModuleList(Block(replace(shape, mixer="hawk")) for _ in range(layers))
        self.norm = nn.RMSNorm(shape.width)
        head = lambda outputs: nn.Sequential(  # noqa: E731
            nn.Linear(shape.width, config.hidden), nn.ReLU(), nn.Linear(config.hidden, outputs)
        )
        self.boundary_head, self.code_head = head(1), head(2 * config.code_size)

    def encode(self, embedded: Tensor, seen: Tensor) -> Tensor:
        """Hidden states [B, T+1, d]; observations at which `seen` [B, T+1] is 0 leave no trace."""
        for block in self.blocks:
            embedded = block(embedded, seen)
        return self.norm(embedded)

    def boundary(self, hidden: Tensor, start: Tensor, length: Tensor) -> Tensor:
        """log q(b_i) over 0..T: [B, T+1]; zero mass on steps up to `start` [B] and after `length` [B].

        Step `length`, one past the last, stands for "no further segment".
        """
        return (
            self.boundary_head(hidden)
            .squeeze(-1)
            .masked_fill(~_allowed(hidden.shape[1], start, length), -torch.inf)
            .log_softmax(-1)
        )

    def codes(self, readout: Tensor) -> Proposal:
        """q(z_i) from the hidden state at the segment's end: [B, d] -> N(mu, Sigma) over [B, z]."""
        mean, log_std = self.code_head(readout).chunk(2, -1)
        return Proposal(mean, log_std.clamp(-7, 3))

    def forward(
        self, observation: Tensor, mask: Tensor, noise: Tensor | None = None, gumbel: Tensor | None = None
    ) -> Segmentation:
        """Cuts sequences.

        Args:
            observation: [B, T+1, ...].
            mask: bool [B, T], true on real steps.
            noise: standard normal [B, M, z]; None takes the mean codes.
            gumbel: Gumbel-distributed [B, M-1, T+1]; None takes the likeliest boundaries.
        """
        embedded, length = self.embedding(observation), mask.sum(1)
        count, steps = len(mask), mask.shape[1] + 1
        start = torch.zeros_like(length)
        since = F.pad(mask, (1, 0), value=True).to(embedded.dtype)  # 1 from the segment's start on
        real = since
        code = embedded.new_zeros(count, steps - 1, self.config.code_size)
        switch = torch.zeros_like(mask)
        switch[:, 0] = True
        code_kl, boundary_kl = embedded.new_zeros(count), embedded.new_zeros(count)
        for i in range(self.config.segments):
            there = (start < length).to(embedded.dtype)  # later segments of short sequences are empty
            hidden = self.encode(embedded, since * real)
            if i < self.config.segments - 1:
                log_q = self.boundary(hidden, start, length)
                boundary_kl = boundary_kl + there * self._boundary_kl(log_q, start, length)
                end = self._draw(log_q, None if gumbel is None else gumbel[:, i])
            else:
                end = F.one_hot(length, steps).to(embedded.dtype)
            proposal = self.codes((end[..., None] * hidden).sum(1))
            drawn = proposal.mean if noise is None else proposal.mean + proposal.log_std.exp() * noise[:, i]
            code_kl = code_kl + there * proposal.kl()
            after = end.cumsum(1)
            within = since * (1 - after)  # 1 on the segment's steps, 0 elsewhere
            code = code + within[:, :-1, None] * drawn[:, None]
            start, since = end.argmax(1), after
            switch |= (end[:, :-1] > 0.5) & mask
        return Segmentation(code * mask[..., None], switch, code_kl, boundary_kl)

    def _draw(self, log_q: Tensor, gumbel: Tensor | None) -> Tensor:
        """One-hot [B, T+1] with the gradient of the relaxed boundary."""
        if gumbel is None:
            return F.one_hot(log_q.argmax(1), log_q.shape[1]).to(log_q.dtype)
        relaxed = ((log_q + gumbel) / self.config.temperature).softmax(1)
        hard = F.one_hot(relaxed.argmax(1), log_q.shape[1]).to(log_q.dtype)
        return hard + relaxed - relaxed.detach()

    def _boundary_kl(self, log_q: Tensor, start: Tensor, length: Tensor) -> Tensor:
        """KL(q(b_i) || prior) in nats: [B]."""
        log_p = log_length_prior(self.config.segment_length, log_q.shape[1], start, length)
        allowed = _allowed(log_q.shape[1], start, length)
        gap = (log_q - log_p).masked_fill(~allowed, 0.0)
        return (log_q.exp() * gap).sum(1)


def _allowed(steps: int, start: Tensor, length: Tensor) -> Tensor:
    """bool [B, steps]: where a segment that begins at `start` may end; `length` always."""
    at = torch.arange(steps, device=start.device)
    return ((at > start[:, None]) & (at <= length[:, None])) | (at == length[:, None])


def log_length_prior(mean: float, steps: int, start: Tensor, length: Tensor) -> Tensor:
    """log p(b_i | b_{i-1}): [B, steps].

    The segment's steps follow a Poisson of this mean, given that there is at least one; all longer
    ones end where the sequence does.

    Args:
        mean: of the Poisson.
        steps: T + 1.
        start: int64 [B], b_{i-1}.
        length: int64 [B], the sequence's steps.
    """
    k = torch.arange(1, steps + 1, device=start.device, dtype=torch.float64)
    log_mean = torch.log(torch.tensor(mean, dtype=torch.float64))
    log_mass = k * log_mean - mean - torch.lgamma(k + 1) - torch.log(-torch.expm1(torch.tensor(-mean)).double())
    at_least = 1 - F.pad(log_mass.exp().cumsum(0), (1, 0))[:-1]  # P(steps >= k)
    at = torch.arange(steps, device=start.device)
    here = (at - start[:, None]).clamp(min=1) - 1
    log_p = torch.where(at == length[:, None], at_least.clamp_min(1e-12).log()[here], log_mass[here])
    return log_p.masked_fill(~_allowed(steps, start, length), -torch.inf).float()


def gumbel_noise(uniform: Tensor) -> Tensor:
    """Standard Gumbel noise from uniform numbers of the same shape."""
    return -torch.log(-torch.log(uniform.clamp(1e-6, 1 - 1e-6)))
