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
import torch.nn.functional as F
from torch import Tensor

from irl_ray.data.trajectories import Trajectories
from irl_ray.worlds.pinpad import rules
from irl_ray.worlds.pinpad.rules import PinpadSpec, Task
from irl_ray.worlds.pinpad.senses import NUM_BODY
from irl_ray.worlds.pinpad.stream import GridworldExpert
from irl_ray.worlds.pinpad.walks import agent_cells, arrivals, at_entries, directions

STRAY = 0.03


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
    return _floors(batch, expert.action_probabilities(batch), batch.action, batch.mask)


def arrival_floors(batch: Trajectories) -> dict[str, float]:
    """The same for the direction in which the ant leaves a colour that it has just reached, nats per arrival.

    There it is decided whereto, and nothing in the ant's motion tells yet. Its expert takes the first
    of the shortest paths; `STRAY` is the probability with which the observers think it does not.
    """
    world, entries = batch.world, at_entries(batch)
    distances = torch.from_numpy(rules.shortest_distances(ant_entities(batch), world))
    table = torch.from_numpy(rules.next_cells(world.grid_size))
    rows, colours = torch.arange(len(batch)), torch.arange(world.num_colours)
    ahead = table[agent_cells(entries)[:, :-1]][:, :, None, :]  # [B, K, 1, 4]
    path = distances[ahead, colours[:, None], rows[:, None, None, None]].argmin(-1)  # [B, K, O]
    policy = F.one_hot(path, 4) * (1 - STRAY) + STRAY / 4
    return _floors(entries, policy, directions(entries), arrivals(entries))


def ant_entities(batch: Trajectories) -> np.ndarray:
    """int64 [B, E]: the cells of colours, walls and ant at the start, as the first observation tells them."""
    size, first = batch.world.grid_size, batch.observation[:, 0]
    between = (first[:, NUM_BODY:-2].unflatten(-1, (-1, 2)) + first[:, None, -2:]).round().long()
    own = agent_cells(batch)[:, 0]
    line, column = own[:, None] // size - between[..., 1], own[:, None] % size + between[..., 0]
    return torch.cat([line * size + column, own[:, None]], 1).numpy()


def _floors(batch: Trajectories, policy: Tensor, action: Tensor, where: Tensor) -> dict[str, float]:
    """Floors from what the expert would do on its way to each colour.

    Args:
        batch: demonstrations with labels.
        policy: [B, T, O, A], π(a | o, target colour).
        action: int64 [B, T], what it did.
        where: bool [B, T], the steps over which the mean is taken.
    """
    taken = policy.gather(-1, action[:, :, None, None].expand(-1, -1, policy.shape[2], 1))[..., 0]
    log_taken = taken.clamp_min(1e-9).log()  # [B, T, O]
    # Evidence of the present leg before the present step.
    total = torch.cat([torch.zeros_like(log_taken[:, :1]), log_taken.cumsum(1)], 1)
    steps = torch.arange(action.shape[1], device=action.device)
    new_leg = torch.ones_like(batch.mask)
    new_leg[:, 1:] = batch.leg[:, 1:] != batch.leg[:, :-1]
    leg_start = torch.where(new_leg, steps, 0).cummax(1).values  # [B, T]
    evidence = total[:, :-1] - total.gather(1, leg_start[..., None].expand(-1, -1, policy.shape[2]))
    priors = next_colour_priors(batch.world)
    legs = batch.leg.clamp(0, priors["oracle"].shape[1] - 1)
    return {
        name: _nll(torch.as_tensor(prior, dtype=torch.float32, device=legs.device), batch, legs, evidence, taken, where)
        for name, prior in priors.items()
    }


def _nll(prior: Tensor, batch: Trajectories, legs: Tensor, evidence: Tensor, taken: Tensor, where: Tensor) -> float:
    posterior = (prior[batch.task[:, None], legs].clamp_min(1e-12).log() + evidence).softmax(-1)
    likelihood = (posterior * taken).sum(-1)
    return float(-likelihood[where].clamp_min(1e-12).log().mean())
