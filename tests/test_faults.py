"""What may go wrong on machines, and what it costs: nothing counted twice, counters right, training goes on.

    python -m pytest tests/test_faults.py -s

also prints how long each recovery took.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
import torch
from ray.cluster_utils import Cluster

from irl_ray import InternalRLConfig

WORLD = {"preset": "tiny", "tasks": [[0, 1]]}  # which an untrained agent does now and then, so that there is learning
EPISODES = 48


def internal(folder: Path, runners: int) -> InternalRLConfig:
    return (
        InternalRLConfig()
        .environment("irl_ray/GridPinpad-v0", env_config=WORLD)
        .internal(metacontroller=str(folder), policy={"hidden": 8})
        .env_runners(num_env_runners=runners, num_cpus_per_env_runner=1)
        .training(train_batch_episodes=EPISODES)
        .debugging(seed=3, log_level="ERROR")
    )


def trained(algorithm: object, iterations: int, at: int = -1, fault: object = None) -> tuple[list[dict], torch.Tensor]:
    """Results of some iterations, with a fault shortly after one of them has begun, and the policy."""
    results = []
    for i in range(iterations):
        timer = threading.Timer(0.05, fault) if i == at else None
        started = time.monotonic()
        if timer:
            timer.start()
        results.append(algorithm.train()["env_runners"])
        if timer:
            timer.join()
            print(f"\nthe iteration of the fault took {time.monotonic() - started:.1f} s")
    return results, torch.cat([p.detach().flatten() for p in algorithm.get_module().policy.parameters()])


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head without room for env runners, and two nodes of one core."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.nodes = [made.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture(scope="module")
def undisturbed(tiny_weights: Path) -> tuple[list[dict], torch.Tensor]:
    """The same run in one process without any fault."""
    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    algorithm = internal(tiny_weights, 0).build_algo()
    found = trained(algorithm, 5)
    assert sum(result["success_rate"] for result in found[0]) > 0  # else nothing was learned
    algorithm.stop()
    ray.shutdown()
    return found


def assert_as_undisturbed(found: tuple, undisturbed: tuple) -> None:
    (results, policy), (expected, other) = found, undisturbed
    assert [r["num_episodes_lifetime"] for r in results] == [EPISODES * (i + 1) for i in range(len(results))]
    # The same episodes, those of the dead runner included: the same policy.
    assert [r["success_rate"] for r in results] == pytest.approx([r["success_rate"] for r in expected])
    torch.testing.assert_close(policy, other, atol=1e-4, rtol=1e-3)


def test_an_env_runner_killed_while_it_samples(cluster: Cluster, tiny_weights: Path, undisturbed: tuple):
    algorithm = internal(tiny_weights, 2).build_algo()
    victim = algorithm.env_runner_group._worker_manager.actors()[1]
    found = trained(algorithm, 5, at=1, fault=lambda: ray.kill(victim, no_restart=False))
    assert_as_undisturbed(found, undisturbed)
    back = lambda: algorithm.restore_env_runners(algorithm.env_runner_group) or algorithm.train()
    wait_for(lambda: back() and algorithm.env_runner_group.num_healthy_remote_workers() == 2)
    algorithm.stop()


def test_the_only_env_runner_is_waited_for(cluster: Cluster, tiny_weights: Path, undisturbed: tuple):
    algorithm = internal(tiny_weights, 1).build_algo()
    victim = algorithm.env_runner_group._worker_manager.actors()[1]
    found = trained(algorithm, 5, at=1, fault=lambda: ray.kill(victim, no_restart=False))
    assert_as_undisturbed(found, undisturbed)
    algorithm.stop()


def test_a_node_removed_and_another_added(cluster: Cluster, tiny_weights: Path, undisturbed: tuple):
    algorithm = internal(tiny_weights, 2).build_algo()

    def fault() -> None:
        cluster.remove_node(cluster.nodes[0], allow_graceful=False)
        cluster.add_node(num_cpus=1)

    found = trained(algorithm, 5, at=1, fault=fault)
    assert_as_undisturbed(found, undisturbed)
    algorithm.stop()


# The rest through the command, with a checkpoint every FREQUENCY iterations.

FREQUENCY, ITERATIONS = 5, 40


def write(folder: Path, run: str, stop: dict, config: dict) -> None:
    checkpoints = {"checkpoint_frequency": FREQUENCY, "num_to_keep": 2}
    spec = {"run": run, "stop": stop, "checkpoint_config": checkpoints, "config": config}
    env = {"env": "irl_ray/GridPinpad-v0"} if run == "InternalRL" else {}
    (folder / "x.json").write_text(json.dumps({"x": {**spec, **env}}))


def write_internal(folder: Path, weights: Path, **config: int) -> None:
    settings = {"metacontroller": str(weights), "policy": {"hidden": 8}, "env_config": WORLD, "seed": 3}
    stop = {"training_iteration": ITERATIONS}
    write(folder, "InternalRL", stop, {**settings, "train_batch_episodes": EPISODES, **config})


def command(
    folder: Path, *arguments: str, cores: int = 1, address: str | None = None, before: tuple[str, ...] = ()
) -> subprocess.Popen:
    where = ("--ray-address", address) if address else ("--ray-num-cpus", str(cores))
    line = [*before, sys.executable, "-m", "irl_ray.cli.rllib", *arguments, *where]
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    return subprocess.Popen(line, cwd=folder, **quiet)


def rows_of(storage: Path) -> list[dict]:
    """Results so far, of the only trial of the only run."""
    found = list(storage.glob("x_*/*/result.json"))
    lines = found[0].read_text().splitlines() if found else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def checkpoints(storage: Path) -> list[Path]:
    return sorted(storage.glob("x_*/*/checkpoint_*"))


def is_saved(storage: Path) -> bool:
    """Whether Tune's records were kept after the newest checkpoint."""
    kept = list(storage.glob("x_*/records.tar"))
    return bool(kept) and kept[0].stat().st_mtime_ns > checkpoints(storage)[-1].stat().st_mtime_ns


