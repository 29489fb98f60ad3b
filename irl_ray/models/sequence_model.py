"""The base model p(a_t, o_{t+1} | o_{1:t}) and its residual stream (D.1; Tables A4, A5, A15, A16).

`embed -> lower -> upper -> heads`: the lower half ends, and the upper half begins, at the layer
where a controller may change the residual stream.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irl_ray.config import build, check_at_least
from irl_ray.errors import UserError, did_you_mean
from irl_ray.models.actions import Actions, actions_of
from irl_ray.models.hawk import HawkMixer
from irl_ray.models.state import State
from irl_ray.models.transformer import CausalSelfAttention
from irl_ray.worlds.world import World

MIXERS = {"transformer": CausalSelfAttention, "hawk": HawkMixer}


@dataclass
class SequenceModelConfig:
    """Shape of a base model.

    Attributes:
        mixer: "transformer" (attention with T5 buckets) or "hawk" (RG-LRU).
        width: d = n_e, width of the residual stream.
        layers: L, number of residual blocks.
        heads: attention heads, or blocks of the RG-LRU gates.
        mlp: hidden width of the MLP in each block.
        encoder: how observations are read; None for the world's usual way. Of the gridworld "egocentric", "absolute"
            (the paper's) or "surroundings" (egocentric without the agent's own cell); of the ant "relative" or "linear"
            (the paper's); elsewhere what follows from the space.
        init_scale: variance scaling (fan in) of every linear map but those of the RG-LRU's gates (1); 0.1 in the paper.
        embedding_std: standard deviation of the encoder's embeddings.
        min_log_std: floor of the log standard deviation of Gaussian actions.
    """

    mixer: str = "transformer"
    width: int = 64
    layers: int = 4
    heads: int = 4
    mlp: int = 128
    encoder: str | None = None
    init_scale: float = 1.0
    embedding_std: float = 0.3
    min_log_std: float = -1.0

    def __post_init__(self) -> None:
        if self.mixer not in MIXERS:
            raise UserError(
                f"mixer: {self.mixer!r} is unknown.{did_you_mean(self.mixer, MIXERS)} "
                f"Expected one of {', '.join(MIXERS)}"
            )
        check_at_least(self, width=1, layers=1, heads=1, mlp=1, init_scale=0, embedding_std=0)


class Block(nn.Module):
    """x += mix(norm(x)); x += mlp(norm(x)), with one hidden ReLU layer (D.1)."""

    def __init__(self, config: SequenceModelConfig):
        super().__init__()
        self.mix_norm = nn.RMSNorm(config.width)
        self.mix = MIXERS[config.mixer](config.width, config.heads)
        self.mlp_norm = nn.RMSNorm(config.width)
        self.mlp_in = nn.Linear(config.width, config.mlp)
        self.mlp_out = nn.Linear(config.mlp, config.width)

    def _mlp(self, x: Tensor) -> Tensor:
        return self.mlp_out(F.relu(self.mlp_in(self.mlp_norm(x))))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, T, d] -> [B, T, d]; a `mask` [B, T] is for Hawk blocks alone."""
        normed = self.mix_norm(x)
        x = x + (self.mix(normed) if mask is None else self.mix(normed, mask))
        return x + self._mlp(x)

    def initial_state(self, rows: int, steps: int) -> State:
        """Of the step form, for sequences of at most `steps` steps."""
        return self.mix.initial_state(rows, steps)

    def step(self, x: Tensor, state: State) -> Tensor:
        x = x + self.mix.step(self.mix_norm(x), state)
        return x + self._mlp(x)


@dataclass
class OtherModelConfig:
    """A base model of somebody else's class.

    Attributes:
        name: "module:Class", a subclass of `BaseModel`.
        options: what it is made with, beside the world.
    """

    name: str
    options: dict[str, Any]

    def plain(self) -> dict[str, Any]:
        """As a file says it: `{class: module:Class, ...options}`."""
        return {"class": self.name, **self.options}


def model_config(values: Any, where: str) -> SequenceModelConfig | OtherModelConfig:
    """The shape of a base model from a mapping, which may name somebody else's `class`.

    Raises:
        UserError: on unknown keys or values of the wrong type.
    """
    if isinstance(values, Mapping) and "class" in values:
        if not isinstance(values["class"], str) or ":" not in values["class"]:
            raise UserError(f"{where}.class: expected module:Class, got {values['class']!r}")
        return OtherModelConfig(values["class"], {key: v for key, v in values.items() if key != "class"})
    ready = isinstance(values, (SequenceModelConfig, OtherModelConfig))
    return values if ready else build(SequenceModelConfig, values, where)


class BaseModel(nn.Module):
    """Autoregressive model of the actions and observations of goal-directed agents, of any blocks.

    Others' models derive from it, and take the world as the first argument of their `__init__`, and their options by
    name. A block maps [B, T, d] to [B, T, d] and looks at no later step (`forward`); step by step it does the same
    (`step(x [N, d], state)`), with a state that `initial_state(rows, steps)` gives: a dictionary of tensors, rows
    first, zero at the start. `irl-ray check WORLD --model module:Class` holds both forms equal.

    Args:
        world: which it observes and acts in.
        width: d.
        blocks: made after the encoder.
        encoder: how observations are read; None for the world's usual way.
        embedding_std: standard deviation of the encoder's embeddings.
        min_log_std: floor of the log standard deviation of Gaussian actions.
        norm: of what the heads read; None for an RMS norm.

    Attributes:
        config: what it was made from.
        placed: whether `place` tells a step its number; the first block's state must then count steps as "length".
    """

    config: SequenceModelConfig | OtherModelConfig
    placed = False

    def __init__(
        self,
        world: World,
        width: int,
        blocks: Iterable[nn.Module],
        *,
        encoder: str | None = None,
        embedding_std: float = 0.3,
        min_log_std: float = -1.0,
        norm: nn.Module | None = None,
    ):
        super().__init__()
        encoders = world.encoders
        encoder = encoder or next(iter(encoders))
        if encoder not in encoders:
            raise UserError(
                f"encoder: {encoder!r} does not fit.{did_you_mean(encoder, encoders)} "
                f"Expected one of {', '.join(encoders)}"
            )
        self.world, self.width = world, width
        self.encoder = encoders[encoder](world, width, embedding_std)
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm or nn.RMSNorm(width)
        self.actions: Actions = actions_of(world.action_space, min_log_std)
        for name, outputs in world.heads.items():
            self.add_module(name, nn.Linear(width, outputs))
        self.action_head = nn.Linear(width, self.actions.num_outputs)

    @property
    def num_layers(self) -> int:
        return len(self.blocks)

    def place(self, embedding: Tensor, time: Tensor) -> Tensor:
        """Embeddings [..., d] that tell their steps' numbers, int64 [...], where `placed` says so."""
        return embedding

    def embed(self, observation: Tensor) -> Tensor:
        """Observations of sequences that begin at their first step, [B, T, ...] -> e_0 [B, T, d]."""
        embedding = self.encoder(observation)
        if not self.placed:
            return embedding
        return self.place(embedding, torch.arange(embedding.shape[1], device=embedding.device))

    def lower(self, embedding: Tensor, layer: int) -> Tensor:
        """e_0 [B, T, d] -> e_l [B, T, d]."""
        for block in self.blocks[:layer]:
            embedding = block(embedding)
        return embedding

    def upper(self, residual: Tensor, layer: int) -> Tensor:
        """e_l [B, T, d] -> e_L [B, T, d]."""
        for block in self.blocks[layer:]:
            residual = block(residual)
        return residual

    def residuals(self, observation: Tensor) -> list[Tensor]:
        """e_{t,l} for l = 0..L: L + 1 tensors [B, T, d]."""
        stream = [self.embed(observation)]
        for block in self.blocks:
            stream.append(block(stream[-1]))
        return stream

    def action_inputs(self, residual: Tensor) -> Tensor:
        """e_L [..., d] -> parameters of the action distribution [..., A]: logits, or mean and log std."""
        return self.actions.inputs(self.action_head(self.norm(residual)))

    def action_log_prob(self, residual: Tensor, action: Tensor) -> Tensor:
        """e_L [n, d] and actions [n] or [n, 8] -> log p(a_t | o_1:t) in nats [n]."""
        return self.actions.log_prob(self.action_inputs(residual), action)

    def forward(self, observation: Tensor) -> Tensor:
        """Observation [B, T, ...] -> parameters of the action distribution [B, T, A]."""
        return self.action_inputs(self.upper(self.embed(observation), 0))

    def initial_state(self, rows: int, steps: int) -> list[State]:
        """State of the step form, one entry per layer, for sequences of at most `steps` steps."""
        return [block.initial_state(rows, steps) for block in self.blocks]

    def lower_step(self, observation: Tensor, state: list[State], layer: int) -> Tensor:
        """Observation [N, ...] -> e_l [N, d]. Updates the first `layer` states in place."""
        x = self.encoder(observation)
        if self.placed:
            x = self.place(x, state[0]["length"])
        for block, block_state in zip(self.blocks[:layer], state):
            x = block.step(x, block_state)
        return x

    def upper_step(self, residual: Tensor, state: list[State], layer: int) -> Tensor:
        """e_l [N, d] -> e_L [N, d]. Updates the states from `layer` on in place."""
        for block, block_state in zip(self.blocks[layer:], state[layer:]):
            residual = block.step(residual, block_state)
        return residual


class SequenceModel(BaseModel):
    """Ours: blocks of attention with T5 buckets, or of Hawk.

    Args:
        config: shape of the network.
        world: which it observes and acts in.
    """

    def __init__(self, config: SequenceModelConfig, world: World):
        if config.width % config.heads:
            raise UserError(f"width={config.width} must be a multiple of heads={config.heads}")
        config = replace(config, encoder=config.encoder or next(iter(world.encoders)))
        super().__init__(
            world,
            config.width,
            (Block(config) for _ in range(config.layers)),
            encoder=config.encoder,
            embedding_std=config.embedding_std,
            min_log_std=config.min_log_std,
        )
        self.config = config
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=(config.init_scale / module.in_features) ** 0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


def new_base(config: SequenceModelConfig | OtherModelConfig, world: World) -> BaseModel:
    """A fresh base model for a world.

    Raises:
        UserError: if it is of a class that cannot be imported, is no `BaseModel`, or refuses its options.
    """
    if isinstance(config, SequenceModelConfig):
        return SequenceModel(config, world)
    module, name = config.name.rsplit(":", 1)
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"model.class: {config.name!r} cannot be imported: {error}") from None
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        raise UserError(f"model.class: {config.name!r} is no subclass of irl_ray.BaseModel")
    try:
        made = kind(world, **config.options)
    except TypeError as error:
        raise UserError(f"model: {config.name} refuses its options: {error}") from None
    made.config = config
    return made
