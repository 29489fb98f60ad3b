"""Episodes per second of RL with 0, 1 and 2 env runners here, and what the measured parts predict up to 1,000.

    python tests/benchmarks/scaling.py tuned_configs/ant_internal.yaml --out scaling

writes scaling.csv and scaling.png, and prints the parts and a table. Run it while nothing else runs.

An iteration with N env runners (one core each) and B episodes takes

    S(B / N)        sampling: one runner's time for its share, the slowest of as many tries as were made
  + N c_call        the driver asks every runner, weights in hand, and reads its answer
  + B c_decode      the driver turns what arrived into the learner's batch
  + L(B)            learning, on one core
  + bytes / rate    episodes and weights on the wire; weights once per node

S, c_decode and L are measured in this process with the policy as it starts; episodes grow longer as it learns. c_call
is the driver's processor time, as a slope over up to 16 actors without work. Assumed: every runner has a core like
this one; the driver has one; nodes of 32 cores; 1 Gbit/s into the driver's node; nothing else waits. With many runners
it is optimistic in one thing: the slowest of a thousand is slower than the slowest of at most twelve tries.

"RLlib's way" is the same with episodes sent as RLlib's objects, which the driver must rebuild one at a time, and with
weights handed out by calls of their own.
"""

from __future__ import annotations

import argparse
import csv
import pickle
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.utils.actor_manager import FaultTolerantActorManager

from irl_ray.cli.experiment import built_algorithm_config, read_file
from irl_ray.cli.runner import start_ray
from irl_ray.internal.sampler import Episodes
from irl_ray.rllib import trainables
from irl_ray.rllib.algorithms import EpisodePolicyGradient, sample_share
from irl_ray.rllib.episodes import to_batch, to_rllib

RUNNERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)
PER_NODE = 32
WIRE = 125e6  # bytes per second
TRIES = 12


@dataclass
class Parts:
    """Seconds, unless named otherwise."""

    shares: np.ndarray  # [n] episodes asked of one runner
    sampling: np.ndarray  # [n] the slowest of some tries
    sampling_mean: np.ndarray
    call: float  # per runner
    decode: float  # per episode
    decode_objects: float  # per episode, as RLlib's objects
    learning: float  # per episode
    sync: float  # per runner
    episode_bytes: float
    weight_bytes: float

    def iteration(self, runners: int, episodes: int, rllib: bool = False) -> dict[str, float]:
        """What an iteration consists of."""
        share = np.log(max(1.0, episodes / runners))
        runners = min(runners, episodes)  # no more are asked
        slowest = self.sampling_mean if runners == 1 else self.sampling
        wire = (episodes * self.episode_bytes + np.ceil(runners / PER_NODE) * self.weight_bytes) / WIRE
        return {
            "sampling": float(np.exp(np.interp(share, np.log(self.shares), np.log(slowest)))),
            "calls": runners * self.call,
            "decoding": episodes * (self.decode_objects if rllib else self.decode),
            "learning": episodes * self.learning,
            "weights": runners * self.sync if rllib else 0.0,
            "wire": wire,
        }


class Idle:
    """An env runner without work: it answers at once with the episodes that it was given."""

    def __init__(self, number: int, answer: bytes):
        self.worker_index = number
        self.episodes = pickle.loads(answer)  # noqa: S301  its own

    def apply(self, func: Callable, *args: object, **kwargs: object) -> object:
        return func(self, *args, **kwargs)

    def set_state(self, state: dict) -> None:
        self.state = state

    def sample_indices(self, round_number: int, indices: Sequence[int], purpose: str) -> Episodes:
        return self.episodes


def timed(function: Callable[[], object], rounds: int = 5, clock: Callable[[], float] = time.perf_counter) -> float:
    """Median seconds, after one call to warm up."""
    function()
    times = []
    for _ in range(rounds):
        started = clock()
        function()
        times.append(clock() - started)
    return float(np.median(times))


