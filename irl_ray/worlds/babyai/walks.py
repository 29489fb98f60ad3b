"""Demonstrations of `irl_ray/BabyAIChain-v0` by the thousand: a planner that knows what it has seen, in arrays.

BabyAI's own bot makes about a hundred episodes a second. This expert walks the same rooms under the same rules, many at
once: shortest ways, in steps and turns, to the ball that is next, by what it remembers of the room.

Shape legend: N walks, S = 4 headings × cells of the room, C cells of the grid, its walls included.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from irl_ray.errors import UserError
from irl_ray.worlds.babyai.chain import BALL, COLOURS, FREE, UNKNOWN, VIEW, WALL
from irl_ray.worlds.chains import ORDERS

LEFT, RIGHT, FORWARD, PICK_UP, DROP = range(5)
HEADINGS = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])  # MiniGrid's, x and y
FAR = 1000  # further than any way leads


class Tables(NamedTuple):
    """What follows from the size of a room.

    Attributes:
        cell: int [S], the grid's cell that each state stands on.
        front: int [S], the one ahead of it.
        after: int [S, 3], the state after turning left, turning right, and a step ahead.
        view: int [S, V], the cell behind each entry of the observation; C stands for all beyond the grid.
        seen: bool [S, C], the cells that come into view.
        inside: int, the cells that can be entered.
    """

    cell: np.ndarray
    front: np.ndarray
    after: np.ndarray
    view: np.ndarray
    seen: np.ndarray
    inside: np.ndarray


@lru_cache(maxsize=8)
def tables(room_size: int) -> Tables:
    """Of a square room, its walls included."""
    side, inner = room_size, room_size - 2
    heading, x, y = (part.ravel() for part in np.mgrid[:4, 1 : side - 1, 1 : side - 1])
    ahead = HEADINGS[heading]
    right = HEADINGS[(heading + 1) % 4]
    place = np.stack([x, y], -1)

    def state(heading: np.ndarray, place: np.ndarray) -> np.ndarray:
        return (heading % 4) * inner**2 + (place[:, 0] - 1) * inner + place[:, 1] - 1

    def number(cells: np.ndarray) -> np.ndarray:
        inside = ((cells >= 0) & (cells < side)).all(-1)
        return np.where(inside, cells[..., 0] * side + cells[..., 1], side**2)

    step = np.clip(place + ahead, 1, inner)
    after = np.stack([state(heading - 1, place), state(heading + 1, place), state(heading, step)], -1)

    def around(forth: np.ndarray, across: np.ndarray) -> np.ndarray:
        shifts = forth.ravel()[:, None] * ahead[:, None] + across.ravel()[:, None] * right[:, None]
        return number(place[:, None] + shifts)

    view = around(*np.mgrid[inner - 1 : -inner : -1, 1 - inner : inner])
    seen = np.zeros((len(x), side**2 + 1), bool)
    np.put_along_axis(seen, around(*np.mgrid[:VIEW, -(VIEW // 2) : VIEW // 2 + 1]), True, 1)
    cell, front = number(place), number(place + ahead)
    return Tables(cell, front, after, view, seen[:, :-1], np.unique(cell))


def steps_to(goal: np.ndarray, blocked: np.ndarray, room: Tables) -> np.ndarray:
    """Fewest steps and turns from each state to one of the goals: int [N, S], `FAR` where no way leads.

    Args:
        goal: bool [N, S], states.
        blocked: bool [N, C], cells that cannot be entered.
        room: its tables.
    """
    distance = np.where(goal, 0, FAR)
    closed = blocked[:, room.front]
    while True:
        ahead = np.where(closed, FAR, distance[:, room.after[:, 2]])
        turned = np.minimum(distance[:, room.after[:, 0]], distance[:, room.after[:, 1]])
        shorter = np.minimum(distance, 1 + np.minimum(ahead, turned))
        if (shorter == distance).all():
            return distance
        distance = shorter


def walks(
    count: int,
    random: np.random.Generator,
    orders: Sequence[Sequence[int]] = ORDERS,
    room_size: int = 7,
    memory: bool = False,
    **_: Any,
) -> dict[str, np.ndarray]:
    """So many successful walks on fresh rooms, for `data: irl_ray.worlds.babyai.walks:walks`.

    Each goes the shortest way to face the ball that is next, or, where it does not know where that lies, to see a cell
    that it has not seen. Of ways that are as short, ahead goes before left and left before right. With a ball in hand
    it turns right until there is room in front, and drops it.

    Args:
        count: how many.
        random: from which all is drawn.
        orders: of the environment, as the others are.
        room_size: of the room, its walls included.
        memory: has to be true.

    Returns:
        `observation` [N, T+1, V], `action` [N, T], `length` [N], and `subgoal` and `leg` [N, T].
    """
    if not memory:
        raise UserError("these walks are of rooms as they are remembered: set memory: true in the world's settings")
    parts, made = [], 0
    while made < count:
        part = _attempt(count - made, random, [tuple(order) for order in orders], room_size)
        parts.append(part)
        made += len(part["length"])
    steps = max(part["action"].shape[1] for part in parts)
    padded = lambda values, longest: np.pad(  # noqa: E731
        values, [(0, 0), (0, longest - values.shape[1]), *[(0, 0)] * (values.ndim - 2)], mode="edge"
    )
    joined = {
        key: np.concatenate([padded(part[key], steps + (key == "observation")) for part in parts])
        for key in ("observation", "action", "subgoal", "leg")
    }
    return {**joined, "length": np.concatenate([part["length"] for part in parts])}


def _attempt(
    count: int, random: np.random.Generator, orders: Sequence[tuple[int, ...]], side: int
) -> dict[str, np.ndarray]:
    """At most so many walks; those that do not come to their end are left out."""
    task = random.integers(len(orders), size=count)
    made, done = walk(*_rooms(count, random, side), [orders[number] for number in task], side)
    return {name: values[done] for name, values in made.items()}


def walk(
    truth: np.ndarray, state: np.ndarray, orders: Sequence[tuple[int, ...]], room_size: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What the expert does in given rooms, and which walks come to their end, bool [N]: in others a ball is walled in.

    Args:
        truth: int [N, C], what lies in each cell: `FREE`, `WALL` or a ball.
        state: int [N], where each agent begins.
        orders: N of them.
        room_size: of the rooms, their walls included.
    """
    room, rows, truth = tables(room_size), np.arange(len(truth)), truth.copy()
    lengths = np.array([len(order) for order in orders])
    padded = np.array([[*order, *[order[-1]] * (lengths.max() - len(order))] for order in orders])
    known, held, leg = np.full_like(truth, UNKNOWN), np.full(len(rows), -1), np.zeros(len(rows), np.int64)
    distance, planned_to, planned_on = np.full((len(rows), len(room.cell)), FAR), held.copy(), np.zeros_like(known)
    going, stuck, length = np.ones(len(rows), bool), np.zeros(len(rows), bool), np.zeros(len(rows), np.int64)
    observations, actions, legs = [_see(known, truth, state, held, room)], [], []
    while going.any():
        colour = padded[rows, np.minimum(leg, padded.shape[1] - 1)]
        is_target = known == (BALL + colour)[:, None]
        where = np.where(is_target.any(1), is_target.argmax(1), -1)
        plan = going & (held < 0) & ((where != planned_to) | (known != planned_on).any(1))
        planned_to[plan], planned_on[plan] = where[plan], known[plan]
        hidden = (known[plan][:, room.inside] == UNKNOWN) @ room.seen[:, room.inside].T.astype(np.float32) > 0
        goal = np.where(where[plan, None] < 0, hidden, room.front == where[plan, None])
        distance[plan] = steps_to(goal, known[plan] >= WALL, room)
        front = room.front[state]
        ahead = known[rows, front]
        after = distance[rows[:, None], room.after[state]]
        after[:, FORWARD] = np.where(ahead >= WALL, FAR, after[:, FORWARD])
        best = np.array([FORWARD, LEFT, RIGHT])[after[:, [FORWARD, LEFT, RIGHT]].argmin(1)]
        action = np.where(front == where, PICK_UP, best)
        action = np.where(held < 0, action, np.where(ahead == FREE, DROP, RIGHT))
        stuck |= going & (held < 0) & (front != where) & (after.min(1) >= FAR)
        actions.append(action)
        legs.append(leg)
        length = length + going
        state = np.where(going & (action < PICK_UP), room.after[state, np.minimum(action, FORWARD)], state)
        taken, dropped = going & (action == PICK_UP), going & (action == DROP)
        truth[rows[taken], front[taken]] = FREE
        truth[rows[dropped], front[dropped]] = BALL + held[dropped]
        held = np.where(taken, colour, np.where(dropped, -1, held))
        leg = leg + taken
        going = going & (leg < lengths) & ~stuck
        observations.append(_see(known, truth, state, held, room))
    made = {"observation": np.stack(observations, 1), "action": np.stack(actions, 1), "leg": np.stack(legs, 1)}
    subgoal = padded[rows[:, None], np.minimum(made["leg"], padded.shape[1] - 1)]
    return {**made, "subgoal": subgoal, "length": length}, ~stuck


