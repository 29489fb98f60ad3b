"""`irl-ray steer MODEL [MODEL]`: a local page on which a person steers frozen models by their codes."""

from __future__ import annotations

import argparse
import io
import math
from collections.abc import Callable
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import torch

from irl_ray.analysis.probe import LinearProbe
from irl_ray.analysis.steered import SteeredEpisode, code_map, probe_layers
from irl_ray.cli import film, page
from irl_ray.cli.page import Answer, as_json, picture, whole
from irl_ray.data.sources import open_demonstrations
from irl_ray.errors import UserError
from irl_ray.models import weights
from irl_ray.models.actions import CategoricalActions
from irl_ray.models.weights import Artefact

PAGE = Path(__file__).with_name("steer.html")
PROBED = 512  # demonstrations behind the probes


class Panes:
    """The models beside each other, each in an episode of its own.

    Args:
        episodes: one for each model.
        names: of the models.
    """

    def __init__(self, episodes: list[SteeredEpisode], names: list[str]):
        self.episodes, self.names = episodes, names

    def change(self, path: str, asked: dict[str, Any]) -> Answer:
        """What an episode becomes.

        Raises:
            UserError: if it makes no sense.
        """
        episode = self.episodes[self._number(asked)]
        if path == "/step":
            episode.step(_code(episode, asked.get("code")), bool(asked.get("steered", True)))
        elif path == "/start":
            episode.start(whole(asked, "seed"))
        elif path == "/back":
            episode.go_to(whole(asked, "step"))
        else:
            raise UserError(f"{path}: nothing there")
        return as_json(_state(episode))

    def look(self, path: str, asked: dict[str, Any]) -> Answer:
        """What is asked for; changes nothing.

        Raises:
            UserError: if it makes no sense.
        """
        if path == "/models":
            return as_json([self._described(number) for number in range(len(self.episodes))])
        episode = self.episodes[self._number(asked)]
        if path == "/state":
            return as_json(_state(episode))
        if path == "/map":
            found = code_map(episode.agent, episode.world, episode.seed, episode.temperature)
            return as_json(found.told(episode.world))
        if path == "/frame":
            return picture(episode.frame())
        if path == "/gif":
            out = io.BytesIO()
            film.write_gif(_film(episode), out)
            return "image/gif", out.getvalue()
        raise UserError(f"{path}: nothing there")

    def _number(self, asked: dict[str, Any]) -> int:
        number = whole(asked, "model")
        if number >= len(self.episodes):
            raise UserError(f"model: expected below {len(self.episodes)}, got {number}")
        return number

    def _described(self, number: int) -> dict[str, Any]:
        episode = self.episodes[number]
        actions = episode.agent.base.actions
        return {
            "name": self.names[number],
            "world": episode.world.title,
            "codeSize": episode.code_size,
            "policy": episode.agent.policy is not None,
            "layer": episode.agent.metacontroller.layer,
            "horizon": episode.world.horizon,
            "choices": isinstance(actions, CategoricalActions),
        }


def _code(episode: SteeredEpisode, given: Any) -> np.ndarray | None:
    if given is None:
        return None
    try:
        code = np.asarray(given, np.float32)
    except (TypeError, ValueError, OverflowError):
        code = np.zeros(0, np.float32)
    if code.shape != (episode.code_size,) or not np.isfinite(code).all() or np.abs(code).max() > 1e3:
        raise UserError(f"code: expected {episode.code_size} numbers")
    return code


def _state(episode: SteeredEpisode) -> dict[str, Any]:
    now = episode.now()
    return {
        "step": len(episode.given),
        "seed": episode.seed,
        "beta": now.beta,
        "asks": now.asks,
        "over": now.over,
        "legs": int(episode.env.leg[0]),
        "decisions": episode.decisions,
        "code": None if episode.code is None else episode.code.tolist(),
        "steered": _shown(episode, now.steered),
        "free": _shown(episode, now.free),
        "belief": now.belief.round(3).tolist(),
    }


def _shown(episode: SteeredEpisode, inputs: np.ndarray) -> list[float]:
    """Probabilities of choices at the temperature, or the means of numbers."""
    actions = episode.agent.base.actions
    tempered = actions.tempered(torch.from_numpy(inputs)[None], episode.temperature)
    found = tempered.softmax(-1) if isinstance(actions, CategoricalActions) else actions.mode(tempered)
    return [round(float(value), 4) for value in found[0].flatten()]


def _film(episode: SteeredEpisode) -> list[np.ndarray]:
    """All frames of the episode so far; it stands afterwards where it stood."""
    given, frames = list(episode.given), []
    episode.go_to(0)
    for code, steered in given:
        frames.append(episode.frame())
        episode.step(code, steered)
    return [*frames, *[episode.frame()] * film.HELD]


def serve(options: argparse.Namespace) -> ThreadingHTTPServer:
    """The server, bound and not yet running.

    Raises:
        UserError: if a model cannot be steered, its world cannot be drawn, or an option makes no sense.
    """
    if len(options.models) > 2:
        raise UserError(f"MODEL: expected one or two, got {len(options.models)}")
    if options.seed < 0:
        raise UserError(f"--seed: expected a whole number of at least 0, got {options.seed}")
    if options.temperature is not None and not 0 < options.temperature < math.inf:
        raise UserError(f"--temperature: expected a number above 0, got {options.temperature:g}")
    return page.serve(PAGE, partial(_panes, options), options.port)


def _panes(options: argparse.Namespace) -> Panes:
    torch.set_num_threads(1)
    episodes = []
    for name in options.models:
        agent = weights.load(name, "metacontroller")
        agent.base.eval(), agent.metacontroller.eval()
        given = options.env_config
        world = agent.world.changed(given) if given else agent.world.with_tasks(agent.world.post_task)
        probe = _probe(agent, options.data)
        episode = SteeredEpisode(agent, world, options.seed, options.temperature, probe, options.clean_slate)
        episode.frame()  # what cannot be drawn is told here
        episodes.append(episode)
    return Panes(episodes, options.models)


def _probe(agent: Artefact, data: str | None) -> LinearProbe | None:
    """Probes, where the world has a stream of demonstrations or `data` are told, with labels."""
    if data is None and agent.world.demonstrations(noise=0.0, ties="rule", device="cpu") is None:
        return None
    if not agent.world.num_subgoals:
        return None
    source = open_demonstrations(agent.world, data, ties="rule" if data is None else "free", truth=True)
    return probe_layers(agent, source.sample(PROBED, torch.Generator().manual_seed(0)))


def steer(options: argparse.Namespace) -> int:
    """`irl-ray steer MODEL [MODEL]`."""
    return page.run(serve(options), " and ".join(options.models), not options.no_browser)


def add_parser(commands: Any, json_object: Callable[[str], dict[str, Any]]) -> None:
    """Its arguments."""
    command = commands.add_parser("steer", help="steer a model by its codes, on a page of this machine")
    command.add_argument("models", nargs="+", metavar="MODEL", help="weights with codes; one, or two side by side")
    command.add_argument("--env-config", type=json_object, help="world settings as JSON, such as the tasks")
    command.add_argument("--seed", type=int, default=0, help="of the first episode")
    command.add_argument(
        "--data", help="demonstrations behind the probes of layers (the ant); the gridworld needs none"
    )
    command.add_argument("--temperature", type=float, help="of the base model's actions, in place of the weights' own")
    command.add_argument(
        "--clean-slate",
        action=argparse.BooleanOptionalAction,
        help="start the base model's memory anew with every code, in place of the policy's own way",
    )
    page.add_arguments(command, 8765)
