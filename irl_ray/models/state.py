"""Recurrent state of the step form: nested dictionaries and lists of row-first tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

State = Any  # Tensor | dict[str, State] | list[State]


def map_state(function: Callable[[Tensor], Any], state: State) -> State:
    """`function` applied to every tensor of `state`, structure kept."""
    if isinstance(state, Tensor):
        return function(state)
    if isinstance(state, dict):
        return {name: map_state(function, value) for name, value in state.items()}
    return [map_state(function, value) for value in state]


def reset_rows(state: State, rows: Tensor) -> None:
    """Back to the initial state, in place, for the given rows (index or mask)."""
    map_state(lambda tensor: tensor.__setitem__(rows, 0), state)


def select_rows(state: State, rows: Tensor) -> State:
    """A copy of the state of the given rows."""
    return map_state(lambda tensor: tensor[rows], state)


def write_rows(state: State, rows: Tensor, part: State) -> None:
    """Writes what `select_rows` took, and has changed since, back in place."""
    parts: list[Tensor] = []
    map_state(parts.append, part)
    remaining = iter(parts)
    map_state(lambda tensor: tensor.__setitem__(rows, next(remaining)), state)
