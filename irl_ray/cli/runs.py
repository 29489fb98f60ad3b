"""Folders of runs: each made once, found again by what is unfinished, and what its run was told."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from irl_ray import places
from irl_ray.cli.experiment import Experiment
from irl_ray.errors import UserError
from irl_ray.rllib import trainables

RECORD = "experiment.json"
LOOK = 0.1  # seconds, longer than `is_held` looks
STATES = re.compile(r"experiment_state-.*\.json")  # Tune's, one for each time that a run was carried on


def create(experiment: Experiment, storage: str, trials: int, awaited: str | None = None) -> str:
    """A new folder for a run, which no other run has, with a record of what it is told.

    Args:
        experiment: as read, weights that it awaits not filled in.
        storage: where results go, a folder or a URI.
        trials: how many it will have.
        awaited: folder of the run whose weights it starts from.
    """
    stem = f"{experiment.name}_{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
    if places.is_remote(storage):  # object storage has no folder that two could not both make
        folder = places.join(storage, f"{stem}-{secrets.token_hex(4)}")
    else:
        with places.reached(storage):
            os.makedirs(storage, exist_ok=True)
            folder = next(filter(_made, (places.join(storage, name) for name in _numbered(stem))))
    source = None if awaited is None else places.split(awaited)[1]
    record = {"folder": places.absolute(folder), "started": time.time(), "from": source, "trials": trials}
    write_record(folder, {**record, "experiment": _plain(asdict(experiment)), "changed": {}})
    return folder


def _numbered(stem: str) -> Iterator[str]:
    return itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))


def _made(folder: str) -> bool:
    try:
        os.mkdir(folder)
    except FileExistsError:
        return False
    return True


def _plain(settings: Any) -> Any:
    """Settings as JSON has them; a class or a function by its name."""
    return json.loads(json.dumps(settings, default=lambda value: getattr(value, "__qualname__", type(value).__name__)))


def read_record(folder: str) -> dict[str, Any]:
    """What was written down of a run; empty for one that is older than records."""
    return json.loads(places.read_text(places.join(folder, RECORD)) or "{}")


def write_record(folder: str, record: Mapping[str, Any]) -> None:
    """Writes down what is known of a run."""
    places.write_text(places.join(folder, RECORD), json.dumps(record, indent=1))


def runs_of(name: str, storage: str) -> list[str]:
    """Folders of the runs of an experiment that have begun a trial, oldest first."""
    named = re.compile(re.escape(name) + places.DATED.pattern)
    found = [places.join(storage, run) for run in places.names_in(storage) if named.fullmatch(run)]
    return sorted(filter(trials_of, found), key=started)


def started(folder: str) -> float:
    """When a run began, in seconds since 1970; one that is older than records has its local time in its name."""
    known = read_record(folder).get("started")
    return known or time.mktime(time.strptime(places.DATED.search(places.split(folder)[1])[1], "%Y%m%d-%H%M%S"))


def trials_of(folder: str) -> list[str]:
    """Names of the trials that have begun."""
    return [name for name in places.names_in(folder) if trainables.trainable_of(name) is not None]


def newest_state(folder: str) -> str | None:
    """What Tune last wrote of a run and its trials."""
    states = [name for name in places.names_in(folder) if STATES.fullmatch(name)]
    return places.read_text(places.join(folder, max(states))) if states else None


def statuses(folder: str) -> dict[str, str]:
    """Tune's word for each trial of a run, by its id, as last written; none of a state that was cut off."""
    try:
        trials = [json.loads(trial) for trial, _ in json.loads(newest_state(folder) or "")["trial_data"]]
        return {trial["trial_id"]: trial["status"] for trial in trials}
    except (ValueError, TypeError, KeyError):
        return {}


def is_finished(folder: str) -> bool:
    """Whether every trial of a run has ended without an error."""
    found = statuses(folder).values()
    return all(status == "TERMINATED" for status in found) and len(found) >= read_record(folder).get("trials", 1)


def to_carry_on(name: str, storage: str, awaited: str | None = None) -> str | None:
    """The newest unfinished run of an experiment, else its newest; none that started from another run than `awaited`.

    Args:
        name: of the experiment.
        storage: where its runs are.
        awaited: folder of the run whose weights it starts from.
    """
    runs = [run for run in runs_of(name, storage) if awaited is None or _started_from(run, awaited)]
    unfinished = [run for run in runs if not is_finished(run)]
    if unfinished and unfinished[-1] != runs[-1]:
        print(f"{runs[-1]} is finished, {unfinished[-1]} is not; to start from the newer one, move the older away")
    return (unfinished or runs or [None])[-1]


def _started_from(run: str, awaited: str) -> bool:
    source = read_record(run).get("from")
    return source == places.split(awaited)[1] if source else started(run) >= started(awaited)


def edits(experiment: Experiment, folder: str) -> list[str]:
    """What an experiment's file says now and did not when a run began, as `key: then -> now`."""
    record = read_record(folder)
    if "experiment" not in record:
        return []
    then = dict(_leaves({**record["experiment"], **_overlaid(record)}))
    now = dict(_leaves(_plain(asdict(experiment))))
    beside = places.absolute(folder)
    keys = [k for k in {**then, **now} if _seen_from(then.get(k), record["folder"]) != _seen_from(now.get(k), beside)]
    return [f"{key}: {then.get(key, 'nothing')} -> {now.get(key, 'nothing')}" for key in keys]


def _seen_from(value: Any, folder: str) -> Any:
    """A path from a run's folder, such that the two may have been moved together; anything else as it is."""
    is_path = isinstance(value, str) and os.path.isabs(value) and not places.is_remote(folder)
    return os.path.relpath(value, folder) if is_path else value


def _overlaid(record: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a record that were changed since."""
    changed, told = record["changed"], record["experiment"]
    return {"stop": changed.get("stop", told["stop"]), "config": {**told["config"], **changed.get("config", {})}}


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(node, Mapping):
        yield path, node
        return
    for key, value in node.items():
        yield from _leaves(value, f"{path}.{key}" if path else str(key))


def stops_of(folder: str) -> dict[str, float]:
    """What ends the trials of a run, by metric; empty for one that is older than records."""
    record = read_record(folder)
    return _overlaid(record)["stop"] or {} if "experiment" in record else {}


def is_held(folder: str) -> bool:
    """Whether a process of this machine is running it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(descriptor)
    return False


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def held(folder: str) -> Iterator[None]:
    """Keeps other processes of this machine from carrying the same run on.

    Raises:
        UserError: if one does.
    """
    if places.is_remote(folder):
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            if not (_locked(descriptor) or time.sleep(LOOK) or _locked(descriptor)):
                raise UserError(f"{folder}: another process is running it; wait for its end, or stop it")
        yield
    finally:
        os.close(descriptor)
