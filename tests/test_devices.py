"""Phases keep to the device that they are told; checked without one (see other_device.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from other_device import OtherDevice, OtherGenerator

from irl_ray import load_agent
from irl_ray.phases.compile import CompILE, compile_config
from irl_ray.phases.discover import Discover, discover_config
from irl_ray.phases.pretrain import Pretrain, pretrain_config
from irl_ray.phases.training import Phase
from irl_ray.worlds.pinpad.presets import ANTS
from irl_ray.worlds.pinpad.specs import ANT_ID


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> OtherDevice:
    monkeypatch.setattr(torch, "Generator", OtherGenerator)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda precision: None)
    with OtherDevice() as mode:
        yield mode


def test_the_other_device_is_one(elsewhere: OtherDevice):
    here, there = torch.zeros(3), torch.ones(3, device="cuda")
    assert str(there.device) == "cuda" and str((there * 2).sum(0).device) == "cuda" and str(there.cpu().device) == "cpu"
    number, model = there.sum(), torch.nn.Linear(3, 3)

    def assign() -> None:
        there[torch.tensor([0, 1])] = torch.zeros(2)

    for mixed in (
        lambda: here + there,
        lambda: here + number,
        lambda: torch.stack([here.sum(), number]),
        lambda: here[there.long()],
        lambda: model(there),
        assign,
        there.numpy,
    ):
        with pytest.raises(RuntimeError):
            mixed()
    there + here.sum()
    with pytest.raises(RuntimeError):
        torch.rand(3, device="cuda", generator=torch.Generator())
    assert str(torch.nn.Linear(3, 3).to("cuda")(there).device) == "cuda"


def read_again(state: Any) -> Any:
    """A state as it is read from a file: on the CPU."""
    if isinstance(state, dict):
        return {name: read_again(value) for name, value in state.items()}
    if isinstance(state, list):
        return [read_again(value) for value in state]
    return state.cpu() if isinstance(state, torch.Tensor) else state


def kept_to_it(elsewhere: OtherDevice, phase: Phase, folder: Path) -> None:
    """Trains, saves, loads, measures and writes its weights."""
    phase.step()
    phase.load_state(read_again(phase.state()))
    phase.step()
    here = elsewhere.seen
    assert here > 1000
    phase.export(folder, phase.gates())
    assert load_agent(folder)


TINY = {"preset": "tiny", "device": "cuda", "steps": 4, "report_every": 2, "gate_episodes": 16}
TAUGHT = {"steps": 3, "weigh_after": 1, "trajectories": 64, "min_contrast": 0}


def test_pretraining_keeps_to_its_device(elsewhere: OtherDevice, tmp_path: Path):
    config = {**TINY, "model": {"encoder": "absolute"}, "goal_steps": 2}
    kept_to_it(elsewhere, Pretrain(pretrain_config(config)), tmp_path)


def test_pretraining_the_ant_keeps_to_its_device(elsewhere: OtherDevice, ant_data: Path, tmp_path: Path):
    further = {"term_weights": {"cell": 1.0}, "entry_batch_size": 8, "batch_size": 8}
    config = {
        **TINY,
        **further,
        "env": ANT_ID,
        "world": ANTS["small"],
        "data": str(ant_data),
        "clean_data": str(ant_data),
    }
    kept_to_it(elsewhere, Pretrain(pretrain_config(config)), tmp_path)


@pytest.mark.parametrize(
    "how",
    [{}, {"teacher": TAUGHT}, {"co_training": "scratch"}, {"clean_slate": True, "metacontroller": {"layer": 1}}],
    ids=["plain", "taught", "along", "anew"],
)
def test_discovery_keeps_to_its_device(elsewhere: OtherDevice, tiny_weights: Path, how: dict, tmp_path: Path):
    config = {**TINY, **how, "base": str(tiny_weights), "gates_at_reports": True}
    kept_to_it(elsewhere, Discover(discover_config(config)), tmp_path)


def test_discovery_on_the_ant_keeps_to_its_device(
    elsewhere: OtherDevice, ant_data: Path, ant_weights: Path, tmp_path: Path
):
    taught = {**TAUGHT, "trajectories": 16, "entry_batch_size": 8, "cell_weight": 3.0}
    config = {
        **TINY,
        "env": ANT_ID,
        "base": str(ant_weights),
        "data": str(ant_data),
        "teacher": taught,
        "batch_size": 8,
    }
    kept_to_it(elsewhere, Discover(discover_config(config)), tmp_path)


def test_compile_keeps_to_its_device(elsewhere: OtherDevice, tiny_weights: Path, tmp_path: Path):
    kept_to_it(elsewhere, CompILE(compile_config({**TINY, "base": str(tiny_weights)})), tmp_path)
