"""Batches of demonstrations, whatever world they come from, and where phases get them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from irl_ray.envs.pinpad import PinpadSpec
from irl_ray.envs.worlds import NUM_BODY, AntSpec


@dataclass
class Trajectories:
    """A batch of expert trajectories, padded on the right.

    `task`, `leg` and `subgoal` are ground truth for analysis; the training phases never read them.

    Attributes:
        world: whose trajectories they are.
        observation: [B, T+1, ...]: the cell of every entity, int64 [E], in the gridworld; float32 [F]
            of the ant.
        action: int64 [B, T] in the gridworld; float32 [B, T, 8] of the ant.
        mask: bool [B, T], true on real steps.
        task: int64 [B], number of the task in the specification's list.
        leg: int64 [B, T], how many colours of the task had been visited before the step.
        subgoal: int64 [B, T], ground-truth subgoal (see `PinpadSpec.subgoals`), -1 on padding.
        distances: int16 [C, O, B] of `pinpad.shortest_distances`, where the stream knows them.
    """

    world: PinpadSpec
    observation: Tensor
    action: Tensor
    mask: Tensor
    task: Tensor
    leg: Tensor
    subgoal: Tensor
    distances: Tensor | None = None

    def __len__(self) -> int:
        return self.action.shape[0]

    def __getitem__(self, rows: slice | Tensor) -> Trajectories:
        """The given trajectories, padded as they are."""
        distances = None if self.distances is None else self.distances[:, :, rows]
        names = [f.name for f in fields(self) if f.name not in ("world", "distances")]
        return replace(self, distances=distances, **{name: getattr(self, name)[rows] for name in names})

    def select(self, rows: Tensor) -> Trajectories:
        """The given trajectories, trimmed to the longest of them."""
        steps = int(self.mask[rows].sum(1).max())
        return Trajectories(
            self.world,
            self.observation[rows, : steps + 1],
            self.action[rows, :steps],
            self.mask[rows, :steps],
            self.task[rows],
            self.leg[rows, :steps],
            self.subgoal[rows, :steps],
            None if self.distances is None else self.distances[:, :, rows],
        )

    def to(self, device: str | torch.device) -> Trajectories:
        """The batch on another device."""
        moved = {f.name: v.to(device) for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}
        return replace(self, **moved)

    def split_by_length(self, parts: int) -> list[Trajectories]:
        """The batch in `parts` of similar length: the same set with far less padding."""
        order = self.mask.sum(1).argsort()
        return [self.select(rows) for rows in order.chunk(parts)]

    def target(self) -> Tensor:
        """int64 [B, T]: the colour that is gone for, -1 on padding. Ground truth."""
        longest = max(map(len, self.world.tasks))
        tasks = torch.tensor([(*t, *[-1] * (longest - len(t))) for t in self.world.tasks], device=self.leg.device)
        return tasks[self.task[:, None], self.leg.clamp(max=longest - 1)].masked_fill(~self.mask, -1)

    def agent_cells(self) -> Tensor:
        """int64 [B, T+1]: the cell the agent is in."""
        if not isinstance(self.world, AntSpec):
            return self.observation[..., -1]
        return ant_cells(self.observation, self.world.grid_size)

    def entered(self) -> Tensor:
        """bool [B, T]: steps on which the agent is new in its cell, the first one included."""
        cells = self.agent_cells()[:, :-1]
        return F.pad(cells[:, 1:] != cells[:, :-1], (1, 0), value=True) & self.mask

    def at_entries(self) -> Trajectories:
        """The same walks seen only where a cell is entered: about one of the ant's steps in seven.

        Actions are those taken on these steps; what matters here is where the ant goes.
        """
        kept, length = F.pad(self.entered(), (0, 1)), self.mask.sum(1, keepdim=True)
        kept = kept.scatter(1, length, True)  # the last observation of all is one too
        order = (~kept).int().argsort(dim=1, stable=True)[:, : int(kept.sum(1).max())]
        return self._at(order, kept.gather(1, order)[:, 1:])

    def since(self, start: Tensor) -> Trajectories:
        """The same walks from a step on, int64 [B], as if they had begun there: windows of them."""
        steps = shifted(start, self.action.shape[1] + 1)
        padded = F.pad(self.mask, (0, 1))
        return self._at(steps, pick(padded, steps[:, :-1]))

    def cut(self, begins: Tensor) -> Trajectories:
        """The pieces into which the steps of `begins`, bool [B, T], cut the walks, each as a walk of its own."""
        row, start, length = pieces_of(begins & self.mask, self.mask)
        ahead = torch.arange(int(length.max()) + 1, device=start.device)
        order = (start[:, None] + ahead).clamp(max=self.action.shape[1])
        return self[row]._at(order, ahead[:-1] < length[:, None])

    def _at(self, order: Tensor, mask: Tensor) -> Trajectories:
        """The observations numbered `order` [B, K+1], and what belongs to all of these steps but the last."""
        steps = order[:, :-1].clamp(max=self.action.shape[1] - 1)
        return replace(
            self,
            observation=pick(self.observation, order),
            action=pick(self.action, steps),
            mask=mask,
            leg=pick(self.leg, steps),
            subgoal=pick(self.subgoal, steps),
        )

    def directions(self) -> Tensor:
        """int64 [B, T]: 0 up, 1 right, 2 down, 3 left. The action in the gridworld; of the ant, the
        direction of the next cell it enters."""
        if not isinstance(self.world, AntSpec):
            return self.action
        cells, size = self.agent_cells(), self.world.grid_size
        steps = torch.arange(cells.shape[1] - 1, device=cells.device)
        moved = (cells[:, 1:] != cells[:, :-1]) & self.mask
        following = torch.where(moved, steps, len(steps) - 1).flip(1).cummin(1).values.flip(1)
        step = cells.gather(1, following + 1) - cells.gather(1, following)
        return torch.where(step == -size, 0, torch.where(step == 1, 1, torch.where(step == size, 2, 3)))


def pick(values: Tensor, at: Tensor) -> Tensor:
    """Of values [B, T, ...] the steps numbered `at`, int64 [B, K], in each row: [B, K, ...]."""
    at = at.reshape(*at.shape, *[1] * (values.dim() - 2))
    return values.gather(1, at.expand(-1, -1, *values.shape[2:]))


def shifted(start: Tensor, steps: int) -> Tensor:
    """Numbers of the steps from `start` [B] on, int64 [B, steps]; past the end the last one is repeated."""
    return (start[:, None] + torch.arange(steps, device=start.device)).clamp(max=steps - 1)


def pieces_of(begins: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The pieces into which the real steps of `begins`, bool [B, T], cut sequences: row, first step and length of each,
    int64 [N]. The first step of a sequence always begins one."""
    starts = begins.clone()
    starts[:, 0] = True
    row, start = starts.nonzero(as_tuple=True)
    end = torch.cat([start[1:], start.new_zeros(1)])
    last = torch.cat([row[1:] != row[:-1], row.new_ones(1, dtype=torch.bool)])
    return row, start, torch.where(last, mask.sum(1)[row], end) - start


