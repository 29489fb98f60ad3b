"""Tune's schedulers, such that Ctrl-C, a kill or a full disk loses nothing."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.util import debug

from irl_ray.cli.experiment import Experiment
from irl_ray.cli.records import keep_records
from irl_ray.cli.resuming import Changes
from irl_ray.cli.text import INTERRUPTED
from irl_ray.rllib import trainables
from irl_ray.rllib.checkpoints import is_whole


class Interrupt:
    """What Ctrl-C or SIGTERM asked for. Process-wide, since a signal is."""

    requested: signal.Signals | None = None


class _Safe:
    """What every scheduler does so that nothing is lost.

    After Ctrl-C or SIGTERM it pauses each trial at its next result, which checkpoints it; paused trials are unfinished
    to Tune, so `rllib resume` carries them on. After every checkpoint Tune's own state is saved, which it would do
    every ten seconds only. A checkpoint that is not whole is forgotten when a trial is carried on. What Ray would hold
    until a trial ends, or for good, is let go of: answers that were dealt with, keys of messages.
    """

    changes: Changes | None = None  # where a run is carried on
    _saved: Mapping[str, str] = {}  # newest checkpoint of each trial that Tune's state on disk knows
    _not_before = 0.0  # so that saving takes a twentieth of the time at most, in sweeps of many trials

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        if self.changes is not None:
            self.changes.apply(trial)
            # Tune's state keeps what was to be done after a save; if that failed, the next would end the trial. (A stop
            # that ASHA decided and a save kept waiting is decided again at the trial's next rung.)
            tune_controller._cached_trial_decisions.pop(trial.trial_id, None)
            tune_controller._queued_trial_decisions.pop(trial.trial_id, None)
        if trial.checkpoint and not trial.is_finished():
            forget_broken_checkpoints(trial)
        super().on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if Interrupt.requested:
            return TrialScheduler.PAUSE
        return super().on_trial_result(tune_controller, trial, result)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        saved = {trial.trial_id: _newest_checkpoint(trial) for trial in tune_controller.get_trials()}
        started = time.monotonic()
        if saved != self._saved and started >= self._not_before:
            tune_controller.checkpoint(force=True, wait=True)
            staging = Path(tune_controller.experiment_state_path).parent
            if keep_records(staging, tune_controller.experiment_path):
                self._saved = saved
            self._not_before = time.monotonic() + 19 * (time.monotonic() - started)
        _let_go_of_answers(tune_controller._actor_manager)
        _let_go_of_log_keys()
        if Interrupt.requested:
            return None
        return super().choose_trial_to_run(tune_controller)


def _let_go_of_answers(manager: Any) -> None:
    """Drops the futures of calls that have been answered: each keeps its result in memory."""
    awaited = manager._actor_task_events.get_futures()
    for futures in manager._tracked_actors_to_task_futures.values():
        futures &= awaited


def _let_go_of_log_keys() -> None:
    """Drops what Ray keeps to log once only: whatever Tune's state holds that JSON does not know, results included."""
    for key in list(debug._logged):  # a copy: other threads log too
        if key.startswith("tune_func_encode:"):
            debug.reset_log_once(key)


def _newest_checkpoint(trial: Any) -> str | None:
    """Tune's own, or that of the trial's workers."""
    return trial.checkpoint.path if trial.checkpoint else (trial.last_result or {}).get("checkpoint_path")


class PausingScheduler(_Safe, FIFOScheduler):
    """Runs trials in order."""


class PausingASHA(_Safe, AsyncHyperBandScheduler):
    """Asynchronous successive halving: trials that fall behind are stopped early."""


def forget_broken_checkpoints(trial: Any) -> None:
    """Leaves a trial of an earlier run its whole checkpoints, and tells of the others."""
    if trainables.trainable_of(f"{trial.trainable_name}_") not in (*trainables.PHASES, *trainables.OWN_ALGORITHMS):
        return  # RLlib's own do not tell whether they are whole
    known = trial.run_metadata.checkpoint_manager
    results = {r.checkpoint.path: r for r in (*known.best_checkpoint_results, known.latest_checkpoint_result) if r}
    whole = {path: result for path, result in results.items() if is_whole(result.checkpoint)}
    if len(whole) == len(results):
        return
    left = type(known)(known.checkpoint_config)
    for result in sorted(whole.values(), key=lambda r: r.metrics.get("training_iteration", 0)):
        left.register_checkpoint(result)
    trial.run_metadata.checkpoint_manager = left
    goes_on = f"goes on from {Path(trial.checkpoint.path).name}" if whole else "starts from its beginning"
    broken = ", ".join(Path(path).name for path in results if path not in whole)
    print(f"{trial}: {broken} is not whole (a full disk, or killed while it was written); the trial {goes_on}")


def scheduler_of(experiment: Experiment) -> TrialScheduler:
    """The scheduler that an experiment names.

    ASHA maximises unless told otherwise and counts optimiser steps, or iterations of RL. A search that is
    carried on compares with what is reported from then on.
    """
    if experiment.scheduler == "fifo":
        return PausingScheduler()
    counted = "step" if experiment.run in trainables.PHASES else "training_iteration"
    return PausingASHA(**{"mode": "max", "time_attr": counted, **experiment.scheduler_config})


def handles_signals() -> bool:
    """Whether this thread may: Python lets the main thread alone."""
    return threading.current_thread() is threading.main_thread()


class CheckpointOnInterrupt(Callback):
    """First Ctrl-C or SIGTERM: pause all trials and stop. Second: stop at once."""

    def setup(self, **info: Any) -> None:
        Interrupt.requested = None
        self._stop = signal.getsignal(signal.SIGINT)
        for number in INTERRUPTED if handles_signals() else ():
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: Any) -> None:
        if Interrupt.requested:
            self._stop(number, frame)
            return
        Interrupt.requested = signal.Signals(number)
        name = "Ctrl-C" if number == signal.SIGINT else Interrupt.requested.name
        print(f"\n{name}: saving checkpoints at the next results (again: stop at once) ...", flush=True)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        busy = any(trial.status == "RUNNING" or trial.is_saving for trial in trials)
        if Interrupt.requested and not busy and callable(self._stop):
            self._stop(signal.SIGINT, None)

    def __getstate__(self) -> dict[str, Any]:
        return {}
