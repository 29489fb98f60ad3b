"""What every encoder of observations offers: observations in, embedding e_0 out."""

from __future__ import annotations

from torch import Tensor, nn

from irl_ray.errors import UserError


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
