"""Running experiments under Tune: resources, Ctrl-C, resuming, the closing summary."""

from __future__ import annotations

import json
import os
import secrets
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the old output lets us print our own table
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # names of metrics are checked in irl_ray.cli
os.environ.setdefault("RAY_task_events_report_interval_ms", "0")  # a history of calls, kept for dashboards alone

import ray  # noqa: E402
from ray import tune  # noqa: E402
from ray.job_config import JobConfig  # noqa: E402
from ray.tune import Callback, CheckpointConfig, FailureConfig, ResultGrid, ResumeConfig, RunConfig, TuneConfig, Tuner  # noqa: E402
from ray.tune.search.basic_variant import BasicVariantGenerator  # noqa: E402

from irl_ray import places  # noqa: E402
from irl_ray.cli import environments, labels, progress, runs  # noqa: E402
from irl_ray.cli.connecting import check_answers  # noqa: E402
from irl_ray.cli.experiment import (  # noqa: E402
    SEARCHES,
    Experiment,
    built_algorithm_config,
    compared,
    count_trials,
    variants,
    with_results,
)
from irl_ray.cli.metrics import WatchedMetrics  # noqa: E402
from irl_ray.cli.placement import (  # noqa: E402
    Bundle,
    Placement,
    algorithm_bundles,
    env_runners,
    lacking,
    most_resources,
    phase_bundles,
    total,
)
from irl_ray.cli.records import mend_records  # noqa: E402
from irl_ray.cli.resuming import changes_of, saved_trials  # noqa: E402
from irl_ray.cli.scheduling import (  # noqa: E402, F401  runs begun earlier name the schedulers here
    CheckpointOnInterrupt,
    Interrupt,
    PausingASHA,
    PausingScheduler,
    handles_signals,
    scheduler_of,
)
from irl_ray.cli.text import INTERRUPTED  # noqa: E402
from irl_ray.errors import UserError  # noqa: E402
from irl_ray.rllib import trainables  # noqa: E402
from irl_ray.rllib.parallel import WORKERS, parallel_phase  # noqa: E402

LOSSES = 3  # of a machine or a learner, that one trial may outlive


def start_ray(address: str | None, num_cpus: int | None = None, num_gpus: int | None = None) -> None:
    """Connects to a cluster that is named (or in RAY_ADDRESS), or starts Ray here on the loopback interface.

    Raises:
        UserError: if no cluster answers there.
    """
    if ray.is_initialized():
        return
    # As Ray does with the working directory: users' own modules are found by its workers.
    reached = JobConfig(_py_driver_sys_path=list(environments.FOLDERS))
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "job_config": reached}
    source = "--ray-address" if address else "RAY_ADDRESS"
    address = address or os.environ.get("RAY_ADDRESS")
    if address:
        check_answers(address, source)
        try:
            ray.init(address=address, **quiet)
        except (ValueError, ConnectionError, RuntimeError) as error:  # of another version of Ray or Python, say
            raise UserError(f"{source} {address}: {' '.join(str(error).split())}") from None
    else:
        _hold_token_without_home()
        ray.init("local", num_cpus=num_cpus, num_gpus=num_gpus, include_dashboard=False, **quiet)


def _hold_token_without_home() -> None:
    """Gives a Ray that is started here a secret of its own where no home can keep it; Ray writes it to ~/.ray."""
    home = Path(os.path.expanduser("~"))
    kept = "RAY_AUTH_TOKEN_PATH" in os.environ or (home / ".ray" / "auth_token").is_file()
    if not kept and not (home.is_dir() and os.access(home, os.W_OK)):
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def check_resources(experiment: Experiment, where: str) -> None:
    """Refuses what the cluster can never schedule, which Tune would wait for in silence.

    Raises:
        UserError: telling what one trial needs and what there is.
    """
    for variant in variants(experiment.config):
        short = lacking(_bundles(experiment.run, variant))
        if short:
            hint = (
                "lower num_env_runners, num_learners, num_workers or num_cpus_per_env_runner (0.5 works)"
                if " GPU" not in short
                else "write device: cpu, or ask for fewer GPUs"
                if experiment.run in trainables.PHASES
                else "ask for fewer GPUs"
            )
            offline = " (three and more of them to read its data)" if variant.get("input_") else ""
            raise UserError(f"{where}: {experiment.name}: each trial needs {short}{offline}; {hint}")


def _bundles(run: str, config: Mapping[str, Any]) -> list[Bundle]:
    return phase_bundles(config) if run in trainables.PHASES else algorithm_bundles(built_algorithm_config(run, config))


