"""The environment `irl_ray/BabyAIChain-v0`, and BabyAI's own bot as its demonstrator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from irl_ray.data.imports import Episode
from irl_ray.errors import UserError
from irl_ray.worlds.chains import ORDERS, successes

try:
    from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX, STATE_TO_IDX
    from minigrid.envs.babyai.core.roomgrid_level import RoomGridLevel
    from minigrid.envs.babyai.core.verifier import ObjDesc, PickupInstr
    from minigrid.minigrid_env import MiniGridEnv
    from minigrid.utils.baby_ai_bot import BabyAIBot
except ImportError:
    raise UserError("irl_ray/BabyAIChain-v0 needs MiniGrid: pip install 'irl_ray[babyai]'") from None

COLOURS = ("red", "green", "blue", "yellow")
VIEW = 7  # cells along a side of what the agent sees
BALL_OF = np.array([COLOURS.index(name) if name in COLOURS else 0 for name in COLOR_TO_IDX])  # by MiniGrid's colours
UNKNOWN, FREE, WALL, BALL = range(4)  # what the agent remembers of a cell; the first ball is BALL, the next BALL + 1


class BallChain(RoomGridLevel):
    """Balls of four colours in one room are to be picked up in an order that the agent is not told.

    Whoever holds a ball has to drop it before the next. A wrong ball ends the episode; picking up the last of the order
    ends it with a reward of 1.

    Actions: MiniGrid's `Discrete(7)`: left, right, forward, pick up, drop, and two without effect here.

    Observation: `MultiDiscrete` of 7×7×3 entries: kind, colour and state of each cell in view; the mission is left out.
    The agent's own cell, in the middle of the last row, shows what it holds. With `memory`, `MultiDiscrete` of an entry
    for each cell of the room, seen from where the agent stands, ahead first: not seen yet, free, a wall, or a ball, as
    it was last seen; and one for what is held.

    Info: `subgoal`, the colour that is next, and `leg`, how many were picked up (ground truth, for analysis only).

    Args:
        orders: from which each episode draws one.
        room_size: of the room, its walls included.
        memory: the agent sees the room as it has come to know it, instead of what lies ahead alone.
        max_steps: after which MiniGrid cuts an episode; Gymnasium's limit comes first.
        **kwargs: of MiniGrid, such as `render_mode`.
    """

    def __init__(
        self,
        orders: Sequence[Sequence[int]] = ORDERS,
        room_size: int = 7,
        memory: bool = False,
        max_steps: int = 10_000,
        **kwargs: Any,
    ):
        if room_size < 5:
            raise UserError(f"room_size: expected at least 5, which leaves room for four balls, got {room_size}")
        self.orders, self.memory = [tuple(order) for order in orders], memory
        self.order, self.leg = self.orders[0], 0
        self.known = np.zeros((room_size, room_size), dtype=np.int64)
        super().__init__(room_size=room_size, num_rows=1, num_cols=1, max_steps=max_steps, **kwargs)
        kinds = (len(OBJECT_TO_IDX), len(COLOR_TO_IDX), len(STATE_TO_IDX) + 1)
        around = (2 * (room_size - 2) - 1) ** 2  # cells of the room, and some beyond it, from any of them
        sizes = [BALL + len(COLOURS)] * around + [1 + len(COLOURS)] if memory else np.tile(kinds, VIEW * VIEW)
        self.observation_space = gym.spaces.MultiDiscrete(sizes)

    def gen_mission(self) -> None:
        """A room with the four balls, and an order."""
        self.order, self.leg = self.orders[self._rand_int(0, len(self.orders))], 0
        self.place_agent(0, 0)
        for colour in COLOURS:
            self.add_object(0, 0, "ball", colour)
        self.ask()

    def ask(self) -> None:
        """Makes the next ball of the order what the bot is after."""
        self.instrs = PickupInstr(ObjDesc("ball", COLOURS[self.order[self.leg]]))

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        self.known[:] = UNKNOWN
        observation, _ = super().reset(**kwargs)
        return self._seen(observation), self._info()

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        held = self.carrying
        observation, _, _, truncated, _ = MiniGridEnv.step(self, action)
        wrong = success = False
        if self.carrying is not None and self.carrying is not held:
            wrong = self.carrying.color != COLOURS[self.order[self.leg]]
            self.leg += not wrong
            success = self.leg == len(self.order)
        if action == self.actions.drop:
            self.update_objs_poss()
        return self._seen(observation), float(success), bool(success or wrong), truncated, self._info()

    def _seen(self, observation: dict[str, Any]) -> np.ndarray:
        image = observation["image"]
        if not self.memory:
            return image.flatten().astype(np.int64)
        right, back = np.indices((VIEW, VIEW))
        x, y, inside = self._cells(VIEW - 1 - back, right - VIEW // 2)
        seen = inside & (image[..., 0] != OBJECT_TO_IDX["unseen"])
        self.known[x[seen], y[seen]] = np.select(
            [image[..., 0] == OBJECT_TO_IDX["ball"], image[..., 0] == OBJECT_TO_IDX["wall"]],
            [BALL + BALL_OF[image[..., 1]], WALL],
            FREE,
        )[seen]
        self.known[tuple(self.agent_pos)] = FREE  # where the image shows what is held
        reach = len(self.known) - 3
        x, y, inside = self._cells(*np.mgrid[reach : -reach - 1 : -1, -reach : reach + 1])
        held = 0 if self.carrying is None else 1 + COLOURS.index(self.carrying.color)
        return np.append(np.where(inside, self.known[x, y], WALL), held)

    def _cells(self, ahead: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Coordinates of cells so far ahead of the agent and to its right, and which of them are in the room."""
        cells = np.multiply.outer(ahead, self.dir_vec) + np.multiply.outer(right, self.right_vec) + self.agent_pos
        inside = ((cells >= 0) & (cells < len(self.known))).all(-1)
        x, y = np.moveaxis(np.where(inside[..., None], cells, 0), -1, 0)
        return x, y, inside

    def _info(self) -> dict[str, int]:
        return {"subgoal": self.order[min(self.leg, len(self.order) - 1)], "leg": self.leg}


