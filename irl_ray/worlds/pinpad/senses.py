"""What the ant senses: the entries of its observation, and what follows from them."""

from __future__ import annotations

from torch import Tensor

NUM_PROPRIOCEPTION = 27  # the ant's height, quaternion, joint angles; velocities of torso and joints
NUM_BODY = NUM_PROPRIOCEPTION + 2  # and the torso's global x and y
NUM_JOINTS = 8
# Of a bent ankle's angle, legs 1 to 4. Turning the ant by a quarter maps leg i onto leg i + 1, and the sign of its
# ankle's angle onto that of the next.
ANKLE_SIGN = (1.0, -1.0, -1.0, 1.0)


def ant_place(observation: Tensor, grid_size: int) -> Tensor:
    """int64 [..., 2]: column, from the left, and row, from the bottom, of the ant's torso, from [..., F].

    The place minus the place within the cell is the cell's centre: exact, also on a border.
    """
    centre = (observation[..., NUM_BODY - 2 : NUM_BODY] + 1) * (grid_size / 2) - observation[..., -2:] - 0.5
    return centre.round().long().clamp(0, grid_size - 1)


def ant_cells(observation: Tensor, grid_size: int) -> Tensor:
    """int64 [...]: the cell the ant's torso is over, numbered as in `rules`, from [..., F]."""
    place = ant_place(observation, grid_size)
    return (grid_size - 1 - place[..., 1]) * grid_size + place[..., 0]
