"""Batches of demonstrations, whatever world they come from, and where phases get them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from irl_ray.worlds.world import World


@dataclass
class Trajectories:
    """A batch of expert trajectories, padded on the right.

    `task`, `leg` and `subgoal` are ground truth for analysis; the training phases never read them.

    Attributes:
        world: whose trajectories they are.
        observation: [B, T+1, ...], int64 where it is whole numbers, or else float32.
        action: int64 [B, T] where actions are discrete, else float32 [B, T, A].
        mask: bool [B, T], true on real steps.
        task: int64 [B], number of the task in the specification's list.
        leg: int64 [B, T], how many legs of the task were done before the step.
        subgoal: int64 [B, T], ground-truth subgoal, -1 on padding.
    """

    world: World
    observation: Tensor
    action: Tensor
    mask: Tensor
    task: Tensor
    leg: Tensor
    subgoal: Tensor

    def __len__(self) -> int:
        return self.action.shape[0]

    def __getitem__(self, rows: slice | Tensor) -> Trajectories:
        """The given trajectories, padded as they are."""
        names = [f.name for f in fields(self) if f.name != "world"]
        return replace(self, **{name: getattr(self, name)[rows] for name in names})

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
        )

    def to(self, device: str | torch.device) -> Trajectories:
        """The batch on another device."""
        moved = {f.name: v.to(device) for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}
        return replace(self, **moved)

    def split_by_length(self, parts: int) -> list[Trajectories]:
        """The batch in `parts` of similar length: the same set with far less padding."""
        order = self.mask.sum(1).argsort()
        return [self.select(rows) for rows in order.chunk(parts)]

    def at(self, kept: Tensor) -> Trajectories:
        """The same walks seen on the steps of `kept`, bool [B, T], alone; actions are those taken there."""
        kept, length = F.pad(kept & self.mask, (0, 1)), self.mask.sum(1, keepdim=True)
        kept = kept.scatter(1, length, True)  # the last observation of all is seen too
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