def assert_counted_once(rows: list[dict]) -> None:
    """Counters are right in every row, at most one interval was done again, and it gave the same episodes."""
    assert rows[-1]["training_iteration"] == ITERATIONS
    seen: dict[int, float] = {}
    for row in rows:
        iteration, found = row["training_iteration"], row["env_runners"]
        assert found["num_episodes_lifetime"] == EPISODES * iteration
        steps = found["num_raw_steps_lifetime"]
        assert seen.setdefault(iteration, steps) == steps
    assert list(seen) == list(range(1, ITERATIONS + 1))


def lost(rows: list[dict], expected: int = ITERATIONS) -> int:
    """Iterations that were done again."""
    waits = [later["timestamp"] - row["timestamp"] for row, later in zip(rows, rows[1:])]
    print(f"\niterations done again: {len(rows) - expected}; longest wait between two results: {max(waits)} s")
    return len(rows) - expected


def was_restored(rows: list[dict]) -> bool:
    return any(row["iterations_since_restore"] == 1 for row in rows[1:])


def decide_to_stop(state: Path) -> None:
    """Has Tune's state say what it does after a full disk: that each trial is to end with its next checkpoint."""
    with contextlib.suppress(ValueError):  # the kill may have cut it
        known = json.loads(state.read_text())
        decided = {json.loads(trial)["trial_id"]: "STOP" for trial, _ in known["trial_data"]}
        known["runner_data"]["_cached_trial_decisions"] = decided
        state.write_text(json.dumps(known))


@pytest.mark.parametrize("cut", [False, True], ids=["killed", "killed and cut in half"])
def test_a_killed_driver_is_carried_on(tmp_path: Path, tiny_weights: Path, cut: bool):
    write_internal(tmp_path, tiny_weights)
    run, storage = command(tmp_path, "train", "file", "x.json"), tmp_path / "results"
    wait_for(lambda: len(checkpoints(storage)) == 2 and is_saved(storage))
    os.killpg(run.pid, signal.SIGKILL)  # the driver, and with it everything that Ray started for it
    run.communicate()
    (folder,) = storage.glob("x_*")
    if cut:
        records = (max(folder.glob("experiment_state-*.json")), next(folder.glob("Int*/result.json")))
        newer = [path / "artefact" / "model.safetensors" for path in checkpoints(storage)[1:]]
        for path in (*newer, *records):
            os.truncate(path, path.stat().st_size // 2)
    else:
        decide_to_stop(max(folder.glob("experiment_state-*.json")))
    started = time.monotonic()
    again = command(tmp_path, "resume", str(folder))
    told, _ = again.communicate(timeout=200)
    assert again.returncode == 0, told
    print(f"\nfinished {time.monotonic() - started:.1f} s after `rllib resume`")
    if cut:  # without, the kill may still have cut Tune's records
        assert "is not whole" in told and "goes on from" in told and "cut off" in told, told
    rows = rows_of(storage)
    assert_counted_once(rows)
    assert lost(rows) <= FREQUENCY * (3 if cut else 1)  # a third checkpoint may have been on its way


def parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[1])


