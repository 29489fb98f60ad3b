"""A label-free teacher for discovery: hindsight gradients of the frozen base model (ours).

Where the base model does not yet know the goal, the gradient of what it later should have
predicted, with respect to its own residual stream, points to the goal: "had I believed this, the
next actions would have been likelier". Directions of single actions cancel over a few steps, the
direction of the goal does not, and it is shared by all layouts. So the summed gradients

    G_t = sum_{u=t}^{t+w-1} d/de_u  sum_v log p(a_v | o_{1:v})

fall into clusters. The cheapest sequence of clusters along each trajectory is the first teacher of
a metacontroller's codes and switches. Its student has seen whole trajectories and averages over
the teacher's mistakes, so the student's codes cluster better than the gradients did: in every
further round they are the teacher. Neither labels nor rewards are used.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from irl_ray.data.gridworld import Trajectories
from irl_ray.models.metacontroller import Metacontroller
from irl_ray.models.sequence_model import SequenceModel


@dataclass
class TeacherConfig:
    """Settings of the warm start.

    Attributes:
        steps: optimiser steps of each round; 0 leaves the warm start out (the paper's method).
        rounds: the first is taught by gradients, the others by the student of the round before.
        gradient_clusters: K of the first round; far more than subgoals, so that some are pure.
        code_clusters: K of the later rounds.
        window: w, steps over which gradients are summed.
        gradient_switch_cost: what a change of cluster must gain in the first round, in units of the
            mean gradient's length.
        code_switch_cost: the same in the later rounds, in nats of a Gaussian mixture of codes.
        trajectories: demonstrations behind the clusters.
        code_noise: standard deviation of the noise on taught codes.
    """

    steps: int = 0
    rounds: int = 3
    gradient_clusters: int = 24
    code_clusters: int = 6
    window: int = 6
    gradient_switch_cost: float = 0.5
    code_switch_cost: float = 1.0
    trajectories: int = 2048
    code_noise: float = 0.3


def hindsight_gradients(base: SequenceModel, layer: int, batch: Trajectories, window: int) -> Tensor:
    """G_t of every step: [B, T, d]. The base model's own parameters receive no gradient."""
    with torch.no_grad():
        residual = base.lower(base.embed(batch.observation[:, :-1]), layer)
    residual.requires_grad_(True)
    with torch.enable_grad():
        log_p = base.action_logits(base.upper(residual, layer)).log_softmax(-1)
        taken = log_p.gather(-1, batch.action[..., None])[..., 0]
        (gradient,) = torch.autograd.grad((taken * batch.mask).sum(), residual)
    until = F.pad(gradient.cumsum(1), (0, 0, 1, 0))
    steps = gradient.shape[1]
    end = (torch.arange(steps, device=gradient.device) + window).clamp(max=steps)
    return until[:, end] - until[:, :-1]


def spherical_kmeans(
    directions: Tensor, clusters: int, random: torch.Generator, sweeps: int = 60, restarts: int = 8
) -> Tensor:
    """Unit centroids [K, d] that maximise the summed cosine to unit directions [n, d]."""
    best, best_gain = None, -torch.inf
    for _ in range(restarts):
        start = torch.randperm(len(directions), generator=random)[:clusters]
        centroids = directions[start.to(directions.device)]
        for _ in range(sweeps):
            nearest = (directions @ centroids.T).argmax(1)
            member = F.one_hot(nearest, clusters).to(directions.dtype)
            sums = member.T @ directions
            empty = member.sum(0) == 0
            centroids = F.normalize(torch.where(empty[:, None], centroids, sums), dim=1)
        gain = float((directions @ centroids.T).amax(1).sum())
        if gain > best_gain:
            best, best_gain = centroids, gain
    return best


def cheapest_path(score: Tensor, mask: Tensor, switch_cost: float) -> Tensor:
    """The sequence of clusters with the highest score minus switching costs (Viterbi).

    Args:
        score: [B, T, K], gain of each cluster at each step.
        mask: bool [B, T]; padding neither gains nor costs.
        switch_cost: cost of any change.

    Returns:
        int64 [B, T].
    """
    batch, steps, clusters = score.shape
    stay = torch.arange(clusters, device=score.device).expand(batch, -1)
    value, pointers = score[:, 0], []
    for t in range(1, steps):
        best, arg = value.max(1, keepdim=True)
        keep = (value >= best - switch_cost) | ~mask[:, t, None]
        pointers.append(torch.where(keep, stay, arg))
        value = torch.where(keep, value, best - switch_cost) + score[:, t] * mask[:, t, None]
    path = [value.argmax(1)]
    for pointer in reversed(pointers):
        path.append(pointer.gather(1, path[-1][:, None])[:, 0])
    return torch.stack(path[::-1], 1)


def spread_codes(count: int, size: int, random: torch.Generator, sweeps: int = 300) -> Tensor:
    """[count, size] codes of the prior's typical norm sqrt(size), pushed apart from each other."""
    codes = F.normalize(torch.randn(count, size, generator=random), dim=1)
    for _ in range(sweeps):
        closeness = torch.exp(4 * (codes @ codes.T)).fill_diagonal_(0)
        codes = F.normalize(codes - 0.05 * (closeness @ codes) / closeness.sum(1, keepdim=True), dim=1)
    return codes * size**0.5


class GradientTeacher:
    """Clusters hindsight gradients once, then names a code for every step of any trajectory.

    Args:
        config: its settings.
        base: the frozen base model.
        layer: l of the metacontroller.
        code_size: n_z.
        batch: demonstrations to cluster.
        random: source of the clustering's starts and of the codes' places.
    """

    def __init__(
        self,
        config: TeacherConfig,
        base: SequenceModel,
        layer: int,
        code_size: int,
        batch: Trajectories,
        random: torch.Generator,
    ):
        self.config, self.base, self.layer = config, base, layer
        gradients = hindsight_gradients(base, layer, batch, config.window)[batch.mask]
        length = gradients.norm(dim=1)
        self.unit = float(length.mean())
        # Where the model knew what was coming the gradient is small and says nothing.
        telling = F.normalize(gradients[length > length.quantile(0.5)], dim=1)
        self.centroids = spherical_kmeans(telling, config.gradient_clusters, random)
        self.codes = spread_codes(config.gradient_clusters, code_size, random).to(gradients.device)

    def clusters(self, batch: Trajectories) -> Tensor:
        """The cluster in force at every step: int64 [B, T]."""
        gradients = hindsight_gradients(self.base, self.layer, batch, self.config.window)
        return cheapest_path(gradients @ self.centroids.T / self.unit, batch.mask, self.config.gradient_switch_cost)


class StudentTeacher:
    """Clusters the proposals of a trained metacontroller, as `GradientTeacher` does gradients.

    Args:
        config: its settings.
        base: the frozen base model.
        student: a metacontroller; a frozen copy of it is kept.
        batch: demonstrations to cluster.
        random: source of the clustering's starts.
    """

    def __init__(
        self,
        config: TeacherConfig,
        base: SequenceModel,
        student: Metacontroller,
        batch: Trajectories,
        random: torch.Generator,
    ):
        self.config, self.base = config, base
        self.student = copy.deepcopy(student).requires_grad_(False)
        proposals = self._proposals(batch)[batch.mask]
        self.centroids = kmeans(proposals, config.code_clusters, random)
        self.variance = float(torch.cdist(proposals, self.centroids).amin(1).square().mean())
        # Back to the prior's typical norm: averaging over the teacher's mistakes has shrunk them.
        self.codes = F.normalize(self.centroids - self.centroids.mean(0), dim=1) * proposals.shape[1] ** 0.5

    @torch.no_grad()
    def _proposals(self, batch: Trajectories) -> Tensor:
        residual = self.base.lower(self.base.embed(batch.observation[:, :-1]), self.student.layer)
        summary = self.student.summarise(residual, batch.mask)
        return self.student.encode(residual, self.student.memory(residual), summary).mean

    def clusters(self, batch: Trajectories) -> Tensor:
        """The cluster in force at every step: int64 [B, T]."""
        distance = torch.cdist(self._proposals(batch).flatten(0, 1), self.centroids).square()
        score = -distance.view(*batch.mask.shape, -1) / (2 * self.variance)
        return cheapest_path(score, batch.mask, self.config.code_switch_cost)


def kmeans(points: Tensor, clusters: int, random: torch.Generator, sweeps: int = 50, restarts: int = 8) -> Tensor:
    """Centroids [K, z] with the least mean squared distance to points [n, z] over some restarts."""
    best, best_cost = None, torch.inf
    points = points[:: max(1, len(points) // 8000)]
    for _ in range(restarts):
        start = torch.randperm(len(points), generator=random)[:clusters]
        centroids = points[start.to(points.device)]
        for _ in range(sweeps):
            member = F.one_hot(torch.cdist(points, centroids).argmin(1), clusters).to(points.dtype)
            count = member.sum(0)[:, None]
            centroids = torch.where(count == 0, centroids, (member.T @ points) / count.clamp(min=1))
        cost = float(torch.cdist(points, centroids).amin(1).square().mean())
        if cost < best_cost:
            best, best_cost = centroids, cost
    return best
