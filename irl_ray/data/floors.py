"""Floors of the action loss: what a base model's NLL says about what it has understood.

- *oracle*: the target colour is known.
- *Bayes*: the task list is known, the task is inferred from the visits and the movement so far.
- *colour-blind*: as Bayes, but colours are exchangeable: only the pattern of repetitions in the
  task list is known. A base model above this floor has not used the identity of any colour.

The expert's visits are observed, so the posterior over the next colour factorises by leg: a prior
given the visits before (from the task list), times the likelihood of the movement since the last
visit. All three floors differ in that prior alone.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from torch import Tensor

from irl_ray.data.gridworld import GridworldExpert
from irl_ray.data.trajectories import Trajectories
from irl_ray.envs.pinpad import PinpadSpec, Task


def _pattern(task: Task) -> Task:
    """Colours renamed by order of first occurrence: 4-5-0-5 and 1-2-3-2 are both 0-1-2-1."""
    names: dict[int, int] = {}
    return tuple(names.setdefault(colour, len(names)) for colour in task)


def next_colour_priors(spec: PinpadSpec) -> dict[str, np.ndarray]:
    """For each floor, P(next colour | colours visited so far): [tasks, legs, O]."""
    legs = max(len(task) for task in spec.tasks)
    shape = (len(spec.tasks), legs, spec.num_colours)
    priors = {name: np.zeros(shape) for name in ("oracle", "bayes", "colour_blind")}
    patterns = Counter(_pattern(task) for task in spec.tasks)
    for number, task in enumerate(spec.tasks):
        for leg, colour in enumerate(task):
            visited = task[:leg]
            priors["oracle"][number, leg, colour] = 1
            for other in spec.tasks:
                if other[:leg] == visited and len(other) > leg:
                    priors["bayes"][number, leg, other[leg]] += 1
            seen = list(dict.fromkeys(visited))
            fresh = [c for c in range(spec.num_colours) if c not in seen]
            for pattern, weight in patterns.items():
                if pattern[:leg] == _pattern(task)[:leg] and len(pattern) > leg:
                    # A pattern with k distinct visits left fits every naming of them equally.
                    names = [seen[pattern[leg]]] if pattern[leg] < len(seen) else fresh
                    priors["colour_blind"][number, leg, names] += weight / len(names)
    return {name: prior / np.maximum(prior.sum(-1, keepdims=True), 1e-12) for name, prior in priors.items()}


def action_floors(expert: GridworldExpert, batch: Trajectories) -> dict[str, float]:
    """Mean action NLL in nats per step of the three ideal observers on `batch`.

    Returns:
        `{"oracle": ..., "bayes": ..., "colour_blind": ...}`, in ascending order.

    Raises:
        ValueError: if the expert is noisy; the floors are those of the clean expert.
    """
    if expert.noise:
        raise ValueError("floors are defined for the clean expert (noise=0)")
    policy = expert.action_probabilities(batch)  # [B, T, O, A]
    taken = policy.gather(-1, batch.action[:, :, None, None].expand(-1, -1, policy.shape[2], 1))[..., 0]
    log_taken = taken.clamp_min(1e-9).log()  # [B, T, O]
    # Evidence of the present leg before the present step.
    total = torch.cat([torch.zeros_like(log_taken[:, :1]), log_taken.cumsum(1)], 1)
    steps = torch.arange(batch.action.shape[1], device=batch.action.device)
    new_leg = torch.ones_like(batch.mask)
    new_leg[:, 1:] = batch.leg[:, 1:] != batch.leg[:, :-1]
    leg_start = torch.where(new_leg, steps, 0).cummax(1).values  # [B, T]
    evidence = total[:, :-1] - total.gather(1, leg_start[..., None].expand(-1, -1, policy.shape[2]))
    legs = batch.leg.clamp(max=expert.tasks.shape[1] - 1)
    return {
        name: _nll(torch.as_tensor(prior, dtype=torch.float32, device=legs.device), batch, legs, evidence, taken)
        for name, prior in next_colour_priors(expert.spec).items()
    }


def _nll(prior: Tensor, batch: Trajectories, legs: Tensor, evidence: Tensor, taken: Tensor) -> float:
    posterior = (prior[batch.task[:, None], legs].clamp_min(1e-12).log() + evidence).softmax(-1)
    likelihood = (posterior * taken).sum(-1)
    return float(-likelihood[batch.mask].clamp_min(1e-12).log().mean())
