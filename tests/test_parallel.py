"""Supervised phases on several workers: the same run as on one, up to the order of sums."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from torch import distributed, multiprocessing

from irl_ray.analysis.results import read
from irl_ray.cli.rllib import main
from irl_ray.models import weights
from irl_ray.phases.compile import CompILE, compile_config
from irl_ray.phases.discover import Discover, discover_config
from irl_ray.phases.pretrain import Pretrain, pretrain_config

MADE = {
    "Pretrain": lambda settings: Pretrain(pretrain_config(settings)),
    "Discover": lambda settings: Discover(discover_config(settings)),
    "CompILE": lambda settings: CompILE(compile_config(settings)),
}
TINY = {"preset": "tiny", "steps": 6, "report_every": 1, "batch_size": 13, "length_groups": 2}
CUT = {"cut_share": 0.8, "cuts": 2, "clean_slate": True, "turned_summaries": True}
TAUGHT = {"teacher": {"steps": 4, "weigh_after": 2, "trajectories": 64, "min_contrast": 0.0}}


def _worker(rank: int, workers: int, meeting: str, run: str, settings: dict[str, Any], out: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=workers)
    torch.save(_run(run, settings), f"{out}_{rank}.pt")
    distributed.destroy_process_group()


def _run(run: str, settings: dict[str, Any]) -> dict[str, Any]:
    phase = MADE[run](settings)
    metrics = [phase.step()]
    gradients = {name: p.grad.clone() for name, p in phase.trained.named_parameters() if p.grad is not None}
    while not phase.finished:
        metrics.append(phase.step())
    return {"metrics": metrics, "gradients": gradients, "trained": phase.trained.state_dict()}


@pytest.mark.parametrize("run, more", [("Pretrain", {}), ("Discover", CUT), ("Discover", TAUGHT), ("CompILE", {})])
def test_two_workers_take_the_steps_of_one(run: str, more: dict, tmp_path: Path, tiny_weights: Path):
    settings = {**TINY, **({} if run == "Pretrain" else {"base": str(tiny_weights)}), **more}
    alone = _run(run, settings)
    meeting = (tmp_path / "meeting").as_uri()
    multiprocessing.spawn(_worker, (2, meeting, run, settings, str(tmp_path / "got")), nprocs=2)
    first, second = (torch.load(tmp_path / f"got_{rank}.pt", weights_only=True) for rank in (0, 1))
    for name, value in first["trained"].items():
        assert torch.equal(value, second["trained"][name])  # workers never drift apart
    for name, value in alone["gradients"].items():  # Adam would blow up the last bits of small ones
        torch.testing.assert_close(first["gradients"][name], value, rtol=1e-4, atol=1e-6)
    for told, expected in zip(first["metrics"], alone["metrics"]):
        same = {k for k in expected if k != "trajectories_per_s"}
        assert {k: told[k] for k in same} == pytest.approx({k: expected[k] for k in same}, rel=2e-3, abs=1e-3)


def test_a_file_asks_for_two_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Ray Train starts them; the weights are those of a run on one worker, without a wrapper's prefix."""
    monkeypatch.chdir(tmp_path)
    settings = {**TINY, "report_every": 3, "control_steps": 1}
    alone = _run("Pretrain", settings)["trained"]
    Path("x.json").write_text(json.dumps({"x": {"run": "Pretrain", "config": {**settings, "num_workers": 2}}}))
    ray.shutdown()  # whatever ran before may have started it with fewer cores
    try:
        assert main(["train", "file", "x.json", "--ray-num-cpus", "2"]) == 0
    finally:
        ray.shutdown()
    (found,) = Path("results").glob("x_*")
    trained = weights.load(found).base.state_dict()
    assert trained.keys() == alone.keys()
    for name, value in alone.items():
        torch.testing.assert_close(trained[name], value, rtol=0.05, atol=2e-3)
    (folder,) = weights.artefacts_of_trials(str(found))
    assert weights.remote_artefact(found.resolve().as_uri()) == Path(folder).as_uri()
    (experiment,) = read([found]).experiments
    assert experiment.trials[0].finished
