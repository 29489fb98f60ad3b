"""Typed configuration: dataclasses filled from plain mappings, with errors a person can act on."""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np

from irl_ray.errors import UserError, did_you_mean

T = TypeVar("T")


def build(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """An instance of the dataclass `cls` from a mapping, recursively.

    Args:
        cls: the dataclass; its field types are enforced.
        values: keys are field names; nested dataclasses are given as mappings.
        where: what to call this mapping in errors, e.g. "config" or "config.model".

    Raises:
        UserError: on an unknown key or a value of the wrong type.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{where}: expected a mapping of settings, got {values!r}")
    hints = typing.get_type_hints(cls)
    fields = {field.name for field in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            raise UserError(
                f"{where}.{key}: unknown setting.{did_you_mean(key, fields)} Known: {', '.join(sorted(fields))}"
            )
    absent, none = dataclasses.MISSING, "missing; expected a value, for there is no default"
    for field in dataclasses.fields(cls):
        if field.name not in values and field.default is absent and field.default_factory is absent:
            raise UserError(f"{where}.{field.name}: {none}")
    return cls(**{key: _convert(hints[key], value, f"{where}.{key}") for key, value in values.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if type(None) not in options:
            return value  # the class itself checks alternatives
        if value is None:
            return None
        return _convert(next(option for option in options if option is not type(None)), value, where)
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else build(hint, value, where)
    if hint is float and isinstance(value, Real) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise UserError(f"{where}: expected a finite number, got {value!r}")
        return float(value)
    if hint is int and isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    if hint in (int, str, bool):
        if type(value) is not hint:
            raise UserError(f"{where}: expected {_NAMES[hint]}, got {value!r}")
        return value
    if hint is float:
        raise UserError(f"{where}: expected a number, got {value!r}")
    if origin is dict and not isinstance(value, Mapping):
        raise UserError(f"{where}: expected a mapping, got {value!r}")
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise UserError(f"{where}: expected a list, got {value!r}")
        return tuple(_convert(options[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    return value


_NAMES = {int: "an integer", str: "text", bool: "true or false"}


def check_at_least(config: Any, **bounds: float) -> None:
    """Refuses numbers of a dataclass that are below their bounds, and values of it that are of another type.

    Raises:
        UserError: naming the setting.
    """
    for name, hint in typing.get_type_hints(type(config)).items():
        _convert(hint, getattr(config, name), name)
    for name, bound in bounds.items():
        value = getattr(config, name)
        if value is not None and not value >= bound:
            raise UserError(f"{name}: expected at least {bound:g}, got {value}")


def check_share(config: Any, *names: str) -> None:
    """Refuses numbers of a dataclass that are not in [0, 1].

    Raises:
        UserError: naming the setting.
    """
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise UserError(f"{name}: expected in [0, 1], got {getattr(config, name)}")


def check_weights(config: Any, name: str, known: Sequence[str]) -> None:
    """Refuses a mapping of a dataclass that is not one of `known` names to numbers of at least 0.

    Raises:
        UserError: naming the setting.
    """
    for key, value in getattr(config, name).items():
        if key not in known:
            told = f"Expected one of {', '.join(known)}" if known else "There are none here"
            raise UserError(f"{name}.{key}: unknown.{did_you_mean(str(key), known)} {told}")
        _convert(float, value, f"{name}.{key}")
        if value < 0:
            raise UserError(f"{name}.{key}: expected at least 0, got {value}")


def check_above_zero(config: Any, *names: str) -> None:
    """Refuses numbers of a dataclass that are not above zero.

    Raises:
        UserError: naming the setting.
    """
    check_at_least(config, **dict.fromkeys(names, 0))
    for name in names:
        if getattr(config, name) == 0:
            raise UserError(f"{name}: expected above 0, got {getattr(config, name)}")


def check_device(name: str) -> None:
    """Refuses what PyTorch calls no device.

    Raises:
        UserError: naming the setting.
    """
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise UserError(f"device: expected cpu, cuda, cuda:N or mps, got {name!r}")


def to_plain(config: Any) -> Any:
    """A dataclass as plain dictionaries and lists, ready for JSON and YAML; as it says itself, where it has `plain`."""
    if hasattr(config, "plain"):
        return config.plain()
    if dataclasses.is_dataclass(config):
        return {f.name: to_plain(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, (tuple, list)):
        return [to_plain(item) for item in config]
    return config


def without_numpy(value: Any) -> Any:
    """The same with NumPy's numbers and arrays, at any depth, as plain numbers and lists."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, Mapping):
        return {without_numpy(key): without_numpy(inner) for key, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(without_numpy(item) for item in value)
    return value


def merge(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """`override` laid over `base`, mapping by mapping."""
    merged = dict(base)
    for key, value in override.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def with_preset(values: Mapping[str, Any], presets: Mapping[str, Mapping[str, Any]], where: str) -> dict:
    """`values` laid over the preset that its key `preset` names ("small" unless given)."""
    if not isinstance(values, Mapping):
        raise UserError(f"{where}: expected a mapping of settings, got {values!r}")
    rest = {key: value for key, value in values.items() if key != "preset"}
    name = values.get("preset", "small")
    if name not in presets:
        raise UserError(
            f"{where}.preset: {name!r} is unknown.{did_you_mean(name, presets)} Expected one of {', '.join(presets)}"
        )
    return merge(presets[name], rest)
