"""Opening the demonstrations that a phase was told to use."""

from __future__ import annotations

from pathlib import Path

from irl_ray.data.trajectories import Demonstrations
from irl_ray.errors import UserError
from irl_ray.worlds.world import World

TIES = ("free", "rule")


def check_data(world: World, folder: str, clean: bool = False) -> None:
    """Refuses a folder without demonstrations, or with those of another world; reads the manifest alone.

    Args:
        world: whose demonstrations are wanted.
        folder: of shards.
        clean: whether the clean expert's are wanted, for the error.

    Raises:
        UserError: telling what to type instead.
    """
    from irl_ray.data.shards import MANIFEST, read_manifest, world_of  # needs pyarrow

    if not (Path(folder).expanduser() / MANIFEST).exists():
        raise UserError(f"{folder}: no demonstrations there; {world.how_to_collect(folder, clean)}")
    different = world.difference(world_of(read_manifest(folder), folder))
    if different:
        how = world.how_to_collect("ANOTHER", clean)
        raise UserError(f"{folder} holds demonstrations of another world: {different}; {how}")


def open_demonstrations(
    world: World,
    data: str | None,
    *,
    noise: float = 0.0,
    ties: str = "free",
    truth: bool = False,
    device: str = "cpu",
) -> Demonstrations:
    """The endless stream of a world's expert, or the shards in a folder.

    Args:
        world: whose demonstrations are wanted.
        data: folder of shards; None for the stream.
        noise: ε of the stream's expert.
        ties: how the stream's expert chooses between actions that are as good: "free" or "rule".
        truth: whether ground truth is read from shards, for analysis.
        device: of the stream.

    Raises:
        UserError: if there is no stream for this world, or the shards are of another world.
    """
    if data is None:
        stream = world.demonstrations(noise=noise, ties=ties, device=device)
        if stream is None:
            raise UserError(f"config.data: missing; {world.how_to_collect('data/ant')}")
        return stream
    if ties != "free":
        raise UserError(f"config.ties: {ties!r} is for a world's own stream; stored demonstrations are as they are")
    from irl_ray.data.shards import StoredDemonstrations  # needs pyarrow, which a stream does not

    stored = StoredDemonstrations(data, truth)
    different = world.difference(stored.world)
    if different:
        raise UserError(f"config.data: {data} holds demonstrations of another world: {different}")
    if not world.num_subgoals:  # what labels they have is not asked for
        stored.world = world
    return stored
