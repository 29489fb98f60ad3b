"""Worlds, found by the ids of their environments; nobody imports one by its module."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import gymnasium as gym

from irl_ray.config import with_preset
from irl_ray.errors import UserError, did_you_mean
from irl_ray.worlds.anything import GymKind
from irl_ray.worlds.world import World

DEFAULT_ID = "irl_ray/GridPinpad-v0"  # where a file or weights name none
_OWN: dict[str, str | type[World]] = {
    DEFAULT_ID: "irl_ray.worlds.pinpad.specs:GridworldSpec",
    "irl_ray/AntPinpad-v0": "irl_ray.worlds.pinpad.specs:AntSpec",
}


def register(kind: type[World]) -> None:
    """Makes a kind of world of one's own known by its `id`.

    The module that calls this is imported wherever the environment is named by `module:Id-v0`, in Ray's actors too.
    """
    _OWN[kind.id] = kind


def find(env: str, where: str = "env") -> type[World] | GymKind:
    """The kind of world that an environment's id names: one of its own, or else any Gymnasium environment as it is.

    Raises:
        UserError: if there is no such environment.
    """
    if env not in _OWN:
        try:
            module, _, name = str(env).rpartition(":")
            if module:
                importlib.import_module(module)
            gym.spec(name)
        except (gym.error.Error, ImportError, ValueError) as error:
            raise UserError(
                f"{where}: {env!r} is unknown.{did_you_mean(str(env), _OWN)} Expected {', '.join(_OWN)}, an id of "
                f"Gymnasium's, or module:Id-v0 ({' '.join(str(error).split())})"
            ) from None
    kind = _OWN.get(env, _OWN.get(env.rpartition(":")[2], GymKind(env)))
    if isinstance(kind, str):
        module, name = kind.split(":")
        return getattr(importlib.import_module(module), name)
    return kind


def make(env: str, settings: Mapping[str, Any], where: str = "env_config") -> World:
    """The world that an id and settings describe: a preset's values, changed by the keys given."""
    return find(env).of(settings, where)


def told(env: str, settings: Mapping[str, Any], where: str) -> World:
    """The world whose `settings` were stored, all of them."""
    return find(env, where).told(settings, where)


def with_phase_preset(
    phase: str, values: Mapping[str, Any], where: str = "config"
) -> tuple[type[World] | GymKind, dict[str, Any]]:
    """The kind of world that a phase's settings name by `env`, and these settings laid over the preset for that phase
    and world which they name by `preset`."""
    kind = find(values.get("env", DEFAULT_ID))
    rest = {key: value for key, value in values.items() if key != "env"}
    return kind, with_preset(rest, kind.presets[phase], where)
