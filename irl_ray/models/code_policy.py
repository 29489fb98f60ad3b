"""The policy over controller codes (C.5.1): the only thing that internal RL trains."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from irl_ray.config import check_at_least
from irl_ray.models.hawk import RGLRU
from irl_ray.models.state import State


@dataclass
class CodePolicyConfig:
    """Shape of the policy.

    Attributes:
        observation_size: d, width of the residual stream it reads.
        code_size: n_z.
        hidden: width of its recurrence (256 in Table A13).
        log_std: initial log standard deviation; 0 is the prior's.
        learn_std: whether the standard deviation is trained.
        switch_threshold: beta at or above it is a switch, in the environment the policy was trained in.
        action_temperature: at which the base model's actions were drawn there.
        clean_slate: whether the base model's memory started anew with every code there.
    """

    observation_size: int = 64
    code_size: int = 8
    hidden: int = 32
    log_std: float = 0.0
    learn_std: bool = True
    switch_threshold: float = 0.5
    action_temperature: float = 1.0
    clean_slate: bool = False

    def __post_init__(self) -> None:
        check_at_least(self, observation_size=1, code_size=1, hidden=1, switch_threshold=0, action_temperature=0)


class CodePolicy(nn.Module):
    """π(z_k | e at the switches up to k): one RG-LRU layer over switch times, Gaussian over codes.

    It starts close to the prior N(0, I): the mean head begins at zero.
    """

    def __init__(self, config: CodePolicyConfig):
        super().__init__()
        self.config = config
        self.norm = nn.RMSNorm(config.observation_size)
        self.input = nn.Linear(config.observation_size, config.hidden)
        self.recurrence = RGLRU(config.hidden, 1)
        self.mean = nn.Sequential(
            nn.Linear(2 * config.hidden, config.hidden), nn.ReLU(), nn.Linear(config.hidden, config.code_size)
        )
        nn.init.zeros_(self.mean[-1].weight)
        nn.init.zeros_(self.mean[-1].bias)
        self.log_std = nn.Parameter(torch.full((config.code_size,), config.log_std), requires_grad=config.learn_std)

    def _features(self, residual: Tensor) -> Tensor:
        return self.input(self.norm(residual.to(self.log_std.dtype)))

    def _gaussian(self, features: Tensor, memory: Tensor) -> Tensor:
        mean = self.mean(torch.cat([features, memory], -1))
        return torch.cat([mean, self.log_std.expand_as(mean)], -1)

    def forward(self, residual: Tensor) -> Tensor:
        """Residuals at switch times [B, K, d] -> (mean, log std) [B, K, 2z]."""
        features = self._features(residual)
        return self._gaussian(features, self.recurrence(features))

    def initial_state(self, rows: int) -> State:
        """Zero recurrent state for `rows` episodes."""
        return {"hidden": self.log_std.new_zeros(rows, self.config.hidden)}

    def step(self, residual: Tensor, state: State, rows: Tensor) -> Tensor:
        """One decision for the given rows only: [n, d] -> [n, 2z]. Updates their state in place."""
        features = self._features(residual)
        memory = self.recurrence.step(features, state["hidden"][rows])
        state["hidden"][rows] = memory
        return self._gaussian(features, memory)


def gaussian_log_prob(inputs: Tensor, code: Tensor) -> Tensor:
    """log N(code; mean, std) summed over code dimensions; inputs [..., 2z], code [..., z] -> [...]."""
    mean, log_std = inputs.chunk(2, -1)
    normal = torch.distributions.Normal(mean, log_std.exp())
    return normal.log_prob(code).sum(-1)
