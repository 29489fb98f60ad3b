"""Artefacts: round trip, and every way in which a folder can be wrong."""

from __future__ import annotations

import json
import pickle
import shutil

import pytest
import torch

from irl_ray.errors import UserError
from irl_ray.models import weights
from irl_ray.models.metacontroller import MetacontrollerConfig


@pytest.fixture
def folder(tiny_weights, tmp_path):
    return shutil.copytree(tiny_weights, tmp_path / "artefact")


def test_round_trip_is_exact(tiny_agent, tmp_path):
    tiny_agent.metrics["discover"] = {"switch_f1": 0.5}
    saved = weights.load(weights.save(tiny_agent, tmp_path / "a"), "metacontroller")
    assert saved.world == tiny_agent.world and saved.metrics == tiny_agent.metrics
    for name, part in tiny_agent.parts.items():
        assert weights.fingerprint(part) == weights.fingerprint(saved.parts[name])
        assert not any(p.requires_grad for p in saved.parts[name].parameters())
    assert "switch_f1" in (tmp_path / "a" / "CARD.md").read_text()


def edit(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def cut(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def not_finite(folder):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    name = next(iter(tensors))
    tensors[name] = torch.full_like(tensors[name], float("nan"))
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    "damage, told",
    [
        (lambda f: (f / "model.safetensors").unlink(), "missing"),
        (cut, "cut short"),
        (lambda f: (f / "model.safetensors").write_bytes(pickle.dumps({"a": 1})), "not a safetensors file"),
        (not_finite, "not finite"),
        (lambda f: (f / "config.json").write_text("{"), "JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "format"),
        (lambda f: edit(f, lambda c: c.update(format=99)), "format 99"),
        (lambda f: edit(f, lambda c: c.pop("world")), "lacks world"),
        (lambda f: edit(f, lambda c: c["base"].update(width=64)), "does not fit"),
        (lambda f: edit(f, lambda c: c["base"].update(widht=64)), "width"),
    ],
)
def test_damage_is_named_in_one_line(folder, damage, told):
    damage(folder)
    with pytest.raises(UserError, match=told) as caught:
        weights.load(folder)
    assert "\n" not in str(caught.value)


def test_missing_parts_and_unknown_names(folder):
    with pytest.raises(UserError, match="holds no policy"):
        weights.load(folder, "policy")
    with pytest.raises(UserError, match="gridworld"):
        weights.load("gridwrold")


@pytest.mark.parametrize(
    "name", ["gridworld", "gridworld_pairs", "gridworld_taught", "gridworld_medium", "ant", "ant_goals", "babyai"]
)
def test_released_weights_load_and_tell_their_story(name):
    agent = weights.load(name, "metacontroller")
    older = name in ("gridworld_taught", "ant")  # than the key; a fresh one reads its sequence once
    assert agent.metacontroller.config.summary == ("step" if older else "sequence")
    assert MetacontrollerConfig().summary == "sequence"
    assert {"pretrain", "discover"} <= agent.metrics.keys()
    assert agent.provenance["discover"]["config"]["steps"] > 0


def test_weights_tell_whether_their_codes_were_found_on_clean_slates():
    told = {name: weights.load(name).found_on_clean_slates for name in ("gridworld", "gridworld_taught")}
    assert told == {"gridworld": True, "gridworld_taught": False}
