"""Opening the demonstrations that a phase was told to use."""

from __future__ import annotations

from pathlib import Path

from irl_ray.data.gridworld import GridworldExpert
from irl_ray.data.trajectories import Demonstrations
from irl_ray.envs.pinpad import PinpadSpec
from irl_ray.envs.worlds import ANTS, GRIDWORLD_ID, ant_spec, env_id, world_differences
from irl_ray.errors import UserError


def how_to_collect(world: PinpadSpec, folder: str, clean: bool = False) -> str:
    """What to type for demonstrations of a world, in words."""
    if env_id(world) == GRIDWORLD_ID:
        return "leave it out: the gridworld's demonstrations are made while training"
    same = not world_differences(ant_spec(ANTS["small"]), world)
    expert = "ant_expert" if same else "EXPERT_OF_THAT_WORLD"
    return (
        f"collect them first: irl-ray collect {env_id(world)} --expert {expert} --episodes 100000"
        f"{' --deterministic' if clean else ''} --out {folder}"
    )


def check_data(world: PinpadSpec, folder: str, clean: bool = False) -> None:
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
        raise UserError(f"{folder}: no demonstrations there; {how_to_collect(world, folder, clean)}")
    different = world_differences(world, world_of(read_manifest(folder), folder))
    if different:
        raise UserError(
            f"{folder} holds demonstrations of another world: {different}; {how_to_collect(world, 'ANOTHER', clean)}"
        )


def open_demonstrations(
    world: PinpadSpec,
    data: str | None,
    *,
    noise: float = 0.0,
    ties: str = "free",
    truth: bool = False,
    device: str = "cpu",
) -> Demonstrations:
    """The endless stream of the gridworld's expert, or the shards in a folder.

    Args:
        world: whose demonstrations are wanted.
        data: folder of shards; None for the stream.
        noise: ε of the stream's expert.
        ties: how the stream's expert chooses between equally short paths.
        truth: whether ground truth is read from shards, for analysis.
        device: of the stream.

    Raises:
        UserError: if there is no stream for this world, or the shards are of another world.
    """
    if data is None:
        if env_id(world) != GRIDWORLD_ID:
            raise UserError(f"config.data: missing; {how_to_collect(world, 'data/ant')}")
        return GridworldExpert(world, noise, device, ties)
    if ties != "free":
        raise UserError(f"config.ties: {ties!r} is for the gridworld's stream; stored demonstrations are as they are")
    from irl_ray.data.shards import StoredDemonstrations  # needs pyarrow, which a gridworld does not

    stored = StoredDemonstrations(data, truth)
    different = world_differences(world, stored.world)
    if different:
        raise UserError(f"config.data: {data} holds demonstrations of another world: {different}")
    return stored
