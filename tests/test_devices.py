"""Phases keep to the device that they are told; checked without one (see other_device.py)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from other_device import OtherDevice, OtherGenerator

from irl_ray.phases.compile import CompILE, compile_config
from irl_ray.phases.discover import Discover, discover_config
from irl_ray.phases.pretrain import Pretrain, pretrain_config
from irl_ray.phases.training import Phase


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> OtherDevice:
    monkeypatch.setattr(torch, "Generator", OtherGenerator)
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda precision: None)
    with OtherDevice() as mode:
        yield mode


def test_the_other_device_is_one(elsewhere: OtherDevice):
    here, there = torch.zeros(3), torch.ones(3, device="cuda")
    assert str(there.device) == "cuda" and str((there * 2).sum(0).device) == "cuda" and str(there.cpu().device) == "cpu"
    for mixed in (lambda: here + there, lambda: torch.stack([here, there]), lambda: here[there.long()], there.numpy):
        with pytest.raises(RuntimeError):
            mixed()
    with pytest.raises(RuntimeError):
        torch.rand(3, device="cuda", generator=torch.Generator())
    assert str(torch.nn.Linear(3, 3).to("cuda")(there).device) == "cuda"


def kept_to_it(elsewhere: OtherDevice, phase: Phase) -> None:
    """Trains, saves, loads and measures."""
    phase.step()
    phase.load_state(phase.state())
    phase.step()
    here = elsewhere.seen
    assert here > 1000
    phase.gates()


TINY = {"preset": "tiny", "device": "cuda", "steps": 4, "report_every": 2, "gate_episodes": 16}
TAUGHT = {"steps": 2, "weigh_after": 1, "trajectories": 64, "min_contrast": 0}


def test_pretraining_keeps_to_its_device(elsewhere: OtherDevice):
    kept_to_it(elsewhere, Pretrain(pretrain_config(TINY)))


@pytest.mark.parametrize("teacher", [{"steps": 0}, TAUGHT], ids=["plain", "taught"])
def test_discovery_keeps_to_its_device(elsewhere: OtherDevice, tiny_weights: Path, teacher: dict):
    kept_to_it(elsewhere, Discover(discover_config({**TINY, "base": str(tiny_weights), "teacher": teacher})))


def test_compile_keeps_to_its_device(elsewhere: OtherDevice, tiny_weights: Path):
    kept_to_it(elsewhere, CompILE(compile_config({**TINY, "base": str(tiny_weights)})))
