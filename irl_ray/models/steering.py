"""What a steered base model thinks of actions when its memory starts anew on the way (ours).

In the paper the frozen model sees the whole past. Where its memory starts anew at some steps, it knows at each step
only what it saw since the last of them, and what it should know from before has to be in the code. Where these are the
switches, it acts here as in internal RL on a clean slate. The metacontroller still reads the residuals of the whole
past: at layer 0 they are the same; above it, internal RL on a clean slate gives it those of the memory that began anew.
"""

from __future__ import annotations

import torch
from torch import Tensor

from irl_ray.data.trajectories import Trajectories
from irl_ray.models.metacontroller import Metacontroller
from irl_ray.models.sequence_model import SequenceModel

LENGTH_GROUPS = 4  # pieces of similar length go through the model together


def steered_log_prob(
    base: SequenceModel,
    metacontroller: Metacontroller,
    batch: Trajectories,
    residual: Tensor,
    code: Tensor,
    begins: Tensor | None = None,
) -> Tensor:
    """log p(a_t | o_{b:t}, z_{b:t}), where b is the last step up to t at which memory began: [B, T], 0 on padding.

    Args:
        base: the base model.
        metacontroller: whose decoder turns codes into controllers.
        batch: B demonstrations.
        residual: [B, T, d], e_l of the base model that sees the whole past.
        code: [B, T, z], in force at each step.
        begins: bool [B, T], where memory starts anew; the first step always begins one. None for the whole past.
    """
    observed, layer, mask = batch.observation[:, :-1], metacontroller.layer, batch.mask
    found = code.new_zeros(mask.shape)
    if begins is None:
        top = base.upper(metacontroller.control(residual, code), layer)
        return found.masked_scatter(mask, base.action_log_prob(top[mask], batch.action[mask]))
    for row, step, real in pieces(begins & mask, mask):
        residual = base.lower(base.embed(observed[row, step]), layer)
        top = base.upper(metacontroller.control(residual, code[row, step]), layer)
        row, step = row.expand_as(step)[real], step[real]
        found = found.index_put((row, step), base.action_log_prob(top[real], batch.action[row, step]))
    return found


def pieces(begins: Tensor, mask: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The pieces into which the steps of `begins`, bool [B, T], cut sequences, in groups of similar length.

    Returns:
        Of each group of N pieces, padded to K steps: rows [N, 1] and steps [N, K] to index [B, T] with, and bool
        [N, K], true on real steps.
    """
    starts = begins.clone()
    starts[:, 0] = True
    row, start = starts.nonzero(as_tuple=True)
    end = torch.cat([start[1:], start.new_zeros(1)])
    last = torch.cat([row[1:] != row[:-1], row.new_ones(1, dtype=torch.bool)])
    length = torch.where(last, mask.sum(1)[row], end) - start
    groups = []
    for group in length.argsort().chunk(LENGTH_GROUPS):
        ahead = torch.arange(int(length[group].max()), device=mask.device)
        step = (start[group, None] + ahead).clamp(max=mask.shape[1] - 1)
        groups.append((row[group, None], step, ahead < length[group, None]))
    return groups
