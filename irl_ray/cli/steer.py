"""`irl-ray steer MODEL [MODEL]`: a local page on which a person steers frozen models by their codes.

A small HTTP server of the standard library, on the loopback interface alone. One thread has models and worlds, to which
OpenGL keeps too. The page asks for states and pictures; nothing is loaded from anywhere else.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import re
import threading
import webbrowser
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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

Answer = tuple[str, bytes]  # type and content
PAGE = Path(__file__).with_name("steer.html")
LOCAL = ("127.0.0.1", "localhost")
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

    def change(self, path: str, asked: dict[str, Any]) -> Answer:
        """What an episode becomes.

        Raises:
            UserError: if it makes no sense.
        """
        episode = self.episodes[self._number(asked)]
        if path == "/step":
            episode.step(_code(episode, asked.get("code")), bool(asked.get("steered", True)))
        elif path == "/start":
            episode.start(_whole(asked, "seed"))
        elif path == "/back":
            episode.go_to(_whole(asked, "step"))
        else:
            raise UserError(f"{path}: nothing there")
        return _json(_state(episode))

    def look(self, path: str, asked: dict[str, Any]) -> Answer:
        """What is asked for; changes nothing.

        Raises:
            UserError: if it makes no sense.
        """
        if path == "/models":
            return _json([self._described(number) for number in range(len(self.episodes))])
        episode = self.episodes[self._number(asked)]
        if path == "/state":
            return _json(_state(episode))
        if path == "/map":
            found = code_map(episode.agent, episode.world, episode.seed, episode.temperature)
            shown = {name: np.round(getattr(found, name), 4).tolist() for name in ("codes", "place", "axes")}
            return _json({**shown, "outcome": found.outcome.tolist()})
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
            "targetName": episode.world.target_name if episode.world.num_targets else "the first leg",
            "targets": episode.world.num_targets,
            "choices": isinstance(actions, CategoricalActions),
        }


def _whole(asked: dict[str, Any], key: str) -> int:
    given = asked.get(key, 0)
    text = str(given)
    if isinstance(given, (bool, float)) or not (text.isdecimal() and len(text) < 10):
        raise UserError(f"{key}: expected a whole number, got {text[:40]}")
    return int(text)


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
    return [*frames, *[episode.frame()] * HELD]


def _picture(frames: list[np.ndarray], kind: str) -> bytes:
    from PIL import Image

    images, out = [Image.fromarray(frame) for frame in frames], io.BytesIO()
    more = {"save_all": True, "append_images": images[1:], "duration": 1000 // FPS, "loop": 0} if kind == "GIF" else {}
    images[0].save(out, kind, **more)
    return out.getvalue()


def _json(value: Any) -> tuple[str, bytes]:
    return "application/json", json.dumps(value, allow_nan=False).encode()


def handler(answer: Callable[[str, str, dict[str, Any]], Answer]) -> type[BaseHTTPRequestHandler]:
    """The page and its questions; only that page, in a browser on this machine, is answered.

    Args:
        answer: by method, path and what is asked.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = 10  # seconds of silence

        def do_GET(self) -> None:
            url = urlsplit("/" + self.path.lstrip("/"))
            if url.path == "/" and self._is_ours():
                self._send(200, "text/html; charset=utf-8", PAGE.read_bytes())
            else:
                self._answer("look", lambda: {key: values[-1] for key, values in parse_qs(url.query).items()})

        def do_POST(self) -> None:
            self._answer("change", self._told)

        def _told(self) -> dict[str, Any]:
            size = self.headers.get("Content-Length", "")
            if not size.isdecimal() or int(size) > MOST:
                raise UserError(f"expected at most {MOST} bytes")
            if self.headers.get_content_type() != "application/json":  # no form of another page
                raise UserError("expected JSON")
            try:
                asked = json.loads(self.rfile.read(int(size)))
            except (ValueError, RecursionError):
                asked = None
            if not isinstance(asked, dict):
                raise UserError("expected a JSON object")
            return asked

        def _answer(self, method: str, told: Callable[[], dict[str, Any]]) -> None:
            if not self._is_ours():
                self._send(403, "text/plain", b"this page is for localhost")
                return
            try:
                self._send(200, *answer(method, self.path.partition("?")[0], told()))
            except UserError as error:
                self._send(400, *_json({"error": str(error)}))

        def _is_ours(self) -> bool:
            """Whether it was asked by a name of this machine, and by no other page."""
            host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
            local = re.sub(r":\d+$", "", host) in LOCAL
            other = self.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none")
            return local and not other and origin in (None, f"http://{host}")

        def _send(self, status: int, kind: str, content: bytes) -> None:
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
    worker = ThreadPoolExecutor(1)
    panes = worker.submit(_panes, options).result()

    def answer(method: str, path: str, asked: dict[str, Any]) -> Answer:
        return worker.submit(getattr(panes, method), path, asked).result()

    try:
        return ThreadingHTTPServer(("127.0.0.1", options.port), handler(answer))
    except (OSError, OverflowError) as error:
        told = getattr(error, "strerror", None) or "expected 0 to 65535"
        raise UserError(f"--port {options.port}: {told}; give another, or 0 for any") from None


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
    server = serve(options)
    address = f"http://127.0.0.1:{server.server_address[1]}/"
    print(f"{' and '.join(options.models)}: {address}  (Ctrl-C ends it)", flush=True)
    if not options.no_browser:
        threading.Timer(0.3, webbrowser.open, (address,)).start()  # when it is served
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
    command.add_argument("--port", type=int, default=8765, help="0 for any that is free (default: 8765)")
    command.add_argument("--no-browser", action="store_true", help="print the address only")
