"""A long run of internal RL, watched: does memory grow, does it slow down, does it leave anything behind?

    python tests/benchmarks/soak.py tuned_configs/gridworld_taught_internal.yaml --hours 1 --runners 2 --out soak.csv

Prints a table: of each process its own memory (without libraries, whose share hangs on who else runs) at a tenth of
the time and at the end, and the slope of a line through what lies between; episodes per second, and per second of
processor time, in the first and the last third; the most that the object store held; processes left over. About a
minute more than asked.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import ray

from irl_ray.cli.runner import start_ray

EVERY = 10.0  # seconds
WARM_UP = 0.1  # of the time, in which memory may grow


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("file", help="experiment of InternalRL or RawRL")
    options.add_argument("--hours", type=float, default=1.0)
    options.add_argument("--runners", type=int, default=2)
    options.add_argument("--cpus", type=int, default=2, help="cores that Ray may use")
    options.add_argument("--out", default="soak.csv", help="where every measurement goes")
    asked = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = watch(asked, Path(folder))
    with open(asked.out, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("seconds", "what", "value"))
        writer.writerows(rows)
    show(rows)
    return 0


def watch(asked: argparse.Namespace, folder: Path) -> list[tuple[float, str, float]]:
    """Runs the experiment on a Ray of its own and measures every few seconds: (seconds, what, value)."""
    before = {process.pid for process in psutil.process_iter()}
    start_ray(None, num_cpus=asked.cpus)
    address = ray.get_runtime_context().gcs_address
    share = max(0.1, (asked.cpus - 1) / max(1, asked.runners))
    config = {"num_env_runners": asked.runners, "num_cpus_per_env_runner": share}
    arguments = [sys.executable, "-m", "irl_ray.cli.rllib", "train", "file", asked.file]
    arguments += ["--ray-address", address, "--storage-path", str(folder)]
    arguments += ["--stop", json.dumps({"time_total_s": asked.hours * 3600}), "--config", json.dumps(config)]
    rows: list[tuple[float, str, float]] = []
    with open(folder / "log", "w") as log:
        run = subprocess.Popen(arguments, stdout=log, stderr=log)
        started = time.monotonic()
        try:
            while run.poll() is None:
                time.sleep(EVERY)
                rows += [(time.monotonic() - started, *measured) for measured in measure(run.pid, folder)]
        finally:
            run.terminate()
    if run.returncode:
        raise SystemExit((folder / "log").read_text()[-2000:])
    rows.append((time.monotonic() - started, "object store after, MB", object_store()))
    ray.shutdown()
    time.sleep(5)
    left = [p for p in psutil.process_iter(["cmdline", "status"]) if p.pid not in before and is_left(p)]
    rows.append((time.monotonic() - started, "processes left", len(left)))
    return rows


def is_left(process: psutil.Process) -> bool:
    """Whether a process is of Ray, or is dead and not buried."""
    line = " ".join(process.info["cmdline"] or ())
    named = any(name in line for name in ("ray::", "/raylet/raylet", "/gcs/gcs_server"))
    return named or process.info["status"] == psutil.STATUS_ZOMBIE


def measure(driver: int, folder: Path) -> list[tuple[str, float]]:
    """Memory and processor time of every process of the run, episodes so far, the object store."""
    found, seconds = [], 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            times = process.cpu_times()
            seconds += times.user + times.system
            name = part(process, driver)
            if name is not None:
                memory = process.memory_info()
                found.append((f"{name} {process.pid}, MB", (memory.rss - memory.shared) / 2**20))
        except psutil.NoSuchProcess:
            continue
    found += [("processor seconds", seconds), ("object store, MB", object_store())]
    with contextlib.suppress(ValueError, IndexError):  # it may be in the middle of being written
        for results in folder.glob("*/*/progress.csv"):
            head, *_, last = csv.reader(results.read_text().splitlines())
            found.append(("episodes", float(last[head.index("env_runners/num_episodes_lifetime")])))
    return found


def part(process: psutil.Process, driver: int) -> str | None:
    """What a process is in the run; None if it does not belong to it."""
    line = " ".join(process.cmdline())
    if process.pid == driver:
        return "command"
    names = {"ray::InternalRunner": "env runner", "ray::RawRunner": "env runner", "ray::InternalRL": "algorithm",
             "ray::RawRL": "algorithm", "/raylet/raylet": "raylet", "/gcs/gcs_server": "gcs server"}  # fmt: skip
    return next((name for key, name in names.items() if key in line), None)


def object_store() -> float:
    """MB in use."""
    kind = "object_store_memory"
    return (ray.cluster_resources()[kind] - ray.available_resources().get(kind, 0.0)) / 2**20


def show(rows: list[tuple[float, str, float]]) -> None:
    """The table that the module describes."""
    series: dict[str, np.ndarray] = {}
    for what in dict.fromkeys(what for _, what, _ in rows):
        series[what] = np.array([(at, value) for at, name, value in rows if name == what])
    episodes, seconds = series["episodes"], series["processor seconds"]
    end = episodes[episodes[:, 1].argmax(), 0]  # what comes after is the run's closing down
    print(f"{'':<24}{'at a tenth':>12}{'at the end':>12}{'slope per hour':>24}")
    for what, values in series.items():
        late = values[(values[:, 0] > WARM_UP * end) & (values[:, 0] <= end)]
        if what.endswith("MB") and "after" not in what and len(late) > 2:
            slope, error = line_through(late)
            print(f"{what:<24}{late[0, 1]:>12.1f}{late[-1, 1]:>12.1f}{slope:>+16.2f} ± {error:.2f}")
    print(f"{'object store, most MB':<24}{series['object store, MB'][:, 1].max():>12.1f}")
    print(f"{'object store after, MB':<24}{series['object store after, MB'][-1, 1]:>12.1f}")
    for name, first, last in (("first third", 0.1, 0.4), ("last third", 0.7, 1.0)):
        window = episodes[(episodes[:, 0] > first * end) & (episodes[:, 0] < last * end)]
        spent = np.interp(window[[0, -1], 0], *seconds.T)
        done = window[-1, 1] - window[0, 1]
        rates = (done / (window[-1, 0] - window[0, 0]), done / (spent[1] - spent[0]))
        print(f"{name:<24}{rates[0]:>12.1f} episodes/s{rates[1]:>12.1f} per second of processor time")
    print(f"{'episodes':<24}{episodes[-1, 1]:>12.0f}")
    print(f"{'processes left':<24}{series['processes left'][-1, 1]:>12.0f}")


def line_through(points: np.ndarray) -> tuple[float, float]:
    """Slope per hour and its standard error, of [n, 2] (seconds, value)."""
    hours, values = points[:, 0] / 3600, points[:, 1]
    (slope, _), covariance = np.polyfit(hours, values, 1, cov=True)
    return float(slope), float(covariance[0, 0] ** 0.5)


if __name__ == "__main__":
    sys.exit(main())
