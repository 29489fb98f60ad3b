"""Pictures of a pin-pad grid: text, RGB arrays and a window."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from irl_ray.errors import UserError
from irl_ray.worlds.pinpad.rules import PinpadSpec, Task

if TYPE_CHECKING:
    from PIL import Image, ImageFont

# Okabe-Ito and more: told apart with colour-blind eyes, and numbered.
PALETTE = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178),
    (213, 94, 0), (204, 121, 167), (120, 94, 60), (160, 160, 220), (170, 220, 120),
    (250, 180, 180), (100, 60, 140),
)  # fmt: skip
PAPER, FLOOR, LINE, EDGE, WALL, AGENT = "#ffffff", "#f4f4f2", "#d9d9d6", "#4a4a4a", "#5c5c5c", "#202024"
INK, FAINT, DONE, FAILED, GATE = "#202024", "#9a9a9a", "#0a8f5b", "#cc2a1e", "#d55e00"
FINE = 2  # boards are drawn larger by this factor, then reduced: smooth edges
BORDER = 3  # pixels of the grid's edge
PANEL = 76  # pixels under the board


@dataclass(frozen=True)
class Caption:
    """What is told under a picture.

    Attributes:
        task: the colours to visit.
        leg: how many of them were.
        step, horizon: of the episode.
        outcome: how the episode ended, such as "done" or "wrong colour"; empty while it goes on.
        beta: the switch gate.
        code: number of the code in force, counted from 1.
    """

    task: Task
    leg: int
    step: int
    horizon: int
    outcome: str = ""
    beta: float | None = None
    code: int | None = None


def text(spec: PinpadSpec, entities: np.ndarray, caption: Caption) -> str:
    """The grid with colours as numbers, walls as #, the agent as @ (over a colour: its number and @)."""
    cells = [["." for _ in range(spec.grid_size)] for _ in range(spec.grid_size)]
    for entity, cell in enumerate(entities[:-1]):
        row, column = divmod(int(cell), spec.grid_size)
        cells[row][column] = str(entity) if entity < spec.num_colours else "#"
    row, column = divmod(int(entities[-1]), spec.grid_size)
    cells[row][column] = cells[row][column].replace(".", "") + "@"
    done = "-".join(str(c) for c in caption.task[: caption.leg]) or "none"
    todo = "-".join(str(c) for c in caption.task[caption.leg :]) or "none"
    grid = "\n".join(" ".join(f"{cell:>2}" for cell in line) for line in cells)
    told = f"step {caption.step} of {caption.horizon}" + (f": {caption.outcome}" if caption.outcome else "")
    return f"{grid}\nvisited {done}, to visit {todo}\n{told}\n"


def image(spec: PinpadSpec, entities: np.ndarray, caption: Caption, cell: int = 46) -> np.ndarray:
    """uint8 [H, W, 3]: the grid with the agent as a disc, and the caption."""
    from PIL import ImageDraw

    margin = 2 * BORDER
    picture = board(spec, entities, cell, margin, caption.outcome)
    row, column = divmod(int(entities[-1]), spec.grid_size)
    middle = (margin + (column + 0.5) * cell) * FINE, (margin + (row + 0.5) * cell) * FINE
    draw = ImageDraw.Draw(picture)
    for radius, fill in ((0.30, PAPER), (0.25, AGENT)):
        reach = radius * cell * FINE
        draw.ellipse((middle[0] - reach, middle[1] - reach, middle[0] + reach, middle[1] + reach), fill)
    return captioned(picture.reduce(FINE), caption)