def _rooms(count: int, random: np.random.Generator, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Rooms [N, C] with four balls, none next to the agent, as MiniGrid makes them, and the agents' states [N]."""
    room = tables(side)
    state = random.integers(len(room.cell), size=count)
    x, y = np.divmod(np.arange(side**2), side)
    inside = np.isin(np.arange(side**2), room.inside)
    here = room.cell[state]
    near = abs(x - x[here][:, None]) + abs(y - y[here][:, None]) < 2
    drawn = np.where(inside & ~near, random.random((count, side**2)), 2.0)
    balls = drawn.argsort(1)[:, : len(COLOURS)]
    truth = np.tile(np.where(inside, FREE, WALL), (count, 1))
    np.put_along_axis(truth, balls, BALL + np.arange(len(COLOURS)), 1)
    return truth, state


def _see(known: np.ndarray, truth: np.ndarray, state: np.ndarray, held: np.ndarray, room: Tables) -> np.ndarray:
    """The observation [N, V] of what is remembered, [N, C] and changed in place, with what comes into view."""
    np.copyto(known, truth, where=room.seen[state])
    beyond = np.pad(known, ((0, 0), (0, 1)), constant_values=WALL)
    return np.append(np.take_along_axis(beyond, room.view[state], 1), held[:, None] + 1, 1)
