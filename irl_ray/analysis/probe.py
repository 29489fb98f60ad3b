"""Linear probes: what can be read off a representation (C.2, Table A6)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from irl_ray.data.trajectories import Trajectories
from irl_ray.models.sequence_model import SequenceModel


def linear_probe(features: Tensor, labels: Tensor, group: Tensor, steps: int = 300) -> Tensor:
    """Held-out predictions of a softmax regression, fitted for several feature sets at once.

    Args:
        features: [K, n, f], K feature sets of the same n samples; standardised here.
        labels: int64 [n].
        group: int64 [n], which trajectory a sample comes from; even groups train, odd ones test,
            so that no trajectory is on both sides.
        steps: full-batch AdamW steps.

    Returns:
        bool [K, n_test]: whether each held-out sample was predicted rightly.
    """
    train = group % 2 == 0
    mean, std = features[:, train].mean(1, keepdim=True), features[:, train].std(1, keepdim=True)
    features = (features - mean) / (std + 1e-6)
    classes = int(labels.max()) + 1
    weight = torch.zeros(len(features), features.shape[-1], classes, requires_grad=True)
    bias = torch.zeros(len(features), 1, classes, requires_grad=True)
    optimizer = torch.optim.AdamW([weight, bias], lr=0.05, weight_decay=0.01)
    fit, target = features[:, train], labels[train].expand(len(features), -1)
    with torch.enable_grad():
        for _ in range(steps):
            optimizer.zero_grad()
            # Summed over feature sets: each has its own weights, so none disturbs another.
            loss = F.cross_entropy((fit @ weight + bias).flatten(0, 1), target.flatten()) * len(features)
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        return (features[:, ~train] @ weight + bias).argmax(-1) == labels[~train]


@torch.no_grad()
def subgoal_probe(base: SequenceModel, batch: Trajectories, samples: int = 8000) -> dict[str, float]:
    """Accuracy with which each layer's residuals tell the ground-truth subgoal (Fig. 3).

    Returns:
        `probe_accuracy/layer_N` over all steps; `probe_accuracy_late/layer_N` over steps after the
        subgoal's first colour has been visited or, where a subgoal is one colour, after its first ten
        steps; and `probe_accuracy/chance`, the most common
        subgoal's share.
    """
    stream = torch.stack(base.residuals(batch.observation[:, :-1]))
    where = batch.mask.flatten().nonzero()[:, 0]
    where = where[:: max(1, len(where) // samples)]
    labels = batch.subgoal.flatten()[where]
    group = where // batch.mask.shape[1]
    right = linear_probe(stream.flatten(1, 2)[:, where], labels, group)
    late = (late_steps(batch).flatten()[where])[group % 2 == 1]
    held_out = labels[group % 2 == 1]
    result = {f"probe_accuracy/layer_{n}": float(r.float().mean()) for n, r in enumerate(right)}
    if bool(late.any()):
        result |= {f"probe_accuracy_late/layer_{n}": float(r[late].float().mean()) for n, r in enumerate(right)}
    result["probe_accuracy/chance"] = float(held_out.bincount().max() / len(held_out))
    return result


def late_steps(batch: Trajectories) -> Tensor:
    """bool [B, T]: steps at which a subgoal has been pursued for a while."""
    size = batch.world.colours_per_subgoal
    if size > 1:
        return batch.leg % size == size - 1
    steps = torch.arange(batch.leg.shape[1]).expand_as(batch.leg)
    first = F.pad(batch.leg[:, 1:] != batch.leg[:, :-1], (1, 0), value=True)
    return steps - torch.where(first, steps, 0).cummax(1).values >= 10
