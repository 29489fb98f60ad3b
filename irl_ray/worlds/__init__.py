"""Worlds, found by the ids of their environments; nobody imports one by its module."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from irl_ray.config import build, with_preset
from irl_ray.errors import UserError, did_you_mean
from irl_ray.worlds.world import World

DEFAULT_ID = "irl_ray/GridPinpad-v0"  # where a file or weights name none
_KNOWN = {
    DEFAULT_ID: "irl_ray.worlds.pinpad.specs:GridworldSpec",
    "irl_ray/AntPinpad-v0": "irl_ray.worlds.pinpad.specs:AntSpec",
}


def known() -> list[str]:
    """Ids of the worlds that there are."""
    return list(_KNOWN)


def find(env: str, where: str = "env") -> type[World]:
    """The kind of world that an environment's id names.

    Raises:
        UserError: if there is none.
    """
    if env not in _KNOWN:
        raise UserError(
            f"{where}: {env!r} is unknown.{did_you_mean(str(env), _KNOWN)} Expected one of {', '.join(_KNOWN)}"
        )
    module, name = _KNOWN[env].split(":")
    return getattr(importlib.import_module(module), name)


def make(env: str, settings: Mapping[str, Any], where: str = "env_config") -> World:
    """The world that an id and settings describe: a preset's values, changed by the keys given."""
    return find(env).of(settings, where)


def told(env: str, settings: Mapping[str, Any], where: str) -> World:
    """The world whose `settings` were stored, all of them."""
    return build(find(env, where), settings, where)


def with_phase_preset(
    phase: str, values: Mapping[str, Any], where: str = "config"
) -> tuple[type[World], dict[str, Any]]:
    """The kind of world that a phase's settings name by `env`, and these settings laid over the preset for that phase
    and world which they name by `preset`."""
    kind = find(values.get("env", DEFAULT_ID))
    rest = {key: value for key, value in values.items() if key != "env"}
    return kind, with_preset(rest, kind.presets[phase], where)