def on_all_cores(experiment: Experiment, trials: int) -> Experiment:
    """The experiment with the env runners that it leaves to us: those of trials side by side share out the CPUs."""
    if experiment.run not in trainables.EPISODIC:
        return experiment
    have = most_resources().get("CPU", 1.0)
    share = have // min(max(1, trials), max(1.0, have))
    fewest = min((env_runners(variant, share) for variant in variants(experiment.config)), key=_count)
    return replace(experiment, config={**experiment.config, **fewest})


def _count(settings: Mapping[str, float]) -> float:
    return settings.get("num_env_runners", 0)


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
        awaited = None if experiment.awaited is None else folders[experiment.awaited]
        known = runs.to_carry_on(experiment.name, storage, awaited) if resume_newest else None
        if known is not None:
            edits = runs.edits(experiment, known)
            if edits:
                print(f"{known} goes on as it began; changed in {where} since, and ignored: {'; '.join(edits)}")
            folders[experiment.name] = known
            code = resume(known)
        else:
            asked = experiment
            if experiment.awaited is not None:
                experiment = with_results(experiment, folders, where)
            experiment = on_all_cores(experiment, count_trials(experiment))
            check_resources(experiment, where)
            folder = folders[experiment.name] = runs.create(asked, storage, count_trials(experiment), awaited)
            code = run(experiment, folder)
        if code:
            if number < len(experiments):
                print(f"What comes after it was not started; go on with all of it: rllib train file {where} --resume")
            return code
    return 0


def run(experiment: Experiment, folder: str) -> int:
    """Runs one experiment to its end in a folder of its own; returns the process's exit code."""
    trainables.register_everything()
    for variant in variants(experiment.config):
        environments.register(variant.get("env"))
    checkpoint = {"checkpoint_at_end": True, **experiment.checkpoint}
    trainable, resources = trainables.trainable_class(experiment.run), _phase_resources(experiment)
    parallel, at_once = _workers(experiment) > 1, 0
    if parallel or any(variant.get("input_") for variant in variants(experiment.config)):
        at_once = _at_once(experiment)
    if parallel:
        trainable, checkpoint = parallel_phase(experiment.run, places.absolute(folder)), {}
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
                trial_dirname_creator=labels.folder_name,
                search_alg=BasicVariantGenerator(random_state=0, max_concurrent=at_once),
            ),
            run_config=RunConfig(
                name=name,
                storage_path=storage,
                stop=experiment.stop or None,
                checkpoint_config=CheckpointConfig(**checkpoint),
                progress_reporter=progress.Progress(experiment.run),
                callbacks=[CheckpointOnInterrupt(), Placement(), *_watching(experiment)],
                failure_config=FailureConfig(max_failures=LOSSES if _may_lose_parts(experiment) else 0),
                verbose=1,
            ),
        )
    print(f"{experiment.name}: {experiment.run}, results and TensorBoard in {folder}", flush=True)
    with runs.held(folder):
        return _fit(tuner, folder)


def _watching(experiment: Experiment) -> list[Callback]:
    """For those whose metrics are known from their results alone."""
    known_before = experiment.run in (*trainables.PHASES, "InternalRL", "RawRL")
    return [] if known_before else [WatchedMetrics(compared(experiment))]


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


