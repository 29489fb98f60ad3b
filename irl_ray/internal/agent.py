"""A trained agent that acts, without Ray."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch

from irl_ray.errors import UserError
from irl_ray.models import weights
from irl_ray.models.weights import Artefact

MAX_STEPS = 1024


class Agent:
    """Base model, and where trained metacontroller and policy, acting step by step.

    With a policy the agent chooses codes and holds each until the next switch; with a metacontroller
    alone it draws codes from the prior N(0, I); with a base model alone it imitates.

    Args:
        artefact: the trained parts.
        seed: of actions and codes.
        explore: sample codes from the policy; else take its mean.
    """

    def __init__(self, artefact: Artefact, seed: int = 0, explore: bool = True):
        self.artefact, self.explore = artefact, explore
        self._random = np.random.default_rng(seed)
        self.beta: float | None = None
        self.code: np.ndarray | None = None
        self.reset()

    def reset(self) -> None:
        """Forgets the present episode; call it whenever the environment is reset."""
        parts = self.artefact
        self._steps = self.decisions = 0
        self._base = parts.base.initial_state(1, MAX_STEPS)
        self._meta = parts.metacontroller.initial_state(1) if parts.metacontroller else None
        self._policy = parts.policy.initial_state(1) if parts.policy else None

    @torch.no_grad()
    def act(self, observation: Any) -> Any:
        """The environment's next action for one of its observations.

        `beta` and `code` afterwards tell the switch and the code in force, `decisions` how many codes there were.

        Raises:
            UserError: if the observation is not of the world the agent was trained in, or the
                episode is longer than 1024 steps (call `reset` at its start).
        """
        if self._steps == MAX_STEPS:
            raise UserError(f"an episode of over {MAX_STEPS} steps: call agent.reset() when one starts")
        self._steps += 1
        base, meta, policy = (getattr(self.artefact, n) for n in ("base", "metacontroller", "policy"))
        world = self.artefact.world
        observed = torch.as_tensor(world.view(observation))[None]
        observed = observed.to(torch.int64 if world.discrete else torch.float32)
        if meta is None:
            top = base.upper_step(base.lower_step(observed, self._base, 0), self._base, 0)
        else:
            residual = base.lower_step(observed, self._base, meta.layer)
            self.beta = float(meta.switch_step(residual, self._meta))
            if self.beta >= self.artefact.switch_threshold:
                noise = torch.from_numpy(self._random.standard_normal((1, meta.config.code_size), np.float32))
                if policy is not None:
                    inputs = policy.step(residual, self._policy, torch.zeros(1, dtype=torch.long))
                    mean, log_std = inputs.chunk(2, -1)
                    noise = mean + log_std.exp() * noise if self.explore else mean
                self._meta["code"].copy_(noise)
                self.decisions += 1
                if policy is not None and policy.config.clean_slate:
                    self._base = base.initial_state(1, MAX_STEPS)
                    residual = base.lower_step(observed, self._base, meta.layer)
            self.code = self._meta["code"][0].numpy().copy()
            controlled = meta.control(residual, self._meta["code"])
            top = base.upper_step(controlled, self._base, meta.layer)
        noise = torch.from_numpy(base.actions.noise(self._random, 1))
        action = base.actions.sample(base.action_inputs(top), noise, self.artefact.action_temperature)
        return world.act(action[0].numpy())


def load_agent(name: str | os.PathLike[str], seed: int = 0, explore: bool = True) -> Agent:
    """The agent in a checkpoint, an artefact folder, or released weights by name.

    Reads JSON and safetensors only and needs no Ray.
    """
    return Agent(weights.load(name), seed=seed, explore=explore)