def random_starts(mask: Tensor, share: float, random: torch.Generator) -> Tensor:
    """Where contexts begin, int64 [B]: in a `share` of the rows at a step drawn uniformly, else at 0.

    Args:
        mask: bool [B, T], true on real steps.
        share: of rows that are cut.
        random: on the device of the mask.
    """
    return chosen_starts(mask, share, torch.rand(len(mask), 2, generator=random, device=mask.device))


def chosen_starts(places: Tensor, share: float, drawn: Tensor) -> Tensor:
    """The same at one of the `places` of each row, bool [B, T], by two numbers in [0, 1) for each row, [B, 2]."""
    number = (drawn[:, 1] * places.sum(1)).long() + 1
    where = (places.cumsum(1) == number[:, None]).int().argmax(1)
    return torch.where(drawn[:, 0] < share, where, 0)


class Demonstrations(Protocol):
    """Where a phase gets its trajectories: a stream that never ends, or stored shards."""

    def sample(self, count: int, random: torch.Generator) -> Trajectories:
        """Trajectories that training has not seen and will not see."""

    def batches(self, size: int, seed: int, *key: str | int, start: int = 0) -> Iterator[Trajectories]:
        """Training batches for ever; batch i depends on (seed, key, i) alone, so runs can resume at i."""


def ant_place(observation: Tensor, grid_size: int) -> Tensor:
    """int64 [..., 2]: column, from the left, and row, from the bottom, of the ant's torso, from [..., F].

    The place minus the place within the cell is the cell's centre: exact, also on a border.
    """
    centre = (observation[..., NUM_BODY - 2 : NUM_BODY] + 1) * (grid_size / 2) - observation[..., -2:] - 0.5
    return centre.round().long().clamp(0, grid_size - 1)


def ant_cells(observation: Tensor, grid_size: int) -> Tensor:
    """int64 [...]: the cell the ant's torso is over, numbered as in `envs.pinpad`, from [..., F]."""
    place = ant_place(observation, grid_size)
    return (grid_size - 1 - place[..., 1]) * grid_size + place[..., 0]