def processes(title: str, ancestor: int) -> list[int]:
    """Processes under another one whose command line begins so."""
    lines, parents = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            lines[int(folder.name)] = (folder / "cmdline").read_bytes()
            parents[int(folder.name)] = parent(int(folder.name))

    def is_under(process: int) -> bool:
        return process == ancestor or (process in parents and is_under(parents[process]))

    return [process for process, line in lines.items() if line.startswith(title.encode()) and is_under(process)]


def test_a_killed_learner_costs_an_interval(tmp_path: Path, tiny_weights: Path):
    write_internal(tmp_path, tiny_weights, num_learners=1)
    run, storage = command(tmp_path, "train", "file", "x.json", cores=2), tmp_path / "results"
    wait_for(lambda: len(checkpoints(storage)) == 2)
    (learner,) = processes("ray::_WrappedExecutable", run.pid)
    os.kill(learner, signal.SIGKILL)
    told, _ = run.communicate(timeout=200)
    assert run.returncode == 0, told
    assert_counted_once(rows_of(storage))
    assert was_restored(rows_of(storage))
    assert lost(rows_of(storage)) <= FREQUENCY


def test_the_machine_of_a_trial_is_lost(tmp_path: Path, tiny_weights: Path):
    """It goes on from its last checkpoint on the machine that is left."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = {}
    for _ in range(2):
        node = made.add_node(num_cpus=1)
        nodes[node.all_processes["raylet"][0].process.pid] = node
    try:
        write_internal(tmp_path, tiny_weights)
        run, storage = command(tmp_path, "train", "file", "x.json", address=made.address), tmp_path / "results"
        wait_for(lambda: len(checkpoints(storage)) == 2)
        (trial,) = processes("ray::InternalRL", os.getpid())
        made.remove_node(nodes[parent(trial)], allow_graceful=False)
        told, _ = run.communicate(timeout=200)
        assert run.returncode == 0, told
    finally:
        made.shutdown()
    assert_counted_once(rows_of(storage))
    assert was_restored(rows_of(storage))
    assert lost(rows_of(storage)) <= FREQUENCY


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """A file system of 8 MB on tmp_path/small that only some processes see: it from here, and how to start them."""
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        pytest.skip("unshare and nsenter are not installed")
    small = tmp_path / "small"
    small.mkdir()
    mount = f"mount -t tmpfs -o size=8m none {small} && echo mounted && exec sleep 900"
    line = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount]
    holder = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    if holder.stdout.readline() != "mounted\n":
        pytest.skip("this system does not let its users mount")
    entering = ("nsenter", "--target", str(holder.pid), "--user", "--mount", "--preserve-credentials")
    yield Path(f"/proc/{holder.pid}/root{small}"), entering
    holder.kill()
    holder.communicate()


def test_a_full_disk_at_a_checkpoint(tmp_path: Path, small_disk: tuple, tiny_weights: Path):
    (disk, entering), place = small_disk, str(tmp_path / "small")
    write_internal(tmp_path, tiny_weights)
    experiment = ("train", "file", str(tmp_path / "x.json"), "--storage-path", place)
    run = command(tmp_path, *experiment, before=entering)
    wait_for(lambda: len(checkpoints(disk)) == 2)
    with contextlib.suppress(OSError), open(disk / "something_else", "wb") as file:
        file.write(bytes(8 * 2**20))  # as much as there is room for
    told, _ = run.communicate(timeout=200)
    assert run.returncode == 1 and "No space left on device" in told and "rllib resume" in told, told
    (disk / "something_else").unlink()
    (folder,) = disk.glob("x_*")
    started = time.monotonic()
    again = command(tmp_path, "resume", f"{place}/{folder.name}", before=entering)
    told, _ = again.communicate(timeout=200)
    assert again.returncode == 0, told
    print(f"{told}\nfinished {time.monotonic() - started:.1f} s after room was made")
    assert_counted_once(rows_of(disk))
    assert lost(rows_of(disk)) <= FREQUENCY


def test_a_killed_worker_of_a_phase_costs_an_interval(tmp_path: Path):
    config = {"preset": "tiny", "steps": 40, "report_every": 2, "batch_size": 8, "control_steps": 0, "num_workers": 2}
    write(tmp_path, "Pretrain", {}, config)
    run, storage = command(tmp_path, "train", "file", "x.json", cores=2), tmp_path / "results"
    wait_for(lambda: len(rows_of(storage)) > 2)
    os.kill(processes("ray::RayTrainWorker", run.pid)[0], signal.SIGKILL)
    told, _ = run.communicate(timeout=250)
    assert run.returncode == 0, told
    assert sorted({row["step"] for row in rows_of(storage)}) == list(range(2, 42, 2))
    assert lost(rows_of(storage), expected=20) <= 2
