"""What may change when a run is carried on: how long it goes, and where the weights and data that it names lie."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.utils.util import flatten_dict

from irl_ray import places
from irl_ray.cli import runs
from irl_ray.cli.experiment import DATA_KEYS, WEIGHT_KEYS, Experiment, check_config, check_metrics
from irl_ray.data.sources import check_there
from irl_ray.errors import UserError
from irl_ray.models import weights
from irl_ray.rllib import trainables


def changeable(run: str) -> tuple[str, ...]:
    """The settings that a run may be carried on with others of: where things lie, and how many steps a phase has."""
    return (*WEIGHT_KEYS, *DATA_KEYS, *(("steps",) if run in trainables.PHASES else ()))


def saved_trials(folder: str) -> list[Trial]:
    """The trials of a run as Tune last wrote them, with the places that they had then."""
    found = []
    for state, metadata in json.loads(runs.newest_state(folder) or '{"trial_data": []}')["trial_data"]:
        trial = Trial.from_json_state(state, stub=True)
        trial.restore_run_metadata(metadata)
        found.append(trial)
    return found


@dataclass
class Changes:
    """What becomes of a run's trials as they are carried on.

    Attributes:
        run: name of their trainable.
        before, now: the run's folder when Tune last wrote of it, and today.
        stop: criteria in place of the trials' own; None for those.
        config: settings laid over the trials' own.
        finished: ids of the trials that had ended.
    """

    run: str
    before: str
    now: str
    stop: dict[str, float] | None = None
    config: dict[str, Any] = field(default_factory=dict)
    finished: set[str] = field(default_factory=set)

    def apply(self, trial: Trial) -> None:
        """Changes a trial that Tune is about to carry on; one that had ended, and does not go on, stays as it is."""
        if trial.trial_id in self.finished and not self.goes_on(trial):
            trial.set_status(Trial.TERMINATED)
            return
        if self.stop is not None:
            trial.stopping_criterion = dict(self.stop)
        trial.set_config(self.settings(trial.config))
        if self.run in trainables.EPISODIC:
            trial.create_placement_group_factory()  # for as many env runners as there are now

    def goes_on(self, trial: Trial) -> bool:
        """Whether what a trial ended for has changed since; what a scheduler stopped stays stopped."""
        result = flatten_dict(trial.last_result or {})
        if _reached(trial.stopping_criterion if self.stop is None else self.stop, result):
            return False
        if result.get("progress", 0) >= 1:  # of a phase
            return self.settings(trial.config).get("steps", 0) > result["step"]
        return _reached(trial.stopping_criterion, result)

    def settings(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """A trial's settings with the changes; what moved together with the run is found where it is now."""
        found = {**config, **self.config}
        for key in (*WEIGHT_KEYS, *DATA_KEYS):
            value = found.get(key)
            if isinstance(value, str) and os.path.isabs(value) and not Path(value).exists():
                moved = os.path.normpath(os.path.join(self.now, os.path.relpath(value, self.before)))
                found[key] = moved if Path(moved).exists() else value
        return found


def _reached(stop: Mapping[str, float], result: Mapping[str, Any]) -> bool:
    return any(metric in result and result[metric] >= limit for metric, limit in stop.items())


def changes_of(
    folder: str, run: str, stop: Mapping[str, float] | None = None, config: Mapping[str, Any] | None = None
) -> Changes:
    """The changes that a run is carried on with, checked and written down: earlier ones and those given.

    Args:
        folder: of the run.
        run: name of its trainable.
        stop: stop criteria in place of those it has.
        config: settings laid over those it has.

    Raises:
        UserError: for a setting that may not change, or for weights or data that are not there.
    """
    may = changeable(run)
    for key in config or {}:
        if key not in may:
            raise UserError(f"--config {key}: what may change as a run is carried on is {', '.join(may)}")
    trials, record, now = saved_trials(folder), runs.read_record(folder), places.absolute(folder)
    earlier = record.get("changed", {})
    changes = Changes(
        run,
        before=str(trials[0].storage.experiment_fs_path) if trials else now,
        now=now,
        stop=earlier.get("stop") if stop is None else dict(stop),
        config={**earlier.get("config", {}), **(config or {})},
        finished={trial.trial_id for trial in trials if trial.status == Trial.TERMINATED},
    )
    going = [trial for trial in trials if trial.trial_id not in changes.finished or changes.goes_on(trial)]
    if (stop is not None or config) and not going and runs.is_finished(folder):
        raise UserError(f"{folder}: its trials have ended, and none of them goes on with these changes")
    for trial in going:
        _check_places(changes, trial, folder)
    for trial in going[:1] if stop is not None or config else ():
        _check_given(changes, trial, folder, config or {})
    made = {"config": changes.config} | ({} if changes.stop is None else {"stop": changes.stop})
    if made != {"config": {}} and made != earlier:
        runs.write_record(folder, {**record, "changed": made})
    return changes


def _check_places(changes: Changes, trial: Trial, folder: str) -> None:
    """Refuses to go on without weights or data; says where those are that moved."""
    settings = changes.settings(trial.config)
    for key in (*WEIGHT_KEYS, *DATA_KEYS):
        value = settings.get(key)
        if not isinstance(value, str):
            continue
        if value != trial.config.get(key):
            print(f"{key}: {value}, in place of {trial.config.get(key)}")
        try:
            check_there(value) if key in DATA_KEYS else weights.resolve(value)
        except UserError as error:
            told = str(error).partition(" (")[0]
            again = f'rllib resume {folder} --config \'{{"{key}": "PLACE"}}\''
            raise UserError(f"{folder}: {key}: {told}; if it has moved, say where to: {again}") from None


def _check_given(changes: Changes, trial: Trial, folder: str, config: Mapping[str, Any]) -> None:
    """Refuses settings that make no sense; makes those that name places absolute."""
    for key, value in config.items():
        if key != "steps" and not (isinstance(value, str) and isinstance(trial.config.get(key), str)):
            raise UserError(f"--config {key}: expected a place in place of the run's {trial.config.get(key)!r}")
    settings = Experiment(Path(folder).name, changes.run, changes.settings(trial.config), changes.stop or {})
    check_metrics(settings, folder)
    if config:
        check_config(settings, folder)
        changes.config |= {key: settings.config[key] for key in config}
    done = (trial.last_result or {}).get("step", 0)
    if "steps" in config and done >= config["steps"]:
        raise UserError(f"--config steps: expected more than the {done} that are done, got {config['steps']}")
