"""`--config {"NAME.key": value}` and `--stop {"NAME.metric": value}`: what is meant for one experiment of several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from irl_ray.errors import UserError, did_you_mean


def addressed(key: str, names: Iterable[str]) -> tuple[str | None, str]:
    """The experiment that a key is meant for, None for all of them, and the key itself.

    Of names that fit the longest is taken. Metrics may hold a dot behind a slash, which is no address.
    """
    name = max((name for name in names if key.startswith(f"{name}.")), key=len, default=None)
    if name is None and "." in key.partition("/")[0]:
        name = key.partition(".")[0]
    return name, key if name is None else key[len(name) + 1 :]


def meant_for(name: str, given: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """What is meant for all experiments, and over it what is meant for `name`."""
    names = list(names)
    parts = [(*addressed(key, names), value) for key, value in given.items()]
    return {key: value for whose in (None, name) for to, key, value in parts if to == whose}


def check_addresses(flag: str, given: Mapping[str, Any], names: Iterable[str]) -> None:
    """Refuses keys that are meant for an experiment that is not there.

    Raises:
        UserError: naming the key and the closest experiment.
    """
    names = list(names)
    for key in given:
        name, _ = addressed(key, names)
        if name is not None and name not in names:
            raise UserError(
                f"{flag}: {key!r}: no experiment {name!r}.{did_you_mean(name, names)} There: {', '.join(names)}"
            )
