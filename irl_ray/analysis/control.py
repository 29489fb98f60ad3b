"""Ground-truth controllers: can a linear change of the residual stream choose the subgoal (C.3)?"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irl_ray.data.trajectories import Trajectories
from irl_ray.internal.rollout import roll_out
from irl_ray.models.sequence_model import BaseModel, OtherModelConfig, SequenceModelConfig, new_base
from irl_ray.worlds.world import World

ENTRY_WEIGHT = 3.0  # of where the agent goes against its actions


class SubgoalControllers(nn.Module):
    """One controller U^(g) per ground-truth subgoal (one-hot code, decoder = lookup).

    Args:
        num_subgoals: controllers.
        width: d.
        rank: of U^(g); None for full matrices.
    """

    def __init__(self, num_subgoals: int, width: int, rank: int | None = 16):
        super().__init__()
        inner = width if rank is None else rank
        self.down = nn.Parameter(torch.randn(num_subgoals, inner, width) * width**-0.5)
        self.up = None if rank is None else nn.Parameter(torch.randn(num_subgoals, rank, width) * rank**-0.5)

    def forward(self, residual: Tensor, subgoal: Tensor) -> Tensor:
        """e [..., d] and subgoals int64 [...] -> e + U^(g) e; subgoals below 0 change nothing."""
        chosen = F.one_hot(subgoal.clamp(min=0), len(self.down)).to(residual.dtype)
        chosen = chosen * (subgoal >= 0)[..., None]
        parts = (residual @ self.down.flatten(0, 1).T).unflatten(-1, (len(self.down), -1))
        inner = (chosen[..., None, :] @ parts).squeeze(-2)
        if self.up is None:
            return residual + inner
        return residual + torch.einsum("...r,grd,...g->...d", inner, self.up, chosen)


def train_controllers(
    base: BaseModel,
    layer: int,
    batches: Iterable[Trajectories],
    steps: int,
    learning_rate: float = 1e-2,
    rank: int | None = 16,
) -> SubgoalControllers:
    """Fits controllers at `layer` of the frozen base to clean demonstrations (Table A8).

    Labels are used: this measures what a perfect metacontroller could do, and trains nothing that
    is released. They are trained where the base model lies, and returned on the CPU.
    """
    device = next(base.parameters()).device
    controllers = SubgoalControllers(base.world.num_subgoals, base.width, rank).to(device)
    controllers.down.data *= base.actions.gentle
    optimizer = torch.optim.AdamW(controllers.parameters(), lr=learning_rate, weight_decay=0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _, batch in zip(range(steps), batches):
        with torch.enable_grad():
            loss = imitation_loss(base, layer, controllers, batch.to(device))
            optimizer.zero_grad()
            loss.backward(inputs=list(controllers.parameters()))
            optimizer.step()
        schedule.step()
    return controllers.requires_grad_(False).cpu()


def imitation_loss(
    base: BaseModel,
    layer: int,
    steer: Callable[[Tensor, Tensor], Tensor],
    batch: Trajectories,
    places_only: bool = False,
) -> Tensor:
    """Mean action NLL under steering by the true subgoals; in worlds with entries, with that of where the agent goes.

    Whole trajectories there are many steps long: the actions of some of them and the entries of all are
    learned from, the latter as they are seen there.

    Args:
        base: acts and predicts.
        layer: l at which `steer` acts.
        steer: maps (e_l, subgoals) to the residual stream that goes on.
        batch: demonstrations with labels.
        places_only: leave the actions out, in a world with entries.
    """

    def top_of(part: Trajectories) -> Tensor:
        residual = base.lower(base.embed(part.observation[:, :-1]), layer)
        return base.upper(steer(residual, part.subgoal), layer)

    loss = torch.zeros(())
    if not places_only:
        some = batch.select(torch.arange(len(batch) // 3)) if batch.world.has_entries else batch
        loss = -base.action_log_prob(top_of(some)[some.mask], some.action[some.mask]).mean()
    if batch.world.has_entries:
        entries = batch.at(batch.world.entries(batch))
        loss = loss + ENTRY_WEIGHT * batch.world.entry_nll(base, top_of(entries), entries) / entries.mask.sum()
    return loss


class GoalGiven(nn.Module):
    """A base model with an embedding of the true subgoal added to e_0: cloning made easy."""

    def __init__(self, config: SequenceModelConfig | OtherModelConfig, world: World):
        super().__init__()
        self.base = new_base(config, world)
        self.goal = nn.Embedding(world.num_subgoals, self.base.width)

    def steer(self, residual: Tensor, subgoal: Tensor) -> Tensor:
        """e_0 [..., d] and subgoals int64 [...] -> e_0 that tells the subgoal."""
        return residual + self.goal(subgoal.clamp(min=0))


def clone_with_goal(
    config: SequenceModelConfig | OtherModelConfig,
    world: World,
    batches: Iterable[Trajectories],
    steps: int,
    learning_rate: float = 4e-3,
    device: str | torch.device = "cpu",
) -> GoalGiven:
    """Trains a base model that is told the subgoal: where this fails, nothing after it can work.

    It is trained on `device`, and returned on the CPU.
    """
    model = GoalGiven(config, world).to(device)
    stages = (True, False) if world.has_entries else (False,)  # where to go, then how
    for places_only in stages:
        optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.03)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _, batch in zip(range(steps), batches):
            with torch.enable_grad():
                loss = imitation_loss(model.base, 0, model.steer, batch.to(device), places_only)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
            schedule.step()
    return model.eval().requires_grad_(False).cpu()


def control_success(
    base: BaseModel,
    layer: int,
    controllers: Callable[[Tensor, Tensor], Tensor],
    world: World,
    episodes: int,
    seed: int,
    temperature: float = 1.0,
) -> float:
    """Success on a task when each subgoal's controller acts in its turn (Fig. 4)."""

    def steer(residual: Tensor, info: dict[str, Any]) -> Tensor:
        return controllers(residual, torch.from_numpy(info["subgoal"]))

    return roll_out(base, world, episodes, seed, layer, steer, temperature).success_rate
