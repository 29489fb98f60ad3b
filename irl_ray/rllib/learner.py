"""Critic-free PPO on whole episodes (Eq. 10, Algorithm 3)."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.policy.sample_batch import MultiAgentBatch
from torch import Tensor, distributed

from irl_ray.rllib.episodes import DECISIONS


class EpisodePolicyGradientLearner(TorchLearner):
    """PPO's clipped surrogate with one advantage per episode; no critic, no bootstrapping.

    The whole batch is one minibatch, repeated `num_epochs` times. Whether a step has gone further than `target_kl` is
    seen in the pass after it, which then halves it instead of taking one of its own; at the end it is taken back.
    """

    def build(self) -> None:
        super().build()
        self._too_far, self._looks, self._before = False, False, None

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        module = self._module[module_id]
        trained = [p for p in self.get_parameters(module) if p.requires_grad]
        first = config.lr if isinstance(config.lr, (int, float)) else config.lr[0][1]
        optimizer = torch.optim.AdamW(trained, lr=first, weight_decay=config.weight_decay)
        self.register_optimizer(module_id=module_id, optimizer=optimizer, params=trained, lr_or_lr_schedule=config.lr)

    def _create_iterator_if_necessary(
        self, *, training_data: Any, num_epochs: int = 1, **kwargs: Any
    ) -> Iterator[MultiAgentBatch]:
        # RLlib's own iterator would cut the padded batch into rows of single steps.
        batch, self._before = self._make_batch_if_necessary(training_data), None
        for step in range(num_epochs + (self.config.target_kl is not None)):
            self._looks = step == num_epochs
            yield batch

    def apply_gradients(self, gradients_dict: dict[Any, Tensor]) -> None:
        """Takes a step, or goes back half of the last one, or all of it, where it went too far."""
        if self._too_far:
            if self._before is not None:
                self._go_back(1.0 if self._looks else 0.5)
        elif not self._looks:
            if self.config.target_kl is not None:
                parameters = {key: parameter.detach().clone() for key, parameter in self._params.items()}
                self._before = parameters, deepcopy({n: o.state_dict() for n, o in self._named_optimizers.items()})
            super().apply_gradients(gradients_dict)

    @torch.no_grad()
    def _go_back(self, share: float) -> None:
        """Towards the parameters before the last step, with the optimiser's state of then."""
        parameters, states = self._before
        for key, parameter in self._params.items():
            parameter.lerp_(parameters[key], share)
        for name, optimizer in self._named_optimizers.items():
            optimizer.load_state_dict(states[name])

    def _goes_too_far(self, kl: Tensor, config: Any) -> bool:
        """Whether the last step went too far, the same for all learners, given this one's share of the KL."""
        if config.target_kl is None:
            return False
        if config.num_learners > 1:
            kl = kl.clone()
            distributed.all_reduce(kl)
            kl /= config.num_learners
        return not bool(kl <= config.target_kl)  # nor is it a number where the policy has diverged

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Tensor], fwd_out: dict[str, Tensor]
    ) -> Tensor:
        """-mean over decisions of min(r A, clip(r) A) - c_H entropy; padding does not count.

        The mean is over the decisions of all learners, whose losses and gradients are averaged (`to_batch`).
        """
        mask = batch[Columns.LOSS_MASK].float()
        count = batch[DECISIONS][0]
        distribution_class = self.module[module_id].unwrapped().action_dist_cls
        distribution = distribution_class.from_logits(fwd_out[Columns.ACTION_DIST_INPUTS])
        log_ratio = distribution.logp(batch[Columns.ACTIONS]) - batch[Columns.ACTION_LOGP]
        ratio = torch.exp(log_ratio * mask)
        advantage = batch[Columns.ADVANTAGES][:, None]
        clipped = ratio.clamp(1 - config.clip_param, 1 + config.clip_param)
        surrogate = (torch.minimum(ratio * advantage, clipped * advantage) * mask).sum() / count
        entropy = (distribution.entropy() * mask).sum() / count
        with torch.no_grad():
            # Schulman's k3 estimator: never negative, low variance.
            kl = ((ratio - 1 - log_ratio) * mask).sum() / count
            self._too_far = self._goes_too_far(kl, config)
            outside = ((ratio - 1).abs() > config.clip_param).float()
            metrics = {
                "policy_loss": -surrogate,
                "entropy": entropy,
                "kl_to_old_policy": kl,
                "clip_fraction": (outside * mask).sum() / count,
            }
        if config.target_kl is not None:
            told = (module_id, "share_beyond_target_kl")
            self.metrics.log_value(told, float(self._too_far), window=config.num_epochs + 1)
        if not self._too_far:
            self.metrics.log_dict(metrics, key=module_id, window=1)
        return -surrogate - config.entropy_coeff * entropy
