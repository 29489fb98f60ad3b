"""A label-free teacher for discovery: what a demonstrator reached is what it was after (ours).

At small scale the plain objective (Eqs. 3 and 9), with a summary that is read per step, finds codes of
single actions, which pay sooner and buy more than goals (irl_ray/docs/codes.md). But the frozen base
model knows what was reached:

1. *Events*. Mid-depth, the residual stream follows the task. A linear regression tells which of the
   things that can be seen (the rows of the encoder's table) make the stream jump when they come into
   view; a few stand out from all others by a wide gap: there something was decided.
2. *Outcomes*. Each of these is something that can be reached.
3. *Hindsight*. On every step the code in force is that of the next outcome to come.
4. *Worth*. Where the base model knows by itself how to go on, a new code gains nothing: a change
   from outcome i to outcome j is kept if it raises the log-likelihood of the actions up to the
   next change by more than α log K, what naming one of K outcomes costs in the objective. What
   is left are subgoals.

A metacontroller is taught these codes and switches; optimiser steps that are left go to the plain
objective. Neither labels nor rewards are used anywhere.

What the teacher knows beforehand: a goal must show as one entry of what the encoder sees, such as
"this target, here". With the egocentric table alone (layer 0, or random blocks above it) the same
outcomes are found, six and four in the two worlds with released weights, with a contrast of
1.10 to 1.19; mid-depth in the trained models it is 1.24 to 1.45. So the frozen model supplies the
contrast and the choice of changes, the encoder's table supplies the outcomes. Absolute rows ("the
agent, in this cell") find the corner cells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from irl_ray.config import check_at_least
from irl_ray.data.trajectories import Trajectories
from irl_ray.errors import UserError
from irl_ray.models.metacontroller import Metacontroller
from irl_ray.models.sequence_model import BaseModel

WEIGHED_AT_ONCE = 256  # trajectories; full-rank controllers take much memory


@dataclass
class TeacherConfig:
    """Settings of the warm start.

    Attributes:
        steps: optimiser steps that are taught; 0 leaves the warm start out (the paper's method).
        weigh_after: steps after which each kind of change is weighed, and kept or dropped.
        window: observations over which the mid-depth stream is averaged on either side of a jump.
        min_contrast: how many times larger jumps must be at events than elsewhere, at least; base
            models that know the tasks have 1.2 to 1.5, untrained ones 1.0.
        max_outcomes: more events than this are none.
        hold: share of changes that are skipped while taught before weighing, so that the decoder
            learns what a code does once its outcome has been reached.
        trajectories: demonstrations behind events and weighing.
        code_noise: standard deviation of the noise on taught codes, and of what the encoder is taught to propose.
        entry_batch_size: in worlds with entries, further trajectories per step that are seen at these alone; on
            them the decoder learns where the agent goes, undisturbed by how.
        cell_weight: in such worlds, weight of where it goes, at every entry and on these trajectories; the frozen
            base model predicts it beside the actions.
    """

    steps: int = 0
    weigh_after: int = 500
    window: int = 1
    min_contrast: float = 1.2
    max_outcomes: int = 12
    hold: float = 0.3
    trajectories: int = 2048
    code_noise: float = 0.3
    entry_batch_size: int = 0
    cell_weight: float = 0.0

    def __post_init__(self) -> None:
        check_at_least(self, steps=0, weigh_after=0, window=1, min_contrast=0, max_outcomes=1, hold=0, trajectories=1)
        check_at_least(self, code_noise=0, entry_batch_size=0, cell_weight=0)


class OutcomeTeacher:
    """Names a code and its switches for every step of any trajectory.

    Args:
        config: its settings.
        base: the frozen base model.
        code_size: n_z.
        alpha: α, the price of a nat in a code.
        batch: demonstrations in which to look for events.
        random: source of the codes' places.

    Attributes:
        contrast: jumps of the mid-depth stream at events over those at other steps.
        outcomes: int64 [K], rows of the encoder's table.
        codes: [K, z], one for each outcome.
        gain: [K, K], nats that a change from one outcome to another gains; NaN where not weighed.

    Raises:
        UserError: if the base model marks no events.
    """

    def __init__(
        self,
        config: TeacherConfig,
        base: BaseModel,
        code_size: int,
        alpha: float,
        batch: Trajectories,
        random: torch.Generator,
    ):
        self.config, self.base, self.alpha = config, base, alpha
        seen, new = self._seen(batch)
        jump = self._jumps(batch)[new.any(-1)].log()
        weight = jump_weights(seen[new.any(-1)], jump, base.encoder.num_rows)
        ordered, rows = weight.sort(descending=True)
        widest = int((ordered[:-1] - ordered[1:])[: config.max_outcomes].argmax())
        self.contrast = float((ordered[widest] - ordered[widest + 1]).exp())
        if self.contrast < config.min_contrast or widest == 0:
            raise UserError(
                f"discover: the base model marks no events in the demonstrations (contrast {self.contrast:.2f}, "
                f"teacher.min_contrast {config.min_contrast}). Train it longer, until its action NLL is close "
                "to floor/bayes, or set teacher.steps: 0 to leave the teacher out"
            )
        self.outcomes = rows[: widest + 1].sort().values
        self.codes = spread_codes(len(self.outcomes), code_size, random).to(self.outcomes.device)
        count = len(self.outcomes)
        self.gain = torch.full((count, count), torch.nan, device=self.outcomes.device)

    @property
    def worth(self) -> float:
        """What a change must gain to be kept: α times the nats it takes to name an outcome."""
        return self.alpha * math.log(len(self.codes))

    def _seen(self, batch: Trajectories) -> tuple[Tensor, Tensor]:
        """Rows of the encoder's table in view, int64 [B, T+1, S], and which of them are new, bool.

        The first observation is left out: nothing has been done yet.
        """
        seen = self.base.encoder.rows(batch.observation)
        new = (seen[:, 1:] != seen[:, :-1]) & batch.mask[..., None]
        return seen, F.pad(new, (0, 0, 1, 0))

    @torch.no_grad()
    def _jumps(self, batch: Trajectories) -> Tensor:
        """How far the mid-depth stream moves at each observation: [B, T+1].

        The distance between its means over the `window` observations from this one on and over those
        before it, as far as there are so many; a window longer than a stride does not see the gait.
        """
        middle = self.base.lower(self.base.embed(batch.observation), self.base.num_layers // 2)
        real = F.pad(batch.mask, (1, 0), value=True).to(middle.dtype)
        total, count = (middle * real[..., None]).cumsum(1), real.cumsum(1)
        total, count = F.pad(total, (0, 0, 1, 0)), F.pad(count, (1, 0))
        here = torch.arange(real.shape[1], device=real.device)
        start, end = (here - self.config.window).clamp(min=0), (here + self.config.window).clamp(max=real.shape[1])
        mean = lambda a, b: (total[:, b] - total[:, a]) / (count[:, b] - count[:, a]).clamp(min=1)[..., None]  # noqa: E731
        return (mean(here, end) - mean(start, here)).norm(dim=-1)

    @torch.no_grad()
    def reached(self, batch: Trajectories) -> Tensor:
        """The outcome that comes next after every step: int64 [B, T]; -1 if none comes."""
        seen, new = self._seen(batch)
        arrived = (seen[..., None] == self.outcomes) & new[..., None]  # [B, T+1, S, K]
        event, outcome = arrived.any(-1).any(-1), arrived.any(-2).int().argmax(-1)
        steps = event.shape[1]
        times = torch.arange(steps, device=event.device).expand_as(event)
        next_event = times.masked_fill(~event, steps).flip(1).cummin(1).values.flip(1)[:, 1:]
        found = outcome.gather(1, next_event.clamp(max=steps - 1))
        return found.masked_fill(next_event == steps, -1)

    def segments(self, batch: Trajectories) -> tuple[Tensor, Tensor]:
        """The outcome whose code is in force, int64 [B, T], and where a code is asked for, bool [B, T].

        Changes that were weighed and found not worth a code are left out: the code before stays.
        """
        reached = self.reached(batch)
        worth = ~(self.gain <= self.worth)  # not yet weighed counts as worth it
        before, after = reached.roll(1, 1).clamp(min=0), reached.clamp(min=0)
        switch = _changes(reached) & worth[before, after] & (reached >= 0)
        return _hold(reached, switch), switch

    def weigh(self, metacontroller: Metacontroller, batch: Trajectories) -> None:
        """Measures the gain of each kind of change under the decoder as it is now, in nats.

        Every change is skipped once, with the changes around it in place, and the log-likelihood
        of the actions up to the next change is compared with that of the unskipped codes.
        """
        total, seen = torch.zeros(2, *self.gain.shape, device=self.gain.device)
        for rows in torch.arange(len(batch), device=self.gain.device).split(WEIGHED_AT_ONCE):
            self._weigh(metacontroller, batch.select(rows), total, seen)
        self.gain = total / seen

    def _weigh(self, metacontroller: Metacontroller, batch: Trajectories, total: Tensor, seen: Tensor) -> None:
        """Adds the gains of one batch to `total` [K, K] and counts them in `seen` [K, K]."""
        reached = self.reached(batch)
        changes = _changes(reached) & (reached >= 0) & batch.mask
        reached = _hold(reached, changes)
        number, count = changes.cumsum(1), len(self.codes)
        full = self._log_likelihood(metacontroller, batch, reached)
        for parity in (0, 1):
            skipped = changes & (number % 2 == parity)
            held = _hold(reached, changes & ~skipped)
            lost = (full - self._log_likelihood(metacontroller, batch, held)) * batch.mask
            lost = lost * (number % 2 == parity) * (number > 0)
            kind = reached.roll(1, 1).clamp(min=0) * count + reached.clamp(min=0)
            start = torch.where(skipped, torch.arange(kind.shape[1], device=kind.device), 0).cummax(1).values
            total.view(-1).index_add_(0, kind.gather(1, start).flatten(), lost.flatten())
            seen.view(-1).index_add_(0, kind[skipped], full.new_ones(int(skipped.sum())))

    @torch.no_grad()
    def _log_likelihood(self, metacontroller: Metacontroller, batch: Trajectories, outcome: Tensor) -> Tensor:
        """log p(a_t | o_{1:t}, codes of the given outcomes): [B, T]."""
        residual = self.base.lower(self.base.embed(batch.observation[:, :-1]), metacontroller.layer)
        controlled = metacontroller.control(residual, self.codes[outcome.clamp(min=0)])
        inputs = self.base.action_inputs(self.base.upper(controlled, metacontroller.layer))
        return self.base.actions.log_prob(inputs, batch.action)

    def skip(self, outcome: Tensor, random: torch.Generator) -> Tensor:
        """`outcome` with a share `hold` of its changes skipped: int64 [B, T]."""
        drawn = torch.rand(outcome.shape, generator=random, device=outcome.device)
        return _hold(outcome, _changes(outcome) & (drawn >= self.config.hold))

    def state(self) -> dict[str, Tensor]:
        """Outcomes, codes and gains, from which `from_state` makes the same teacher."""
        names = ("outcomes", "codes", "gain")
        return {name: getattr(self, name) for name in names} | {"contrast": torch.tensor(self.contrast)}

    @classmethod
    def from_state(
        cls, config: TeacherConfig, base: BaseModel, alpha: float, state: dict[str, Tensor]
    ) -> OutcomeTeacher:
        """The teacher that `state` was taken from."""
        teacher = cls.__new__(cls)
        teacher.config, teacher.base, teacher.alpha = config, base, alpha
        for name, value in state.items():
            setattr(teacher, name, float(value) if name == "contrast" else value)
        return teacher


def _changes(outcome: Tensor) -> Tensor:
    """bool [B, T]: where the outcome differs from the step before; never at the first step."""
    return F.pad(outcome[:, 1:] != outcome[:, :-1], (1, 0))


def _hold(value: Tensor, taken: Tensor) -> Tensor:
    """Each step's value as of the last change taken: value and taken [B, T]."""
    times = torch.arange(value.shape[1], device=value.device)
    last = torch.where(taken, times, 0).cummax(1).values
    return value.gather(1, last)


def spread_codes(count: int, size: int, random: torch.Generator, sweeps: int = 300) -> Tensor:
    """[count, size] codes of the prior's typical norm sqrt(size), pushed apart from each other."""
    codes = F.normalize(torch.randn(count, size, generator=random), dim=1)
    for _ in range(sweeps):
        closeness = torch.exp(4 * (codes @ codes.T)).fill_diagonal_(0)
        codes = F.normalize(codes - 0.05 * (closeness @ codes) / closeness.sum(1, keepdim=True), dim=1)
    return codes * size**0.5


def jump_weights(seen: Tensor, jump: Tensor, count: int, ridge: float = 10.0) -> Tensor:
    """By how much the log of a jump grows with each thing in view: a ridge regression.

    Args:
        seen: int64 [n, S], the rows in view at n steps.
        jump: [n], logarithms of the jumps at these steps.
        count: V, rows there are.
        ridge: pulls rows that are seen on few steps to zero.

    Returns:
        [V].
    """
    gram, target = torch.zeros(count, count), torch.zeros(count)
    centred = jump.cpu() - jump.cpu().mean()
    for some, value in zip(seen.cpu().split(4096), centred.split(4096)):
        view = torch.zeros(len(some), count).scatter_(1, some, 1.0)
        gram += view.T @ view
        target += view.T @ value
    return torch.linalg.solve(gram + ridge * torch.eye(count), target).to(jump.device)
