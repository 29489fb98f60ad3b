"""`irl-ray probe | control | codes | variance`: looking inside a released or trained model.

Each prints a table and, with `--out X.json`, writes what `irl-ray report` draws.
"""

from __future__ import annotations

import argparse
import json
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from irl_ray.analysis.codes import alignment_and_meaning, codes_of, random_code_gates, subgoal_starts
from irl_ray.analysis.control import control_success, train_controllers
from irl_ray.analysis.probe import read_subgoals
from irl_ray.analysis.results import shown_name
from irl_ray.analysis.variance import variance_by_steps
from irl_ray.cli.text import duration
from irl_ray.data.sources import open_demonstrations
from irl_ray.data.trajectories import Demonstrations, Trajectories
from irl_ray.errors import UserError
from irl_ray.models import weights
from irl_ray.models.weights import Artefact
from irl_ray.seeding import torch_seed

MAX_SINCE = 40  # steps within a segment that are told apart
EXAMPLES = 4
FEWEST = 16  # trajectories or episodes


def add_parsers(commands: Any) -> None:
    """The four subcommands' arguments."""
    for name, (_, what) in COMMANDS.items():
        command = commands.add_parser(name, help=what)
        command.add_argument("model", help="artefact folder, checkpoint or released name")
        command.add_argument("--data", help="folder of demonstrations (the ant); the gridworld needs none")
        command.add_argument("--episodes", type=int, default=1024, help="trajectories or episodes (default: 1024)")
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--out", help="write the results as JSON, for irl-ray report")
        if name in ("control", "codes"):
            command.add_argument("--temperature", type=float, default=1.0, help="of the base model's actions")
            command.add_argument("--tasks", help="task of unseen transitions; default: the preset's")
        if name == "control":
            command.add_argument("--layers", type=int, nargs="+", help="default: all")
            command.add_argument("--steps", type=int, default=1500, help="optimiser steps per layer (default: 1500)")
            command.add_argument("--rank", type=int, help="of the controllers; default: full matrices")
        if name == "codes":
            command.add_argument("--step", type=int, default=30, help="at which codes are injected (default: 30)")
        if name == "variance":
            command.add_argument("--lengths", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])


def look(options: argparse.Namespace) -> int:
    """Runs one of the four."""
    if options.episodes < FEWEST:
        raise UserError(f"--episodes: expected at least {FEWEST}, got {options.episodes}")
    agent, started = weights.load(options.model), time.monotonic()
    torch.set_num_threads(1)
    found = COMMANDS[options.command][0](options, agent)
    result = {
        "kind": options.command,
        "model": shown_name(options.model),
        "world": agent.world.title,
        "mixer": getattr(agent.base.config, "mixer", "other"),
        "layers_of_base": agent.base.num_layers,
        "seed": options.seed,
        "episodes": options.episodes,
        "revision": weights.code_revision(),
        "command": command_of(options),
        "seconds": round(time.monotonic() - started, 1),
        **found,
    }
    if options.out:
        path = Path(options.out)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(f"{path}, {duration(result['seconds'])}")
    return 0


def command_of(options: argparse.Namespace) -> str:
    """The command line that does the same; of an absolute path only the last name."""
    words = ["irl-ray", options.command, shown_name(options.model)]
    for name, value in vars(options).items():
        if name in ("command", "model", "out") or value is None:
            continue
        values = value if isinstance(value, list) else [value]
        words += [f"--{name}", *(Path(v).name if Path(str(v)).is_absolute() else str(v) for v in values)]
    return shlex.join(words)


def demonstrations(options: argparse.Namespace, agent: Artefact) -> Demonstrations:
    """Clean demonstrations with labels."""
    if options.data is None and not agent.world.has_stream:
        raise UserError(f"--data: missing; {agent.world.how_to_collect(clean=True)}")
    return open_demonstrations(agent.world, options.data, truth=True)


def held_out(options: argparse.Namespace, agent: Artefact) -> Trajectories:
    """Demonstrations that no training saw."""
    random = torch.Generator().manual_seed(torch_seed(options.seed, "inside"))
    return demonstrations(options, agent).sample(options.episodes, random)


@torch.no_grad()
def probe(options: argparse.Namespace, agent: Artefact) -> dict[str, Any]:
    """Accuracy by layer, and the probability of the true subgoal by layer and time within its segment."""
    batch, base = held_out(options, agent), agent.base
    readings = read_subgoals(torch.stack(base.residuals(batch.observation[:, :-1])), batch, samples=24_000)
    since, late = readings.since, readings.late
    counts = torch.bincount(since, minlength=MAX_SINCE)[:MAX_SINCE]
    steps = [t for t in range(MAX_SINCE) if counts[t] >= min(30, int(counts.max()))]
    probability = readings.true_probability
    result = {
        "accuracy": readings.right.float().mean(1).tolist(),
        "accuracy_late": readings.right[:, late].float().mean(1).tolist(),
        "chance": readings.chance,
        "since": steps,
        "probability": [[float(row[since == t].mean()) for t in steps] for row in probability],
    }
    print(f"{'layer':>6}{'accuracy':>10}{'late':>8}   chance {readings.chance:.3f}")
    for layer, (accuracy, late_accuracy) in enumerate(zip(result["accuracy"], result["accuracy_late"])):
        print(f"{layer:>6}{accuracy:>10.3f}{late_accuracy:>8.3f}")
    return result


