"""`irl-ray collect` and `irl-ray data`: demonstrations on disk."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector.utils import concatenate, create_empty_array

from irl_ray import worlds
from irl_ray.cli.text import duration
from irl_ray.data import shards
from irl_ray.errors import UserError
from irl_ray.models import weights
from irl_ray.models.weights import Artefact
from irl_ray.worlds.world import World


def collect(options: argparse.Namespace) -> int:
    """Runs an expert and writes its successes in shards. An interrupted collection goes on, a shorter one grows."""
    kind = worlds.find(options.env, "collect")
    kind.of({}).collector()
    for name in ("episodes", "shard"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name}: expected a positive number, got {getattr(options, name)}")
    artefact = weights.load(options.expert, "expert")
    world = artefact.world
    if options.env_config:
        world = kind.of(options.env_config, "--env-config")
        different = artefact.world.difference(world)
        if different:
            raise UserError(f"--env-config: the expert was trained in another world: {different}")
    folder = Path(options.out)
    identity = {
        "expert": weights.fingerprint(artefact.expert),
        "deterministic": options.deterministic,
        "seed": options.seed,
        "shard": options.shard,
    }
    if (folder / shards.MANIFEST).exists():
        held = shards.read_manifest(folder)
        same = held["world"] == world.settings and identity.items() <= held.items()
        if not same or held.get("episodes", options.episodes) >= options.episodes:
            raise UserError(
                f"{folder}: holds {held.get('episodes')} episodes of {'this' if same else 'another'} collection; "
                f"{'ask for more with --episodes' if same else 'choose another folder'} or remove it"
            )
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    count = -(-options.episodes // options.shard)
    entries: list[dict[str, Any]] = []
    ends, found, steps, started = Counter(), 0, 0, time.monotonic()
    for entry, ended, walked, made_now in _shards(options, artefact, world, folder, count):
        entries.append(entry)
        ends += ended
        done = sum(ends.values())
        if not made_now:
            found += sum(ended.values())
            continue
        steps += walked
        elapsed = time.monotonic() - started
        rate = (done - found) / elapsed
        print(
            f"{done:>8} of {options.episodes} episodes  kept {ends['success'] / done:.3f}  "
            f"{steps / elapsed:,.0f} steps/s  {rate:.0f} episodes/s  elapsed {duration(elapsed)}  eta "
            f"{duration((options.episodes - done) / rate)}",
            flush=True,
        )
    made = {
        **identity,
        "episodes": options.episodes,
        "success_rate": ends["success"] / options.episodes,
        "ends": {cause: ends[cause] for cause in world.collector().CAUSES},
        "revision": weights.code_revision(),
    }
    shards.write_manifest(folder, world, sorted(entries, key=lambda entry: entry["file"]), made)
    return info(argparse.Namespace(folder=str(folder)))


def _shards(
    options: argparse.Namespace, artefact: Artefact, world: World, folder: Path, count: int
) -> Iterator[tuple[dict[str, Any], Counter, int, bool]]:
    """The shards as they are finished, made here or by Ray workers that see the same folder."""
    collect_shard = world.collector().collect_shard
    settings = (options.shard, artefact.expert, world, options.seed, options.deterministic, options.episodes,
                options.threads)  # fmt: skip
    if not options.workers:
        for number in range(count):
            yield collect_shard(folder, number, *settings)
        return
    import ray

    from irl_ray.cli.runner import start_ray

    start_ray(None)
    task, shared = ray.remote(collect_shard), [ray.put(value) for value in settings]
    waiting = list(range(count))
    running = [task.remote(folder.resolve(), waiting.pop(0), *shared) for _ in range(min(options.workers, count))]
    while running:
        (ready,), running = ray.wait(running)
        if waiting:
            running.append(task.remote(folder.resolve(), waiting.pop(0), *shared))
        yield ray.get(ready)


def info(options: argparse.Namespace) -> int:
    """`irl-ray data info FOLDER`."""
    manifest = shards.read_manifest(options.folder)
    world = shards.world_of(manifest, options.folder)
    settings = ", ".join(f"{k} {v}" for k, v in manifest["world"].items() if k != "tasks")
    lines = {"environment": manifest["environment"], "world": settings, "tasks": world.tasks_told}
    if "source" in manifest:
        lines["source"] = manifest["source"]
    if "expert" in manifest:
        acting = "mean actions" if manifest.get("deterministic") else "sampled"
        lines |= {"expert": f"{str(manifest['expert'])[:16]}, {acting}", "seed": manifest.get("seed")}
    rate = f" ({manifest['success_rate']:.3f})" if "success_rate" in manifest else ""
    lines |= {
        "episodes": f"{manifest.get('episodes')}, kept {manifest['kept']}{rate}",
        "ends": ", ".join(f"{cause} {number}" for cause, number in manifest.get("ends", {}).items() if number),
        "steps": f"{manifest['steps']:,}, {manifest['steps'] / max(1, manifest['kept']):.1f} per trajectory",
        "shards": len(manifest["shards"]),
    }
    for name, value in lines.items():
        if value != "":
            print(f"{name:<14}{value}")
    return 0


def verify(options: argparse.Namespace) -> int:
    """`irl-ray data verify FOLDER`: every shard's hash, columns, counts and values."""
    manifest, folder, bad = shards.read_manifest(options.folder), Path(options.folder), 0
    for entry in manifest["shards"]:
        problem = shards.check_shard(folder, entry, thorough=True)
        bad += problem is not None
        print(f"{entry['file']}: {problem or 'good'}")
    print(f"{len(manifest['shards']) - bad} of {len(manifest['shards'])} shards are good")
    return 2 if bad else 0


