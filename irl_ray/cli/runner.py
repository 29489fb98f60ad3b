"""Running experiments under Tune: resources, Ctrl-C, resuming, the closing summary."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the old output lets us print our own table
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_task_events_report_interval_ms", "0")  # a history of calls, kept for dashboards alone

import ray  # noqa: E402
from ray import tune  # noqa: E402
from ray._private.state import state as ray_state  # noqa: E402  as Ray Train reads what may come
from ray.job_config import JobConfig  # noqa: E402
from ray.tune import CheckpointConfig, FailureConfig, RunConfig, TuneConfig, Tuner  # noqa: E402
from ray.tune.search.basic_variant import BasicVariantGenerator  # noqa: E402

from irl_ray import places  # noqa: E402
from irl_ray.cli import environments, progress  # noqa: E402
from irl_ray.cli.experiment import (  # noqa: E402
    SEARCHES,
    Experiment,
    built_algorithm_config,
    variants,
    with_results,
)
from irl_ray.cli.records import mend_records  # noqa: E402
from irl_ray.cli.scheduling import (  # noqa: E402, F401  runs begun earlier name the schedulers here
    CheckpointOnInterrupt,
    Interrupt,
    PausingASHA,
    PausingScheduler,
    scheduler_of,
)
from irl_ray.cli.text import INTERRUPTED  # noqa: E402
from irl_ray.errors import UserError  # noqa: E402
from irl_ray.rllib import trainables  # noqa: E402
from irl_ray.rllib.parallel import WORKERS, parallel_phase  # noqa: E402

LOSSES = 3  # of a machine or a learner, that one trial may outlive


def start_ray(address: str | None, num_cpus: int | None = None, num_gpus: int | None = None) -> None:
    """Connects to a cluster that is named (or in RAY_ADDRESS), or starts Ray here on the loopback interface."""
    if ray.is_initialized():
        return
    # As Ray does with the working directory: users' own modules are found by its workers.
    reached = JobConfig(_py_driver_sys_path=list(environments.FOLDERS))
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "job_config": reached}
    address = address or os.environ.get("RAY_ADDRESS")
    if address:
        ray.init(address=address, **quiet)
    else:
        ray.init("local", num_cpus=num_cpus, num_gpus=num_gpus, include_dashboard=False, **quiet)


def check_resources(experiment: Experiment, where: str) -> None:
    """Refuses what the cluster can never schedule, which Tune would wait for in silence.

    Raises:
        UserError: telling what one trial needs and what there is.
    """
    have = _most_resources()
    for variant in variants(experiment.config):
        need = _trial_resources(experiment.run, variant)
        for kind, amount in need.items():
            if amount > have.get(kind, 0) + 1e-6:
                hint = (
                    "lower num_env_runners, num_learners, num_workers or num_cpus_per_env_runner (0.5 works)"
                    if kind == "CPU"
                    else f"write device: cpu, or ask for fewer {kind}s"
                    if experiment.run in trainables.PHASES
                    else f"ask for fewer {kind}s"
                )
                raise UserError(
                    f"{where}: {experiment.name} needs {amount:g} {kind} per trial, the cluster has "
                    f"{have.get(kind, 0):g}; {hint}"
                )


def _most_resources() -> dict[str, float]:
    """What the cluster has, or may have once it has grown."""
    grown = {}
    with contextlib.suppress(Exception):  # a cluster that does not grow knows of no most
        grown = ray_state.get_max_resources_from_cluster_config() or {}
    have = ray.cluster_resources()
    return {kind: max(have.get(kind, 0.0), float(grown.get(kind, 0.0))) for kind in {*have, *grown}}


def _trial_resources(run: str, config: Mapping[str, Any]) -> dict[str, float]:
    if run in trainables.PHASES:
        workers = max(1.0, float(config.get("num_workers", 0)))
        return {"CPU": workers, **({"GPU": workers} if str(config.get("device", "cpu")).startswith("cuda") else {})}
    built = built_algorithm_config(run, config)
    bundles = built.algo_class.default_resource_request(built).bundles
    return {kind: sum(b.get(kind, 0) for b in bundles) for kind in {k for b in bundles for k in b}}


def run_all(experiments: list[Experiment], storage: str, where: str, resume_newest: bool = False) -> int:
    """Runs experiments one after the other, until one fails; returns the process's exit code.

    Args:
        experiments: as read.
        storage: where results go, a folder or a URI.
        where: their file, for errors.
        resume_newest: carry on, or look up if finished, the newest run of each that has one.
    """
    folders: dict[str, str] = {}
    for number, experiment in enumerate(experiments, start=1):
        known = [found for found in runs_of(experiment.name, storage) if _trials_of(found)] if resume_newest else []
        if known and experiment.awaited is not None and _date(known[-1]) < _date(folders[experiment.awaited]):
            known = []  # it started from older results than those that are there now
        if known:
            folders[experiment.name] = known[-1]
            code = resume(known[-1])
        else:
            if experiment.awaited is not None:
                experiment = with_results(experiment, folders, where)
            folders[experiment.name] = places.join(storage, f"{experiment.name}_{time.strftime('%Y%m%d-%H%M%S')}")
            code = run(experiment, folders[experiment.name], where)
        if code:
            if number < len(experiments):
                print(f"What comes after it was not started; go on with all of it: rllib train file {where} --resume")
            return code
    return 0


def _date(folder: str) -> str:
    return places.split(folder)[1][-15:]


def runs_of(name: str, storage: str) -> list[str]:
    """Folders of the runs of an experiment, oldest first."""
    dated = re.compile(re.escape(name) + r"_\d{8}-\d{6}")
    return [places.join(storage, found) for found in places.names_in(storage) if dated.fullmatch(found)]


def run(experiment: Experiment, folder: str, where: str) -> int:
    """Runs one experiment to its end; returns the process's exit code."""
    check_resources(experiment, where)
    trainables.register_everything()
    for variant in variants(experiment.config):
        environments.register(variant.get("env"))
    checkpoint = {"checkpoint_at_end": True, **experiment.checkpoint}
    trainable, resources = trainables.trainable_class(experiment.run), _phase_resources(experiment)
    workers, at_once = _workers(experiment), 0
    if workers > 1:
        trainable, checkpoint = parallel_phase(experiment.run, places.absolute(folder)), {}
        have = _most_resources()
        at_once = max(1, min(int(have.get(kind, 0) // need) for kind, need in resources.items()))
        print(f"{experiment.name}: with num_workers every report is a checkpoint, the last two are kept", flush=True)
        resources = None
    storage, name = places.split(folder)
    with places.reached(storage):
        tuner = Tuner(
            tune.with_resources(trainable, resources) if resources else trainable,
            param_space=_drawn(experiment.config),
            tune_config=TuneConfig(
                num_samples=experiment.num_samples,
                scheduler=scheduler_of(experiment),
                search_alg=BasicVariantGenerator(random_state=0, max_concurrent=at_once),
            ),
            run_config=RunConfig(
                name=name,
                storage_path=storage,
                stop=experiment.stop or None,
                checkpoint_config=CheckpointConfig(**checkpoint),
                progress_reporter=progress.Progress(experiment.run, experiment.stop),
                callbacks=[CheckpointOnInterrupt()],
                failure_config=FailureConfig(max_failures=LOSSES if _may_lose_parts(experiment) else 0),
                verbose=1,
            ),
        )
    print(f"{experiment.name}: {experiment.run}, results and TensorBoard in {folder}", flush=True)
    return _fit(tuner, folder)


def _drawn(node: Any) -> Any:
    """Settings with `{choice: ...}`, `{uniform: ...}` and `{loguniform: ...}` as Tune draws them."""
    if not isinstance(node, Mapping):
        return node
    if len(node) == 1:
        kind, options = next(iter(node.items()))
        if kind in SEARCHES and kind != "grid_search":
            return tune.choice(options) if kind == "choice" else getattr(tune, kind)(*options)
    return {key: _drawn(value) for key, value in node.items()}


def _workers(experiment: Experiment) -> int:
    """Workers of each trial of a phase; 0 for anything else."""
    if experiment.run not in trainables.PHASES:
        return 0
    counts = {int(variant.get("num_workers", 0)) for variant in variants(experiment.config)}
    if len(counts) > 1:
        raise UserError(f"{experiment.name}.num_workers: expected one number for all trials, got {sorted(counts)}")
    return counts.pop()


def _may_lose_parts(experiment: Experiment) -> bool:
    """Whether a trial may fail for the loss of a machine or of a learner's process, and not for an error of its own."""
    return len(ray.nodes()) > 1 or any(variant.get("num_learners", 0) for variant in variants(experiment.config))


def _phase_resources(experiment: Experiment) -> dict[str, float] | None:
    if experiment.run not in trainables.PHASES:
        return None
    return _trial_resources(experiment.run, next(variants(experiment.config)))


def resume(folder: str) -> int:
    """Carries an interrupted experiment on from its last checkpoints."""
    if not Tuner.can_restore(places.absolute(folder)):
        raise UserError(
            f"{folder}: no experiment to resume there; expected a folder that `rllib train` made, "
            "such as results/gridworld_internal_20260101-120000"
        )
    mend_records(folder)
    trainables.register_everything()
    trials = _trials_of(folder)
    if not trials:
        raise UserError(f"{folder}: ended before its first trial began; start it anew")
    run_name = trainables.trainable_of(trials[0])
    trainable = trainables.trainable_class(run_name)
    settings = _settings_of(places.join(folder, trials[0]))
    environments.import_from(Path.cwd())
    for trial in trials:
        environments.register(_settings_of(places.join(folder, trial)).get("env"))
    begun = WORKERS in places.names_in(places.join(folder, trials[0]))
    if run_name in trainables.PHASES and (begun or settings.get("num_workers", 0) > 1):
        trainable = parallel_phase(run_name, places.absolute(folder))
    tuner = Tuner.restore(places.absolute(folder), trainable=trainable, resume_errored=True)
    print(f"resuming {folder}", flush=True)
    return _fit(tuner, folder)


def _settings_of(trial: str) -> dict[str, Any]:
    return json.loads(places.read_text(places.join(trial, "params.json")) or "{}")


def _trials_of(folder: str) -> list[str]:
    """Names of the trials that have begun."""
    return [name for name in places.names_in(folder) if trainables.trainable_of(name) is not None]


def _fit(tuner: Tuner, folder: str) -> int:
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        results = tuner.fit()
    except (OSError, EOFError, UnpicklingError) as error:  # Tune could not write, or not read back, what went wrong
        told = f"{type(error).__name__}: {error}"
        print(f"{folder}: {told}; if its disk is full, make room. Then: rllib resume {folder}", file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGINT, interrupt)
    if Interrupt.requested:
        print(f"Interrupted; everything is saved. Go on with:\n  rllib resume {folder}")
        return INTERRUPTED
    for result in results:
        if result.error is not None:
            print(f"trial failed: {result.path}\n{_last_line(result.error)}", file=sys.stderr)
            continue
        gates = progress.gates_table(result.metrics or {})
        if gates:
            print(f"gates:\n{gates}")
        print(f"weights: {_weights_of(places.join(folder, Path(result.path).name), result.checkpoint)}")
    if results.errors:
        print(f"{len(results.errors)} trial(s) failed. Once mended: rllib resume {folder}", file=sys.stderr)
        return 1
    return 0


def _weights_of(trial: str, checkpoint: Any) -> str:
    """Where a trial's weights are: in its last checkpoint, or where its workers left them."""
    inside = Path(checkpoint.path).name if checkpoint is not None else WORKERS
    kept = places.join(trial, inside)
    return places.join(kept, "artefact") if "artefact" in places.names_in(kept) else kept


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else repr(error)
