"""GPT-2 of Hugging Face as a base model (extra `huggingface`), with a cache whose rows may be at different times."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from irl_ray.errors import UserError
from irl_ray.models.sequence_model import BaseModel
from irl_ray.models.state import State
from irl_ray.worlds.world import World


class GPT2Base(BaseModel):
    """Blocks, positions and last norm of `transformers.GPT2Model`, with fresh weights or those of a folder.

    Encoder and heads are those of the world; of a language model only the trunk is used. Nothing is downloaded.

    Args:
        world: which it observes and acts in.
        width: d.
        layers: L.
        heads: of attention.
        trunk: folder of a saved GPT-2, whose weights and shape are taken; None for fresh weights.
        encoder: how observations are read; None for the world's usual way.

    Raises:
        UserError: if transformers is not installed, or the trunk is not there or knows fewer positions than needed.
    """

    placed = True

    def __init__(
        self,
        world: World,
        width: int = 128,
        layers: int = 4,
        heads: int = 4,
        trunk: str | None = None,
        encoder: str | None = None,
    ):
        try:
            from transformers import GPT2Config, GPT2Model
        except ImportError:
            raise UserError("model.class: GPT2Base needs transformers: pip install 'irl_ray[huggingface]'") from None
        steps = world.horizon + 1
        if trunk is None:
            dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
            shape = {"n_embd": width, "n_layer": layers, "n_head": heads, "n_positions": steps, "vocab_size": 1}
            gpt = GPT2Model(GPT2Config(**shape, **dropout))
        else:
            try:
                gpt = GPT2Model.from_pretrained(trunk, local_files_only=True)
            except OSError as error:
                raise UserError(f"model.trunk: {trunk}: {str(error).splitlines()[0]}") from None
        if gpt.config.n_positions < steps:
            raise UserError(f"model.trunk: knows {gpt.config.n_positions} positions, an episode has {steps}")
        blocks = (GPT2Layer(block, gpt.config.n_head) for block in gpt.h)
        super().__init__(world, gpt.config.n_embd, blocks, encoder=encoder, norm=gpt.ln_f)
        self.positions = gpt.wpe

    def place(self, embedding: Tensor, time: Tensor) -> Tensor:
        return embedding + self.positions(time)


class GPT2Layer(nn.Module):
    """One of GPT-2's blocks in both forms.

    Args:
        block: of transformers.
        heads: of its attention.
    """

    def __init__(self, block: nn.Module, heads: int):
        super().__init__()
        self.ln_1, self.attention, self.ln_2, self.mlp = block.ln_1, block.attn, block.ln_2, block.mlp
        self.heads = heads

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[N, T, d] -> queries, keys and values, each [N, heads, T, d / heads]."""
        parts = self.attention.c_attn(self.ln_1(x)).chunk(3, -1)
        return tuple(part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)

    def _rest(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.attention.c_proj(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.ln_2(x))

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, d] -> [B, T, d]."""
        attended = nn.functional.scaled_dot_product_attention(*self._heads(x), is_causal=True)
        return self._rest(x, attended)

    def initial_state(self, rows: int, steps: int) -> State:
        """Cache for `rows` sequences of at most `steps` steps."""
        weight = self.attention.c_attn.weight
        width = weight.shape[0]
        cache = weight.new_zeros(rows, self.heads, steps, width // self.heads)
        length = torch.zeros(rows, dtype=torch.long, device=weight.device)
        return {"keys": cache, "values": cache.clone(), "length": length}

    def step(self, x: Tensor, state: State) -> Tensor:
        """[N, d] -> [N, d]. Updates `state` in place."""
        rows, time = torch.arange(len(x), device=x.device), state["length"]
        query, key, value = self._heads(x[:, None])
        state["keys"][rows, :, time], state["values"][rows, :, time] = key[:, :, 0], value[:, :, 0]
        filled = int(time.max()) + 1
        seen = torch.arange(filled, device=x.device) <= time[:, None]
        keys, values = state["keys"][:, :, :filled], state["values"][:, :, :filled]
        attended = nn.functional.scaled_dot_product_attention(query, keys, values, attn_mask=seen[:, None, None])
        state["length"] += 1
        return self._rest(x[:, None], attended)[:, 0]
