"""The pin-pad world: layouts, tasks and shortest paths, for NumPy arrays and torch tensors alike.

Shape legend: B layouts, O colours, W walls, E = O + W + 1 entities (colours, walls, agent),
G grid size, C = G * G cells numbered row by row.

Array functions take `xp`, the array module (`numpy` or `torch`), so that environments run in
NumPy and demonstration streams on whatever device torch has.

Source: Kobayashi et al., arXiv 2512.20605, Appendix A and C.4.4; Tables A1 and A2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from irl_ray.errors import UserError, did_you_mean
from irl_ray.worlds.world import World

Array = Any  # numpy.ndarray or torch.Tensor; the two are never mixed in one call
Task = tuple[int, ...]

UP, RIGHT, DOWN, LEFT = range(4)
NUM_ACTIONS = 4
UNREACHABLE = 30_000  # fits int16; larger than any path


def parse_task(text: str) -> Task:
    """`"0-1-4-5"` as `(0, 1, 4, 5)`."""
    try:
        return tuple(int(colour) for colour in text.split("-"))
    except ValueError:
        raise UserError(f"task {text!r}: expected colours joined by '-', such as '0-1-4-5'") from None


def _tasks(text: str) -> tuple[Task, ...]:
    return tuple(parse_task(task) for task in text.split())


def chained_tasks(pairs: int, length: int, forbidden: Sequence[tuple[int, int]]) -> tuple[Task, ...]:
    """Every sequence of `length` colour pairs (0-1, 2-3, ...) in which no transition is forbidden.

    `forbidden` lists ordered (pair, next pair) numbers: (0, 1) forbids 0-1 followed by 2-3.
    """
    chains: list[tuple[int, ...]] = [(pair,) for pair in range(pairs)]
    for _ in range(length - 1):
        chains = [c + (p,) for c in chains for p in range(pairs) if (c[-1], p) not in forbidden]
    return tuple(tuple(colour for pair in c for colour in (2 * pair, 2 * pair + 1)) for c in chains)


TASKS: dict[str, tuple[Task, ...]] = {
    # Table A1: gridworld, subgoals are the pairs 01, 23, 45, 67.
    "table_a1": _tasks(
        "0-1-4-5-0-1 0-1-4-5-2-3 0-1-6-7-2-3 2-3-0-1-4-5 2-3-6-7-2-3 2-3-6-7-4-5 4-5-0-1-4-5 "
        "4-5-0-1-6-7 4-5-2-3-6-7 6-7-2-3-0-1 6-7-2-3-6-7 6-7-4-5-0-1 0-1-6-7-4-5 2-3-0-1-6-7 "
        "4-5-2-3-0-1 6-7-4-5-2-3"
    ),
    "post_a1": _tasks("0-1-2-3-4-5-6-7-0-1-2-3"),
    # Ours, for the small scale: three pairs; each may be followed by itself and one of the others.
    "three_pairs": chained_tasks(3, 3, forbidden=((0, 1), (1, 2), (2, 0))),
    "post_three_pairs": _tasks("0-1-2-3-4-5"),
    # Ours: four pairs, three successors each.
    "four_pairs": chained_tasks(4, 3, forbidden=((0, 1), (1, 2), (2, 3), (3, 0))),
    "post_four_pairs": _tasks("0-1-2-3-4-5-6-7"),
    # Ours, for tests: two pairs, any order but 01 then 23.
    "two_pairs": chained_tasks(2, 2, forbidden=((0, 1),)),
    "post_two_pairs": _tasks("0-1-2-3"),
    # Table A2: ant, subgoals are single colours.
    "table_a2": _tasks(
        "0-3-2 1-0-3 2-1-0 3-2-1 0-2-0 0-2-1 0-3-1 1-0-2 1-3-1 1-3-2 2-0-2 2-0-3 2-1-3 3-1-0 3-1-3 3-2-0"
    ),
    "post_a2": _tasks("0-1-2-3"),
}


@dataclass(frozen=True)
class PinpadSpec(World):
    """What defines a pin-pad world (Appendix A).

    Attributes:
        grid_size: G, cells along one side.
        num_colours: O, uniquely coloured cells.
        num_walls: W, impassable cells.
        horizon: T, steps after which an episode is cut.
        tasks: the colour sequences from which each episode draws one, uniformly.
        colours_per_subgoal: how many consecutive colours of a task make one ground-truth subgoal
            (2 for the gridworld, 1 for the ant). Only labels for analysis depend on it.
    """

    target_name = "colour"

    grid_size: int
    num_colours: int
    num_walls: int
    horizon: int
    tasks: tuple[Task, ...] | str
    colours_per_subgoal: int = 2

    def __post_init__(self) -> None:
        for name in ("grid_size", "num_colours", "horizon", "colours_per_subgoal"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(f"{name}: expected a positive integer, got {value!r}")
        if not isinstance(self.num_walls, int) or self.num_walls < 0:
            raise UserError(f"num_walls: expected an integer of at least 0, got {self.num_walls!r}")
        object.__setattr__(self, "tasks", resolve_tasks(self.tasks))
        if self.num_colours + self.num_walls + 1 > self.num_cells:
            raise UserError(
                f"num_colours={self.num_colours} and num_walls={self.num_walls} leave no cell for the "
                f"agent on a {self.grid_size}x{self.grid_size} grid; raise grid_size"
            )
        for task in self.tasks:
            if not task or any(not 0 <= colour < self.num_colours for colour in task):
                raise UserError(f"tasks: {task} needs colours 0..{self.num_colours - 1} (num_colours)")
            if any(a == b for a, b in zip(task, task[1:])):
                raise UserError(f"tasks: {task} asks for the same colour twice in a row")
            if len(task) % self.colours_per_subgoal:
                raise UserError(f"tasks: {task} cannot be cut into subgoals of {self.colours_per_subgoal} colours")

    @property
    def num_cells(self) -> int:
        return self.grid_size**2

    @property
    def num_entities(self) -> int:
        return self.num_colours + self.num_walls + 1

    @property
    def num_subgoals(self) -> int:
        return len(self.subgoals)

    @property
    def legs_per_subgoal(self) -> int:
        return self.colours_per_subgoal

    @property
    def num_targets(self) -> int:
        return self.num_colours

    @property
    def subgoals(self) -> tuple[Task, ...]:
        """Ground-truth subgoals in order of their first colour: every chunk that tiles the colours."""
        size = self.colours_per_subgoal
        return tuple(tuple(range(first, first + size)) for first in range(0, self.num_colours - size + 1, size))

    def task_subgoals(self, task: Task) -> tuple[int, ...]:
        """The subgoal number of each chunk of `task`; -1 where a chunk is none of `subgoals`."""
        size = self.colours_per_subgoal
        chunks = [tuple(task[i : i + size]) for i in range(0, len(task), size)]
        return tuple(self.subgoals.index(c) if c in self.subgoals else -1 for c in chunks)


def resolve_tasks(tasks: str | Sequence[Any]) -> tuple[Task, ...]:
    """Tasks from a name in `TASKS`, one task, or a list of tasks given as strings or sequences."""
    if isinstance(tasks, str):
        if tasks in TASKS:
            return TASKS[tasks]
        if "-" not in tasks:
            raise UserError(
                f"tasks: {tasks!r} is no task list.{did_you_mean(tasks, TASKS)} Expected one of "
                f"{', '.join(TASKS)}, or colours such as '0-1-2-3'"
            )
        return (parse_task(tasks),)
    if not isinstance(tasks, Sequence) or not tasks:
        raise UserError(f"tasks: expected a name or a non-empty list of tasks, got {tasks!r}")
    if all(isinstance(colour, int) for colour in tasks):
        return (tuple(tasks),)
    return tuple(parse_task(t) if isinstance(t, str) else tuple(int(c) for c in t) for t in tasks)


def next_cells(grid_size: int) -> np.ndarray:
    """int64 [C, 4]: the cell each action leads to on an empty grid; off the grid is a no-op."""
    rows, columns = np.divmod(np.arange(grid_size**2), grid_size)
    steps = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)])
    r = np.clip(rows[:, None] + steps[:, 0], 0, grid_size - 1)
    c = np.clip(columns[:, None] + steps[:, 1], 0, grid_size - 1)
    return r * grid_size + c


def place_entities(uniforms: Array, spec: PinpadSpec, xp: Any = np) -> Array:
    """int64 [B, E] distinct cells of the colours, walls and agent, from uniforms [B, C]."""
    return xp.argsort(uniforms, -1)[:, : spec.num_entities]


def shortest_distances(entities: Array, spec: PinpadSpec, xp: Any = np) -> Array:
    """int16 [C, O, B]: steps from each cell to each colour by dynamic programming (C.4.4).

    Walls and all other colours are obstacles and hold `UNREACHABLE`; so does the cell of a colour
    from which no free path leads on. The batch is the last axis: every relaxation is then a
    contiguous vector operation, whatever the size of the grid.
    """
    size, colours, batch = spec.grid_size, spec.num_colours, entities.shape[0]
    cells = _arange(spec.num_cells, entities, xp)[:, None, None]
    obstacle = (cells == entities[:, :-1].T[None]).any(1)  # [C, B]
    target = cells == entities[:, :colours].T[None]  # [C, O, B]
    blocked = (obstacle[:, None] & ~target).reshape(size, size, colours, batch)
    target = target.reshape(size, size, colours, batch)
    dtype = xp.int16
    padded = xp.full((size + 2, size + 2, colours, batch), UNREACHABLE, dtype=dtype, **_device(entities, xp))
    inner = padded[1:-1, 1:-1]
    inner[target] = 0
    # A shortest path visits each free cell at most once; most layouts converge long before.
    for _ in range(spec.num_cells):
        best = xp.minimum(
            xp.minimum(padded[:-2, 1:-1], padded[2:, 1:-1]),
            xp.minimum(padded[1:-1, :-2], padded[1:-1, 2:]),
        )
        best = xp.minimum(best + 1, inner)
        best[blocked] = UNREACHABLE
        if bool((best == inner).all()):
            break
        inner[...] = best
    return inner.clip(max=UNREACHABLE).reshape(spec.num_cells, colours, batch)


def action_distances(distances: Array, cells: Array, colours: Array, table: Array, xp: Any = np) -> Array:
    """int16 [B, 4]: distance to `colours` [B] after each action taken in `cells` [B].

    A move into an obstacle reads `UNREACHABLE`; `distances` is the result of
    `shortest_distances`, `table` that of `next_cells`. No-ops at the border read the distance of
    the present cell, hence are never optimal.
    """
    batch = _arange(cells.shape[0], cells, xp)
    return distances[table[cells], colours[:, None], batch[:, None]]


def solvable(entities: Array, distances: Array, spec: PinpadSpec, xp: Any = np) -> Array:
    """bool [B]: every colour can be reached from the start and from every other colour.

    The condition does not look at the task, so a layout tells nothing about the task drawn.
    """
    table = _as_like(next_cells(spec.grid_size), entities, xp)
    sources = xp.concatenate([entities[:, : spec.num_colours], entities[:, -1:]], -1)  # [B, O + 1]
    batch = _arange(entities.shape[0], entities, xp)
    colours = _arange(spec.num_colours, entities, xp)
    after = distances[table[sources][..., None], colours[None, None, None, :], batch[:, None, None, None]]
    reached = (after < UNREACHABLE).any(2)  # [B, O + 1, O]
    own = _arange(spec.num_colours + 1, entities, xp)[:, None] == colours[None, :]
    return (reached | own[None]).all(2).all(1)


def sample_layouts(draw: Callable[[Array], Array], count: int, spec: PinpadSpec, xp: Any = np) -> tuple[Array, Array]:
    """Solvable layouts by rejection: entities [B, E] and distances [C, O, B] for B = `count`.

    `draw(rows)` returns fresh uniforms [len(rows), C] for the given row numbers; a row is asked
    again until its layout is solvable, so each row may own its random stream.

    Raises:
        UserError: if hardly any layout of this world is solvable.
    """
    rows = _arange(count, None, xp)
    entities = distances = None
    for _ in range(1000):
        uniforms = draw(rows)
        trial = place_entities(uniforms, spec, xp)
        steps = shortest_distances(trial, spec, xp)
        good = solvable(trial, steps, spec, xp)
        if entities is None:
            rows = _arange(count, trial, xp)
            entities, distances = trial, steps
        else:
            entities[rows[good]] = trial[good]
            distances[:, :, rows[good]] = steps[:, :, good]
        rows = rows[~good]
        if rows.shape[0] == 0:
            return entities, distances
    raise UserError(
        f"grid_size={spec.grid_size}: no layout with num_colours={spec.num_colours} and "
        f"num_walls={spec.num_walls} lets every colour be reached; use a larger grid or fewer of them"
    )


def _arange(count: int, like: Array | None, xp: Any) -> Array:
    return xp.arange(count) if like is None else xp.arange(count, **_device(like, xp))


def _device(like: Array, xp: Any) -> dict[str, Any]:
    return {} if xp is np else {"device": like.device}


def _as_like(array: np.ndarray, like: Array, xp: Any) -> Array:
    return array if xp is np else xp.as_tensor(array, device=like.device)
