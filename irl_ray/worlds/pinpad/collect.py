"""Collecting the ant's demonstrations: its expert walks, successes are kept.

Episode i of a collection derives from (seed, i) alone: shards are the same whoever makes them. Every
episode that is started is run to its end, so long ones are not missed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from irl_ray.config import to_plain
from irl_ray.data.shards import Demonstration, finished_shard, write_shard
from irl_ray.models import weights
from irl_ray.models.expert import Expert
from irl_ray.seeding import seed_sequence
from irl_ray.worlds.pinpad.ant import AntPinpadVectorEnv
from irl_ray.worlds.pinpad.guided import guided_view, to_world
from irl_ray.worlds.pinpad.specs import AntSpec

CAUSES = ("success", "wrong_colour", "wall", "off_grid", "fallen", "exploded", "too_slow")


@dataclass
class Walks:
    """What an expert did in some episodes.

    Attributes:
        demonstrations: the successful ones.
        ends: how many episodes ended by each of `CAUSES`.
        steps: environment steps taken in all.
    """

    demonstrations: list[Demonstration]
    ends: Counter = field(default_factory=Counter)
    steps: int = 0


@torch.no_grad()
def walk(expert: Expert, world: AntSpec, episodes: range, seed: int, deterministic: bool, threads: int = 0) -> Walks:
    """Runs the given episodes of a collection, all at once.

    Args:
        expert: acts on the guided view.
        world: the ant's world.
        episodes: their numbers.
        seed: of the collection.
        deterministic: take mean actions (the clean expert, D*) instead of sampling (D).
        threads: of the physics.
    """
    env = AntPinpadVectorEnv(len(episodes), autoreset="disabled", threads=threads, **to_plain(world))
    states = [seed_sequence(seed, "collect", i).generate_state(2, np.uint64) >> np.uint64(1) for i in episodes]
    observation, info = env.reset(seed=[int(s[0]) for s in states])
    noise = [np.random.default_rng(int(s[1])) for s in states]
    numbers, count, horizon = np.arange(len(episodes)), len(episodes), env.world.horizon
    action_size = env.single_action_space.shape[0]
    seen = np.zeros((count, horizon + 1, observation.shape[1]), np.float16)
    acted = np.zeros((count, horizon, action_size), np.float16)
    leg, subgoal = np.zeros((2, count, horizon), np.int8)
    seen[:, 0] = observation
    drawn = np.zeros((count, horizon, action_size), np.float32)
    if not deterministic:
        drawn = np.stack([owner.standard_normal((horizon, action_size), np.float32) for owner in noise])
    task, result = env.task.copy(), Walks([])
    while len(numbers):
        time = int(env.elapsed[0])
        target = env._tasks[env.task, env.leg]
        view = guided_view(env, target)
        mean, log_std = expert(torch.from_numpy(view.features))
        action = (mean + log_std.exp() * torch.from_numpy(drawn[numbers, time])).numpy()
        action = to_world(action, view.turns).clip(-1, 1).astype(np.float16)
        leg[numbers, time], subgoal[numbers, time] = env.leg, info["subgoal"]
        acted[numbers, time] = action
        observation, _, terminated, truncated, info = env.step(action)
        seen[numbers, time + 1] = observation
        result.steps += len(numbers)
        over = terminated | truncated
        if not over.any():
            continue
        for row in np.flatnonzero(over):
            cause = next((name for name in CAUSES[:-1] if info[name][row]), "too_slow")
            result.ends[cause] += 1
            if cause == "success":
                n = numbers[row]
                result.demonstrations.append(
                    Demonstration(
                        episodes[n],
                        seen[n, : time + 2].copy(),
                        acted[n, : time + 1].copy(),
                        int(task[n]),
                        leg[n, : time + 1].copy(),
                        subgoal[n, : time + 1].copy(),
                    )
                )
        rows = np.flatnonzero(~over)
        env.keep(rows)
        numbers, info = numbers[rows], {"subgoal": info["subgoal"][rows]}
    env.close()
    result.demonstrations.sort(key=lambda d: d.episode)
    return result


def collect_shard(
    folder: Path,
    number: int,
    size: int,
    expert: Expert,
    world: AntSpec,
    seed: int,
    deterministic: bool,
    episodes: int,
    threads: int = 0,
    together: int = 512,
) -> tuple[dict[str, Any], Counter, int, bool]:
    """Collects shard `number`: episodes number * size up to `size` more, of `episodes` in all.

    A shard that an interrupted or a shorter collection with the same settings has finished is not made again.

    Returns:
        The shard's entry in the manifest, how its episodes ended, environment steps, and whether it was made now.
    """
    last = min((number + 1) * size, episodes)
    settings = [weights.fingerprint(expert), to_plain(world), size, seed, deterministic, last]
    finished = finished_shard(folder, number)
    if finished and finished[1]["settings"] == settings:
        entry, made = finished
        return entry, Counter(made["ends"]), made["steps"], False
    found, ends, steps = [], Counter(), 0
    for first in range(number * size, last, together):
        walks = walk(expert, world, range(first, min(first + together, last)), seed, deterministic, threads)
        found += walks.demonstrations
        ends += walks.ends
        steps += walks.steps
    made = {"settings": settings, "ends": ends, "steps": steps}
    return write_shard(folder, number, found, made), ends, steps, True
