"""What a metacontroller finds, and a steered base model does, where the model's memory starts anew on the way (ours).

In the paper the frozen model sees the whole past. Where its memory starts anew at some steps, it knows at each step
only what it saw since the last of them, and what it should know from before has to be in the code. Where these are the
switches, everything is as in internal RL on a clean slate: a step that switches is read with the memory before it, and
acted on with the new one. Only the summary, which internal RL does not have, is of the whole sequence as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from irl_ray.data.trajectories import Trajectories, pieces_of
from irl_ray.errors import UserError
from irl_ray.models.metacontroller import Codes, Metacontroller
from irl_ray.models.sequence_model import BaseModel
from irl_ray.models.state import reset_rows, select_rows, write_rows

LENGTH_GROUPS = 4  # pieces of similar length go through the model together


def check_slate(base: BaseModel, layer: int) -> None:
    """Refuses clean slates where e_0 tells a step's number: what is read there would not start anew with the memory.

    Raises:
        UserError: telling what to change.
    """
    if base.placed and not layer:
        raise UserError("clean_slate: this base model's embedding tells positions; control it at layer 1 or above")


def found_codes(
    base: BaseModel,
    metacontroller: Metacontroller,
    batch: Trajectories,
    noise: Tensor,
    threshold: float | None = None,
    switch_noise: Tensor | None = None,
    clean_slate: bool = False,
    symmetry: Tensor | None = None,
) -> tuple[Tensor, Codes]:
    """What the metacontroller reads of the base model, e_l [B, T, d], and the codes it finds in it.

    On a clean slate above layer 0, e_l is that of the memory which began anew, found without gradients to the base
    model; the summary is of e_l as the whole sequence gives it.

    Args:
        base: the base model.
        metacontroller: that finds the codes.
        batch: B demonstrations.
        noise: standard normal [B, T, z]; zeros give the mean code.
        threshold: binarises the switch where given.
        switch_noise: uniform [B, T], draws the switch where it is trained with Gumbel noise.
        clean_slate: whether the base model's memory starts anew at every switch.
        symmetry: int64 [B], by which the summary reads each walk turned or mirrored, and the whole encoder where codes
            are read at the end or the arrival; None as it is.
    """
    layer, read_at = metacontroller.layer, metacontroller.config.read_at
    residual = read = base.lower(base.embed(batch.observation[:, :-1]), layer)
    if symmetry is not None or read_at == "arrival":
        seen = batch.observation if read_at == "arrival" else batch.observation[:, :-1]
        read = base.lower(base.embed(seen if symmetry is None else batch.world.turned(seen, symmetry)), layer)
    summary = metacontroller.summarise(read[:, : batch.mask.shape[1]], batch.mask)
    if clean_slate and layer:  # e_0 has no memory; of models with positions it has one, which `check_slate` refuses
        residual = _residuals_anew(base, metacontroller, batch, summary, noise, threshold, switch_noise)
    apart = read if read_at == "arrival" or (symmetry is not None and read_at == "end") else None
    return residual, metacontroller(residual, batch.mask, noise, threshold, switch_noise, summary, apart)


@torch.no_grad()
def _residuals_anew(
    base: BaseModel,
    metacontroller: Metacontroller,
    batch: Trajectories,
    summary: Tensor,
    noise: Tensor,
    threshold: float | None,
    switch_noise: Tensor | None,
) -> Tensor:
    """e_l [B, T, d] where memory starts anew at every switch: step by step, since what is read next depends on it."""
    observed, mask, layer, found = batch.observation, batch.mask, metacontroller.layer, []
    rows, steps = mask.shape
    memory, state = base.initial_state(rows, steps)[:layer], metacontroller.initial_state(rows)
    for t in range(steps):
        seen, uniform = observed[:, t], None if switch_noise is None else switch_noise[:, t]
        found.append(base.lower_step(seen, memory, layer))
        beta = metacontroller.forward_step(found[-1], summary[:, t], noise[:, t], state, threshold, uniform)
        anew = ((beta > 0.5) & mask[:, t]).nonzero()[:, 0]
        if len(anew):
            reset_rows(memory, anew)
            begun = select_rows(memory, anew)
            base.lower_step(seen[anew], begun, layer)
            write_rows(memory, anew, begun)
    return torch.stack(found, 1)


def steered_log_prob(
    base: BaseModel,
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
        residual: [B, T, d], e_l of the base model that sees the whole past; not read where `begins` is given.
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
    row, start, length = pieces_of(begins, mask)
    groups = []
    for group in length.argsort().chunk(LENGTH_GROUPS):
        ahead = torch.arange(int(length[group].max()), device=mask.device)
        step = (start[group, None] + ahead).clamp(max=mask.shape[1] - 1)
        groups.append((row[group, None], step, ahead < length[group, None]))
    return groups
