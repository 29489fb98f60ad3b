"""`ExpertPPO`: RLlib's PPO, as it is, on a view that shows the task; whoever is trained so demonstrates.

Run it:      rllib train file tuned_configs/ant_expert.yaml
Expect:      the README's table of results.
"""

from __future__ import annotations

from typing import Any

from ray.rllib.algorithms.ppo import PPO, PPOConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.distribution.torch.torch_distribution import TorchDiagGaussian
from ray.rllib.core.rl_module.apis import ValueFunctionAPI
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor, cat

from irl_ray import worlds
from irl_ray.config import build
from irl_ray.errors import UserError
from irl_ray.models import weights
from irl_ray.models.expert import Expert, ExpertConfig
from irl_ray.rllib.checkpoints import seal
from irl_ray.worlds.world import World


class ExpertModule(TorchRLModule, ValueFunctionAPI):
    """A shell around `Expert`; `model_config["expert"]` are `ExpertConfig`'s keys."""

    def setup(self) -> None:
        shape = {
            "observation_size": self.observation_space.shape[-1],
            "action_size": self.action_space.shape[-1],
            **self.model_config.get("expert", {}),
        }
        self.expert = Expert(build(ExpertConfig, shape, "config.expert"))
        self.action_dist_cls = TorchDiagGaussian

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {Columns.ACTION_DIST_INPUTS: cat(self.expert(batch[Columns.OBS]), -1)}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        """Values [B] of what it sees, [B, V]."""
        return self.expert.value(batch[Columns.OBS]).squeeze(-1)


class ExpertPPOConfig(PPOConfig):
    """PPO's configuration with settings that suit the ant.

    Attributes:
        world: id of the environment whose tasks `env` shows, with the same `env_config`.
        expert: further keys of `ExpertConfig`.
    """

    def __init__(self, algo_class: type | None = None):
        super().__init__(algo_class or ExpertPPO)
        self.world: str | None = None
        self.expert = {}
        self.gym_env_vectorize_mode = "vector_entry_point"
        self.num_env_runners = 0
        self.num_envs_per_env_runner = 256
        self.rollout_fragment_length = 64
        self.train_batch_size = 16_384
        self.minibatch_size = 2048
        self.num_epochs = 5
        self.lr = 3e-4
        self.gamma = 0.97
        self.lambda_ = 0.95
        self.clip_param = 0.2
        self.entropy_coeff = 0.0
        self.kl_coeff = 0.0
        self.use_kl_loss = False
        self.vf_clip_param = 1e6
        self.vf_loss_coeff = 0.5
        self.grad_clip = 1.0
        self.normalize_actions = False
        self.clip_actions = False
        self.seed = 0

    def validate(self) -> None:
        super().validate()
        if self.world is None:
            raise UserError("config.world: expected the id of the environment whose tasks env shows; give it")
        self.shown_world()

    def shown_world(self) -> World:
        """The world in which the expert will demonstrate.

        Raises:
            UserError: if there is none of that id, or not with these settings.
        """
        settings = {key: value for key, value in self.env_config.items() if key != "threads"}
        return worlds.find(self.world, "config.world").of(settings)

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        return RLModuleSpec(module_class=ExpertModule, model_config={"expert": self.expert})


class ExpertPPO(PPO):
    """RLlib's PPO whose checkpoints carry a portable artefact without pickle."""

    @classmethod
    def get_default_config(cls) -> ExpertPPOConfig:
        return ExpertPPOConfig()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """RLlib's checkpoint, and beside it the expert as a portable artefact."""
        super().save_checkpoint(checkpoint_dir)
        config = self.config
        expert = self.get_module(DEFAULT_MODULE_ID).expert
        artefact = weights.Artefact(config.shown_world(), expert=expert)
        artefact.provenance["expert"] = {
            "seed": config.seed,
            "revision": weights.code_revision(),
            "env_steps": int(self.metrics.peek("num_env_steps_sampled_lifetime", default=0)),
            "lr": config.lr,
            "gamma": config.gamma,
        }
        weights.save(artefact, f"{checkpoint_dir}/artefact")
        seal(checkpoint_dir)
