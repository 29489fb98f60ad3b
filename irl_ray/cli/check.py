"""`irl-ray check WORLD [--model CLASS] [--data SOURCE]`, `irl-ray data import`: will it work, what is left out?"""

from __future__ import annotations

import argparse
import time
import traceback
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from irl_ray import worlds
from irl_ray.cli.text import duration
from irl_ray.data.streams import FunctionStream, names_function
from irl_ray.errors import UserError
from irl_ray.models.contract import broken_promises
from irl_ray.models.sequence_model import model_config, new_base
from irl_ray.worlds.world import World

ROWS, STEPS, WALKS = 4, 12, 256
OPTIONAL = {  # what a world may offer, and what goes without it
    "labels": "probes, alignment of switches, controllers trained with labels, injected codes",
    "demonstrations of its own": "training without data: in the file",
    "experts that collect": "irl-ray collect",
    "symmetries": "turned_summaries",
    "entries": "entries_only, entry_batch_size",
}


def check(options: argparse.Namespace) -> int:
    """Tells spaces, horizon and what is left out, plays a few episodes, and looks at demonstrations; 2 if some fail."""
    world = worlds.make(options.env, options.env_config or {}, "--env-config")
    for name, value in described(world).items():
        print(f"{name:<15}{value}")
    for name in missing(world):
        print(f"{'left out':<15}{OPTIONAL[name]}, for there are no {name}")
    try:
        problems = played(world, options.seed)
    except UserError:
        raise
    except Exception as error:  # of whatever the environment does
        where = traceback.extract_tb(error.__traceback__)[-1]
        told = f"{type(error).__name__}: {' '.join(str(error).split())}"
        problems = [f"the environment fails when it is played: {told} ({where.filename}, line {where.lineno})"]
    if options.model:
        problems += kept_promises(world, {"class": options.model, **options.model_config}, options.seed)
    if options.data:
        problems += looked_at(world, options.data)
    for problem in problems:
        print(f"{'PROBLEM':<15}{problem}")
    print("nothing stands in the way" if not problems else f"{len(problems)} to mend")
    return 2 if problems else 0


def described(world: World) -> dict[str, str]:
    """What models will see of a world, and what it does not offer."""
    action = world.action_space
    ranges = f", {action.low.min():g} to {action.high.max():g}" if isinstance(action, gym.spaces.Box) else ""
    told = {
        "world": world.id,
        "horizon": f"{world.horizon} steps",
        "observations": f"read as {_short(world.observation_space)}, by {' or '.join(world.encoders)}",
        "actions": f"{_short(action)}{ranges}",
    }
    return told


def missing(world: World) -> list[str]:
    """What of `OPTIONAL` a world does not offer."""
    has = {
        "labels": world.num_subgoals > 0,
        "demonstrations of its own": world.has_stream,
        "experts that collect": type(world).collector is not World.collector,
        "symmetries": world.num_symmetries > 1,
        "entries": world.has_entries,
    }
    return [name for name, value in has.items() if not value]


def _short(space: gym.Space) -> str:
    if isinstance(space, gym.spaces.MultiDiscrete):
        fewest, most = space.nvec.min(), space.nvec.max()
        return f"{len(space.nvec)} whole numbers of {fewest}{f' to {most}' if most > fewest else ''} values"
    return f"{space.n} choices" if isinstance(space, gym.spaces.Discrete) else f"{space.dtype} of shape {space.shape}"


def played(world: World, seed: int) -> list[str]:
    """What goes wrong in a few episodes of random actions, a line each."""
    rows = world.rows(ROWS)
    space, problems = world.action_space, []
    batched = gym.vector.utils.batch_space(space, ROWS)
    batched.seed(seed)
    first, _ = rows.reset(seed=list(range(seed, seed + ROWS)))
    again, _ = rows.reset(seed=list(range(seed, seed + ROWS)))
    if not np.isfinite(first).all():
        problems.append("a first observation is not finite")
    elif not np.array_equal(first, again):
        problems.append("the same seed gives another first observation: use self.np_random for all that is random")
    over, steps, reward = np.zeros(ROWS, bool), 0, 0.0
    while not over.all():
        observed, rewards, terminated, truncated, info = rows.step(batched.sample())
        steps, reward, over = steps + 1, reward + float(rewards.sum()), over | terminated | truncated
        if not np.isfinite(observed).all():
            problems.append(f"an observation is not finite after {steps} steps")
            break
        if not all(map(world.observation_space.contains, observed)):
            problems.append(f"after {steps} steps an observation lies outside of the observation space")
            break
    rows.close()
    print(f"{'played':<15}{ROWS} episodes of random actions, {steps} steps the longest, {reward:g} reward in all")
    return problems


def kept_promises(world: World, settings: dict[str, Any], seed: int) -> list[str]:
    """What a base model of somebody else's class does not keep in a world, a line each."""
    model = new_base(model_config(settings, "--model"), world)
    size = sum(parameter.numel() for parameter in model.parameters())
    print(f"{'model':<15}{settings['class']}, {model.num_layers} layers of {model.width}, {size:,} parameters")
    space = gym.vector.utils.batch_space(world.action_space, ROWS)
    space.seed(seed)
    rows = world.rows(ROWS)
    seen = [rows.reset(seed=list(range(seed, seed + ROWS)))[0]]
    seen += [rows.step(space.sample())[0] for _ in range(min(STEPS, world.horizon) - 1)]
    rows.close()
    return broken_promises(model, torch.from_numpy(np.stack(seen, 1)))


def looked_at(world: World, source: str) -> list[str]:
    """What is wrong with the demonstrations of a source, a line each."""
    from irl_ray.data.imports import FEWEST, Findings, checked

    if names_function(source):
        batch = FunctionStream(world, source, truth=True).sample(WALKS, torch.Generator().manual_seed(0))
        length, told = batch.mask.sum(1), bool((batch.subgoal >= 0).any())
        print(f"walks          made while they are learned from; of {WALKS}, {length.min()} to {length.max()} steps")
        print(f"labels         {'they tell subgoals' if told else 'none'}")
        return []
    found = Findings()
    for _ in checked(world, source, found):
        pass
    for line in found.lines():
        print(line)
    problems = [f"{len(found.problems)} episodes are left out"] if found.problems else []
    if found.episodes < FEWEST:
        problems.append(f"{found.episodes} usable demonstrations, expected at least {FEWEST}")
    if found.succeeded is not None and found.succeeded < found.episodes:
        print(f"{'note':<15}{found.episodes - found.succeeded} episodes reach nothing; a base model imitates them too")
    return problems


def import_data(options: argparse.Namespace) -> int:
    """`irl-ray data import SOURCE --env WORLD --out FOLDER`."""
    from irl_ray.data.imports import import_demonstrations

    world = worlds.make(options.env, options.env_config or {}, "--env-config")
    folder, started = Path(options.out).expanduser(), time.monotonic()

    def report(done: int) -> None:
        elapsed = time.monotonic() - started
        left = f"  eta {duration(elapsed * (options.episodes / done - 1))}" if options.episodes else ""
        print(f"{done:>8} episodes  elapsed {duration(elapsed)}{left}", flush=True)

    found = import_demonstrations(world, options.source, folder, options.episodes, options.seed, report)
    for line in found.lines():
        print(line)
    if found.problems:
        left = len(found.problems)
        raise UserError(f"{options.source}: {left} episodes were left out; the others are in {options.out}")
    return 0
