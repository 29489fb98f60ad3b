"""What a sweep's trials are called: their number and the settings in which they differ, with all their digits.

    folder   Discover_1a2b3_00003_3_alpha=0.17,seed=0_2026-01-01_12-00-00
    console  3 alpha=0.17 seed=0

A trial that starts from weights of another sweep shows the settings of the trial that made them, in place of a path.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.utils import date_str

from irl_ray.analysis.results import shown_name

LONGEST = 160  # characters of a folder's name, which file systems hold to 255
_FOLDER = re.compile(r"_[0-9a-f]{5}_\d{5}_(?P<number>\d+)(_(?P<settings>.*))?_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d$")


def folder_name(trial: Trial) -> str:
    """Of a trial's folder; Tune's own rounds numbers to four digits."""
    pairs = ",".join(f"{name}={value}" for name, value in settings_of(trial.evaluated_params).items())
    clean = re.sub(r"[^\w.+=,@-]+", "_", pairs)
    name = "_".join(filter(None, (str(trial), _number(trial), clean)))
    if len(name) > LONGEST:  # a value that is cut would be read as another
        name = name[:LONGEST].rpartition(",")[0]
    return f"{name}_{date_str()}"


def label(trial: Trial) -> str:
    """Of a trial's rows in the console."""
    return _spaced(_number(trial), settings_of(trial.evaluated_params))


def label_of_folder(name: str) -> str:
    """The same, read from the name of a trial's folder; the name itself if it is none."""
    made = _FOLDER.search(name)
    return _spaced(made["number"], _pairs(made["settings"])) if made else name


def settings_of(params: Mapping[str, Any]) -> dict[str, str]:
    """What tells a trial from the others, in words.

    Args:
        params: the settings that vary, keys of nested ones joined by slashes.
    """
    last = Counter(path.rsplit("/", 1)[-1] for path in params)
    own, origins = {}, {}
    for path, value in params.items():
        name = path.rsplit("/", 1)[-1]
        name = name if last[name] == 1 else path.replace("/", ".")
        origin = _origin(value)
        if origin:
            origins[name] = origin
        else:
            own[name] = _shown(value)
    found: dict[str, str] = {}
    for name, origin in origins.items():
        found |= {key if key not in (own | found) else f"{name}.{key}": value for key, value in origin.items()}
    return found | own


def _number(trial: Trial) -> str:
    return trial.experiment_tag.partition("_")[0]


def _spaced(number: str, settings: Mapping[str, str]) -> str:
    return " ".join([number, *(f"{name}={value}" for name, value in settings.items())])


def _pairs(text: str | None) -> dict[str, str]:
    """`"alpha=0.17,seed=0"` by name; a comma in a value was cleaned away."""
    parts = (pair.partition("=") for pair in (text or "").split(",") if "=" in pair)
    return {name: value for name, _, value in parts}


def _origin(value: Any) -> dict[str, str]:
    """Settings of the trial in whose folder weights lie; empty for anything else."""
    for part in PurePosixPath(value).parts if isinstance(value, str) else ():
        made = _FOLDER.search(part)
        if made:
            return _pairs(made["settings"]) or {"trial": made["number"]}
    return {}


def _shown(value: Any) -> str:
    """A value in few characters: of weights their name, of a number all digits that were typed."""
    if isinstance(value, float):
        typed = repr(float(value))
        return typed if len(typed) <= 12 else f"{value:.6g}"  # a drawn one has seventeen
    if isinstance(value, str):
        return shown_name(value) or value
    if callable(value):
        return getattr(value, "__name__", type(value).__name__)
    return (
        json.dumps(value, default=_shown, separators=(";", ":"))
        if isinstance(value, (list, tuple, dict))
        else str(value)
    )
