"""What a world is to models, phases and measures.

A world is an environment with its settings. Little is required of it: an id, a horizon, spaces, and rows of it that
step together. All else is optional, and what a world does not offer leaves out what needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import gymnasium as gym
import numpy as np

from irl_ray.config import build, merge, to_plain, with_preset
from irl_ray.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import Self

    from irl_ray.data.trajectories import Demonstrations, Trajectories
    from irl_ray.models.encoder import Encoder
    from irl_ray.models.sequence_model import BaseModel
    from irl_ray.models.weights import Artefact


class World:
    """A world; a dataclass whose fields are its settings.

    Attributes:
        id: of its environment.
        title: a word for it, in tables and figures.
        horizon: steps after which an episode is cut.
        presets: named settings: of the world itself (under "world") and of each phase that is run in it, such as
            "pretrain".
        num_subgoals: K, ground-truth subgoals, for analysis alone; 0 where demonstrations and episodes tell none.
        legs_per_subgoal: how many legs a subgoal has, each of which ends where its target is reached; 1 where subgoals
            have no parts.
        target_name: what a leg's target is called in the names of measures.
        num_targets: how many targets there are.
        has_entries: whether there are steps at which it shows where the agent goes (`entries`), so few that they are
            learned from apart too.
        switch_tolerance: steps by which a switch may miss a change of subgoal.
        has_stream: whether there is a stream of `demonstrations`; else they are stored.
        further_terms: names of the losses that `terms` has beside "observation".
        num_symmetries: in how many ways a walk may be turned that leave goals what they are; 1 if in none but itself.
    """

    id: ClassVar[str]
    title: ClassVar[str]
    horizon: int
    presets: ClassVar[Mapping[str, Mapping[str, Mapping[str, Any]]]] = {}

    num_subgoals: ClassVar[int] = 0
    legs_per_subgoal: ClassVar[int] = 1
    target_name: ClassVar[str] = "target"
    num_targets: ClassVar[int] = 0
    has_entries: ClassVar[bool] = False
    switch_tolerance: ClassVar[int] = 1
    has_stream: ClassVar[bool] = False
    further_terms: ClassVar[tuple[str, ...]] = ()
    num_symmetries: ClassVar[int] = 1

    @classmethod
    def told(cls, settings: Mapping[str, Any], where: str) -> Self:
        """The world whose `settings` were stored, all of them."""
        return build(cls, settings, where)

    @classmethod
    def of(cls, settings: Mapping[str, Any], where: str = "env_config") -> Self:
        """The world that settings describe: a preset's values ("small" unless named), changed by the keys given.

        Raises:
            UserError: on settings that do not fit; `where` is what they are called.
        """
        return build(cls, with_preset(settings, cls.presets["world"], where), where)

    @property
    def settings(self) -> dict[str, Any]:
        """All of its settings as plain values, ready for JSON; `worlds.told` makes the same world of them."""
        return to_plain(self)

    @property
    def observation_space(self) -> gym.Space:
        """Of what models read."""
        raise NotImplementedError

    @property
    def action_space(self) -> gym.Space:
        """Of the raw actions."""
        raise NotImplementedError

    @property
    def discrete(self) -> bool:
        """Whether models read its observations as whole numbers, int64, or else as float32."""
        return np.issubdtype(self.observation_space.dtype, np.integer)

    @property
    def encoders(self) -> Mapping[str, Callable[[Any, int, float], Encoder]]:
        """How its observations may be read, by name, the usual one first; each is made of the world, the width, and the
        standard deviation of its embeddings."""
        from irl_ray.models.encoder import encoders_of

        return encoders_of(self.observation_space)

    def changed(self, given: Mapping[str, Any], where: str = "env_config") -> World:
        """Its settings, or those of the preset that `given` names, changed by the keys given.

        Raises:
            UserError: on settings that do not fit; `where` is what they are called.
        """
        if "preset" in given:
            return self.of(given, where)
        return build(type(self), merge(self.settings, given), where)

    def difference(self, other: World) -> str:
        """What keeps a model of this world from observing and acting in another; empty if nothing does."""
        raise NotImplementedError

    def floors(self, base: BaseModel, batch: Trajectories, source: Demonstrations) -> dict[str, float]:
        """What ideal observers have left, and what else shows how much a base model knows, as gates of pretraining.

        Args:
            base: the model.
            batch: clean demonstrations with ground truth.
            source: where they are from.
        """
        return {}

    def walk_gates(self, base: BaseModel, episodes: int, seed: int, temperature: float) -> dict[str, float]:
        """What a base model does where it is not asked to do anything, as gates of pretraining."""
        return {}

    @property
    def heads(self) -> dict[str, int]:
        """What a base model tells of the next observation, by linear maps of e_L: their names and sizes."""
        from irl_ray.models.terms import heads_of

        return heads_of(self.observation_space)

    def terms(self, base: BaseModel, top: Tensor, batch: Trajectories) -> dict[str, Tensor]:
        """Losses of what it tells, sums over steps in nats (Eq. 5's second term): "observation", weighed by λ, first.

        Args:
            base: with `heads`.
            top: e_L [B, T, d].
            batch: the trajectories it has seen.
        """
        from irl_ray.models.terms import observation_term

        return {"observation": observation_term(base, top, batch)}

    def entries(self, batch: Trajectories) -> Tensor:
        """bool [B, T]: the steps at which it shows where the agent goes, such as those on which it is new in a cell."""
        raise NotImplementedError

    def entry_nll(self, base: BaseModel, top: Tensor, batch: Trajectories) -> Tensor:
        """Sum over `entries` of -log p of where the agent goes, in nats."""
        raise NotImplementedError

    def target(self, batch: Trajectories) -> Tensor:
        """int64 [B, T]: the target of each step's leg, -1 on padding. Ground truth."""
        raise NotImplementedError

    def headings(self, batch: Trajectories) -> Tensor | None:
        """int64 [B, T]: what the agent is doing, coarsely, for probes: a discrete action itself; None where unknown."""
        return batch.action if isinstance(self.action_space, gym.spaces.Discrete) else None

    def places(self, batch: Trajectories) -> Tensor | None:
        """int64 [B, T, k]: where the present leg ends; None in worlds without places."""
        return None

    @property
    def fewest_legs(self) -> int:
        """Legs of its shortest task; 0 in worlds without legs."""
        return 0

    def first_legs(self, count: int) -> World:
        """The same world, its tasks cut after so many legs."""
        raise NotImplementedError

    def with_tasks(self, tasks: Any) -> World:
        """The same world with other tasks, by whatever names it knows them; None for its own."""
        raise NotImplementedError

    def turned(self, observation: Tensor, symmetry: Tensor) -> Tensor:
        """Observations [B, ...] of walks that are turned, each by one of the symmetries, int64 [B]; 0 leaves a walk."""
        raise NotImplementedError

    @property
    def post_task(self) -> Any:
        """Tasks, for `with_tasks`, with transitions that no demonstration shows; None if it is not known of any."""
        return None

    @property
    def tasks_told(self) -> str:
        """Its tasks in a few words."""
        return ""

    def injection(
        self, agent: Artefact, episodes: int, seed: int, step: int, temperature: float
    ) -> dict[str, float | None]:
        """What codes do that are put in force in the middle of other episodes (B.3.2); empty where it cannot be told.

        Args:
            agent: base model and metacontroller.
            episodes: how many.
            seed: of everything.
            step: at which codes are put in force.
            temperature: at which actions are drawn.
        """
        return {}

    def collector(self) -> Any:
        """Who runs an expert network and keeps what it did: `causes` of an episode's end, `walk`, `collect_shard`.

        Raises:
            UserError: if the world has no such expert.
        """
        raise UserError(
            f"collect: {self.id} has no expert that is a network"
            + ("; its demonstrations are made while training" if self.has_stream else "")
        )

    @property
    def about(self) -> str:
        """The world in a line, for cards."""
        return self.id

    def rows(self, count: int, **options: Any) -> Any:
        """Copies of the world that step together; one whose episode is over waits for a reset.

        Args:
            count: how many.
            **options: of the environment.
        """
        raise NotImplementedError

    def single(self) -> gym.Env:
        """One copy of the environment, as Gymnasium makes it."""
        return gym.make(self.id, **self.settings)

    def drawn_row(self) -> Any:
        """One row that can be drawn (`frame`)."""
        return self.rows(1)

    def view(self, observation: np.ndarray) -> np.ndarray:
        """What models read of what the environment tells.

        Raises:
            UserError: if it is no observation of this world.
        """
        return observation

    def shown(self, observation: np.ndarray) -> Any:
        """What models read -> as the environment tells it: the way back of `view`, where nothing is lost in it."""
        return observation

    def act(self, action: np.ndarray) -> Any:
        """A model's action -> as the environment takes it."""
        return int(action) if action.ndim == 0 else action

    def acted(self, actions: np.ndarray) -> np.ndarray:
        """An episode's actions [T, ...] in the environment's words -> as models give them."""
        return actions

    def demonstrations(self, *, noise: float, ties: str, device: str) -> Demonstrations | None:
        """An endless stream of an expert's trajectories; None where they are stored or collected first.

        Args:
            noise: share of the expert's actions that are random.
            ties: how it chooses between actions that are as good.
            device: where they are made.
        """
        return None

    def how_to_collect(self, folder: str | None = None, clean: bool = False) -> str:
        """What to type for demonstrations, in words.

        Args:
            folder: where they go; None for the usual place.
            clean: whether those of the expert without noise are wanted.
        """
        return f"name a folder of them, such as data: {folder or 'data/demonstrations'}"


def check_same(wanted: World, given: World) -> None:
    """Refuses a world in which a model of another cannot observe or act.

    Raises:
        UserError: naming the keys that differ.
    """
    different = wanted.difference(given)
    if different:
        raise UserError(f"env_config: these weights were trained in another world: {different}")
