"""Demonstrations of others: from Minari or from arrays, checked and written as shards.

An episode is T+1 observations and T actions; rewards and labels (`subgoal`, `leg`, `task`) may be told too.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from irl_ray.data.shards import Demonstration, write_manifest, write_shard
from irl_ray.data.streams import imported, names_function
from irl_ray.errors import UserError
from irl_ray.worlds.world import World

MINARI = "minari:"
SHARD = 2048  # episodes
FEWEST = 40  # of which two are held out
EXAMPLES = 3  # of problems that are alike
FLOATS = np.float32


@dataclass
class Episode:
    """One episode as somebody stored it.

    Attributes:
        name: for messages.
        observations: T+1 of them, as the environment gives them.
        actions: T of them.
        succeeded: whether it reached what it was after, None where that is not told.
        labels: int [T] each, and an int for "task"; ground truth, for analysis.
    """

    name: str
    observations: list[Any]
    actions: np.ndarray
    succeeded: bool | None = None
    labels: dict[str, np.ndarray | int] = field(default_factory=dict)


def episodes_of(
    source: str, count: int | None = None, seed: int = 0, options: Mapping[str, Any] | None = None
) -> Iterator[Episode]:
    """Episodes of a source: `minari:ID`, a folder of .npz files, one episode each, or `module:function`, which is
    called with how many are wanted and a seed, where it takes any keyword with the environment's settings too, and
    yields them as `Episode`.

    A file has the arrays `observations` (one, or `observations/KEY` for each key of a `Dict`) and `actions`, and may
    have `rewards`, `success`, `subgoal`, `leg` and `task`.

    Raises:
        UserError: if nothing is there, or it is of another form.
    """
    if source.startswith(MINARI):
        yield from _minari(source.removeprefix(MINARI))
        return
    folder = Path(source).expanduser()
    files = sorted(folder.glob("*.npz"))
    if not files and names_function(source):
        yield from _called(source, count, seed, options or {})
        return
    if not files:
        raise UserError(
            f"{source}: no demonstrations there; expected minari:ID, a folder of .npz files, or module:function"
        )
    for file in files[:count]:
        try:
            with np.load(file, allow_pickle=False) as arrays:
                yield _from_arrays(file.name, {name: arrays[name] for name in arrays.files})
        except (ValueError, OSError, EOFError) as error:
            hint = "; of a Dict, one array for each key, observations/KEY" if "Object arrays" in str(error) else ""
            raise UserError(f"{file}: not readable ({str(error).splitlines()[0]}){hint}") from None


def _called(source: str, count: int | None, seed: int, options: Mapping[str, Any]) -> Iterator[Episode]:
    function = imported(source)
    if count is None:
        raise UserError(f"{source}: say how many episodes by --episodes")
    takes = inspect.signature(function).parameters.values()
    given = function(count, seed, **(options if any(p.kind is p.VAR_KEYWORD for p in takes) else {}))
    if not isinstance(given, Iterable):
        raise UserError(
            f"{source}: expected episodes (irl_ray.data.imports.Episode) one after the other, got {given!r}"
        )
    yield from given


def _from_arrays(name: str, arrays: Mapping[str, np.ndarray]) -> Episode:
    parts = {key.partition("/")[2]: value for key, value in arrays.items() if key.startswith("observations/")}
    if "actions" not in arrays or not (parts or "observations" in arrays):
        raise UserError(f"{name}: expected the arrays observations and actions, got {', '.join(arrays) or 'none'}")
    labels = {key: arrays[key] for key in ("subgoal", "leg") if key in arrays}
    if "task" in arrays:
        labels["task"] = int(arrays["task"])
    return Episode(name, _steps(parts or arrays["observations"]), arrays["actions"], _succeeded(arrays), labels)


def _succeeded(arrays: Mapping[str, np.ndarray]) -> bool | None:
    if "success" in arrays:
        return bool(np.any(arrays["success"]))
    return bool(np.asarray(arrays["rewards"])[-1] > 0) if "rewards" in arrays else None


def _minari(name: str) -> Iterator[Episode]:
    try:
        import h5py  # noqa: F401  which reads them, and which Minari misses late
        import minari
    except ImportError:
        raise UserError(f"minari:{name} needs Minari: pip install 'irl_ray[data]'") from None
    try:
        dataset = minari.load_dataset(name)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"minari:{name}: {' '.join(str(error).split())}") from None
    for episode in dataset.iterate_episodes():
        infos = episode.infos or {}
        told = {"rewards": episode.rewards}
        successes = [infos[key] for key in ("success", "is_success") if key in infos]
        told |= {"success": successes[0]} if successes else {}
        labels = {key: np.asarray(infos[key])[:-1] for key in ("subgoal", "leg") if key in infos}
        label = f"episode {episode.id}"
        yield Episode(label, _steps(episode.observations), np.asarray(episode.actions), _succeeded(told), labels)


def _steps(observations: Any) -> list[Any]:
    """Stacked observations, whatever they are made of, as one for each step."""
    if isinstance(observations, Mapping):
        columns = {key: _steps(value) for key, value in observations.items()}
        return [dict(zip(columns, values)) for values in zip(*columns.values())]
    if isinstance(observations, tuple):
        return list(zip(*map(_steps, observations)))
    return list(observations)


@dataclass
class Findings:
    """What there is in a source, and what is wrong with it.

    Attributes:
        episodes, steps: how many.
        shortest, longest: episodes, in steps.
        succeeded: how many reached what they were after, None where none tells.
        labelled: how many tell subgoals.
        unread: how many would, if `num_subgoals` said that there are any.
        problems: a line each; such episodes are left out.
    """

    episodes: int = 0
    steps: int = 0
    shortest: int = 0
    longest: int = 0
    succeeded: int | None = None
    labelled: int = 0
    unread: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, episode: Episode, labels: bool = True) -> None:
        """Counts a good episode, and whether it has labels that are read."""
        length = len(episode.actions)
        self.shortest = min(self.shortest or length, length)
        self.longest = max(self.longest, length)
        self.episodes, self.steps = self.episodes + 1, self.steps + length
        if episode.succeeded is not None:
            self.succeeded = (self.succeeded or 0) + episode.succeeded
        self.labelled += labels and "subgoal" in episode.labels
        self.unread += not labels and "subgoal" in episode.labels

    def lines(self) -> list[str]:
        """What a person wants to know, in a few lines."""
        told = "not told" if self.succeeded is None else f"{self.succeeded} of {self.episodes}"
        labels = f"{self.labelled} episodes tell subgoals" if self.labelled else "none"
        lines = [
            f"episodes       {self.episodes}, {self.shortest} to {self.longest} steps, {self.steps} in all",
            f"success        {told}",
            f"labels         {labels}",
        ]
        if self.unread:
            lines.append(
                f"note           {self.unread} episodes tell subgoals that num_subgoals says nothing of: not read"
            )
        return [*lines, *(f"left out       {problem}" for problem in self.examples())]

    def examples(self) -> list[str]:
        """The problems, of those that are alike no more than a few."""
        alike: dict[str, list[str]] = {}
        for problem in self.problems:
            alike.setdefault(re.sub(r"[-\d.]+", "#", problem.partition(": ")[2]), []).append(problem)
        told = []
        for group in alike.values():
            told += group[:EXAMPLES]
            told += [f"... and {len(group) - EXAMPLES} more like these"] if len(group) > EXAMPLES else []
        return told


def checked(
    world: World, source: str, found: Findings, count: int | None = None, seed: int = 0
) -> Iterator[Demonstration]:
    """The good episodes of a source as models read them; what is found is told in `found`."""
    for number, episode in enumerate(episodes_of(source, count, seed, getattr(world, "options", None))):
        try:
            demonstration = _demonstration(world, number, episode)
        except UserError as error:
            found.problems.append(f"{episode.name}: {error}")
            continue
        found.add(episode, world.num_subgoals > 0)
        yield demonstration


def _demonstration(world: World, number: int, episode: Episode) -> Demonstration:
    taken = np.asarray(episode.actions)
    length = len(taken) if taken.ndim else 0
    if not length or len(episode.observations) != length + 1:
        raise UserError(f"{len(episode.observations)} observations and {length} actions; expected one observation more")
    if length > world.horizon:
        raise UserError(f"{length} steps, the horizon is {world.horizon}; name a longer one by --env-config")
    observation = np.stack([world.view(one) for one in episode.observations])
    space = world.observation_space
    if observation.shape[1:] != space.shape:
        raise UserError(f"observations of shape {observation.shape[1:]}, the world has {space.shape}")
    if not np.isfinite(observation).all():
        raise UserError("observations that are not finite")
    if isinstance(space, gym.spaces.MultiDiscrete) and ((observation < 0) | (observation >= space.nvec)).any():
        raise UserError("observations outside of the world's space")
    subgoal = _label(episode, "subgoal", length) if world.num_subgoals else np.full(length, -1, np.int8)
    if (subgoal >= world.num_subgoals).any():
        raise UserError(f"subgoal: labels up to {subgoal.max()}, the world has num_subgoals {world.num_subgoals}")
    changed = np.diff(subgoal, prepend=subgoal[:1]) != 0
    leg = _label(episode, "leg", length) if "leg" in episode.labels else changed.cumsum().astype(np.int8)
    labels = {"subgoal": subgoal, "leg": leg}
    task = int(episode.labels.get("task", -1))
    return Demonstration(number, _small(observation), _actions(world, taken), task, **labels)


def _actions(world: World, actions: np.ndarray) -> np.ndarray:
    space, told = world.action_space, actions.shape[1:]
    if isinstance(space, gym.spaces.Box) and actions.dtype.kind not in "iuf":
        raise UserError(f"actions of {actions.dtype}, the world has numbers")
    if not isinstance(space, gym.spaces.Box) and actions.dtype.kind not in "iub":
        raise UserError(f"actions of {actions.dtype}, the world has whole numbers")
    if actions.size != len(actions) * int(np.prod(space.shape)):
        raise UserError(f"actions of shape {told}, the world has {space}")
    actions = world.acted(actions).reshape(len(actions), *space.shape)
    if not isinstance(space, gym.spaces.Box):
        count = space.n if isinstance(space, gym.spaces.Discrete) else space.nvec
        if (actions < 0).any() or (actions >= count).any():
            raise UserError(f"actions from {actions.min()} to {actions.max()} (counted from 0), the world has {space}")
        return _small(actions)
    if not np.isfinite(actions).all():
        raise UserError("actions that are not finite")
    slack = 1e-4 * np.maximum(1, np.abs(space.high))
    if (actions < space.low - slack).any() or (actions > space.high + slack).any():
        raise UserError(f"actions from {actions.min():.3g} to {actions.max():.3g}, the world has {space}")
    return actions.astype(FLOATS)


def _label(episode: Episode, name: str, length: int) -> np.ndarray:
    values = np.asarray(episode.labels.get(name, np.full(length, -1)))
    if values.shape != (length,):
        raise UserError(f"{name}: {values.shape} labels, expected {length}, one for each step")
    return values.astype(np.int8)


def _small(values: np.ndarray) -> np.ndarray:
    """Whole numbers in as few bytes as they need, other numbers as float32."""
    if not np.issubdtype(values.dtype, np.integer):
        return values.astype(FLOATS)
    return values.astype(np.uint8 if values.max(initial=0) < 256 else np.int32)


def import_demonstrations(
    world: World, source: str, folder: Path, count: int | None = None, seed: int = 0, report: Any = None
) -> Findings:
    """Writes the good episodes of a source as shards that phases read.

    Args:
        world: whose demonstrations they are.
        source: see `episodes_of`.
        folder: of the shards, empty or not there yet.
        count: at most so many; None for all.
        seed: of a source that is a function.
        report: told how many there are, after each shard.

    Raises:
        UserError: if there are too few, or demonstrations there already.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder}: not empty; choose another folder or remove it")
    found, waiting, entries = Findings(), [], []
    folder.mkdir(parents=True, exist_ok=True)
    for demonstration in checked(world, source, found, count, seed):
        waiting.append(demonstration)
        if len(waiting) == SHARD:
            entries.append(write_shard(folder, len(entries), waiting))
            waiting = []
            if report:
                report(found.episodes)
    if found.episodes < FEWEST:
        raise UserError(
            f"{source}: {found.episodes} usable episodes, expected at least {FEWEST}"
            + "".join(f"\n  {line}" for line in found.examples())
        )
    if waiting:
        entries.append(write_shard(folder, len(entries), waiting))
    made = {"source": source, "episodes": found.episodes, "seed": seed if count else None, "succeeded": found.succeeded}
    write_manifest(folder, world, entries, made)
    return found
