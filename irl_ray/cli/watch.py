"""`irl-ray watch [RESULT]`: a local page on which a run is watched while it goes on."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
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
POINTS, ALL_POINTS, FEWEST = 300, 6000, 20  # of a curve that are sent, of all curves, and of a curve at least
GOING = ("PENDING", "RUNNING", "PAUSED")  # Tune's words
RESULTS = "results"


@dataclass
class Episode:
    """What the newest weights of a trial do in one episode.

    Attributes:
        frames: uint8 [H, W, 3] each, one more than steps.
        betas: the switch gate before each step; empty without a metacontroller.
        codes: in force at each step; empty without a metacontroller.
        success: whether the task was done.
        chosen: whether a policy chose the codes; else they were drawn from N(0, I).
        map: of codes from the episode's start; None without a metacontroller.
    """

    frames: list[np.ndarray] = field(default_factory=list)
    betas: list[float] = field(default_factory=list)
    codes: list[list[float]] = field(default_factory=list)
    success: bool = False
    chosen: bool = False
    map: dict[str, Any] | None = None

    def told(self) -> dict[str, Any]:
        """All but the pictures."""
        names = ("betas", "codes", "success", "chosen", "map")
        return {"steps": len(self.frames) - 1, **{name: getattr(self, name) for name in names}}


def lived(agent: Artefact, world: World, seed: int) -> Episode:
    """An episode of the agent as it acts in training, drawn."""
    env, acting, episode = world.drawn_row(), Agent(agent, seed), Episode(chosen=agent.policy is not None)

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
        self.episodes: dict[int, Episode] = {}  # by number, the last two
        self._shown: tuple[Path, float] | None = None
        self._forget()

    def _forget(self) -> None:
        self.last: dict[str, Any] = {}
        self.points: list[list[float | None]] = []
        self._read, self._end = 0, b""  # bytes of result.json that were read, and the last of them

    @property
    def number(self) -> int:
        """Of its newest episode; 0 where there is none."""
        return max(self.episodes, default=0)

    def update(self) -> None:
        """Reads what has been written since; all of it where it was written anew."""
        path = self.folder / "result.json"
        if not path.is_file():
            return
        with path.open("rb") as file:
            file.seek(self._read - len(self._end))
            if file.read(len(self._end)) != self._end:
                self._forget()
                file.seek(0)
            lines = file.read().rpartition(b"\n")[0]
        if not lines:
            return
        self._read, self._end = self._read + len(lines) + 1, (lines + b"\n")[-64:]
        for line in lines.split(b"\n"):
            row = _row(line)
            if row is not None:
                self.last = row
                self._add([_number(look_up(row, key)) for _, key, _ in (self.over, *self.columns)])

    def _add(self, point: list[float | None]) -> None:
        """A point of the curves; a run that goes on from an earlier checkpoint lives what came after it again."""
        while point[0] is not None and self.points and (self.points[-1][0] or 0) >= point[0]:
            self.points.pop()
        self.points.append(point)

    def refresh(self, seed: int) -> None:
        """Lives an episode of the newest weights, if they have not been shown.

        Raises:
            UserError: why there is none, or if their world cannot be drawn.
        """
        try:
            newest = weights.resolve(self.folder) / "config.json"
            shown = newest, newest.stat().st_mtime
            if shown == self._shown:
                return
            if "expert" in weights.described(newest.parent):
                raise UserError("an expert has no codes; rllib evaluate tells how it does")
            agent = weights.load(newest.parent)
        except (UserError, OSError) as error:  # none yet, or one that is being written or removed at this moment
            if self.episodes:
                return
            raise UserError(self._why_none(error)) from None
        episode = lived(agent, evaluation_world(agent, {}), seed)
        self._shown, self.episodes[self.number + 1] = shown, episode
        self.episodes.pop(self.number - 2, None)

    def _why_none(self, error: Exception) -> str:
        if any(self.folder.glob("checkpoint_*/artefact/config.json")):
            return str(error)
        if any(self.folder.glob("checkpoint_*/rllib_checkpoint.json")):
            return "checkpoints of RLlib's own algorithms hold no weights that are shown here"
        return "no checkpoint yet: an episode is shown as soon as there is one"


def _row(line: bytes) -> dict[str, Any] | None:
    """A line of results; None for what is none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return round(float(value), 5) if math.isfinite(value) else None
    except OverflowError:
        return None


