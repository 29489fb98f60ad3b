"""Gridworld demonstrations: the exact stochastic shortest-path expert as an endless stream.

Shape legend: B trajectories, T steps (the longest of the batch; shorter ones are padded on the
right), E entities (colours, walls, agent), A = 4 actions, O colours, C cells.

Source: Kobayashi et al., arXiv 2512.20605, C.1.1 and C.4.4 (expert), Appendix A (rules).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from irl_ray.data.trajectories import Trajectories
from irl_ray.errors import UserError
from irl_ray.seeding import torch_seed
from irl_ray.worlds.pinpad import rules
from irl_ray.worlds.pinpad.rules import PinpadSpec

POOL = 8
TIES = ("free", "rule")


class GridworldExpert:
    """Samples trajectories of the shortest-path expert on fresh layouts.

    The expert takes each optimal action with equal probability, or the first of them where ties are broken by
    rule; with probability `noise` it takes a random action that does not end the episode instead (C.4.4).

    Args:
        spec: the world and its tasks.
        noise: ε of the expert, in [0, 1].
        device: where the arrays live.
        ties: "free" or "rule": up before right before down before left.
    """

    def __init__(self, spec: PinpadSpec, noise: float = 0.0, device: str | torch.device = "cpu", ties: str = "free"):
        if ties not in TIES:
            raise UserError(f"ties: expected one of {', '.join(TIES)}, got {ties!r}")
        self.spec, self.noise, self.device, self.ties = spec, noise, torch.device(device), ties
        self.table = torch.as_tensor(rules.next_cells(spec.grid_size), device=self.device)
        legs = max(len(task) for task in spec.tasks)
        padded = [task + (task[-1],) * (legs - len(task)) for task in spec.tasks]
        self.tasks = torch.tensor(padded, device=self.device)  # [tasks, legs]
        self.task_lengths = torch.tensor([len(task) for task in spec.tasks], device=self.device)
        subgoals = [spec.task_subgoals(task) for task in spec.tasks]
        self.task_subgoals = torch.tensor(
            [[s[min(i // spec.colours_per_subgoal, len(s) - 1)] for i in range(legs)] for s in subgoals],
            device=self.device,
        )

    def sample(self, count: int, random: torch.Generator) -> Trajectories:
        """`count` trajectories; those that the horizon cuts keep their first T steps."""
        spec, device = self.spec, self.device
        uniform = lambda *shape: torch.rand(*shape, generator=random, device=device)  # noqa: E731
        entities, distances = rules.sample_layouts(lambda rows: uniform(len(rows), spec.num_cells), count, spec, torch)
        rows = torch.arange(count, device=device)
        task = (uniform(count) * len(spec.tasks)).long()
        position = entities[:, -1]
        leg = torch.zeros_like(position)
        colour_at = torch.full((count, spec.num_cells), -1, device=device)
        colour_at[rows[:, None], entities[:, : spec.num_colours]] = torch.arange(spec.num_colours, device=device)
        wall_at = torch.zeros(count, spec.num_cells, dtype=torch.bool, device=device)
        wall_at[rows[:, None], entities[:, spec.num_colours : -1]] = True
        positions, actions, masks, legs = [position], [], [], []
        active = torch.ones(count, dtype=torch.bool, device=device)
        for _ in range(spec.horizon):
            target = self.tasks[task, leg.clamp(max=self.tasks.shape[1] - 1)]
            after = rules.action_distances(distances, position, target, self.table, torch)
            action = self._choose(after, uniform)
            if self.noise:
                # A stray step may neither end the episode nor enter a pocket without a way on.
                ahead = self.table[position]
                stays = (ahead == position[:, None]) | wall_at.gather(1, ahead)
                last = leg == self.task_lengths[task] - 1
                harmless = stays | ((after < rules.UNREACHABLE) & ~(last[:, None] & (after == 0)))
                stray = torch.where(harmless, uniform(count, rules.NUM_ACTIONS), -1.0).argmax(1)
                swap = (uniform(count) < self.noise) & harmless.any(1)
                action = torch.where(swap, stray, action)
            cell = self.table[position, action]
            cell = torch.where(wall_at.gather(1, cell[:, None]).squeeze(1), position, cell)
            masks.append(active)
            legs.append(leg)
            actions.append(action)
            arrived = active & (cell != position) & (colour_at.gather(1, cell[:, None])[:, 0] == target)
            position = torch.where(active, cell, position)
            positions.append(position)
            leg = leg + arrived
            active = active & (leg < self.task_lengths[task])
            if not bool(active.any()):
                break
        mask = torch.stack(masks, 1)
        leg = torch.stack(legs, 1)
        static = entities[:, None, :-1].expand(-1, mask.shape[1] + 1, -1)
        subgoal = self.task_subgoals[task[:, None], leg.clamp(max=self.tasks.shape[1] - 1)]
        return Trajectories(
            world=spec,
            observation=torch.cat([static, torch.stack(positions, 1)[..., None]], -1),
            action=torch.stack(actions, 1),
            mask=mask,
            task=task,
            leg=leg,
            subgoal=subgoal.masked_fill(~mask, -1),
        )

    def stream(self, batch_size: int, seed: int, *key: str | int, start: int = 0) -> Iterator[Trajectories]:
        """Fresh batches for ever; batch i depends on (seed, key, i) alone, so runs can resume at i."""
        random = torch.Generator(device=self.device)
        index = start
        while True:
            random.manual_seed(torch_seed(seed, "demonstrations", *key, index))
            yield self.sample(batch_size, random)
            index += 1

    def batches(self, size: int, seed: int, *key: str | int, start: int = 0) -> Iterator[Trajectories]:
        """As `stream`, but drawn `POOL` batches at a time, which is faster for small batches."""
        skip = start % POOL
        for pool in self.stream(size * POOL, seed, *key, start=start // POOL):
            for rows in torch.arange(len(pool), device=self.device).split(size)[skip:]:
                yield pool.select(rows)
            skip = 0

    def _choose(self, after: Tensor, uniform) -> Tensor:
        """One of the actions whose successor is nearest. after: [B, 4] -> [B]."""
        optimal = after == after.amin(1, keepdim=True)
        if self.ties == "rule":
            return optimal.int().argmax(1)
        return torch.where(optimal, uniform(*after.shape), -1.0).argmax(1)

    def action_probabilities(self, batch: Trajectories) -> Tensor:
        """π(a | o, target colour) of the noiseless expert: float32 [B, T, O, A]."""
        position = batch.observation[:, :-1, -1]  # [B, T]
        colours = torch.arange(self.spec.num_colours, device=self.device)
        rows = torch.arange(len(batch), device=self.device)
        distances = rules.shortest_distances(batch.observation[:, 0], self.spec, torch)
        after = distances[
            self.table[position][:, :, None, :], colours[:, None], rows[:, None, None, None]
        ]  # [B, T, O, A]
        optimal = (after == after.amin(-1, keepdim=True)).float()
        if self.ties == "rule":
            return F.one_hot(optimal.argmax(-1), rules.NUM_ACTIONS).float()
        return optimal / optimal.sum(-1, keepdim=True)