def export(options: argparse.Namespace) -> int:
    """`irl-ray data export FOLDER --minari ID`: episodes in the environment's own words, with a reward at their end."""
    try:
        import h5py  # noqa: F401  which writes them, and which Minari misses when it is half done
        import minari
        from minari.data_collector import EpisodeBuffer
        from minari.dataset.minari_dataset import parse_dataset_id
    except ImportError:
        raise UserError("data export --minari needs Minari: pip install 'irl_ray[data]'") from None
    try:
        parse_dataset_id(options.minari)
    except ValueError as error:
        raise UserError(f"--minari: {' '.join(str(error).split())}") from None
    if options.minari in minari.list_local_datasets():
        raise UserError(f"--minari: there is a dataset {options.minari} already; choose another ID, or remove it")
    stored = shards.StoredDemonstrations(options.folder, truth=True)
    world, env = stored.world, stored.world.single()
    succeeded = stored.manifest.get("succeeded", len(stored))  # `irl-ray collect` keeps nothing else
    if succeeded != len(stored):
        print(f"note: {succeeded or 'an unknown number'} of {len(stored)} episodes reached what they were after, and "
              "which is not kept: all rewards are 0")  # fmt: skip
    episodes = []
    for row in range(min(len(stored), options.limit or len(stored))):
        one = stored.take(torch.tensor([row]))
        steps = one.action.shape[1]
        last = np.arange(steps) == steps - 1
        cut = steps == world.horizon and succeeded != len(stored)
        labels = {"subgoal": one.subgoal[0].numpy(), "leg": one.leg[0].numpy()} if world.num_subgoals else {}
        episodes.append(
            EpisodeBuffer(
                id=row,
                observations=_stacked(env.observation_space, map(world.shown, one.observation[0].numpy())),
                actions=_stacked(env.action_space, map(world.act, one.action[0].numpy())),
                rewards=(last * float(succeeded == len(stored))).tolist(),
                terminations=(last & (not cut)).tolist(),
                truncations=(last & cut).tolist(),
                infos={name: np.append(values, values[-1]) for name, values in labels.items()}
                if world.num_subgoals
                else None,
            )  # fmt: skip
        )
    dataset = minari.create_dataset_from_buffers(
        dataset_id=options.minari, buffer=episodes, env=env, description=f"demonstrations in {world.id}, by irl_ray",
    )  # fmt: skip
    print(f"{options.minari}: {dataset.total_episodes} trajectories, {dataset.total_steps} steps")
    return 0


def _stacked(space: gym.Space, values: Iterable[Any]) -> Any:
    """One array of all values, or one for each part of a `Dict` or `Tuple`."""
    values = list(values)
    return concatenate(space, values, create_empty_array(space, len(values)))
