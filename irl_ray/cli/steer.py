"""`irl-ray steer MODEL [MODEL]`: a local page on which a person steers frozen models by their codes.

A small HTTP server of the standard library, on the loopback interface alone, in one thread, to which OpenGL keeps too.
The page asks it for states and pictures; nothing is loaded from anywhere else.
"""

from __future__ import annotations

import argparse
import io
import json
import webbrowser
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import torch

from irl_ray.analysis.probe import LinearProbe
from irl_ray.analysis.steered import SteeredEpisode, code_map, probe_layers
from irl_ray.cli.film import FPS, HELD
from irl_ray.data.sources import open_demonstrations
from irl_ray.errors import UserError
from irl_ray.models import weights
from irl_ray.models.actions import CategoricalActions
from irl_ray.models.weights import Artefact

PAGE = Path(__file__).with_name("steer.html")
MOST = 1 << 20  # bytes of a request
PROBED = 512  # demonstrations behind the probes


class Panes:
    """The models beside each other, each in an episode of its own.

    Args:
        episodes: one for each model.
        names: of the models.
    """

    def __init__(self, episodes: list[SteeredEpisode], names: list[str]):
        self.episodes, self.names = episodes, names

    def answer(self, path: str, asked: dict[str, Any]) -> tuple[str, bytes]:
        """The type and content of what is asked for.

        Raises:
            UserError: if it makes no sense.
        """
        actions: dict[str, Callable[[SteeredEpisode, dict[str, Any]], None]] = {
            "/step": lambda episode, told: episode.step(
                _code(episode, told.get("code")), bool(told.get("steered", True))
            ),
            "/start": lambda episode, told: episode.start(_whole(told, "seed")),
            "/back": lambda episode, told: episode.go_to(_whole(told, "step")),
        }
        if path == "/models":
            return _json([self._described(number) for number in range(len(self.episodes))])
        episode = self.episodes[self._number(asked)]
        if path in actions:
            actions[path](episode, asked)
            return _json(_state(episode))
        if path == "/state":
            return _json(_state(episode))
        if path == "/map":
            found = code_map(episode.agent, episode.world, episode.seed, episode.temperature)
            return _json({name: np.round(getattr(found, name), 4).tolist() for name in ("codes", "place", "axes")}
                         | {"outcome": found.outcome.tolist()})  # fmt: skip
        if path == "/frame":
            return "image/png", _picture([episode.frame()], "PNG")
        if path == "/gif":
            return "image/gif", _picture(_film(episode), "GIF")
        raise UserError(f"{path}: nothing there")

    def _number(self, asked: dict[str, Any]) -> int:
        number = _whole(asked, "model")
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
            "targets": episode.world.num_targets or episode.world.num_subgoals,
            "targetName": episode.world.target_name,
            "choices": isinstance(actions, CategoricalActions),
        }


def _whole(asked: dict[str, Any], key: str) -> int:
    try:
        value = int(asked.get(key, 0))
    except (TypeError, ValueError):
        value = -1
    if not 0 <= value < 2**31:
        raise UserError(f"{key}: expected a whole number, got {asked.get(key)!r}")
    return value


def _code(episode: SteeredEpisode, given: Any) -> np.ndarray | None:
    if given is None:
        return None
    try:
        code = np.asarray(given, np.float32)
    except (TypeError, ValueError):
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
    return [*frames, *[episode.frame()] * HELD]


