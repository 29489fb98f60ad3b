"""Encoders: observations in, embedding e_0 out; those that follow from the space of a world's observations."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irl_ray.errors import UserError

if TYPE_CHECKING:
    from irl_ray.worlds.world import World


class Encoder(nn.Module):
    """Observations in, e_0 out.

    Encoders of things that are somewhere hold one embedding for each (thing, place) in `table`.
    """

    table: nn.EmbeddingBag

    def rows(self, observation: Tensor) -> Tensor:
        """Rows of the table that an observation shows: [..., E or F] -> int64 [..., S].

        Raises:
            UserError: if the encoder has no table.
        """
        raise UserError(f"{type(self).__name__} has no table of things in view; set teacher.steps: 0, or use another")

    @property
    def num_rows(self) -> int:
        return self.table.num_embeddings

    def look_up(self, observation: Tensor) -> Tensor:
        """Sum of the embeddings in view: [..., E or F] -> [..., d]."""
        rows = self.rows(observation)
        return self.table(rows.flatten(0, -2)).unflatten(0, rows.shape[:-1])


class EntriesEncoder(Encoder):
    """One embedding for each value of each entry of a discrete observation, summed: a linear map of its one-hots."""

    def __init__(self, world: World, width: int, std: float):
        super().__init__()
        values = world.observation_space.nvec
        self.table = nn.EmbeddingBag(int(values.sum()), width, mode="sum")
        nn.init.normal_(self.table.weight, std=std)
        self.register_buffer("offset", torch.as_tensor(values.cumsum() - values), persistent=False)

    def rows(self, observation: Tensor) -> Tensor:
        return observation + self.offset

    def forward(self, observation: Tensor) -> Tensor:
        """int64 [..., E] -> [..., d]."""
        return self.look_up(observation)


class NumbersEncoder(Encoder):
    """A linear map of sign(x) log(1 + |x|), so that entries of any scale are seen."""

    def __init__(self, world: World, width: int, std: float):
        super().__init__()
        self.map = nn.Linear(world.observation_space.shape[0], width)

    def forward(self, observation: Tensor) -> Tensor:
        """float [..., F] -> [..., d]."""
        return self.map(symlog(observation).to(self.map.weight.dtype))


class ImageEncoder(Encoder):
    """Three convolutions, the strides of which leave an eighth of the picture's sides, and a linear map."""

    def __init__(self, world: World, width: int, std: float):
        super().__init__()
        height, breadth, channels = world.observation_space.shape
        sizes = (channels, 16, 32, 32)
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in zip(sizes, sizes[1:]))
        self.map = nn.Linear(sizes[-1] * -(-height // 8) * -(-breadth // 8), width)

    def forward(self, observation: Tensor) -> Tensor:
        """int64 [..., H, W, C], 0 to 255 -> [..., d]."""
        x = observation.flatten(0, -4).movedim(-1, 1).to(self.map.weight.dtype) / 255 - 0.5
        for convolution in self.convolutions:
            x = F.relu(convolution(x))
        return self.map(x.flatten(1)).unflatten(0, observation.shape[:-3])


def symlog(x: Tensor) -> Tensor:
    """sign(x) log(1 + |x|)."""
    return x.sign() * x.abs().log1p()


def encoders_of(space: gym.Space) -> dict[str, Callable[[Any, int, float], Encoder]]:
    """How observations of a space that `worlds.spaces.read_as` gives may be read, by name."""
    if isinstance(space, gym.spaces.MultiDiscrete):
        return {"entries": EntriesEncoder}
    return {"image": ImageEncoder} if len(space.shape) == 3 else {"numbers": NumbersEncoder}
