"""Opening the demonstrations that a phase was told to use."""

from __future__ import annotations

from irl_ray.data.gridworld import GridworldExpert
from irl_ray.data.trajectories import Demonstrations
from irl_ray.envs.pinpad import PinpadSpec
from irl_ray.envs.worlds import GRIDWORLD_ID, env_id, world_differences
from irl_ray.errors import UserError


def open_demonstrations(
    world: PinpadSpec, data: str | None, *, noise: float = 0.0, truth: bool = False, device: str = "cpu"
) -> Demonstrations:
    """The endless stream of the gridworld's expert, or the shards in a folder.

    Args:
        world: whose demonstrations are wanted.
        data: folder of shards; None for the stream.
        noise: ε of the stream's expert.
        truth: whether ground truth is read from shards, for analysis.
        device: of the stream.

    Raises:
        UserError: if there is no stream for this world, or the shards are of another world.
    """
    if data is None:
        if env_id(world) != GRIDWORLD_ID:
            raise UserError(
                f"config.data: missing. The demonstrations of {env_id(world)} are collected first: irl-ray collect "
                f"{env_id(world)} --expert ant_expert --episodes 100000 --out data/ant"
            )
        return GridworldExpert(world, noise, device)
    from irl_ray.data.shards import StoredDemonstrations  # needs pyarrow, which a gridworld does not

    stored = StoredDemonstrations(data, truth)
    different = world_differences(world, stored.world)
    if different:
        raise UserError(f"config.data: {data} holds demonstrations of another world: {different}")
    return stored
