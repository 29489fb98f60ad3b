"""One episode of a model that a person steers: a code in force, what the switch says, what would happen without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from irl_ray.analysis.probe import LinearProbe, fit_probe
from irl_ray.data.trajectories import Trajectories
from irl_ray.errors import UserError
from irl_ray.internal.internal_env import InternalVectorEnv
from irl_ray.models.state import map_state, reset_rows
from irl_ray.models.steering import check_slate
from irl_ray.models.weights import Artefact
from irl_ray.seeding import generator
from irl_ray.worlds.world import World

LONGEST = 40  # raw steps that a code of the map is held for at most


@dataclass
class Step:
    """What is known before a step is taken.

    Attributes:
        beta: the switch gate.
        asks: whether it asks for a code.
        steered, free: parameters of the action distribution [A], with the code in force and without any.
        over: how the episode ended: "done", "over", or "" while it goes on.
        belief: [layers, subgoals], what a linear probe reads off the residual stream under the code, from the layer
            that is controlled on; empty without probes.
    """

    beta: float
    asks: bool
    steered: np.ndarray
    free: np.ndarray
    over: str
    belief: np.ndarray


class SteeredEpisode:
    """An episode whose codes are given from outside; it can go back, since all that is random follows from its seed.

    Args:
        agent: base model and metacontroller, perhaps a policy.
        world: with its tasks.
        seed: of layout, actions and drawn codes.
        temperature: at which the base model's actions are drawn; None for that of the weights.
        probe: of `probe_layers`, where demonstrations with labels are at hand.
        clean_slate: whether the base model's memory starts anew with every code; None for the policy's own way.
    """

    def __init__(
        self,
        agent: Artefact,
        world: World,
        seed: int = 0,
        temperature: float | None = None,
        probe: LinearProbe | None = None,
        clean_slate: bool | None = None,
    ):
        if agent.metacontroller is None:
            raise UserError("steering needs a metacontroller; name weights of discovery or of internal RL")
        self.agent, self.world, self.probe = agent, world, probe
        self.temperature = agent.action_temperature if temperature is None else temperature
        of_policy = bool(agent.policy.config.clean_slate) if agent.policy else False
        self.slate = of_policy if clean_slate is None else clean_slate
        if self.slate:
            check_slate(agent.base, agent.metacontroller.layer)
        self.env = world.drawn_row()
        self.start(seed)

    @property
    def code_size(self) -> int:
        return self.agent.metacontroller.config.code_size

    def start(self, seed: int) -> None:
        """A new episode."""
        self.seed, self.given = seed, []
        self._begin()

    def _begin(self) -> None:
        base, meta = self.agent.base, self.agent.metacontroller
        self._actions, self._drawn = generator(self.seed, "steer", "actions"), generator(self.seed, "steer", "codes")
        self._base, self._meta = base.initial_state(1, self.world.horizon + 1), meta.initial_state(1)
        self._policy = self.agent.policy.initial_state(1) if self.agent.policy else None
        self.code: np.ndarray | None = None
        self.decisions, self.over, self.entered = 0, "", -1
        self.observation, _ = self.env.reset(seed=[self.seed])
        self._perceive()

    @torch.no_grad()
    def _perceive(self) -> None:
        observed = torch.as_tensor(self.observation)
        self.residual = self.agent.base.lower_step(observed, self._base, self.agent.metacontroller.layer)
        self.beta = float(self.agent.metacontroller.switch_step(self.residual, self._meta))

    @torch.no_grad()
    def step(self, code: np.ndarray | None, steered: bool = True) -> None:
        """One raw step under a code [z]; None for the policy's, or a draw from N(0, I), wherever the switch asks.

        Args:
            code: to put in force.
            steered: whether any is in force: else the base model acts by itself.
        """
        if not self.over:
            self.given.append((code, steered))
            self._take(code, steered)

    def _take(self, code: np.ndarray | None, steered: bool) -> None:
        base, meta = self.agent.base, self.agent.metacontroller
        fresh = code is not None and (self.code is None or not np.array_equal(code, self.code))
        if code is None and self.beta >= self.agent.switch_threshold:
            code, fresh = self._own_code(), True
        if fresh:
            self.code, self.decisions = np.asarray(code, np.float32), self.decisions + 1
            self._meta["code"].copy_(torch.from_numpy(self.code)[None])
            if self.slate:
                reset_rows(self._base, torch.tensor([0]))
                self.residual = base.lower_step(torch.as_tensor(self.observation), self._base, meta.layer)
        inputs = self.agent.base.action_inputs(self._stream(self._base, steered)[-1])
        noise = torch.from_numpy(base.actions.noise(self._actions, 1))
        action = base.actions.sample(inputs, noise, self.temperature).numpy()
        self.observation, _, terminated, truncated, info = self.env.step(action)
        self.entered = int(info["entered"][0])
        if terminated[0] or truncated[0]:
            self.over = "done" if info["success"][0] else "over"
        self._perceive()

    def _own_code(self) -> np.ndarray:
        drawn = torch.from_numpy(self._drawn.standard_normal((1, self.code_size)).astype(np.float32))
        if self._policy is not None:
            inputs = self.agent.policy.step(self.residual, self._policy, torch.zeros(1, dtype=torch.long))
            mean, log_std = inputs.chunk(2, -1)
            drawn = mean + log_std.exp() * drawn
        return drawn[0].numpy()

    def _stream(self, state: Any, steered: bool) -> list[Tensor]:
        """e_l, controlled, to e_L: [1, d] each."""
        base, meta = self.agent.base, self.agent.metacontroller
        residual = (
            meta.control(self.residual, self._meta["code"]) if steered and self.code is not None else self.residual
        )
        stream = [residual]
        for block, block_state in zip(base.blocks[meta.layer :], state[meta.layer :]):
            stream.append(block.step(stream[-1], block_state))
        return stream

    @torch.no_grad()
    def now(self) -> Step:
        """What the next step would be drawn from; changes nothing."""
        steered, free = (self._stream(map_state(torch.clone, self._base), which) for which in (True, False))
        outputs = [self.agent.base.action_inputs(stream[-1])[0].numpy() for stream in (steered, free)]
        belief = np.zeros((0, 0))
        if self.probe is not None:
            belief = self.probe.log_prob(torch.stack(steered)).exp()[:, 0].numpy()
        return Step(self.beta, self.beta >= self.agent.switch_threshold, *outputs, self.over, belief)

    def go_to(self, step: int) -> None:
        """Back to after so many steps, by living through them again."""
        given, self.given = self.given[: max(0, step)], []
        self._begin()
        for code, steered in given:
            self.step(code, steered)

    def frame(self) -> np.ndarray:
        """uint8 [H, W, 3]: the world as it is."""
        return self.env.frame(self.beta, self.decisions or None)


def probe_layers(agent: Artefact, batch: Trajectories, samples: int = 6000) -> LinearProbe:
    """Linear probes of the true subgoal at every layer from the controlled one on, fitted on demonstrations."""
    where = batch.mask.flatten().nonzero()[:, 0]
    where = where[:: max(1, len(where) // samples)]
    with torch.no_grad():
        stream = torch.stack(agent.base.residuals(batch.observation[:, :-1])[agent.metacontroller.layer :])
    return fit_probe(stream.flatten(1, 2)[:, where], batch.subgoal.flatten()[where])


@dataclass
class CodeMap:
    """Codes from N(0, I) in the plane that tells best where they lead.

    Attributes:
        codes: [N, z].
        place: [N, 2], of each in the plane.
        outcome: int64 [N], the first target reached under it from an episode's start, or, in a world without targets, 0
            where its task's first leg was done; -1 for none.
        axes: [2, z], orthonormal (the second is 0 where codes are one number): a point is the code point @ axes.
    """

    codes: np.ndarray
    place: np.ndarray
    outcome: np.ndarray
    axes: np.ndarray

    def told(self, world: World) -> dict[str, Any]:
        """As a page draws it, with what outcomes are called in the world."""
        numbers = {name: np.round(getattr(self, name), 4).tolist() for name in ("codes", "place", "axes")}
        names = {
            "targetName": world.target_name if world.num_targets else "the first leg",
            "targets": world.num_targets,
        }
        return {**numbers, "outcome": self.outcome.tolist(), **names}


@torch.no_grad()
def code_map(agent: Artefact, world: World, seed: int, temperature: float, count: int = 256) -> CodeMap:
    """Where codes lead, in the layout that an episode's seed gives.

    Args:
        agent: base model and metacontroller.
        world: with its tasks.
        seed: of the episode.
        temperature: at which the base model's actions are drawn.
        count: codes.
    """
    size = agent.metacontroller.config.code_size
    codes = generator(seed, "steer", "map").standard_normal((count, size)).astype(np.float32)
    env = InternalVectorEnv(agent, world, count, action_temperature=temperature, threshold=2.0, autoreset="disabled")
    env.raw.free = bool(world.num_targets)
    env.reset(seed=[seed] * count)
    env.hold(torch.arange(count), torch.from_numpy(codes))
    outcome, running = np.full(count, -1), np.ones(count, bool)
    for _ in range(min(LONGEST, world.horizon)):
        step = env.advance()
        entered = step.entered if world.num_targets else np.where(env.raw.leg > 0, 0, -1)
        reached = running & (entered >= 0)
        outcome[reached] = entered[reached]
        running &= ~(reached | step.terminated | step.truncated)
        if not running.any():
            break
    env.raw.close()
    axes = _telling_plane(codes, outcome)
    return CodeMap(codes, codes @ axes.T, outcome, axes)


def _telling_plane(codes: np.ndarray, outcome: np.ndarray) -> np.ndarray:
    """Two orthonormal directions [2, z] in which the means of codes of one outcome differ most."""
    kinds = [kind for kind in np.unique(outcome[outcome >= 0]) if (outcome == kind).sum() > 2]
    means = np.stack([codes[outcome == kind].mean(0) for kind in kinds]) if len(kinds) > 2 else codes
    _, _, axes = np.linalg.svd(means - means.mean(0), full_matrices=False)
    axes = axes[:2]
    if len(axes) < 2:  # codes of one number
        axes = np.concatenate([axes, np.zeros((2 - len(axes), codes.shape[1]))])
    return axes.astype(np.float32)
