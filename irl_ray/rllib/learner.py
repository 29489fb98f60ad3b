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

    The whole batch is one minibatch, repeated `num_epochs` times or until a step has gone further than `target_kl`,
    which is then taken back. Whether it has is seen in the pass after it.
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
            if self._too_far:
                break

    def apply_gradients(self, gradients_dict: dict[Any, Tensor]) -> None:
        """Takes the step, or takes the last one back where it went too far."""
        optimizers = self._named_optimizers
        if self._too_far and self._before is not None:
            parameters, states = self._before
            with torch.no_grad():
                for key, parameter in self._params.items():
                    parameter.copy_(parameters[key])
            for name, optimizer in optimizers.items():
                optimizer.load_state_dict(states[name])
        elif not (self._too_far or self._looks):
            if self.config.target_kl is not None:
                parameters = {key: parameter.detach().clone() for key, parameter in self._params.items()}
                self._before = parameters, deepcopy({name: o.state_dict() for name, o in optimizers.items()})
            super().apply_gradients(gradients_dict)

    def _goes_too_far(self, kl: Tensor, config: Any) -> bool:
        """Whether the last step is to be taken back, the same for all learners, given this one's share of the KL."""
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
        if not self._too_far:
            self.metrics.log_dict(metrics, key=module_id, window=1)
        return -surrogate - config.entropy_coeff * entropy
