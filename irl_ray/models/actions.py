"""Action distributions of the base model, one interface for choices and numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from irl_ray.errors import UserError


class Actions(Protocol):
    """A family of distributions over actions.

    Attributes:
        num_outputs: how many numbers the action head gives per step.
        dtype: of the actions.
        gentle: by how much weaker than others controllers begin that are trained with labels: a gait does not survive
            a large random change of the stream.
    """

    num_outputs: int
    dtype: torch.dtype
    gentle: float

    def inputs(self, outputs: Tensor) -> Tensor:
        """What the head gives [..., num_outputs] -> the distribution's parameters, as RLlib's take them."""

    def log_prob(self, inputs: Tensor, action: Tensor) -> Tensor:
        """log p(action) in nats: [...]."""

    def noise(self, random: np.random.Generator, steps: int) -> np.ndarray:
        """Random numbers for `steps` samples, [steps, ...]."""

    def tempered(self, inputs: Tensor, temperature: float) -> Tensor:
        """The parameters of p^(1 / temperature), normalised."""

    def sample(self, inputs: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """Draws from p^(1 / temperature), one action per row; `noise` as from `noise`."""

    def mode(self, inputs: Tensor) -> Tensor:
        """The most likely action."""


class CategoricalActions:
    """Discrete actions; the parameters are logits."""

    dtype, gentle = torch.int64, 1.0

    def __init__(self, count: int):
        self.num_outputs = count

    def inputs(self, outputs: Tensor) -> Tensor:
        return outputs

    def log_prob(self, inputs: Tensor, action: Tensor) -> Tensor:
        return -F.cross_entropy(inputs.movedim(-1, 1) if inputs.dim() > 2 else inputs, action, reduction="none")

    def noise(self, random: np.random.Generator, steps: int) -> np.ndarray:
        return random.random(steps)

    def tempered(self, inputs: Tensor, temperature: float) -> Tensor:
        return inputs / temperature

    def sample(self, inputs: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
        cumulative = self.tempered(inputs, temperature).softmax(-1).cumsum(-1)
        return (noise[..., None] >= cumulative[..., :-1]).sum(-1)

    def mode(self, inputs: Tensor) -> Tensor:
        return inputs.argmax(-1)


class SeveralCategoricalActions:
    """Several choices at a time, [..., k], independent given the history; the parameters are their logits in a row.

    Args:
        counts: of values of each choice.
    """

    dtype, gentle = torch.int64, 1.0

    def __init__(self, counts: Sequence[int]):
        self.counts, self.num_outputs = [int(count) for count in counts], int(sum(counts))
        self._one = CategoricalActions(self.num_outputs)  # what a choice alone does

    def inputs(self, outputs: Tensor) -> Tensor:
        return outputs

    def log_prob(self, inputs: Tensor, action: Tensor) -> Tensor:
        each = zip(inputs.split(self.counts, -1), action.unbind(-1))
        return torch.stack([self._one.log_prob(logits, chosen) for logits, chosen in each]).sum(0)

    def noise(self, random: np.random.Generator, steps: int) -> np.ndarray:
        return random.random((steps, len(self.counts)))

    def tempered(self, inputs: Tensor, temperature: float) -> Tensor:
        return inputs / temperature

    def sample(self, inputs: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
        each = zip(inputs.split(self.counts, -1), noise.unbind(-1))
        return torch.stack([self._one.sample(logits, one, temperature) for logits, one in each], -1)

    def mode(self, inputs: Tensor) -> Tensor:
        return torch.stack([self._one.mode(logits) for logits in inputs.split(self.counts, -1)], -1)


class GaussianActions:
    """Continuous actions, a Gaussian with diagonal covariance; the parameters are mean and log std.

    Args:
        size: action dimensions.
        min_log_std: floor of the log standard deviation. Without one the precision of the gait
            outweighs, in the loss, the direction of the walk.
    """

    dtype, gentle = torch.float32, 0.1

    def __init__(self, size: int, min_log_std: float):
        self.size, self.min_log_std, self.num_outputs = size, min_log_std, 2 * size

    def inputs(self, outputs: Tensor) -> Tensor:
        mean, spread = outputs.split(self.size, -1)
        return torch.cat([mean, self.min_log_std + F.softplus(spread)], -1)

    def log_prob(self, inputs: Tensor, action: Tensor) -> Tensor:
        mean, log_std = inputs.split(self.size, -1)
        squares = ((action - mean) * torch.exp(-log_std)) ** 2
        return -(0.5 * squares + log_std).sum(-1) - 0.5 * self.size * math.log(2 * math.pi)

    def noise(self, random: np.random.Generator, steps: int) -> np.ndarray:
        return random.standard_normal((steps, self.size), np.float32)

    def tempered(self, inputs: Tensor, temperature: float) -> Tensor:
        mean, log_std = inputs.split(self.size, -1)
        return torch.cat([mean, log_std + 0.5 * math.log(temperature)], -1)

    def sample(self, inputs: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
        mean, log_std = inputs.split(self.size, -1)
        return mean + temperature**0.5 * log_std.exp() * noise

    def mode(self, inputs: Tensor) -> Tensor:
        return inputs[..., : self.size]


def actions_of(space: gym.Space, min_log_std: float) -> Actions:
    """The distributions over a space of actions.

    Args:
        space: of the actions.
        min_log_std: as for `GaussianActions`.

    Raises:
        UserError: if there are none for it.
    """
    if isinstance(space, gym.spaces.Discrete):
        return CategoricalActions(int(space.n))
    if isinstance(space, gym.spaces.MultiDiscrete) and space.nvec.ndim == 1:
        return SeveralCategoricalActions(space.nvec)
    if isinstance(space, gym.spaces.Box) and len(space.shape) == 1:
        return GaussianActions(space.shape[0], min_log_std)
    raise UserError(f"action space {space}: expected Discrete, or MultiDiscrete or a Box of one dimension")
