"""Causal self-attention with T5 relative position buckets (Table A4)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from irl_ray.models.state import State

NUM_BUCKETS = 32
MAX_DISTANCE = 128


def position_buckets(steps: int) -> Tensor:
    """int64 [steps]: the bucket of each distance into the past (T5, causal form).

    The first half of the buckets holds exact distances, the second half grows logarithmically up
    to `MAX_DISTANCE`; everything farther shares the last bucket.
    """
    distance = torch.arange(steps)
    exact = NUM_BUCKETS // 2
    scale = (NUM_BUCKETS - exact) / math.log(MAX_DISTANCE / exact)
    far = exact + (torch.log(distance.clamp(min=1) / exact) * scale).long()
    return torch.where(distance < exact, distance, far.clamp(max=NUM_BUCKETS - 1))


class CausalSelfAttention(nn.Module):
    """Multi-head causal attention; a learned bias per head and position bucket, no other position.

    Args:
        width: d.
        heads: number of heads; head size is width / heads unless `head_size` is given.
    """

    def __init__(self, width: int, heads: int, head_size: int | None = None):
        super().__init__()
        self.heads, self.head_size = heads, head_size or width // heads
        inner = self.heads * self.head_size
        self.qkv = nn.Linear(width, 3 * inner, bias=False)
        self.out = nn.Linear(inner, width, bias=False)
        self.bias = nn.Parameter(torch.zeros(heads, NUM_BUCKETS))
        self._buckets = position_buckets(1)

    def _bias_by_distance(self, steps: int) -> Tensor:
        """[H, steps]: attention bias at each distance into the past."""
        if len(self._buckets) < steps or self._buckets.device != self.bias.device:
            self._buckets = position_buckets(max(steps, 128)).to(self.bias.device)
        return self.bias[:, self._buckets[:steps]]

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """Softmax attention with an additive bias: [B, H, Tq, D], [B, H, Tk, D] -> [B, H, Tq, D].

        Written out because the fused kernel falls back to a slower path on CPUs when the bias is
        learned.
        """
        scores = (q * self.head_size**-0.5) @ k.transpose(-1, -2) + bias
        return scores.softmax(-1) @ v

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, d] -> [B, T, d]."""
        batch, steps, _ = x.shape
        q, k, v = self.qkv(x).view(batch, steps, 3, self.heads, self.head_size).permute(2, 0, 3, 1, 4)
        time = torch.arange(steps, device=x.device)
        distance = time[:, None] - time
        bias = self._bias_by_distance(steps)[:, distance.clamp(min=0)]
        bias = bias.masked_fill(distance < 0, -torch.inf)
        return self.out(self._attend(q, k, v, bias).transpose(1, 2).flatten(2))

    def initial_state(self, rows: int, steps: int) -> State:
        """Cache for `rows` sequences of at most `steps` steps."""
        like = self.qkv.weight
        shape = (rows, self.heads, steps, self.head_size)
        return {
            "keys": like.new_zeros(shape),
            "values": like.new_zeros(shape),
            "length": torch.zeros(rows, dtype=torch.long, device=like.device),
        }

    def step(self, x: Tensor, state: State) -> Tensor:
        """[N, d] -> [N, d]; rows may be at different times. Updates `state` in place."""
        time = state["length"]
        q, k, v = self.qkv(x).view(len(x), 3, self.heads, 1, self.head_size).unbind(1)
        filled = int(time.max()) + 1
        if bool((time == filled - 1).all()):  # rows that began together: one slice, and no row's future to hide
            where: tuple = (slice(None), slice(None), filled - 1)
            bias = self._bias_by_distance(filled).flip(1)[:, None]
        else:
            where = (torch.arange(len(x), device=x.device), slice(None), time)
            distance = time[:, None] - torch.arange(filled, device=x.device)  # [N, filled]
            bias = self._bias_by_distance(filled)[:, distance.clamp(min=0)]
            bias = bias.masked_fill(distance < 0, -torch.inf).transpose(0, 1)[:, :, None]
        state["keys"][where], state["values"][where] = k[:, :, 0], v[:, :, 0]
        keys, values = state["keys"][:, :, :filled], state["values"][:, :, :filled]
        state["length"] += 1
        return self.out(self._attend(q, keys, values, bias).flatten(1))
