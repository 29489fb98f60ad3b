"""Opening the demonstrations that a phase was told to use: stored ones, a function's, or the world's own stream."""

from __future__ import annotations

from pathlib import Path

import torch

from irl_ray.data.streams import FunctionStream, imported, names_function
from irl_ray.data.trajectories import Demonstrations
from irl_ray.errors import UserError
from irl_ray.worlds.world import World

TIES = ("free", "rule")
FIRST_WALKS = 8  # of a function, looked at before anything is trained


def check_there(data: str) -> None:
    """Refuses a folder without demonstrations, or a function that cannot be imported.

    Raises:
        UserError: naming it.
    """
    if names_function(data):
        imported(data)
        return
    from irl_ray.data.shards import read_manifest  # needs pyarrow

    read_manifest(data)


def check_data(world: World, data: str, clean: bool = False) -> None:
    """Refuses a folder without demonstrations, or with those of another world, reading the manifest alone, and a
    function that cannot be imported, or whose first walks do not fit the world.

    Args:
        world: whose demonstrations are wanted.
        data: folder of shards, or `module:function`.
        clean: whether the clean expert's are wanted, for the error.

    Raises:
        UserError: telling what to type instead.
    """
    if names_function(data):
        FunctionStream(world, data, truth=True).sample(FIRST_WALKS, torch.Generator())
        return
    from irl_ray.data.shards import MANIFEST, read_manifest, world_of  # needs pyarrow

    if not (Path(data).expanduser() / MANIFEST).exists():
        raise UserError(f"{data}: no demonstrations there; {world.how_to_collect(data, clean)}")
    different = world.difference(world_of(read_manifest(data), data))
    if different:
        how = world.how_to_collect("ANOTHER", clean)
        raise UserError(f"{data} holds demonstrations of another world: {different}; {how}")


def open_demonstrations(
    world: World,
    data: str | None,
    *,
    noise: float = 0.0,
    ties: str = "free",
    truth: bool = False,
    device: str = "cpu",
) -> Demonstrations:
    """The endless stream of a world's expert, the shards in a folder, or what a function makes.

    Args:
        world: whose demonstrations are wanted.
        data: folder of shards, or `module:function` (`FunctionStream`); None for the stream.
        noise: ε of the stream's expert.
        ties: how the stream's expert chooses between actions that are as good: "free" or "rule".
        truth: whether ground truth is read from shards, or from what a function makes, for analysis.
        device: of the stream.

    Raises:
        UserError: if there is no stream for this world, or the shards are of another world.
    """
    if data is None:
        stream = world.demonstrations(noise=noise, ties=ties, device=device)
        if stream is None:
            raise UserError(f"config.data: missing; {world.how_to_collect()}")
        return stream
    if ties != "free":
        raise UserError(f"config.ties: {ties!r} is for a world's own stream; other demonstrations are as they are")
    if names_function(data):
        if noise:
            raise UserError(f"config.noise: {noise} is for a world's own stream; a function's walks are as they are")
        return FunctionStream(world, data, truth)
    from irl_ray.data.shards import StoredDemonstrations  # needs pyarrow, which a stream does not

    stored = StoredDemonstrations(data, truth)
    different = world.difference(stored.world)
    if different:
        raise UserError(f"config.data: {data} holds demonstrations of another world: {different}")
    if not world.num_subgoals:  # what labels they have is not asked for
        stored.world = world
    return stored
