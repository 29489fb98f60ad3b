"""The Hawk recurrent block: causal convolution and RG-LRU (Griffin, arXiv 2402.19427)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from irl_ray.models.state import State

GATE_SHARPNESS = 8.0  # c of the paper
CONVOLUTION = 4


def linear_scan(decay: Tensor, drive: Tensor) -> Tensor:
    """h_t = decay_t * h_{t-1} + drive_t with h_0 = 0, over axis 1 of [B, T, w].

    On a CPU one fused operation per step is fastest; elsewhere log2(T) parallel sweeps are.
    """
    if decay.device.type == "cpu":
        return SequentialScan.apply(decay, drive)
    return parallel_scan(decay, drive)


def parallel_scan(decay: Tensor, drive: Tensor) -> Tensor:
    """`linear_scan` in log2(T) sweeps over whole sequences."""
    steps, shift = decay.shape[1], 1
    while shift < steps:
        drive = drive + decay * F.pad(drive[:, :-shift], (0, 0, shift, 0))
        decay = decay * F.pad(decay[:, :-shift], (0, 0, shift, 0), value=1.0)
        shift *= 2
    return drive


class SequentialScan(torch.autograd.Function):
    """`linear_scan` step by step, with a gradient that is a scan in reverse."""

    @staticmethod
    def forward(ctx: Any, decay: Tensor, drive: Tensor) -> Tensor:
        decay, drive = decay.transpose(0, 1).contiguous(), drive.transpose(0, 1).contiguous()
        hidden = torch.empty_like(drive)
        hidden[0] = drive[0]
        rows = hidden.unbind(0)
        for previous, a, b, out in zip(rows, decay[1:].unbind(0), drive[1:].unbind(0), rows[1:]):
            torch.addcmul(b, a, previous, out=out)
        ctx.save_for_backward(decay, hidden)
        return hidden.transpose(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        decay, hidden = ctx.saved_tensors
        total = gradient.transpose(0, 1).contiguous().clone()
        rows = total.unbind(0)
        for later, a, out in zip(rows[:0:-1], decay[1:].flip(0).unbind(0), rows[-2::-1]):
            out.addcmul_(a, later)
        to_decay = torch.zeros_like(decay)
        torch.mul(total[1:], hidden[:-1], out=to_decay[1:])
        return to_decay.transpose(0, 1), total.transpose(0, 1)


class BlockDiagonalLinear(nn.Module):
    """A linear map that mixes within each of `heads` equal blocks only."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(heads, width // heads, width // heads))
        self.bias = nn.Parameter(torch.zeros(width))
        nn.init.normal_(self.weight, std=(heads / width) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """[..., w] -> [..., w]."""
        blocks = x.unflatten(-1, (self.weight.shape[0], -1))
        return torch.einsum("...hi,hij->...hj", blocks, self.weight).flatten(-2) + self.bias


class RGLRU(nn.Module):
    """Real-gated linear recurrent unit (Griffin, Eqs. 1-4).

    r_t = σ(W_a x_t), i_t = σ(W_x x_t), log a_t = -c softplus(Λ) r_t,
    h_t = a_t h_{t-1} + sqrt(1 - a_t²) (i_t x_t).
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.input_gate = BlockDiagonalLinear(width, heads)
        self.recurrence_gate = BlockDiagonalLinear(width, heads)
        # |a| is uniform in [0.9, 0.999] when the recurrence gate is fully open.
        magnitude = torch.empty(width).uniform_(0.9, 0.999)
        self.log_decay = nn.Parameter(torch.log(torch.expm1(-magnitude.log() / GATE_SHARPNESS)))

    def _coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_a = -GATE_SHARPNESS * F.softplus(self.log_decay) * torch.sigmoid(self.recurrence_gate(x))
        # Clipped from below: the gradient of the square root is infinite where a = 1.
        keep = torch.sqrt((-torch.expm1(2 * log_a)).clamp_min(1e-6))
        return log_a.exp(), keep * torch.sigmoid(self.input_gate(x)) * x

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, T, w] -> [B, T, w]. Where `mask` [B, T] is false the state is zero."""
        decay, drive = self._coefficients(x)
        if mask is not None:
            decay, drive = decay * mask[..., None], drive * mask[..., None]
        return linear_scan(decay, drive)

    def step(self, x: Tensor, hidden: Tensor) -> Tensor:
        """[N, w], [N, w] -> [N, w]: the next hidden state, which is also the output."""
        decay, drive = self._coefficients(x)
        return decay * hidden + drive


class HawkMixer(nn.Module):
    """Temporal mixing of a Hawk block: (linear, GeLU) gate times (linear, convolution, RG-LRU).

    Args:
        width: d; the recurrence has the same width (Table A15).
        heads: blocks of the block-diagonal gates.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.gate = nn.Linear(width, width)
        self.input = nn.Linear(width, width)
        self.kernel = nn.Parameter(torch.zeros(CONVOLUTION, width))
        with torch.no_grad():
            self.kernel[-1] = 1.0
        self.recurrence = RGLRU(width, heads)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, T, d] -> [B, T, d]. Steps at which `mask` [B, T] is false leave no trace in later ones."""
        inputs = self.input(x) if mask is None else self.input(x) * mask[..., None]
        past = F.pad(inputs, (0, 0, CONVOLUTION - 1, 0))
        convolved = sum(past[:, i : i + x.shape[1]] * self.kernel[i] for i in range(CONVOLUTION))
        return self.out(self.recurrence(convolved, mask) * F.gelu(self.gate(x)))

    def initial_state(self, rows: int, steps: int) -> State:
        """State for `rows` sequences; the length of the sequences does not matter."""
        width = self.out.in_features
        return {
            "past": self.kernel.new_zeros(rows, CONVOLUTION - 1, width),
            "hidden": self.kernel.new_zeros(rows, width),
        }

    def step(self, x: Tensor, state: State) -> Tensor:
        """[N, d] -> [N, d]. Updates `state` in place."""
        window = torch.cat([state["past"], self.input(x)[:, None]], 1)
        state["past"].copy_(window[:, 1:])
        state["hidden"].copy_(self.recurrence.step((window * self.kernel).sum(1), state["hidden"]))
        return self.out(state["hidden"] * F.gelu(self.gate(x)))
