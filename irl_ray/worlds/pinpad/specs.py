"""The two pin-pads as worlds: the gridworld and the ant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from irl_ray.errors import UserError
from irl_ray.worlds.pinpad import presets, senses
from irl_ray.worlds.pinpad.rules import NUM_ACTIONS, PinpadSpec
from irl_ray.worlds.world import World

if TYPE_CHECKING:
    from torch import Tensor

    from irl_ray.data.trajectories import Demonstrations, Trajectories
    from irl_ray.models.encoder import Encoder
    from irl_ray.models.sequence_model import BaseModel
    from irl_ray.models.weights import Artefact
    from irl_ray.worlds.pinpad.stream import GridworldExpert
    from irl_ray.worlds.pinpad.vector import PinpadVectorEnv

GRIDWORLD_ID, ANT_ID, GUIDED_ANT_ID = "irl_ray/GridPinpad-v0", "irl_ray/AntPinpad-v0", "irl_ray/AntPinpadGuided-v0"
CONTROL_STEPS = {"torque": 2, "position": 4}  # physics steps of 25 ms per action


class _Pinpad(PinpadSpec):
    """What both have in common as worlds. Everything that computes is imported when it is asked for: environments need
    nothing of it."""

    differing = ("grid_size", "num_colours", "num_walls")
    num_symmetries = 8  # of the square

    def with_tasks(self, tasks: Any) -> World:
        return self if tasks is None else replace(self, tasks=tasks)

    @property
    def fewest_legs(self) -> int:
        return min(map(len, self.tasks))

    def first_legs(self, count: int) -> World:
        return replace(self, tasks=tuple(task[:count] for task in self.tasks))

    @property
    def tasks_told(self) -> str:
        named = ["-".join(map(str, task)) for task in self.tasks]
        return named[0] if len(named) == 1 else f"{len(named)} tasks, {named[0]} to {named[-1]}"

    def injection(
        self, agent: Artefact, episodes: int, seed: int, step: int, temperature: float
    ) -> dict[str, float | None]:
        from irl_ray.worlds.pinpad.injection import injection

        return injection(agent, self, episodes, seed, step, temperature)

    def difference(self, other: World) -> str:
        if other.id != self.id:
            return f"the environment is {other.id}, expected {self.id}"
        pairs = [(key, getattr(self, key), getattr(other, key)) for key in self.differing]
        return ", ".join(f"{key} is {b}, expected {a}" for key, a, b in pairs if a != b)

    def rows(self, count: int, **options: Any) -> PinpadVectorEnv:
        return gym.make_vec(self.id, num_envs=count, autoreset="disabled", **options, **self.settings)

    def target(self, batch: Trajectories) -> Tensor:
        from irl_ray.worlds.pinpad.walks import target

        return target(batch)

    def headings(self, batch: Trajectories) -> Tensor:
        from irl_ray.worlds.pinpad.walks import directions

        return directions(batch)

    def places(self, batch: Trajectories) -> Tensor:
        from irl_ray.worlds.pinpad.walks import target_places

        return target_places(batch)

    def entries(self, batch: Trajectories) -> Tensor:
        from irl_ray.worlds.pinpad.walks import entered

        return entered(batch)

    def turned(self, observation: Tensor, symmetry: Tensor) -> Tensor:
        from irl_ray.worlds.pinpad.symmetries import turned

        return turned(self, observation, symmetry)

    @property
    def about(self) -> str:
        return (
            f"{self.grid_size}x{self.grid_size} cells, {self.num_colours} colours, {self.num_walls} walls, "
            f"{len(self.tasks)} pretraining tasks."
        )


@dataclass(frozen=True)
class GridworldSpec(_Pinpad):
    """What defines a gridworld-pinpad; see `PinpadSpec`."""

    id, title = GRIDWORLD_ID, "gridworld"
    presets = presets.GRIDWORLD
    has_stream, further_terms = True, ("static",)

    @property
    def observation_space(self) -> gym.Space:
        return gym.spaces.MultiDiscrete([self.num_cells] * self.num_entities)

    @property
    def action_space(self) -> gym.Space:
        return gym.spaces.Discrete(NUM_ACTIONS)

    @property
    def encoders(self) -> Mapping[str, Callable[[Any, int, float], Encoder]]:
        from irl_ray.worlds.pinpad.encoders import ENCODERS

        return ENCODERS

    @property
    def heads(self) -> dict[str, int]:
        return {"agent_head": self.num_cells, "static_head": (self.num_entities - 1) * self.num_cells}

    def terms(self, base: BaseModel, top: Tensor, batch: Trajectories) -> dict[str, Tensor]:
        from irl_ray.worlds.pinpad.terms import gridworld_terms

        return gridworld_terms(base, top, batch)

    @property
    def post_task(self) -> str | None:
        scale = {4: "tiny", 6: "small", 8: "paper"}.get(self.num_colours)
        return presets.POST_TRAINING_TASKS[scale] if scale else None

    def floors(self, base: BaseModel, batch: Trajectories, source: Demonstrations) -> dict[str, float]:
        from irl_ray.worlds.pinpad.floors import action_floors
        from irl_ray.worlds.pinpad.stream import GridworldExpert

        if not isinstance(source, GridworldExpert):  # how stored experts choose between shortest paths is not known
            return {}
        return {f"floor/{name}": value for name, value in action_floors(source, batch.to("cpu")).items()}

    def rows(self, count: int, **options: Any) -> PinpadVectorEnv:
        return super().rows(count, observation="cells", **options)

    def view(self, observation: np.ndarray) -> np.ndarray:
        """Cells [E], also of one-hots [E C]."""
        observation = np.asarray(observation)
        size = self.num_cells * self.num_entities
        if observation.shape == (size,):
            observation = observation.reshape(self.num_entities, self.num_cells).argmax(-1)
        if observation.shape != (self.num_entities,):
            raise UserError(
                f"observation of shape {observation.shape}: expected ({size},) one-hot or ({self.num_entities},) cells"
            )
        return observation

    def shown(self, observation: np.ndarray) -> np.ndarray:
        """One-hots [E C] of cells [E]."""
        return np.eye(self.num_cells, dtype=np.float32)[observation].ravel()

    def demonstrations(self, *, noise: float, ties: str, device: str) -> GridworldExpert:
        from irl_ray.worlds.pinpad.stream import GridworldExpert

        return GridworldExpert(self, noise, device, ties)

    def how_to_collect(self, folder: str | None = None, clean: bool = False) -> str:
        return "leave it out: the gridworld's demonstrations are made while training"


@dataclass(frozen=True)
class AntSpec(_Pinpad):
    """What defines an ant-pinpad world; cell size and control step are not in the paper.

    Attributes:
        cell_size: side of a cell in metres.
        control: "torque" (the paper's, an action every 0.05 s) or "position" (ours for the small
            scale: joint targets, an action every 0.1 s).
        yaw: "random" (the paper's) or "aligned": the torso starts within 0.1 rad of the grid's axes.
    """

    id, title = ANT_ID, "ant"
    presets = presets.ANT
    differing = (*_Pinpad.differing, "cell_size", "control", "yaw")
    has_entries, switch_tolerance, further_terms = True, 5, ("cell",)

    colours_per_subgoal: int = 1
    cell_size: float = 1.5
    control: str = "torque"
    yaw: str = "random"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, choices in (("control", tuple(CONTROL_STEPS)), ("yaw", ("random", "aligned"))):
            if getattr(self, name) not in choices:
                raise UserError(f"{name}: expected one of {', '.join(choices)}, got {getattr(self, name)!r}")
        if not 0.5 <= self.cell_size <= 10:
            raise UserError(f"cell_size: expected 0.5 to 10 metres, got {self.cell_size}")

    @property
    def post_task(self) -> str:
        return "post_a2"

    def collector(self) -> Any:
        from irl_ray.worlds.pinpad import collect  # needs pyarrow

        return collect

    @property
    def observation_size(self) -> int:
        """F, entries of the observation."""
        return senses.NUM_BODY + 2 * (self.num_colours + self.num_walls) + 2

    @property
    def observation_space(self) -> gym.Space:
        return gym.spaces.Box(-np.inf, np.inf, (self.observation_size,), np.float32)

    @property
    def action_space(self) -> gym.Space:
        return gym.spaces.Box(-1.0, 1.0, (senses.NUM_JOINTS,), np.float32)

    @property
    def encoders(self) -> Mapping[str, Callable[[Any, int, float], Encoder]]:
        from irl_ray.worlds.pinpad.encoders import ANT_ENCODERS

        return ANT_ENCODERS

    @property
    def heads(self) -> dict[str, int]:
        return {"observation_head": self.observation_size, "direction_head": NUM_ACTIONS}

    def terms(self, base: BaseModel, top: Tensor, batch: Trajectories) -> dict[str, Tensor]:
        from irl_ray.worlds.pinpad.terms import ant_terms

        return ant_terms(base, top, batch)

    def floors(self, base: BaseModel, batch: Trajectories, source: Demonstrations) -> dict[str, float]:
        from irl_ray.worlds.pinpad.floors import arrival_floors
        from irl_ray.worlds.pinpad.terms import arrival_nll

        floors = {f"floor/{name}": value for name, value in arrival_floors(batch.to("cpu")).items()}
        return {**floors, "eval/arrival_nll": arrival_nll(base, batch)}

    def walk_gates(self, base: BaseModel, episodes: int, seed: int, temperature: float) -> dict[str, float]:
        from irl_ray.worlds.pinpad.free_walks import free_walk_gates

        return free_walk_gates(base, self, episodes, seed, temperature)

    def entry_nll(self, base: BaseModel, top: Tensor, batch: Trajectories) -> Tensor:
        from irl_ray.worlds.pinpad.terms import cell_nll

        return cell_nll(base, top, batch)

    def view(self, observation: np.ndarray) -> np.ndarray:
        observation = np.asarray(observation)
        if observation.shape != (self.observation_size,):
            raise UserError(f"observation of shape {observation.shape}: expected ({self.observation_size},)")
        return observation

    def how_to_collect(self, folder: str | None = None, clean: bool = False) -> str:
        same = not AntSpec.of({"preset": "small"}).difference(self)
        expert = "ant_expert" if same else "EXPERT_OF_THAT_WORLD"
        return (
            f"collect them first: irl-ray collect {self.id} --expert {expert} --episodes 100000"
            f"{' --deterministic' if clean else ''} --out {folder or ('data/ant_clean' if clean else 'data/ant')}"
        )
