"""What phases and the internal environment rely on in a base model, held against a model of any class."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from irl_ray.models.sequence_model import BaseModel
from irl_ray.models.state import map_state, reset_rows

TOLERANCE = 1e-4


@torch.no_grad()
def broken_promises(base: BaseModel, observation: Tensor) -> list[str]:
    """What a base model does not keep, a line each; none is good.

    Args:
        base: the model.
        observation: [B, T, ...] of its world, B at least 2 and T at least 4.
    """
    base.eval()
    return list(_broken(base, observation))


def _broken(base: BaseModel, observation: Tensor) -> Iterator[str]:
    rows, steps = observation.shape[:2]
    stream = base.residuals(observation)
    if len(stream) != base.num_layers + 1 or any(x.shape != (rows, steps, base.width) for x in stream):
        yield f"residuals: expected {base.num_layers + 1} of shape {(rows, steps, base.width)}"
        return
    state = base.initial_state(rows, steps)
    tensors: list[Tensor] = []
    map_state(tensors.append, state)
    if any(len(x) != rows or bool(x.count_nonzero()) for x in tensors):
        yield "initial_state: expected tensors whose first axis are the rows, zero at the start"
        return
    other = observation.clone()
    other[:, -1] = observation[:, 0].flip(0)
    for layer in {0, base.num_layers // 2, base.num_layers}:
        parallel = base.upper(base.lower(base.embed(observation), layer), layer)
        if not _close(parallel, stream[-1]):
            yield f"lower, then upper, at layer {layer}: not the last of the residuals"
        # The first row begins anew half way.
        state, half, found = base.initial_state(rows, steps), steps // 2, []
        for t in range(steps):
            if t == half:
                reset_rows(state, torch.tensor([0]))
            found.append(base.upper_step(base.lower_step(observation[:, t], state, layer), state, layer))
        found = torch.stack(found, 1)
        anew = base.upper(base.lower(base.embed(observation[:1, half:]), layer), layer)
        if not _close(found[1:], parallel[1:]):
            yield f"step by step at layer {layer}: not what the parallel form gives"
        if not _close(found[:1, half:], anew):
            yield f"after a reset at layer {layer}: rows remember what was before"
        later = base.upper(base.lower(base.embed(other), layer), layer)
        if not _close(later[:, :-1], parallel[:, :-1]):
            yield f"causality at layer {layer}: earlier outputs change with a later observation"
        controlled = base.lower(base.embed(observation), layer).clone()
        controlled[:, half] += 1.0
        moved = (base.upper(controlled, layer) - parallel).abs().amax((0, 2))
        if bool((moved[:half] > TOLERANCE).any()):
            yield f"a change of the stream at layer {layer}: earlier outputs change too"
        if not bool(moved[half] > TOLERANCE):
            yield f"a change of the stream at layer {layer}: the output there does not change"


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, atol=TOLERANCE, rtol=1e-3)