def _picture(frames: list[np.ndarray], kind: str) -> bytes:
    from PIL import Image

    images, out = [Image.fromarray(frame) for frame in frames], io.BytesIO()
    more = {"save_all": True, "append_images": images[1:], "duration": 1000 // FPS, "loop": 0} if kind == "GIF" else {}
    images[0].save(out, kind, **more)
    return out.getvalue()


def _json(value: Any) -> tuple[str, bytes]:
    return "application/json", json.dumps(value).encode()


def handler(panes: Panes, hosts: tuple[str, ...]) -> type[BaseHTTPRequestHandler]:
    """The page and its questions; only a browser on this machine, on this page, is answered.

    Args:
        panes: what is asked.
        hosts: by which the server may be called.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            if url.path == "/":
                self._send(200, "text/html; charset=utf-8", PAGE.read_bytes())
            else:
                self._answer(url.path, {key: values[-1] for key, values in parse_qs(url.query).items()})

        def do_POST(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            if size > MOST or self.headers.get("Content-Type") != "application/json":  # no form of another page
                self._send(400, *_json({"error": "expected JSON"}))
                return
            try:
                asked = json.loads(self.rfile.read(size) or b"{}")
            except ValueError:
                asked = None
            if not isinstance(asked, dict):
                self._send(400, *_json({"error": "expected a JSON object"}))
                return
            self._answer(urlsplit(self.path).path, asked)

        def _answer(self, path: str, asked: dict[str, Any]) -> None:
            try:
                self._send(200, *panes.answer(path, asked))
            except UserError as error:
                self._send(400, *_json({"error": str(error)}))

        def _send(self, status: int, kind: str, content: bytes) -> None:
            if self.headers.get("Host", "").rpartition(":")[0] not in hosts:  # another name that leads here
                status, kind, content = 403, "text/plain", b"this page is for localhost"
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "no-store")
            policy = "default-src 'self' 'unsafe-inline'; img-src 'self' blob: data:; frame-ancestors 'none'"
            self.send_header("Content-Security-Policy", policy)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


def serve(options: argparse.Namespace) -> HTTPServer:
    """The server, bound and not yet running.

    Raises:
        UserError: if a model cannot be steered, its world cannot be drawn, or the port is taken.
    """
    torch.set_num_threads(1)
    episodes = []
    for name in options.models:
        agent = weights.load(name, "metacontroller")
        agent.base.eval(), agent.metacontroller.eval()
        world = agent.world.changed(options.env_config) if options.env_config else agent.world
        world = world if options.env_config else world.with_tasks(world.post_task)
        probe = _probe(agent, options.data)
        episode = SteeredEpisode(agent, world, options.seed, options.temperature, probe, options.clean_slate)
        episode.frame()  # what cannot be drawn is told here
        episodes.append(episode)
    try:
        return HTTPServer(
            ("127.0.0.1", options.port), handler(Panes(episodes, options.models), ("127.0.0.1", "localhost"))
        )
    except OSError as error:
        raise UserError(f"--port {options.port}: {error.strerror}; give another, or 0 for any") from None


def _probe(agent: Artefact, data: str | None) -> LinearProbe | None:
    """Probes, where the world has a stream of demonstrations or `data` are told, with labels."""
    if data is None and agent.world.demonstrations(noise=0.0, ties="rule", device="cpu") is None:
        return None
    if not agent.world.num_subgoals:
        return None
    source = open_demonstrations(agent.world, data, ties="rule", truth=True)
    return probe_layers(agent, source.sample(PROBED, torch.Generator().manual_seed(0)))


def steer(options: argparse.Namespace) -> int:
    """`irl-ray steer MODEL [MODEL]`."""
    server = serve(options)
    address = f"http://127.0.0.1:{server.server_address[1]}/"
    print(f"{' and '.join(options.models)}: {address}  (Ctrl-C ends it)", flush=True)
    if not options.no_browser:
        webbrowser.open(address)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    finally:
        server.server_close()
    return 0


def add_parser(commands: Any, json_object: Callable[[str], dict[str, Any]]) -> None:
    """Its arguments."""
    command = commands.add_parser("steer", help="steer a model by its codes, on a page of this machine")
    command.add_argument("models", nargs="+", metavar="MODEL", help="weights with codes; two stand side by side")
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
    command.add_argument("--port", type=int, default=8765, help="0 for any that is free (default: 8765)")
    command.add_argument("--no-browser", action="store_true", help="print the address only")
