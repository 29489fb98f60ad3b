"""Episodes as animated pictures: GIF, and MP4 where ffmpeg is at hand."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np

from irl_ray.cli.text import check_writable
from irl_ray.errors import UserError
from irl_ray.internal.agent import Agent
from irl_ray.models.weights import Artefact
from irl_ray.worlds.rows import Rows
from irl_ray.worlds.world import World

TRIES = 20  # episodes, until one succeeds
FPS = 5
HELD = 2 * FPS  # frames that the last picture stays


def check(path: str) -> None:
    """Refuses, before anything is computed, a file that could not be written.

    Raises:
        UserError: telling what is wrong with its name or its folder, or what to install.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".gif", ".mp4"):
        raise UserError(f"--render {path}: expected a name that ends in .gif or .mp4")
    if suffix == ".mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise UserError(f"--render {path}: .mp4 needs ffmpeg: pip install 'irl_ray[video]'; .gif needs nothing more")
    check_writable(path, "--render")


def record(agent: Artefact, world: World, seed: int, explore: bool) -> list[np.ndarray]:
    """Frames of the first successful of `TRIES` episodes, else of the last; how it ended stays for two seconds."""
    env = world.drawn_row()
    env.reset(seed=seed)
    env.frame()  # without OpenGL it fails here, before any episode
    seeds = range(seed, seed + TRIES)
    chosen = next((one for one in seeds if walk(env, Agent(agent, one, explore), one)), seeds[-1])
    frames: list[np.ndarray] = []
    acting = Agent(agent, chosen, explore)
    walk(env, acting, chosen, lambda: frames.append(env.frame(acting.beta, acting.decisions or None)))
    frames += [env.frame(code=acting.decisions or None)] * HELD
    env.close()
    return frames


def walk(env: Rows, agent: Agent, seed: int, look: Callable[[], None] = lambda: None) -> bool:
    """Whether the agent's episode with this seed succeeds.

    Args:
        env: one row.
        agent: at the start of an episode.
        seed: of the layout.
        look: called before each step, when the agent has chosen and the world has not moved.
    """
    observation, info = env.reset(seed=seed)
    over = False
    while not over:
        action = agent.act(observation[0])
        look()
        observation, _, terminated, truncated, info = env.step(np.array([action]))
        over = bool(terminated[0] | truncated[0])
    return bool(info["success"][0])


def write(frames: list[np.ndarray], path: str) -> None:
    """Writes frames as what the path's ending says, .gif or .mp4."""
    if Path(path).suffix.lower() == ".gif":
        write_gif(frames, path)
    else:
        _write_mp4(frames, path)


def write_gif(frames: list[np.ndarray], out: str | IO[bytes]) -> None:
    """Writes frames to a file, or what is open as one."""
    from PIL import Image

    # One palette for all, without dithering: what does not move costs nothing.
    shown = Image.fromarray(np.concatenate(frames[:: max(1, len(frames) // 8)]))
    palette = shown.quantize(128, dither=Image.Dither.NONE)
    images = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    images[0].save(out, "GIF", save_all=True, append_images=images[1:], duration=1000 // FPS, loop=0)


def _write_mp4(frames: list[np.ndarray], path: str) -> None:
    import imageio_ffmpeg

    height, width, _ = frames[0].shape
    writer = imageio_ffmpeg.write_frames(path, (width, height), fps=FPS, macro_block_size=2)
    writer.send(None)
    for frame in frames:
        writer.send(np.ascontiguousarray(frame))
    writer.close()
