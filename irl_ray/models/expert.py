"""An expert that is shown its task: a Gaussian policy and a value function, the ant's (C.1.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class ExpertConfig:
    """Shape of the expert.

    Attributes:
        observation_size: V, of the view that shows the task.
        action_size: A, entries of an action.
        hidden: width of the two hidden layers of policy and value function each.
        log_std: initial log standard deviation of the actions, trained along.
    """

    observation_size: int
    action_size: int
    hidden: int = 128
    log_std: float = -0.5


class Expert(nn.Module):
    """π(a | view), a Gaussian whose standard deviation does not depend on the state."""

    def __init__(self, config: ExpertConfig):
        super().__init__()
        self.config = config
        self.policy = _mlp(config.observation_size, config.hidden, config.action_size, last=0.01)
        self.value = _mlp(config.observation_size, config.hidden, 1, last=1.0)
        self.log_std = nn.Parameter(torch.full((config.action_size,), config.log_std))

    def forward(self, view: Tensor) -> tuple[Tensor, Tensor]:
        """Views [..., V] -> mean and log standard deviation of the actions, [..., A] each."""
        mean = self.policy(view.to(self.log_std.dtype))
        return mean, self.log_std.expand_as(mean)


def _mlp(inputs: int, hidden: int, outputs: int, last: float) -> nn.Sequential:
    layers = nn.Sequential(
        nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, outputs)
    )
    for layer, gain in zip(layers[::2], (2**0.5, 2**0.5, last)):
        nn.init.orthogonal_(layer.weight, gain)
        nn.init.zeros_(layer.bias)
    return layers