class Watched:
    """A run, and what is asked of it.

    Args:
        place: folder of a run, or of several, of which the newest is watched; None for `results`.
        seed: of the episodes' layout.
    """

    def __init__(self, place: str | None, seed: int):
        torch.set_num_threads(1)
        self.place, self.seed = place, seed
        self._follow()

    def _follow(self) -> None:
        """Turns to the newest run: the next of a file of several."""
        folder = newest(self.place)
        if folder != getattr(self, "folder", None):
            self.folder, self.trials = folder, {}

    def look(self, path: str, asked: dict[str, Any]) -> Answer:
        """What is asked for.

        Raises:
            UserError: if it makes no sense.
        """
        if path == "/run":
            self._follow()
            return as_json(self._told())
        trials, number = list(self.trials.values()), whole(asked, "trial")
        if number >= len(trials):
            raise UserError(f"trial: expected below {len(trials)}, got {number}")
        trial = trials[number]
        if path == "/episode":
            try:
                trial.refresh(self.seed)
            except UserError as error:
                return as_json({"why": str(error)})
            told = trial.episodes[trial.number].told()
            return as_json({"run": self.folder, "number": trial.number, "seed": self.seed, **told})
        if path == "/frame":
            episode = trial.episodes.get(whole(asked, "of"), Episode())
            step = whole(asked, "step")
            if step >= len(episode.frames):
                raise UserError(f"step: expected below {len(episode.frames)}, got {step}")
            return picture(episode.frames[step])
        raise UserError(f"{path}: nothing there")

    def change(self, path: str, asked: dict[str, Any]) -> Answer:
        """Nothing can be changed.

        Raises:
            UserError: always.
        """
        raise UserError(f"{path}: nothing there")

    def _told(self) -> dict[str, Any]:
        for name in runs.trials_of(self.folder):
            self.trials.setdefault(name, Trial(Path(self.folder, name))).update()
        stops, held = runs.stops_of(self.folder), runs.is_held(self.folder)
        ended = not held and runs.is_finished(self.folder)
        over = {trial for trial, status in runs.statuses(self.folder).items() if status not in GOING}
        first = next(iter(self.trials.values()), None)
        most = max(FEWEST, min(POINTS, ALL_POINTS // max(1, len(self.trials))))
        return {
            "name": Path(self.folder).name,
            "state": "running" if held else "finished" if ended else "stopped",
            "over": first.over[0] if first else "",
            "charts": [name for name, *_ in first.columns] if first else [],
            "trials": [
                _trial_told(trial, stops, most, held and not any(f"_{one}_" in name for one in over))
                for name, trial in self.trials.items()
            ],
        }


def _trial_told(trial: Trial, stops: Mapping[str, float], most: int, goes_on: bool) -> dict[str, Any]:
    known = {key: _number(look_up(trial.last, key)) for key in ("progress", *stops)}
    share, seconds = share_done(known, stops), _number(trial.last.get("time_total_s")) or 0
    apart = max(1, math.ceil(len(trial.points) / most))
    return {
        "label": trial.label,
        "seconds": round(seconds),
        "left": round(seconds * (1 - share) / share) if share > 0 and goes_on and not trial.last.get("done") else None,
        "points": trial.points[::-apart][::-1],
    }


def newest(place: str | None) -> str:
    """The folder of a run: the one that is named, else the newest in it, or in `results`.

    Raises:
        UserError: if there is none.
    """
    if place is not None and places.is_remote(place):
        raise UserError(f"{place}: is not on this machine; copy it here, or look at it with TensorBoard")
    inside = places.absolute(RESULTS if place is None else place)
    if place is not None and _begun(inside):
        return inside
    named = [places.join(inside, name) for name in places.names_in(inside) if places.DATED.search(name)]
    begun = {folder: start for folder in named if (start := _begun(folder))}
    if not begun:
        raise UserError(f"{inside}: no results of rllib train there; name the folder of a run, as it printed it")
    return max(begun, key=begun.__getitem__)


def _begun(folder: str) -> float:
    """When a run began, in seconds since 1970; 0 for what is none, or cannot be read."""
    try:
        return runs.started(folder) if runs.read_record(folder) or runs.trials_of(folder) else 0.0
    except (ValueError, AttributeError, TypeError):
        return 0.0


def serve(options: argparse.Namespace) -> ThreadingHTTPServer:
    """The server, bound and not yet running.

    Raises:
        UserError: if there is no such run, or an option makes no sense.
    """
    if options.seed < 0:
        raise UserError(f"--seed: expected a whole number of at least 0, got {options.seed}")
    return page.serve(PAGE, partial(Watched, options.result, options.seed), options.port)


def watch(options: argparse.Namespace) -> int:
    """`irl-ray watch [RESULT]`."""
    return page.run(serve(options), newest(options.result), not options.no_browser)