def board(spec: PinpadSpec, entities: np.ndarray, cell: int, margin: int, outcome: str) -> Image.Image:
    """The grid's cells, colours and walls, and its edge `margin` pixels from the picture's; `FINE` times as large.

    Where an episode has ended, the agent's cell is framed.
    """
    from PIL import Image, ImageDraw

    size, unit = spec.grid_size, cell * FINE
    side = size * unit + 2 * margin * FINE
    picture = Image.new("RGB", (side, side), PAPER)
    draw = ImageDraw.Draw(picture)

    def corners(number: int, inset: float) -> tuple[float, float, float, float]:
        row, column = divmod(int(number), size)
        left, top = margin * FINE + column * unit, margin * FINE + row * unit
        return left + inset * FINE, top + inset * FINE, left + unit - inset * FINE - 1, top + unit - inset * FINE - 1

    start, end, edge = margin * FINE, side - margin * FINE, BORDER * FINE
    draw.rounded_rectangle((start - edge, start - edge, end + edge - 1, end + edge - 1), 2 * edge, EDGE)
    draw.rectangle((start, start, end - 1, end - 1), LINE)
    for number in range(spec.num_cells):
        draw.rectangle(corners(number, 0.5), FLOOR)
    for entity, number in enumerate(entities[:-1]):
        wall = entity >= spec.num_colours
        fill = WALL if wall else PALETTE[entity % len(PALETTE)]
        draw.rounded_rectangle(corners(number, 0.5 if wall else 2.5), 0 if wall else cell * FINE // 8, fill)
        if not wall:
            left, top, _, _ = corners(number, 6)
            draw.text((left, top), str(entity), ink_on(fill), font(max(10, cell // 4) * FINE), "lt")
    if outcome:
        tint = DONE if outcome == "done" else FAILED
        draw.rounded_rectangle(corners(entities[-1], -1), cell * FINE // 8, None, tint, 4 * FINE)
    return picture


def captioned(picture: Image.Image, caption: Caption) -> np.ndarray:
    """uint8 [H, W, 3]: a picture, under it the task (next colour framed), step, code, and the gate or the outcome."""
    from PIL import Image, ImageDraw

    width, height = picture.size
    whole = Image.new("RGB", (width, height + PANEL), PAPER)
    whole.paste(picture)
    draw = ImageDraw.Draw(whole)
    left, right, top = 8, width - 8, height + 4
    pitch = min(26, (right - left) // len(caption.task))
    for i, colour in enumerate(caption.task):
        fill = PALETTE[colour % len(PALETTE)]
        box = (left + i * pitch + 1, top, left + (i + 1) * pitch - 3, top + pitch - 4)
        middle = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        if i < caption.leg:
            draw.rounded_rectangle(box, 4, FLOOR, LINE)
            draw.text(middle, str(colour), FAINT, font(pitch // 2), "mm")
            continue
        draw.rounded_rectangle(box, 4, fill, INK if i == caption.leg else None, 3)
        draw.text(middle, str(colour), ink_on(fill), font(pitch // 2), "mm")
    line = height + 42
    draw.text((left, line), f"step {caption.step} of {caption.horizon}", INK, font(13), "lm")
    if caption.code is not None:
        draw.text((right, line), f"code {caption.code}", INK, font(13), "rm")
    line = height + 62
    if caption.outcome:
        draw.text((left, line), caption.outcome, DONE if caption.outcome == "done" else FAILED, font(15), "lm")
    elif caption.beta is not None:
        start = left + 38
        draw.text((left, line), "gate", INK, font(13), "lm")
        draw.rounded_rectangle((start, line - 4, right, line + 4), 4, FLOOR, LINE)
        reach = start + (right - start) * min(max(caption.beta, 0.0), 1.0)
        if reach >= start + 8:  # less is no rounded bar
            draw.rounded_rectangle((start, line - 4, reach, line + 4), 4, GATE)
    return np.asarray(whole)


def ink_on(fill: tuple[int, int, int]) -> str:
    """Black or white, whichever is read on a colour."""
    return INK if np.dot(fill, (0.3, 0.59, 0.11)) > 110 else PAPER


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font, which is the same everywhere."""
    from PIL import ImageFont

    return ImageFont.load_default(size)


class Window:
    """A pygame window that shows frames at a fixed rate."""

    def __init__(self, fps: int):
        try:
            import pygame
        except ImportError:
            raise UserError("render_mode='human' needs pygame: pip install 'irl_ray[render]'") from None
        self.pygame, self.fps = pygame, fps
        pygame.display.init()
        self.screen, self.clock = None, pygame.time.Clock()

    def show(self, frame: np.ndarray) -> None:
        """Draws one frame and waits for its turn."""
        surface = self.pygame.surfarray.make_surface(frame.swapaxes(0, 1))
        if self.screen is None:
            self.screen = self.pygame.display.set_mode(surface.get_size())
            self.pygame.display.set_caption("irl_ray")
        self.screen.blit(surface, (0, 0))
        self.pygame.event.pump()
        self.pygame.display.flip()
        self.clock.tick(self.fps)

    def close(self) -> None:
        """Closes the window."""
        self.pygame.display.quit()
