"""`rllib evaluate`: rolls a trained agent out; plain PyTorch, no Ray."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from irl_ray.cli import film
from irl_ray.cli.text import check_writable
from irl_ray.config import merge
from irl_ray.errors import UserError
from irl_ray.internal.sampler import sample_code_episodes, sample_raw_episodes
from irl_ray.models import weights
from irl_ray.models.weights import Artefact
from irl_ray.seeding import seed_sequence
from irl_ray.worlds.world import World

CHANGES = ("switch_threshold", "action_temperature", "clean_slate")  # flags that change how an agent acts


def evaluate(options: argparse.Namespace) -> int:
    """Prints success with its standard error, and writes a film and JSON where asked."""
    if options.episodes < 1:
        raise UserError(f"--episodes: expected a positive number, got {options.episodes}")
    if options.render is not None:
        film.check(options.render)
        if options.prior or any(getattr(options, flag) is not None for flag in CHANGES):
            raise UserError("--render shows the agent as it was trained; leave out the other flags that change it")
    if options.out:
        check_writable(options.out, "--out")
    if "expert" in weights.described(options.checkpoint):
        return evaluate_expert(options)
    agent = weights.load(options.checkpoint)
    world = evaluation_world(agent, options.env_config or {})
    states = seed_sequence(options.seed, "evaluate").generate_state(options.episodes, "uint64")
    seeds = [int(state) >> 1 for state in states]
    temperature = agent.action_temperature if options.action_temperature is None else options.action_temperature
    if not temperature > 0:
        raise UserError(f"--action-temperature: expected above 0, got {temperature}")
    frames = film.record(agent, world, options.seed, not options.greedy) if options.render else []
    if agent.metacontroller is None:
        episodes = sample_raw_episodes(
            agent.base, world, seeds, action_temperature=temperature, explore=not options.greedy
        )
        acting = "base model on raw actions"
    else:
        policy = None if options.prior else agent.policy
        explore = not options.greedy or policy is None
        threshold = agent.switch_threshold if options.switch_threshold is None else options.switch_threshold
        episodes = sample_code_episodes(
            agent,
            policy,
            world,
            seeds,
            threshold=threshold,
            action_temperature=temperature,
            clean_slate=agent.clean_slate if options.clean_slate is None else options.clean_slate,
            explore=explore,
        )
        acting = "policy over codes" if policy else "prior over codes, z ~ N(0, I)"
    success = episodes.success
    result = {
        "acting": acting,
        "tasks": world.tasks_told,
        "episodes": len(episodes),
        "success_rate": float(success.mean()),
        "standard_error": float(success.std() / len(success) ** 0.5),
        "legs_per_episode": float(episodes.legs.mean()),
        "raw_steps_per_episode": float(episodes.raw_steps.mean()),
        "decisions_per_episode": float(episodes.decisions.mean()),
        "seed": options.seed,
    }
    show(result, options.out)
    if frames:
        film.write(frames, options.render)
        print(f"{'render':<24}{options.render}")
    return 0


def show(result: dict[str, Any], out: str | None) -> None:
    """Prints results as a table and writes them as JSON where asked."""
    for name, value in result.items():
        print(f"{name:<24}{value:.4g}" if isinstance(value, float) else f"{name:<24}{value}")
    if out:
        Path(out).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def evaluate_expert(options: argparse.Namespace) -> int:
    """How often an expert does its tasks, with mean actions (`--greedy`) or sampled ones, and why not."""
    if options.render or options.prior or any(getattr(options, flag) for flag in CHANGES):
        raise UserError("evaluate: an expert has no codes and is not drawn; leave out the flags for agents")
    artefact = weights.load(options.checkpoint, "expert")
    world = evaluation_world(artefact, options.env_config or {})
    collector = world.collector()
    walks = collector.walk(artefact.expert, world, range(options.episodes), options.seed, options.greedy)
    share = walks.ends["success"] / options.episodes
    lengths = [len(d.action) for d in walks.demonstrations]
    result = {
        "acting": f"expert, {'mean' if options.greedy else 'sampled'} actions",
        "tasks": world.tasks_told,
        "episodes": options.episodes,
        "success_rate": share,
        "standard_error": (share * (1 - share) / options.episodes) ** 0.5,
        **{f"ended_{cause}": walks.ends[cause] / options.episodes for cause in collector.CAUSES[1:]},
        "steps_of_successes": float(np.mean(lengths)) if lengths else 0.0,
        "seed": options.seed,
    }
    show(result, options.out)
    return 0


def evaluation_world(agent: Artefact, overrides: dict[str, Any]) -> World:
    """The world of the agent's last RL phase, else of its demonstrations, changed by `overrides`."""
    trained: dict[str, Any] = {}
    for phase in ("RawRL", "InternalRL"):
        if phase in agent.provenance:
            told = agent.provenance[phase].get("env_config", {})
            trained = merge(trained, {k: v for k, v in told.items() if k != "preset"})
    return agent.world.changed(overrides if "preset" in overrides else merge(trained, overrides), "--env-config")
