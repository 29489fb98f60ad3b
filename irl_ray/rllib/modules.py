"""RLModules: thin shells around the plain PyTorch policies.

Both read whole episodes from their first decision on, so training needs no stored state: the
parallel form starts from the zero state that acting started from.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from ray.rllib.core.columns import Columns
from ray.rllib.core.distribution.torch.torch_distribution import (
    TorchCategorical,
    TorchDiagGaussian,
    TorchDistribution,
    TorchMultiCategorical,
)
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor

from irl_ray.config import build
from irl_ray.models import weights
from irl_ray.models.actions import Actions, CategoricalActions, SeveralCategoricalActions
from irl_ray.models.code_policy import CodePolicy, CodePolicyConfig

LENGTH_GROUPS = 8


def distribution_of(actions: Actions) -> type[TorchDistribution]:
    """RLlib's name for a distribution of the base model's, made from the same parameters."""
    if isinstance(actions, CategoricalActions):
        return TorchCategorical
    if isinstance(actions, SeveralCategoricalActions):
        return TorchMultiCategorical.get_partial_dist_cls(input_lens=actions.counts)
    return TorchDiagGaussian


class CodePolicyModule(TorchRLModule):
    """Gaussian policy over controller codes; `model_config["policy"]` are `CodePolicyConfig`'s keys."""

    def setup(self) -> None:
        shape = {
            "observation_size": self.observation_space.shape[-1],
            "code_size": self.action_space.shape[-1],
            **self.model_config.get("policy", {}),
        }
        self.policy = CodePolicy(build(CodePolicyConfig, shape, "config.policy"))
        self.action_dist_cls = TorchDiagGaussian

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """obs [B, K, d] -> action_dist_inputs [B, K, 2z]."""
        return {Columns.ACTION_DIST_INPUTS: self.policy(batch[Columns.OBS])}


class BasePolicyModule(TorchRLModule):
    """The base model itself as policy over raw actions, started from `model_config["base"]` and drawn from at
    `model_config["action_temperature"]`."""

    def setup(self) -> None:
        self.policy = weights.load(self.model_config["base"]).base.requires_grad_(True)
        self.action_dist_cls = distribution_of(self.policy.actions)

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """obs [B, T, ...] -> action_dist_inputs [B, T, A]; zeros on padding of long batches."""
        observation = batch[Columns.OBS].long() if self.policy.world.discrete else batch[Columns.OBS]
        if Columns.LOSS_MASK not in batch:
            return {Columns.ACTION_DIST_INPUTS: self._inputs(observation)}
        # Most raw episodes fail early: groups of similar length save most of the padding.
        lengths = batch[Columns.LOSS_MASK].sum(1)
        groups = lengths.argsort().chunk(LENGTH_GROUPS)
        trimmed = [self._inputs(observation[rows, : int(lengths[rows].max())]) for rows in groups]
        padded = [F.pad(logits, (0, 0, 0, observation.shape[1] - logits.shape[1])) for logits in trimmed]
        return {Columns.ACTION_DIST_INPUTS: torch.cat(padded)[torch.cat(groups).argsort()]}

    def _inputs(self, observation: Tensor) -> Tensor:
        return self.policy.actions.tempered(self.policy(observation), self.model_config["action_temperature"])
