"""Linear probes: what can be read off a representation (C.2, Table A6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from irl_ray.data.trajectories import Trajectories
from irl_ray.models.sequence_model import BaseModel


class LinearProbe(NamedTuple):
    """Softmax regressions on K feature sets, which are standardised first."""

    mean: Tensor
    std: Tensor
    weight: Tensor
    bias: Tensor

    def log_prob(self, features: Tensor) -> Tensor:
        """[K, n, f] -> [K, n, classes]."""
        return ((features - self.mean) / self.std @ self.weight + self.bias).log_softmax(-1)


def fit_probe(features: Tensor, labels: Tensor, steps: int = 300) -> LinearProbe:
    """Softmax regressions, fitted for several feature sets at once.

    Args:
        features: [K, n, f], K feature sets of the same n samples.
        labels: int64 [n].
        steps: full-batch AdamW steps.
    """
    mean, std = features.mean(1, keepdim=True), features.std(1, keepdim=True) + 1e-6
    fit = (features - mean) / std
    classes = int(labels.max()) + 1
    weight = features.new_zeros(len(features), features.shape[-1], classes).requires_grad_()
    bias = features.new_zeros(len(features), 1, classes).requires_grad_()
    optimizer = torch.optim.AdamW([weight, bias], lr=0.05, weight_decay=0.01)
    target = labels.expand(len(features), -1)
    with torch.enable_grad():
        for _ in range(steps):
            optimizer.zero_grad()
            # Summed over feature sets: each has its own weights, so none disturbs another.
            loss = F.cross_entropy((fit @ weight + bias).flatten(0, 1), target.flatten()) * len(features)
            loss.backward()
            optimizer.step()
    return LinearProbe(mean, std, weight.detach(), bias.detach())


def linear_probe(features: Tensor, labels: Tensor, group: Tensor, steps: int = 300) -> Tensor:
    """Held-out predictions of a softmax regression, fitted for several feature sets at once.

    Args:
        features: [K, n, f], K feature sets of the same n samples.
        labels: int64 [n].
        group: int64 [n], which trajectory a sample comes from; even groups train, odd ones test,
            so that no trajectory is on both sides.
        steps: full-batch AdamW steps.

    Returns:
        [K, n_test, classes]: log-probabilities on the samples of odd groups.
    """
    train = group % 2 == 0
    return fit_probe(features[:, train], labels[train], steps).log_prob(features[:, ~train])


def probe_accuracy(features: Tensor, labels: Tensor, group: Tensor) -> Tensor:
    """[K]: the share of held-out samples that each feature set's probe predicts rightly; as `linear_probe`."""
    right = linear_probe(features, labels, group).argmax(-1) == labels[group % 2 == 1]
    return right.float().mean(1)


@dataclass
class SubgoalReadings:
    """What probes of every layer read on n held-out steps.

    Attributes:
        log_prob: [L+1, n, subgoals], log-probabilities of every subgoal by layer.
        subgoal: int64 [n], the true ones.
        late: bool [n], steps after the subgoal's first leg or, where it is one leg, after ten steps.
        since: int64 [n], steps since the subgoal's first.
    """

    log_prob: Tensor
    subgoal: Tensor
    late: Tensor
    since: Tensor

    @property
    def right(self) -> Tensor:
        """bool [L+1, n]: where the likeliest subgoal is the true one."""
        return self.log_prob.argmax(-1) == self.subgoal

    @property
    def true_probability(self) -> Tensor:
        """[L+1, n]: the probability given to the true subgoal."""
        at = self.subgoal.expand(len(self.log_prob), -1)[..., None]
        return self.log_prob.gather(-1, at)[..., 0].exp()

    @property
    def chance(self) -> float:
        """The most common subgoal's share."""
        return float(self.subgoal.bincount().max() / len(self.subgoal))


@torch.no_grad()
def read_subgoals(stream: Tensor, batch: Trajectories, samples: int = 8000) -> SubgoalReadings:
    """Probes every layer for the ground-truth subgoal; half of the trajectories train, half are read.

    Args:
        stream: [L+1, B, T, d], the residual stream.
        batch: the demonstrations it comes from.
        samples: steps that are used, evenly spread over the trajectories.
    """
    where = batch.mask.flatten().nonzero()[:, 0]
    where = where[:: max(1, len(where) // samples)]
    group = where // batch.mask.shape[1]
    labels, held_out = batch.subgoal.flatten()[where], where[group % 2 == 1]
    log_prob = linear_probe(stream.flatten(1, 2)[:, where], labels, group)
    read = lambda values: values.flatten()[held_out]  # noqa: E731
    return SubgoalReadings(log_prob, read(batch.subgoal), read(late_steps(batch)), read(steps_since_start(batch)))


@torch.no_grad()
def subgoal_probe(base: BaseModel, batch: Trajectories) -> dict[str, float]:
    """Accuracy with which each layer's residuals tell the ground-truth subgoal (Fig. 3).

    Returns:
        `probe_accuracy/layer_N` over all steps; `probe_accuracy_late/layer_N` over the late ones of
        `SubgoalReadings`; and `probe_accuracy/chance`.
    """
    readings = read_subgoals(torch.stack(base.residuals(batch.observation[:, :-1])), batch)
    late = readings.late
    result = {f"probe_accuracy/layer_{n}": float(r.float().mean()) for n, r in enumerate(readings.right)}
    if bool(late.any()):
        result |= {
            f"probe_accuracy_late/layer_{n}": float(r[late].float().mean()) for n, r in enumerate(readings.right)
        }
    result["probe_accuracy/chance"] = readings.chance
    return result


def steps_since_start(batch: Trajectories) -> Tensor:
    """int64 [B, T]: steps since the present subgoal's first."""
    part = batch.leg // batch.world.legs_per_subgoal
    first = F.pad(part[:, 1:] != part[:, :-1], (1, 0), value=True)
    steps = torch.arange(part.shape[1], device=part.device).expand_as(part)
    return steps - torch.where(first, steps, 0).cummax(1).values


def late_steps(batch: Trajectories) -> Tensor:
    """bool [B, T]: steps at which a subgoal has been pursued for a while."""
    size = batch.world.legs_per_subgoal
    return batch.leg % size == size - 1 if size > 1 else steps_since_start(batch) >= 10