def demonstrate(env: BallChain, seed: int) -> Episode | None:
    """One episode of BabyAI's bot, which is asked for one ball after the other; None where it fails."""
    observation, info = env.reset(seed=seed)
    observations, actions, subgoals, legs = [observation], [], [], []
    over, leg, bot, last = False, -1, None, None
    while not over:
        if env.carrying is not None:  # the bot does not begin with full hands
            leg, last = -1, env.actions.right if env.grid.get(*env.front_pos) else env.actions.drop
        else:
            if env.leg != leg:
                leg = env.leg
                env.ask()
                env.instrs.reset_verifier(env)
                bot, last = BabyAIBot(env), None
            try:
                last = bot.replan(last)
            except AssertionError:  # it found no way
                return None
        last = int(last)
        subgoals.append(info["subgoal"])
        legs.append(info["leg"])
        actions.append(last)
        observation, reward, over, truncated, info = env.step(last)
        observations.append(observation)
        if truncated or len(actions) > 80:
            return None
    labels = {"subgoal": np.array(subgoals), "leg": np.array(legs)}
    return Episode(f"episode {seed}", observations, np.array(actions), reward > 0, labels) if reward > 0 else None


def demonstrations(count: int, seed: int = 0, **settings: Any) -> Iterator[Episode]:
    """So many of the bot's episodes that succeed, for `irl-ray data import`.

    Args:
        count: of episodes.
        seed: from which theirs derive.
        **settings: of the environment.
    """
    env = BallChain(**settings)
    return successes(lambda one: demonstrate(env, one), count, seed)