def control(options: argparse.Namespace, agent: Artefact) -> dict[str, Any]:
    """Ground-truth controllers at every layer: success on unseen transitions and on training tasks."""
    base, layers = agent.base, options.layers or range(agent.base.num_layers + 1)
    wrong = [layer for layer in layers if not 0 <= layer <= base.num_layers]
    if wrong:
        raise UserError(f"--layers {wrong[0]}: the base model has layers 0..{base.num_layers}")
    unseen = post_task(options, agent)
    if unseen is None:
        raise UserError("--tasks: missing; this world is none of the presets, such as --tasks post_three_pairs")
    worlds = {"success": agent.world.with_tasks(unseen), "success_training_tasks": agent.world}
    source = demonstrations(options, agent)
    result: dict[str, Any] = {"layers": list(layers), "rank": options.rank, "steps": options.steps}
    result |= {name: [] for name in worlds}
    print(f"{'layer':>6}{'unseen':>9}{'training':>10}")
    for layer in layers:
        torch.manual_seed(torch_seed(options.seed, "inside", "control", layer))
        stream = source.batches(64, options.seed, "inside", "control")
        controllers = train_controllers(base, layer, stream, options.steps, rank=options.rank)
        for name, world in worlds.items():
            success = control_success(
                base, layer, controllers, world, options.episodes, options.seed, options.temperature
            )
            result[name].append(success)
        print(f"{layer:>6}{result['success'][-1]:>9.3f}{result['success_training_tasks'][-1]:>10.3f}", flush=True)
    return result


def post_task(options: argparse.Namespace, agent: Artefact) -> Any:
    """The task of unseen transitions: the one asked for, else that of the scale; None in a world of no preset."""
    return options.tasks or agent.world.post_task


@torch.no_grad()
def codes(options: argparse.Namespace, agent: Artefact) -> dict[str, Any]:
    """Alignment and meaning on demonstrations, some of them step by step, injection of codes, and random ones."""
    if agent.metacontroller is None:
        raise UserError(f"{options.model}: holds no metacontroller; run discovery first")
    batch = held_out(options, agent)
    if agent.segmenter is not None:
        found = agent.segmenter(batch.observation, batch.mask)
        soft = hard = found.switch.float()
        code = found.code
    else:
        anew = agent.found_on_clean_slates
        soft = codes_of(agent, batch, None, anew)[0].beta
        found, _ = codes_of(agent, batch, agent.switch_threshold, anew)
        hard, code = found.beta, found.code
    result = alignment_and_meaning(hard, code, batch, agent.world.switch_tolerance)
    change, again = subgoal_starts(batch)
    result["examples"] = [
        {
            "subgoal": batch.subgoal[row, :steps].tolist(),
            "starts": sorted({0, *change[row].nonzero()[0].tolist(), *again[row].nonzero()[0].tolist()}),
            "beta": [round(value, 4) for value in soft[row, :steps].tolist()],
            "switch": hard[row, :steps].int().tolist(),
            "code": [[round(value, 3) for value in values] for values in code[row, :steps].tolist()],
        }
        for row in range(EXAMPLES)
        for steps in (int(batch.mask[row].sum()),)
    ]
    result["injection_step"] = options.step
    result["injection"] = agent.world.injection(
        agent, options.episodes, options.seed, options.step, options.temperature
    )
    unseen = post_task(options, agent)
    if unseen is None:
        print("random_code_reach: left out, for this world is none of the presets; name a task by --tasks")
    else:
        world, trial = agent.world.with_tasks(unseen), (options.episodes, options.seed, options.temperature)
        result |= random_code_gates(agent, code, world, batch, *trial)
    for name, value in {**result, **result["injection"]}.items():
        if isinstance(value, (int, float)):
            print(f"{name:<46}{value:.4g}")
    return result


def variance(options: argparse.Namespace, agent: Artefact) -> dict[str, Any]:
    """Moments of policy-gradient estimates by the raw steps that a decision lasts."""
    if agent.metacontroller is None:
        raise UserError(f"{options.model}: holds no metacontroller; run discovery first")
    if min(options.lengths) < 1 or max(options.lengths) > agent.world.horizon:
        raise UserError(f"--lengths: expected 1 to {agent.world.horizon}, the horizon")
    found = variance_by_steps(agent, agent.world, options.lengths, options.episodes, options.seed)
    print(f"{'steps':>6}{'internal |score|²':>20}{'raw |score|²':>16}{'internal var':>14}{'raw var':>12}")
    columns = ("internal/score", "raw/score", "internal/variance", "raw/variance")
    for i, length in enumerate(options.lengths):
        cells = [found[name][i] for name in columns]
        print(f"{length:>6}{cells[0]:>20.4g}{cells[1]:>16.4g}{cells[2]:>14.4g}{cells[3]:>12.4g}")
    return {"lengths": options.lengths, **found}


COMMANDS: dict[str, tuple[Callable[[argparse.Namespace, Artefact], dict[str, Any]], str]] = {
    "probe": (probe, "what each layer tells about the subgoal, by time within its segment"),
    "control": (control, "success of controllers trained with labels, by layer"),
    "codes": (codes, "what a metacontroller's codes and switches mean, and what injected codes do"),
    "variance": (variance, "variance of internal and raw policy gradients"),
}