def measure_parts(algorithm: EpisodePolicyGradient, batch: int) -> Parts:
    """Times every part of an iteration."""
    runner = algorithm.env_runner
    shares = np.array([*(2**k for k in range(int(np.ceil(np.log2(batch))))), batch])
    mean, slowest = [], []
    for share in shares:
        runner.sample_indices(0, range(share), "train")
        times = []
        for k in range(max(3, min(TRIES, 2 * batch // share))):
            started = time.perf_counter()
            episodes = runner.sample_indices(k, range(share), "train")
            times.append(time.perf_counter() - started)
        mean.append(np.mean(times))
        slowest.append(np.max(times))
    sent, objects = pickle.dumps(episodes, 5), pickle.dumps([to_rllib(e) for e in episodes], 5)
    advantages = np.linspace(-1, 1, len(episodes))
    decode = timed(lambda: to_batch(pickle.loads(sent), advantages)) / len(episodes)  # noqa: S301
    rebuild = timed(lambda: pickle.loads(objects)) / len(episodes)  # noqa: S301

    def learn() -> None:
        data = TrainingData(batch=to_batch(episodes, advantages))
        algorithm.learner_group.update(training_data=data, num_epochs=algorithm.config.num_epochs)
        for _ in range(2):  # to ask with, and for the driver's own runner
            algorithm._policy_state()

    state = algorithm._policy_state()
    call, sync = slopes(runner.sample_indices(0, range(16), "train"), state)
    return Parts(
        shares, np.array(slowest), np.array(mean), call, decode, decode + rebuild, timed(learn) / len(episodes), sync,
        len(sent) / len(episodes), len(pickle.dumps(state)),
    )  # fmt: skip


def slopes(answer: Episodes, state: dict) -> tuple[float, float]:
    """The driver's processor time per runner of asking for episodes, and of handing out weights."""
    actor = ray.remote(num_cpus=0.01)(Idle)
    counts, calls, syncs = (2, 4, 8, 16), [], []
    for count in counts:
        workers = list(range(1, count + 1))
        actors = [actor.remote(number, pickle.dumps(answer)) for number in workers]
        manager = FaultTolerantActorManager(actors, init_id=1)

        def ask(manager: Any = manager, workers: Any = workers) -> None:
            asked = {"purpose": "train", "round_number": 0, "missing": range(16 * len(workers)), "workers": workers}
            answers = manager.foreach_actor(
                partial(sample_share, **asked), kwargs={"policy": ray.put(state)}, timeout_seconds=60
            )
            assert all(answer.ok for answer in answers) and len(list(answers)) == len(workers)

        def hand_out(manager: Any = manager) -> None:
            manager.foreach_actor("set_state", kwargs={"state": ray.put(state)}, timeout_seconds=60)

        calls.append(timed(ask, 25, time.process_time))
        syncs.append(timed(hand_out, 25, time.process_time))
        for each in actors:
            ray.kill(each)
    return float(np.polyfit(counts, calls, 1)[0]), float(np.polyfit(counts, syncs, 1)[0])


def measured_rate(run: str, config: dict, runners: int, seconds: float) -> float:
    """Episodes per second of real iterations, in which the policy stays as it was."""
    config = {**config, "lr": 0.0, "num_env_runners": runners, "num_cpus_per_env_runner": 0.5}
    algorithm = built_algorithm_config(run, config).build_algo()
    for _ in range(2):
        algorithm.train()
    started, iterations = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        algorithm.train()
        iterations += 1
    rate = iterations * algorithm.config.train_batch_episodes / (time.perf_counter() - started)
    algorithm.stop()
    return rate


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("file", help="experiment of InternalRL or RawRL")
    options.add_argument("--seconds", type=float, default=30, help="of each measured rate")
    options.add_argument("--out", default="scaling")
    asked = options.parse_args()
    torch.set_num_threads(1)
    start_ray(None, num_cpus=3)
    trainables.register_everything()
    (experiment,) = read_file(asked.file)
    config = experiment.config
    built = built_algorithm_config(experiment.run, config)
    batch = built.train_batch_episodes
    algorithm = built.build_algo()
    parts = measure_parts(algorithm, batch)
    algorithm.stop()
    measured = {n: measured_rate(experiment.run, config, n, asked.seconds) for n in (0, 1, 2)}
    ray.shutdown()
    rows = table(parts, batch, measured)
    with open(f"{asked.out}.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    draw(rows, Path(asked.file).stem, f"{asked.out}.png")
    return 0


def table(parts: Parts, batch: int, measured: dict[int, float]) -> list[dict[str, float]]:
    """Prints the parts and what they predict."""
    one = {name: seconds * 1e3 for name, seconds in parts.iteration(1, batch).items()}
    print(f"one runner, {batch} episodes, ms: " + ", ".join(f"{name} {value:.3g}" for name, value in one.items()))
    print(
        f"per runner, ms: call {parts.call * 1e3:.3g}, weights by a call of their own {parts.sync * 1e3:.3g}; "
        f"per episode, us: decoding {parts.decode * 1e6:.3g} (RLlib's way {parts.decode_objects * 1e6:.3g}), learning "
        f"{parts.learning * 1e6:.3g}; bytes: episode {parts.episode_bytes:.0f}, weights {parts.weight_bytes:.0f}"
    )
    print("shares  " + "  ".join(f"{s}: {t:.3g} s" for s, t in zip(parts.shares, parts.sampling)))
    print(f"measured without runners: {measured[0]:.0f} episodes/s")
    heads = ("runners", "measured/s", "predicted/s", "RLlib's way", "largest part", "batch", "predicted/s")
    print("".join(f"{head:>14}" for head in heads))
    rows = []
    for runners in RUNNERS:
        seconds, larger = parts.iteration(runners, batch), max(batch, 32 * runners)
        slowest = max(seconds, key=seconds.get)
        row = {
            "runners": runners,
            "measured": measured.get(runners, float("nan")),
            "predicted": batch / sum(seconds.values()),
            "rllib": batch / sum(parts.iteration(runners, batch, rllib=True).values()),
            "largest_part": slowest,
            "larger_batch": larger,
            "predicted_larger_batch": larger / sum(parts.iteration(runners, larger).values()),
            **seconds,
        }
        rows.append(row)
        shown = f"{row['measured']:>14.0f}" if runners in measured else f"{'-':>14}"
        print(
            f"{runners:>14}{shown}{row['predicted']:>14.0f}{row['rllib']:>14.0f}{slowest:>14}{larger:>14}"
            f"{row['predicted_larger_batch']:>14.0f}"
        )
    return rows


def draw(rows: list[dict[str, float]], name: str, out: str) -> None:
    """The curves, on double logarithmic axes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    runners = [row["runners"] for row in rows]
    batch = rows[0]["larger_batch"]
    axes.loglog(runners, [r["predicted"] for r in rows], label=f"predicted, {batch} episodes per update")
    axes.loglog(runners, [r["rllib"] for r in rows], "--", label="the same, RLlib's way")
    axes.loglog(runners, [r["predicted_larger_batch"] for r in rows], label="predicted, at least 32 per runner")
    axes.loglog(runners, [r["measured"] for r in rows], "ko", label="measured")
    axes.loglog(runners, [rows[0]["predicted"] * n for n in runners], ":", color="gray", label="linear")
    axes.set(xlabel="env runners, one core each", ylabel="episodes per second", title=name)
    axes.legend(fontsize=8)
    figure.savefig(out, dpi=150)


if __name__ == "__main__":
    sys.exit(main())
