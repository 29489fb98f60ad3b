"""Observation encoders: cells of entities in, embedding e_0 out."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AbsoluteEncoder(nn.Module):
    """The paper's linear map of concatenated one-hots (Appendix A, D.1).

    A linear map of a one-hot is a row of its matrix, so the map is computed as a sum of one
    embedding per (entity, cell): exact, without the G²·E wide product.
    """

    def __init__(self, grid_size: int, num_entities: int, width: int, std: float):
        super().__init__()
        cells = grid_size**2
        self.table = nn.EmbeddingBag(num_entities * cells, width, mode="sum")
        nn.init.normal_(self.table.weight, std=std)
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("offset", torch.arange(num_entities) * cells, persistent=False)

    def forward(self, observation: Tensor) -> Tensor:
        """int64 [..., E] -> [..., d]."""
        keys = observation + self.offset
        return self.table(keys.flatten(0, -2)).unflatten(0, observation.shape[:-1]) + self.bias


class EgocentricEncoder(nn.Module):
    """One embedding per (entity, cell relative to the agent), plus one for the agent's own cell.

    Ours: learns several times faster than the absolute encoding on small budgets, since "the red
    cell is two to the right" is one feature instead of a conjunction of two.
    """

    def __init__(self, grid_size: int, num_entities: int, width: int, std: float):
        super().__init__()
        self.grid_size, span = grid_size, 2 * grid_size - 1
        self.table = nn.EmbeddingBag((num_entities - 1) * span**2 + grid_size**2, width, mode="sum")
        nn.init.normal_(self.table.weight, std=std)
        offset = torch.arange(num_entities) * span**2
        self.register_buffer("offset", offset, persistent=False)
        cells = torch.arange(grid_size**2)
        rows, columns = cells // grid_size, cells % grid_size
        down = rows[None] - rows[:, None] + grid_size - 1  # [agent, entity]
        right = columns[None] - columns[:, None] + grid_size - 1
        self.register_buffer("relative", down * span + right, persistent=False)

    def forward(self, observation: Tensor) -> Tensor:
        """int64 [..., E] -> [..., d]."""
        agent = observation[..., -1:]
        keys = torch.cat([self.relative[agent, observation[..., :-1]], agent], -1) + self.offset
        return self.table(keys.flatten(0, -2)).unflatten(0, observation.shape[:-1])


ENCODERS = {"absolute": AbsoluteEncoder, "egocentric": EgocentricEncoder}
