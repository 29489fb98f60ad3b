"""Walks of the base model that nobody steers: does it go where its teachers would have gone (gate 3)?"""

from __future__ import annotations

import numpy as np

from irl_ray.internal.rollout import roll_out
from irl_ray.models.sequence_model import BaseModel
from irl_ray.worlds.world import World


def free_walk_gates(
    base: BaseModel, world: World, episodes: int, seed: int, temperature: float = 1.0
) -> dict[str, float]:
    """Statistics of the colours that free walks visit, beside walkers who choose colours at random.

    Walks are compared only where they got as far, so survival does not count: the share of visits
    that a pretraining task could continue with, and the share of walks whose first visits are a
    whole pretraining task, among those that made so many visits.

    Returns:
        `free_walk/successor`, `free_walk/task` and, for a walker that goes to a colour drawn
        uniformly from the others each time, `free_walk/random_successor`, `free_walk/random_task`;
        `free_walk/finished`: the share of walks that made so many visits.
    """
    walks = roll_out(base, world, episodes, seed, temperature=temperature, free=True).visits
    length = min(len(task) for task in world.tasks)
    tasks = {tuple(task[:length]) for task in world.tasks}
    steps = {pair for task in world.tasks for pair in zip(task, task[1:])}
    pairs = [pair for walk in walks for pair in zip(walk[:length], walk[1:length])]
    whole = [tuple(walk[:length]) for walk in walks if len(walk) >= length]
    colours = world.num_colours
    return {
        "free_walk/successor": float(np.mean([pair in steps for pair in pairs])) if pairs else 0.0,
        "free_walk/random_successor": len(steps) / (colours * (colours - 1)),
        "free_walk/task": float(np.mean([walk in tasks for walk in whole])) if whole else 0.0,
        "free_walk/random_task": len(tasks) / (colours * (colours - 1) ** (length - 1)),
        "free_walk/finished": len(whole) / episodes,
    }
