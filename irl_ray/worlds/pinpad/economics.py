"""What each kind of code is worth, in nats per segment, before anything is trained (ours).

A code pays for itself where the action NLL that it saves exceeds α times what it costs. Both follow from the world's
floors: ideal observers who know the expert say how many nats are left under

    no code         the Bayes observer: what was seen so far tells the goal, after a while
    subgoal         it is told which subgoal the segment is after; log K nats for K of them
    every colour    it is told which colour is next; log O nats for each
    nudge           it is told the first action of the segment; as many nats as that saves
    every action    it is told all; as many nats as that saves

An observer whose past begins at a random step (windows; memory that starts anew) knows less of the goal, and a nudge
that lies before its past tells it nothing.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from irl_ray.data.trajectories import Trajectories, random_starts
from irl_ray.worlds.pinpad.rules import PinpadSpec
from irl_ray.worlds.pinpad.stream import GridworldExpert

ALPHAS = (0.02, 0.05, 0.1, 0.17, 0.3, 0.5, 1.0)


@dataclass(frozen=True)
class Worth:
    """Of one kind of code: nats per segment that are left to predict, and that the code itself costs."""

    left: float
    cost: float

    def objective(self, alpha: float) -> float:
        """Eq. 9 per segment, for an encoder and a decoder that waste nothing."""
        return self.left + alpha * self.cost


def economics_by_past(world: PinpadSpec, ties: str, episodes: int, seed: int) -> dict[str, dict[str, Worth]]:
    """The worth of each kind of code on demonstrations in a gridworld, by what the observer has seen of the past."""
    expert, random = GridworldExpert(world, ties=ties), torch.Generator().manual_seed(seed)
    batch = expert.sample(episodes, random)
    steps = torch.arange(batch.mask.shape[1]).expand_as(batch.mask)
    changed = torch.cat([torch.zeros_like(batch.leg[:, :1]), batch.leg.diff(dim=1)], 1) != 0
    starts = {
        "the whole past": None,
        "a past from a random step on": random_starts(batch.mask, 1.0, random),
        "a past since the last colour": torch.where(changed, steps, 0).cummax(1).values,
        "no past": steps,
    }
    return {past: code_economics(expert, batch, start) for past, start in starts.items()}


def code_economics(expert: GridworldExpert, batch: Trajectories, start: Tensor | None = None) -> dict[str, Worth]:
    """The worth of each kind of code on demonstrations.

    Args:
        expert: whose they are; without noise.
        batch: demonstrations with labels.
        start: int64 [B], where each observer's past begins, or [B, T], where it does for each step; None for the whole
            past. What is left is scaled from the steps after it to the whole.
    """
    begin = torch.zeros_like(batch.mask, dtype=torch.long)
    begin = begin if start is None else start.reshape(len(batch), -1).expand_as(begin)
    steps = torch.arange(batch.mask.shape[1])
    seen = batch.mask & (steps >= begin)
    first = torch.ones_like(batch.mask)
    first[:, 1:] = batch.leg[:, 1:] != batch.leg[:, :-1]
    first &= (batch.leg % batch.world.colours_per_subgoal == 0) & batch.mask
    segments = float(first.sum())
    scale = float(batch.mask.sum() / seen.sum()) / segments
    policy = expert.action_probabilities(batch)  # [B, T, O, A]
    taken = policy.gather(-1, batch.action[:, :, None, None].expand(-1, -1, policy.shape[2], 1))[..., 0]
    alone = _observed(batch, taken, begin)
    colours = torch.tensor([[c in s for c in range(batch.world.num_colours)] for s in batch.world.subgoals])
    subgoal = _observed(batch, taken, begin, colours[batch.subgoal])
    told = -taken.gather(2, batch.world.target(batch).clamp(min=0)[..., None])[..., 0].clamp_min(1e-9).log()
    total, nudge = (float(alone[where].sum()) * scale for where in (seen, seen & first))
    whole = _observed(batch, taken, torch.zeros_like(begin))
    cost = {name: float(whole[where].sum()) / segments for name, where in (("nudge", first), ("all", batch.mask))}
    return {
        "no code": Worth(total, 0.0),
        "subgoal": Worth(float(subgoal[seen].sum()) * scale, math.log(batch.world.num_subgoals)),
        "every colour": Worth(
            float(told[seen].sum()) * scale, batch.world.colours_per_subgoal * math.log(batch.world.num_colours)
        ),
        "nudge": Worth(total - nudge, cost["nudge"]),
        "every action": Worth(0.0, cost["all"]),
    }


def _observed(batch: Trajectories, taken: Tensor, begin: Tensor, possible: Tensor | None = None) -> Tensor:
    """-log p of every action by an observer, [B, T], from the step on at which its past begins.

    Args:
        batch: demonstrations with labels.
        taken: [B, T, O], probability of the action taken on the way to each colour.
        begin: int64 [B, T], the step.
        possible: bool [B, T, O], colours that a code leaves possible; None for all.
    """
    log_taken = taken.clamp_min(1e-9).log()
    steps = torch.arange(batch.mask.shape[1])
    new_leg = torch.ones_like(batch.mask)
    new_leg[:, 1:] = batch.leg[:, 1:] != batch.leg[:, :-1]
    since = torch.maximum(torch.where(new_leg, steps, 0).cummax(1).values, begin)
    total = torch.cat([torch.zeros_like(log_taken[:, :1]), log_taken.cumsum(1)], 1)
    evidence = total[:, :-1] - total.gather(1, since[..., None].expand_as(log_taken))
    # The leg in which the past begins, or the one before where the agent stands on the colour that it has just visited.
    begun = batch.leg.gather(1, begin) - (new_leg.gather(1, begin) & (begin > 0)).long()
    prior = torch.from_numpy(_priors(batch.world)).float()
    legs = batch.leg.clamp(max=prior.shape[1] - 1)
    # An observer who has seen the start knows that nothing was visited before it.
    row = torch.where(begin == 0, 0, begun + 1).clamp(max=prior.shape[2] - 1)  # padding may lie beyond
    known = prior[batch.task[:, None], legs, row]
    if possible is not None:
        known = known * possible
    likelihood = ((known.clamp_min(1e-12).log() + evidence).softmax(-1) * taken).sum(-1)
    return -likelihood.clamp_min(1e-12).log()


def _priors(world: PinpadSpec) -> np.ndarray:
    """P(next colour | the visits that were seen): [tasks, legs, 1 + legs, O].

    The third index is 0 for an observer of the whole walk, else 1 + the leg in which its past begins: the visits
    since then may lie anywhere in any task.
    """
    longest = max(map(len, world.tasks))
    prior = np.zeros((len(world.tasks), longest, longest + 1, world.num_colours))
    for number, task in enumerate(world.tasks):
        for leg in range(len(task)):
            for other in world.tasks:
                if other[:leg] == task[:leg] and len(other) > leg:
                    prior[number, leg, 0, other[leg]] += 1
            for begun in range(leg + 1):
                visits = task[begun:leg]
                for other in world.tasks:
                    for at in range(len(other) - len(visits)):
                        if other[at : at + len(visits)] == visits:
                            prior[number, leg, 1 + begun, other[at + len(visits)]] += 1
    return prior / np.maximum(prior.sum(-1, keepdims=True), 1e-12)


def draw(plt: Any, found: dict[str, dict[str, dict[str, Worth]]], alpha: float, out: Path) -> None:
    """A panel for each world: Eq. 9 per subgoal by past and kind of code, as a share of what is left without a code.

    Dark what is left, light what α counts of the cost; all numbers go beside it as CSV.

    Args:
        plt: matplotlib's pyplot.
        found: by world and past, the worth of each kind of code.
        alpha: α.
        out: of the figure.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("world", "past", "code", "left", "cost"))
        writer.writerows(
            (world, past, kind, f"{worth.left:.4f}", f"{worth.cost:.4f}")
            for world, pasts in found.items()
            for past, worths in pasts.items()
            for kind, worth in worths.items()
        )
    size = (8, 1.5 * len(found) + 1.2)
    figure, panels = plt.subplots(len(found), 1, figsize=size, squeeze=False, layout="constrained")
    hatches = ("", "//", "..", "xx", "++")
    for panel, (world, pasts) in zip(panels[:, 0], found.items()):
        labels, tallest = [], 1.0
        for i, (past, worths) in enumerate(pasts.items()):
            nats = worths["no code"].left
            unit = nats or 1.0  # nothing may be left to predict
            for hatch, k, (kind, worth) in zip(hatches, range(-2, 3), worths.items(), strict=True):
                left, cost = worth.left / unit, alpha * worth.cost / unit
                looks = {"width": 0.15, "edgecolor": "black", "linewidth": 0.5, "hatch": hatch}
                panel.bar(i + 0.16 * k, left, color="0.5", **looks)
                panel.bar(i + 0.16 * k, cost, bottom=left, color="0.95", label=None if i else kind, **looks)
                tallest = max(tallest, left + cost)
            labels.append(f"{past}\n{nats:.2f} nats")
        panel.set_xticks(range(len(pasts)), labels, fontsize=7)
        panel.set_ylim(0, 1.05 * tallest)
        panel.set_title(world, fontsize=8, loc="left")
    handles = panels[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=len(hatches), frameon=False, fontsize=8)
    figure.supylabel(f"left + {alpha:g} · cost", fontsize=8)
    figure.savefig(out, dpi=140)
    plt.close(figure)
