"""Environments that an experiment names: Gymnasium's ids, `module:Id`, classes by their path, and what a `.py` file
registers. Each is looked for here before Ray starts, and then known to every actor."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
from ray import tune
from ray.tune.registry import ENV_CREATOR, _global_registry

from irl_ray.cli.old_files import imported
from irl_ray.errors import UserError
from irl_ray.internal import INTERNAL_ID
from irl_ray.rllib.trainables import open_env

FOLDERS: list[str] = []  # of the users' own modules: importable here, and in every actor that Ray starts for us
SQUASHING = ("SAC", "CQL")  # their actions lie within the bounds of the action space
_CLASS_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def import_from(folder: Path) -> None:
    """Lets the modules in a folder be imported, after all that is installed; Ray's actors find them too."""
    path = str(folder.resolve())
    if path not in FOLDERS:
        FOLDERS.append(path)
    if path not in sys.path:
        sys.path.append(path)


def carry(before: Iterable[str]) -> None:
    """Makes Gymnasium ids known to actors that were registered here since, such as by a `.py` file."""
    for name in gym.registry.keys() - set(before):
        if not _global_registry.contains(ENV_CREATOR, name):
            tune.register_env(name, partial(open_env, gym.registry[name]))


def register(env: Any) -> None:
    """Makes an environment known to every actor, where RLlib does not find it by its name alone.

    Raises:
        UserError: if it names a class that cannot be imported.
    """
    if not isinstance(env, str) or _global_registry.contains(ENV_CREATOR, env):
        return
    if _CLASS_PATH.fullmatch(env):
        imported(env, "env")
        tune.register_env(env, partial(_construct, env))
    elif ":" in env:
        tune.register_env(env, partial(open_env, env))


def check(run: str, env: Any, settings: Mapping[str, Any]) -> None:
    """Refuses an environment that is not there or does not take its settings.

    Raises:
        UserError: naming it, or the setting.
    """
    if not isinstance(settings, Mapping):
        raise UserError(f"env_config: expected a mapping of settings, got {settings!r}")
    if not isinstance(env, str):
        if not callable(env):
            raise UserError(f"env: expected the id of an environment or the path of a class, got {env!r}")
        return
    if _global_registry.contains(ENV_CREATOR, env) and env not in gym.registry:
        return  # whoever registered it in Python knows how to open it
    if _CLASS_PATH.fullmatch(env):
        if not callable(imported(env, "env")):
            raise UserError(f"env: {env!r} is no class; expected one that takes env_config, as RLlib's environments do")
        return
    if env == INTERNAL_ID and run in SQUASHING and settings.get("bound") is None:
        raise UserError(f"env_config.bound: missing; {run} squashes its actions, bound: 3 makes the codes' space a box")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            open_env(env, settings).close()
    except UserError:
        raise
    except ImportError as error:
        raise UserError(f"env: {env!r} needs what is not installed: {_line(error)}") from None
    except gym.error.Error as error:
        raise UserError(f"env: {env!r}: {_line(error)}") from None
    except Exception as error:
        raise UserError(f"env: {env!r} cannot be opened with env_config {dict(settings)}: {_line(error)}") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _construct(path: str, config: Mapping[str, Any]) -> Any:
    """The environment of a class, which takes its settings as one mapping, as RLlib has it."""
    return imported(path, "env")(config)
