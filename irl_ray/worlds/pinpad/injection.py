"""Codes that free walks came upon, and what they do when they are put in force elsewhere (B.3.2).

Walks under codes from the prior N(0, I) are searched for codes under which exactly one subgoal was
visited. Such a code is put in force at some step of other walks, on other layouts: is its subgoal
what is gone for next?
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from irl_ray.errors import UserError
from irl_ray.internal.internal_env import InternalVectorEnv
from irl_ray.models.weights import Artefact
from irl_ray.seeding import generator
from irl_ray.worlds.world import World


@dataclass
class Walks:
    """N walks of up to T steps without a task.

    Attributes:
        code: float32 [N, T, z], the code in force.
        hold: int64 [N, T], number of the code in force, from 0; -1 once a walk is over.
        entered: int64 [N, T], the colour entered by the step, -1 for none.
    """

    code: np.ndarray
    hold: np.ndarray
    entered: np.ndarray


@torch.no_grad()
def free_walks(
    agent: Artefact,
    world: World,
    episodes: int,
    seed: int,
    temperature: float = 1.0,
    inject: tuple[int, Tensor] | None = None,
    purpose: str = "collect",
) -> Walks:
    """Walks under codes drawn from the prior at every switch.

    Args:
        agent: base model and metacontroller; its memory starts anew with every code if it did so in discovery.
        world: the world; its tasks do not matter.
        episodes: N.
        seed: of layouts, actions and codes.
        temperature: at which actions are drawn.
        inject: a step, and codes [N, z] that are put in force then, until the next switch.
        purpose: of the walks; other purposes have other layouts, actions and codes.
    """
    env = InternalVectorEnv(
        agent,
        world,
        episodes,
        threshold=agent.switch_threshold,
        action_temperature=temperature,
        clean_slate=agent.found_on_clean_slates,
        autoreset="disabled",
    )
    env.raw.free = True
    env.reset(seed=[int(s) for s in generator(seed, "walks", purpose, "layouts").integers(2**62, size=episodes)])
    shape = (episodes, world.horizon, agent.metacontroller.config.code_size)
    drawn = torch.from_numpy(generator(seed, "walks", purpose, "codes").standard_normal(shape, np.float32))
    asking, running = np.ones(episodes, bool), np.ones(episodes, bool)
    number, in_force = np.full(episodes, -1), torch.zeros(episodes, shape[-1])
    walks = Walks(np.zeros(shape, np.float32), np.full(shape[:2], -1), np.full(shape[:2], -1))
    for step in range(world.horizon):
        codes = drawn[:, step]
        if inject is not None and step == inject[0]:
            asking, codes = np.ones(episodes, bool), inject[1]
        rows = torch.from_numpy(np.flatnonzero(asking))
        env.hold(rows, codes[rows])
        in_force[rows] = codes[rows]
        number += asking
        result = env.advance()
        walks.code[:, step] = in_force.numpy()
        walks.hold[:, step] = np.where(running, number, -1)
        walks.entered[:, step] = np.where(running, result.entered, -1)
        running &= ~(result.terminated | result.truncated)
        asking = result.beta >= agent.switch_threshold
        if not running.any():
            break
    return walks


def codes_of_one_subgoal(walks: Walks, world: World) -> tuple[np.ndarray, np.ndarray]:
    """Codes under which exactly one subgoal's colours were visited, in order, before the next switch.

    Returns:
        Codes [n, z] and the subgoals they led to, int64 [n]. The last code of a walk, which the end
        cut short, is left out.
    """
    names = {colours: number for number, colours in enumerate(world.subgoals)}
    codes, subgoals = [], []
    for code, hold, entered in zip(walks.code, walks.hold, walks.entered):
        for number in range(hold.max()):
            under = hold == number
            visited = tuple(entered[under & (entered >= 0)].tolist())
            if visited in names:
                codes.append(code[under][0])
                subgoals.append(names[visited])
    return np.array(codes).reshape(len(codes), walks.code.shape[-1]), np.array(subgoals, np.int64)


def next_colour(walks: Walks, step: int) -> np.ndarray:
    """int64 [N]: the first colour entered at `step` or later, -1 for none."""
    later = walks.entered[:, step:]
    first = (later >= 0).argmax(1)
    return later[np.arange(len(later)), first]


def last_subgoal(walks: Walks, step: int, world: World) -> np.ndarray:
    """int64 [N]: the subgoal that the colours entered before `step` end with, -1 if they end with none."""
    names, size = {colours: number for number, colours in enumerate(world.subgoals)}, world.colours_per_subgoal
    visited = [row[row >= 0][-size:].tolist() for row in walks.entered[:, :step]]
    return np.array([names.get(tuple(colours), -1) for colours in visited])


def injection(
    agent: Artefact, world: World, episodes: int, seed: int, step: int = 30, temperature: float = 1.0
) -> dict[str, float | None]:
    """Collects codes, injects them on new layouts, and compares with the same walks left alone.

    Args:
        agent: base model and metacontroller.
        world: with the tasks of pretraining, from which unseen transitions follow.
        episodes: walks, both to collect from and to inject into.
        seed: of everything.
        step: at which codes are injected (30 in the paper).
        temperature: at which actions are drawn.

    Returns:
        `reached`, the share of walks in which the next colour is the first of the injected code's
        subgoal, and `reached_alone`, the same without injection; both again with `_unseen` where the
        walk had just done another subgoal after which no pretraining task has this one (None if there was
        no such walk); counts of walks and collected codes. Of a metacontroller none of whose codes
        led to exactly one subgoal only the counts.

    Raises:
        UserError: if the step is past the horizon.
    """
    if not 0 < step < world.horizon:
        raise UserError(f"--step {step}: expected between 1 and {world.horizon - 1}, the horizon")
    codes, subgoals = codes_of_one_subgoal(free_walks(agent, world, episodes, seed, temperature), world)
    if not len(codes):
        return {"codes": 0, "walks": episodes}
    chosen = generator(seed, "walks", "choice").integers(len(codes), size=episodes)
    target = subgoals[chosen]
    injected = (step, torch.from_numpy(codes[chosen]))
    alone = free_walks(agent, world, episodes, seed, temperature, purpose="test")
    steered = free_walks(agent, world, episodes, seed, temperature, injected, purpose="test")
    before = last_subgoal(alone, step, world)
    first = np.array([colours[0] for colours in world.subgoals])[target]
    seen = {pair for task in world.tasks for pair in zip(world.task_subgoals(task), world.task_subgoals(task)[1:])}
    unseen = np.array([b >= 0 and b != t and (b, t) not in seen for b, t in zip(before, target)])
    result = {"codes": len(codes), "walks": episodes, "walks_unseen": int(unseen.sum())}
    for name, walks in (("reached", steered), ("reached_alone", alone)):
        hit = next_colour(walks, step) == first
        result[name] = float(hit.mean())
        result[f"{name}_unseen"] = float(hit[unseen].mean()) if unseen.any() else None
    return result
