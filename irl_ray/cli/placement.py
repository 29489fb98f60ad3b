"""What trials need and the cluster has: Ray itself would wait without a word for what never comes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray._private.state import state as ray_state  # as Ray Train reads what may come
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.tune import Callback
from ray.tune.experiment import Trial

from irl_ray.cli.text import duration
from irl_ray.errors import UserError

Bundle = Mapping[str, float]
EVERY = 5.0  # seconds between looks at the cluster
TOLD_AFTER = 20.0  # seconds of waiting, of which a machine that comes back at once costs no word
GIVEN_UP_AFTER = 300.0
# Where one of these is told, so are the env runners: none, unless a number is.
PARTS = ("num_cpus_per_env_runner", "num_gpus_per_env_runner", "custom_resources_per_env_runner",
         "num_cpus_for_main_process", "num_cpus_per_learner")  # fmt: skip
EPISODES, FEWEST = 512, 32  # of an update, unless told; of each env runner, below which another one hardly pays


def most_resources() -> dict[str, float]:
    """What the cluster has, or may have once it has grown."""
    have, grown = ray.cluster_resources(), _grown()
    return {kind: max(have.get(kind, 0.0), float(grown.get(kind, 0.0))) for kind in {*have, *grown}}


def _grown() -> dict[str, float]:
    with contextlib.suppress(Exception):  # a cluster that does not grow knows of no most
        return ray_state.get_max_resources_from_cluster_config() or {}
    return {}


def lacking(bundles: Sequence[Bundle]) -> str:
    """What the cluster lacks to place bundles, each on one machine; empty if nothing. What is busy counts as there."""
    have = most_resources()
    for kind, need in total(bundles).items():
        if need > have.get(kind, 0) + 1e-6:
            return f"{need:g} {kind}, the cluster has {have.get(kind, 0):g}"
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for bundle in () if _grown() else bundles:
        if not any(all(machine.get(kind, 0) + 1e-6 >= need for kind, need in bundle.items()) for machine in machines):
            told = " and ".join(f"{need:g} {kind}" for kind, need in bundle.items() if need)
            return f"{told} on one machine, no machine of the cluster has as much"
    return ""


def phase_bundles(config: Mapping[str, Any]) -> list[Bundle]:
    """What a trial of a phase asks for, worker by worker."""
    gpu = {"GPU": 1.0} if str(config.get("device", "cpu")).startswith("cuda") else {}
    return [{"CPU": 1.0, **gpu}] * max(1, int(config.get("num_workers") or 0))


def algorithm_bundles(config: AlgorithmConfig) -> list[Bundle]:
    """What a trial of an RLlib algorithm asks for, and beside it what Ray Data needs to read for it.

    Offline algorithms hand their data to actors that hold a CPU each for as long as they wait for what one more reads
    (`ray.rllib.offline.offline_data.OfflineData`): with fewer CPUs, they wait for ever.
    """
    asked = list(config.algo_class.default_resource_request(config).bundles)
    if not config.is_offline:
        return asked
    handed = {"concurrency": max(2, config.num_learners), "num_cpus": 1.0} | config.map_batches_kwargs
    actors = handed["concurrency"] if isinstance(handed["concurrency"], int) else handed["concurrency"][0]
    return [*asked, *[{"CPU": float(handed["num_cpus"])}] * actors, {"CPU": 1.0}]


def env_runners(config: Mapping[str, Any], cpus: float) -> dict[str, float]:
    """The settings with which a trial of internal or raw RL samples on all of its CPUs, where it says nothing else.

    The trial's own process waits while its env runners sample, so that it leaves them nearly all of its CPU. The
    episodes are the same for any number of them.

    Args:
        config: of the trial.
        cpus: that it has to itself.
    """
    if any(config.get(key) is not None for key in ("num_env_runners", *PARTS)):
        return {}
    beside = int(config.get("num_learners") or 0) + int(config.get("evaluation_num_env_runners") or 0)
    cpus = int(cpus) - beside
    count = min(cpus, int(config.get("train_batch_episodes") or EPISODES) // FEWEST)
    if count < 2:
        return {"num_env_runners": 0}
    return {"num_env_runners": count, "num_cpus_per_env_runner": min(1.0, int(1000 * (cpus - 1) / count) / 1000)}


def total(bundles: Sequence[Bundle]) -> dict[str, float]:
    """The sum of bundles."""
    kinds = sorted({kind for bundle in bundles for kind in bundle})
    return {kind: sum(bundle.get(kind, 0.0) for bundle in bundles) for kind in kinds}


class Placement(Callback):
    """Says what a run waits for when none of its trials can be placed any more, and ends it when that does not come."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._looked, self._told = 0.0, False

    def on_step_end(self, iteration: int, trials: list[Trial], **_: Any) -> None:
        now = time.monotonic()
        if now - self._looked < EVERY:
            return
        self._looked, short = now, _shortage(trials)
        if not short:
            self._since, self._told = None, False
            return
        self._since = now if self._since is None else self._since
        folder = trials[0].storage.experiment_fs_path
        if now - self._since >= GIVEN_UP_AFTER:
            raise UserError(
                f"{folder}: no trial could run for {duration(now - self._since)}: each needs {short}. "
                f"Bring the machine back that left, or another; then: rllib resume {folder}"
            )
        if now - self._since >= TOLD_AFTER and not self._told:
            self._told = True
            print(f"No trial can run: each needs {short}; waiting {duration(GIVEN_UP_AFTER)} for a machine", flush=True)

    def __getstate__(self) -> dict[str, Any]:
        return {"_since": None, "_looked": 0.0, "_told": False}


def _shortage(trials: Sequence[Trial]) -> str:
    """What the first unfinished trial lacks, if all of them lack something."""
    short = ""
    for trial in trials:
        if trial.is_finished():
            continue
        parallel = int(trial.config.get("num_workers") or 0) > 1  # such a trial runs while it waits for its workers
        if trial.status != Trial.PENDING and not parallel:
            return ""
        found = lacking(phase_bundles(trial.config) if parallel else trial.placement_group_factory.bundles)
        if not found:
            return ""
        short = short or found
    return short
