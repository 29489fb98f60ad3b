"""`irl-ray watch [RESULT]`: a local page on which a run is watched while it goes on."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass, field
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import torch

from irl_ray import places
from irl_ray.analysis.steered import code_map
from irl_ray.cli import film, page, runs
from irl_ray.cli.evaluation import evaluation_world
from irl_ray.cli.labels import label_of_folder
from irl_ray.cli.page import Answer, as_json, picture, whole
from irl_ray.cli.progress import curves_of, look_up, share_done
from irl_ray.errors import UserError
from irl_ray.internal.agent import Agent
from irl_ray.models import weights
from irl_ray.models.weights import Artefact
from irl_ray.rllib.trainables import trainable_of
from irl_ray.worlds.world import World

PAGE = Path(__file__).with_name("watch.html")
POINTS = 300  # of a curve that are sent
RESULTS = "results"


@dataclass
class Episode:
    """What the newest weights of a trial do in one episode.

    Attributes:
        frames: uint8 [H, W, 3] each, one more than steps.
        betas: the switch gate before each step; empty without a metacontroller.
        codes: in force at each step; empty without a metacontroller.
        success: whether the task was done.
        map: of codes from the episode's start; None without a metacontroller.
    """

    frames: list[np.ndarray] = field(default_factory=list)
    betas: list[float] = field(default_factory=list)
    codes: list[list[float]] = field(default_factory=list)
    success: bool = False
    map: dict[str, Any] | None = None


def lived(agent: Artefact, world: World, seed: int) -> Episode:
    """An episode of the agent as it acts in training, drawn."""
    env, acting, episode = world.drawn_row(), Agent(agent, seed), Episode()

    def look() -> None:
        episode.frames.append(env.frame(acting.beta, acting.decisions or None))
        if agent.metacontroller is not None:
            episode.betas.append(round(acting.beta, 3))
            episode.codes.append(acting.code.round(3).tolist())

    episode.success = film.walk(env, acting, seed, look)
    episode.frames.append(env.frame(code=acting.decisions or None))
    env.close()
    if agent.metacontroller is not None:
        episode.map = code_map(agent, world, seed, agent.action_temperature).told(world)
    return episode


class Trial:
    """One trial's results as they are written, and an episode of its newest weights.

    Args:
        folder: of the trial.
    """

    def __init__(self, folder: Path):
        self.folder, self.label = folder, label_of_folder(folder.name)
        self.over, self.columns = curves_of(trainable_of(folder.name) or "")
        self.last: dict[str, Any] = {}
        self.points: list[list[float | None]] = []
        self._read = 0  # bytes of result.json
        self._shown: tuple[Path, float] | None = None
        self.episode = Episode()
        self.number = 0  # of the episode

    def update(self) -> None:
        """Reads what has been written since."""
        path = self.folder / "result.json"
        size = path.stat().st_size if path.is_file() else 0
        if size < self._read:  # carried on from before its end
            self._read, self.points = 0, []
        if size == self._read:
            return
        with path.open("rb") as file:
            file.seek(self._read)
            whole_lines = file.read().rpartition(b"\n")[0]
        self._read += len(whole_lines) + bool(whole_lines)
        for line in filter(None, whole_lines.split(b"\n")):
            self.last = json.loads(line)
            told = [look_up(self.last, key) for _, key, _ in (self.over, *self.columns)]
            self.points.append([_number(value) for value in told])

    def refresh(self, seed: int) -> None:
        """Lives an episode of the newest weights, if they have not been shown.

        Raises:
            UserError: if there are none yet, or their world cannot be drawn.
        """
        try:
            newest = weights.resolve(self.folder) / "config.json"
        except UserError:
            raise UserError("no checkpoint yet: an episode is shown as soon as there is one") from None
        shown = newest, newest.stat().st_mtime
        if shown == self._shown:
            return
        agent = weights.load(newest.parent)
        self.episode = lived(agent, evaluation_world(agent, {}), seed)
        self._shown, self.number = shown, self.number + 1


def _number(value: Any) -> float | None:
    return round(float(value), 5) if isinstance(value, (int, float)) and math.isfinite(value) else None


class Watched:
    """A run, and what is asked of it.

    Args:
        folder: of its results.
        seed: of the episodes' layout.
    """

    def __init__(self, folder: str, seed: int):
        torch.set_num_threads(1)
        self.folder, self.seed = folder, seed
        self.trials: dict[str, Trial] = {}

    def look(self, path: str, asked: dict[str, Any]) -> Answer:
        """What is asked for.

        Raises:
            UserError: if it makes no sense.
        """
        self._update()
        if path == "/run":
            return as_json(self._told())
        trials, number = list(self.trials.values()), whole(asked, "trial")
        if number >= len(trials):
            raise UserError(f"trial: expected below {len(trials)}, got {number}")
        trial = trials[number]
        if path == "/episode":
            trial.refresh(self.seed)
            episode = trial.episode
            told = {"number": trial.number, "steps": len(episode.frames) - 1, "seed": self.seed}
            return as_json({**told, **{name: getattr(episode, name) for name in ("betas", "codes", "success", "map")}})
        if path == "/frame":
            frames, step = trial.episode.frames, whole(asked, "step")
            if step >= len(frames):
                raise UserError(f"step: expected below {len(frames)}, got {step}")
            return picture(frames[step])
        raise UserError(f"{path}: nothing there")

    def change(self, path: str, asked: dict[str, Any]) -> Answer:
        """Nothing can be changed.

        Raises:
            UserError: always.
        """
        raise UserError(f"{path}: nothing there")

    def _update(self) -> None:
        for name in runs.trials_of(self.folder):
            self.trials.setdefault(name, Trial(Path(self.folder, name))).update()

    def _told(self) -> dict[str, Any]:
        stops, held = runs.stops_of(self.folder), runs.is_held(self.folder)
        ended = not held and runs.is_finished(self.folder)
        first = next(iter(self.trials.values()), None)
        return {
            "name": Path(self.folder).name,
            "state": "running" if held else "finished" if ended else "stopped",
            "over": first.over[0] if first else "",
            "charts": [name for name, *_ in first.columns] if first else [],
            "trials": [_trial_told(trial, stops) for trial in self.trials.values()],
        }


def _trial_told(trial: Trial, stops: dict[str, float]) -> dict[str, Any]:
    share, seconds = share_done(trial.last, stops), float(trial.last.get("time_total_s") or 0)
    apart = max(1, math.ceil(len(trial.points) / POINTS))
    return {
        "label": trial.label,
        "seconds": round(seconds),
        "left": round(seconds * (1 - share) / share) if share > 0 and not trial.last.get("done") else None,
        "points": trial.points[::-apart][::-1],
    }


def newest(place: str | None) -> str:
    """The folder of a run: the one that is named, else the newest in `results`.

    Raises:
        UserError: if there is none.
    """
    if place is not None and places.is_remote(place):
        raise UserError(f"{place}: expected a folder of this machine; the run's own page is TensorBoard's")
    if place is not None:
        folder = str(places.local(place))
        if runs.read_record(folder) or runs.trials_of(folder):
            return folder
    inside = place if place is not None else RESULTS
    named = [places.join(inside, name) for name in places.names_in(inside) if places.DATED.search(name)]
    found = [folder for folder in named if runs.read_record(folder) or runs.trials_of(folder)]
    if not found:
        raise UserError(f"{inside}: no results of rllib train there; name the folder of a run, as it printed it")
    return max(found, key=runs.started)


def serve(options: argparse.Namespace) -> ThreadingHTTPServer:
    """The server, bound and not yet running.

    Raises:
        UserError: if there is no such run, or an option makes no sense.
    """
    if options.seed < 0:
        raise UserError(f"--seed: expected a whole number of at least 0, got {options.seed}")
    options.result = newest(options.result)
    return page.serve(PAGE, partial(Watched, options.result, options.seed), options.port)


def watch(options: argparse.Namespace) -> int:
    """`irl-ray watch [RESULT]`."""
    server = serve(options)
    return page.run(server, options.result, not options.no_browser)