def _at_once(experiment: Experiment) -> int:
    """Trials that the cluster has room for, where Tune does not know all of what one takes."""
    have = most_resources()
    needs = [total(_bundles(experiment.run, variant)) for variant in variants(experiment.config)]
    return max(1, min(int(have.get(kind, 0) // need) for each in needs for kind, need in each.items() if need))


def _may_lose_parts(experiment: Experiment) -> bool:
    """Whether a trial may fail for the loss of a machine or of a learner's process, and not for an error of its own."""
    return len(ray.nodes()) > 1 or any(variant.get("num_learners", 0) for variant in variants(experiment.config))


def _phase_resources(experiment: Experiment) -> dict[str, float] | None:
    if experiment.run not in trainables.PHASES:
        return None
    return total(phase_bundles(next(variants(experiment.config))))


def resume(
    folder: str,
    stop: Mapping[str, float] | None = None,
    config: Mapping[str, Any] | None = None,
    start: Callable[[], None] = lambda: None,
) -> int:
    """Carries an interrupted experiment on from its last checkpoints, and a finished one that is to go on for longer.

    Args:
        folder: of its run.
        stop: criteria in place of those it has.
        config: settings that may change, laid over those it has.
        start: starts Ray; called when all else is found to be in order.
    """
    if not Tuner.can_restore(places.absolute(folder)):
        raise UserError(
            f"{folder}: no experiment to resume there; expected a folder that `rllib train` made, "
            "such as results/gridworld_internal_20260101-120000"
        )
    trials = runs.trials_of(folder)
    if not trials:
        raise UserError(f"{folder}: ended before its first trial began; start it anew")
    trainables.register_everything()
    run_name = trainables.trainable_of(trials[0])
    with runs.held(folder):
        mend_records(folder)
        changes = changes_of(folder, run_name, stop, config)
        trainable = trainables.trainable_class(run_name)
        settings = _settings_of(places.join(folder, trials[0]))
        environments.import_from(Path.cwd())
        for trial in trials:
            environments.register(_settings_of(places.join(folder, trial)).get("env"))
        begun = WORKERS in places.names_in(places.join(folder, trials[0]))
        if run_name in trainables.PHASES and (begun or settings.get("num_workers", 0) > 1):
            trainable = parallel_phase(run_name, places.absolute(folder))
        tuner = Tuner.restore(places.absolute(folder), trainable=trainable, resume_errored=True)
        # Tune skips what has ended; whether it goes on is for the changes to say.
        tuner._local_tuner._resume_config.finished = ResumeConfig.ResumeType.RESUME
        tuner._local_tuner._tune_config.scheduler.changes = changes
        start()
        changes.config |= runners_here(runs.read_record(folder), len(changes.finished))
        for trial in () if runs.is_finished(folder) and not (stop or config) else saved_trials(folder)[:1]:
            check_resources(Experiment(Path(folder).name, run_name, changes.settings(trial.config)), folder)
        print(f"resuming {folder}", flush=True)
        return _fit(tuner, folder)


def runners_here(record: Mapping[str, Any], ended: int) -> dict[str, Any]:
    """Env runners as there are CPUs now, for the trials of a run that have not ended; settings of its own are left."""
    if "experiment" not in record:
        return {}
    told = Experiment(**record["experiment"])
    here = on_all_cores(told, record.get("trials", 1) - ended).config
    return {key: value for key, value in here.items() if key not in told.config}


def _settings_of(trial: str) -> dict[str, Any]:
    return json.loads(places.read_text(places.join(trial, "params.json")) or "{}")


def _fit(tuner: Tuner, folder: str) -> int:
    handlers = {number: signal.getsignal(number) for number in INTERRUPTED}
    try:
        results = tuner.fit()
    except (OSError, EOFError, UnpicklingError) as error:  # Tune could not write, or not read back, what went wrong
        told = f"{type(error).__name__}: {error}"
        print(f"{folder}: {told}; if its disk is full, make room. Then: rllib resume {folder}", file=sys.stderr)
        return 1
    finally:
        for number, handler in handlers.items() if handles_signals() else ():
            signal.signal(number, handler)
    if Interrupt.requested:
        print(f"Interrupted; everything is saved. Go on with:\n  rllib resume {folder}")
        return INTERRUPTED[Interrupt.requested]
    for result in results:
        if result.error is not None:
            print(f"trial failed: {result.path}\n{_last_line(result.error)}", file=sys.stderr)
            continue
        gates = progress.gates_table(result.metrics or {})
        if gates:
            print(f"gates:\n{gates}")
        print(f"weights: {_weights_of(places.join(folder, Path(result.path).name), result.checkpoint)}")
    print(_best(results, tuner, folder), end="")
    if results.errors:
        print(f"{len(results.errors)} trial(s) failed. Once mended: rllib resume {folder}", file=sys.stderr)
        return 1
    return 0


def _best(results: ResultGrid, tuner: Tuner, folder: str) -> str:
    """The best of several trials with its settings, and its weights; empty where nothing sets them apart."""
    ended = [result for result in results if result.error is None and result.metrics]
    if len(ended) < 2:
        return ""
    scheduler = tuner._local_tuner._tune_config.scheduler  # kept by Tune for runs that are carried on
    searched = [(scheduler.metric, scheduler._mode)] if isinstance(scheduler, PausingASHA) else []
    run_name = trainables.trainable_of(Path(ended[0].path).name)
    found = progress.best_of([result.metrics for result in ended], searched or progress.main_metrics(run_name))
    if found is None:
        return ""
    number, metric, value = found
    trial = Path(ended[number].path).name
    told = f"best of {len(ended)} trials: {labels.label_of_folder(trial)}, {metric} {value:.4g}"
    return f"{told}\n  {_weights_of(places.join(folder, trial), ended[number].checkpoint)}\n"


def _weights_of(trial: str, checkpoint: Any) -> str:
    """Where a trial's weights are: in its last checkpoint, or where its workers left them."""
    inside = Path(checkpoint.path).name if checkpoint is not None else WORKERS
    kept = places.join(trial, inside)
    return places.join(kept, "artefact") if "artefact" in places.names_in(kept) else kept


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else repr(error)
