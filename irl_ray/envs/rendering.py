"""Pictures of a pin-pad grid: text, RGB arrays and a window."""

from __future__ import annotations

import numpy as np

from irl_ray.envs.pinpad import PinpadSpec, Task
from irl_ray.errors import UserError

# Okabe-Ito and two more: told apart with colour-blind eyes, numbered in text mode.
PALETTE = np.array(
    [
        (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178),
        (213, 94, 0), (204, 121, 167), (120, 94, 60), (160, 160, 220), (170, 220, 120),
        (250, 180, 180), (100, 60, 140),
    ],
    np.uint8,
)  # fmt: skip
FLOOR, LINE, WALL, AGENT = (245, 245, 245), (205, 205, 205), (70, 70, 70), (20, 20, 20)


def text(spec: PinpadSpec, entities: np.ndarray, task: Task, leg: int) -> str:
    """The grid with colours as numbers, walls as #, the agent as @ (over a colour: its number and @)."""
    cells = [["." for _ in range(spec.grid_size)] for _ in range(spec.grid_size)]
    for entity, cell in enumerate(entities[:-1]):
        row, column = divmod(int(cell), spec.grid_size)
        cells[row][column] = str(entity) if entity < spec.num_colours else "#"
    row, column = divmod(int(entities[-1]), spec.grid_size)
    cells[row][column] = cells[row][column].replace(".", "") + "@"
    done = "-".join(str(c) for c in task[:leg]) or "none"
    todo = "-".join(str(c) for c in task[leg:]) or "none"
    grid = "\n".join(" ".join(f"{cell:>2}" for cell in line) for line in cells)
    return f"{grid}\nvisited {done}, to visit {todo}\n"


def image(
    spec: PinpadSpec, entities: np.ndarray, task: Task, leg: int, beta: float | None = None, size: int = 40
) -> np.ndarray:
    """uint8 [H, W, 3]: the grid, under it a strip with the task (the next colour framed).

    With `beta` a bar under the strip shows the switch gate, from 0 (empty) to 1 (full width).
    """
    side = spec.grid_size * size
    canvas = np.full((side, side, 3), FLOOR, np.uint8)
    for entity, cell in enumerate(entities[:-1]):
        row, column = divmod(int(cell), spec.grid_size)
        fill = PALETTE[entity % len(PALETTE)] if entity < spec.num_colours else WALL
        canvas[row * size : (row + 1) * size, column * size : (column + 1) * size] = fill
    canvas[::size] = canvas[:, ::size] = LINE
    row, column = divmod(int(entities[-1]), spec.grid_size)
    y, x = np.ogrid[:side, :side]
    centre = np.array([row, column]) * size + size / 2
    canvas[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 < (size * 0.3) ** 2] = AGENT
    return under_strip(canvas, task, leg, beta, size)


def under_strip(picture: np.ndarray, task: Task, leg: int, beta: float | None = None, size: int = 40) -> np.ndarray:
    """uint8 [H, W, 3]: a picture, under it the task (the next colour framed) and the switch gate."""
    side = picture.shape[1]
    strip = np.full((size // 2 + 8, side, 3), 255, np.uint8)
    width = max(4, min(size // 2, side // max(1, len(task))))
    for i, colour in enumerate(task):
        box = strip[4:-4, i * width + 1 : (i + 1) * width - 1]
        box[...] = PALETTE[colour % len(PALETTE)] if i >= leg else FLOOR
        if i == leg:
            box[:2] = box[-2:] = AGENT
            box[:, :2] = box[:, -2:] = AGENT
    rows = [picture, strip]
    if beta is not None:
        bar = np.full((size // 4, side, 3), 225, np.uint8)
        bar[:, : int(round(side * min(max(beta, 0.0), 1.0)))] = PALETTE[5]
        rows.append(bar)
    return np.concatenate(rows)


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
