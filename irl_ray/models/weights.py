"""Portable artefacts: a folder with model.safetensors, config.json and CARD.md.

One format for everything: an artefact holds the base model and, as far as training has come, the
metacontroller and the policy over codes. Nothing in it is ever unpickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from irl_ray import places, worlds
from irl_ray.config import build, to_plain
from irl_ray.errors import UserError, did_you_mean
from irl_ray.models.code_policy import CodePolicy, CodePolicyConfig
from irl_ray.models.expert import Expert, ExpertConfig
from irl_ray.models.metacontroller import Metacontroller, MetacontrollerConfig
from irl_ray.models.segmenter import Segmenter, SegmenterConfig
from irl_ray.models.sequence_model import BaseModel, SequenceModelConfig, model_config, new_base
from irl_ray.worlds.world import World

FORMAT = 1
PARTS = ("base", "metacontroller", "segmenter", "policy", "expert")
RELEASED = Path(__file__).resolve().parent.parent / "released"


@dataclass
class Artefact:
    """A trained agent, or the part of it that exists so far.

    Attributes:
        world: the world whose demonstrations the base model imitated.
        base: the frozen sequence model; None for an expert.
        metacontroller: None before discovery.
        segmenter: CompILE's segment encoder, where codes were found by that baseline.
        policy: None before internal RL.
        expert: who gives the demonstrations, where it is a network; stands alone.
        metrics: what was measured, by phase.
        provenance: how each phase was run (configuration, seed, code revision), by phase.
    """

    world: World
    base: BaseModel | None = None
    metacontroller: Metacontroller | None = None
    segmenter: Segmenter | None = None
    policy: CodePolicy | None = None
    expert: Expert | None = None
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    provenance: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def switch_threshold(self) -> float:
        """The threshold the policy was trained with; 0.5 (the paper's) without a policy."""
        return self.policy.config.switch_threshold if self.policy else 0.5

    @property
    def action_temperature(self) -> float:
        """At which the base model's actions are drawn: as the policy over codes, or raw RL, was trained."""
        if self.policy is not None:
            return self.policy.config.action_temperature
        return self.provenance.get("RawRL", {}).get("action_temperature", 1.0)

    @property
    def clean_slate(self) -> bool:
        """Whether the base model's memory starts anew with every code: as the policy was trained; no without one."""
        return self.policy.config.clean_slate if self.policy else False

    @property
    def found_on_clean_slates(self) -> bool:
        """Whether the base model's memory started anew at every switch when its codes were looked for."""
        return self.provenance.get("discover", {}).get("config", {}).get("clean_slate", False)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Writes it to a folder, from which `load` reads it."""
        return save(self, folder)

    def forget(self, *phases: str) -> None:
        """Drops what was measured and told of phases whose outcome is no longer part of the artefact."""
        for phase in phases:
            self.metrics.pop(phase, None)
            self.provenance.pop(phase, None)

    @property
    def parts(self) -> dict[str, nn.Module]:
        return {name: module for name in PARTS if (module := getattr(self, name)) is not None}


def new_segmenter(config: SegmenterConfig, shape: SequenceModelConfig, world: World) -> Segmenter:
    """A fresh segment encoder that reads the observations of a world as a base model of this shape does."""
    embedding = world.encoders[shape.encoder](world, shape.width, shape.embedding_std)
    return Segmenter(config, shape, embedding)


def fingerprint(module: nn.Module) -> str:
    """SHA-256 over names and values of all parameters: equal only if bit-identical."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def code_revision() -> str:
    """The git revision of this package, "unknown" outside a checkout."""
    try:
        here = Path(__file__).resolve().parent
        git = ["git", "-C", str(here), "describe", "--always", "--dirty"]
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def save(artefact: Artefact, folder: str | os.PathLike[str]) -> Path:
    """Writes an artefact; the folder is complete or absent, never half written."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{part}.{name}": tensor.detach().cpu().contiguous()
        for part, module in artefact.parts.items()
        for name, tensor in module.state_dict().items()
    }
    weights = folder / "model.safetensors"
    save_file(tensors, weights.with_suffix(".partial"))
    config = {
        "format": FORMAT,
        "environment": artefact.world.id,
        "world": artefact.world.settings,
        **{part: to_plain(module.config) for part, module in artefact.parts.items()},
        "sha256": hashlib.sha256(weights.with_suffix(".partial").read_bytes()).hexdigest(),
        "metrics": artefact.metrics,
        "provenance": artefact.provenance,
    }
    partial = folder / "config.partial"
    partial.write_text(json.dumps(config, indent=1), encoding="utf-8")
    (folder / "CARD.md").write_text(card(artefact), encoding="utf-8")
    weights.with_suffix(".partial").chmod(0o644)  # safetensors writes for the owner alone
    os.replace(weights.with_suffix(".partial"), weights)
    os.replace(partial, folder / "config.json")
    return folder


def card(artefact: Artefact) -> str:
    """The model card: what it is, how it was made, what was measured."""
    sizes = {part: sum(p.numel() for p in m.parameters()) for part, m in artefact.parts.items()}
    lines = [
        "# Model card",
        "",
        f"World: {artefact.world.about}",
        "",
        "| part | parameters |",
        "|---|---|",
        *(f"| {part} | {size:,} |" for part, size in sizes.items()),
    ]
    for phase, metrics in artefact.metrics.items():
        made = artefact.provenance.get(phase, {})
        told = ", ".join(f"{key} {made[key]}" for key in ("seed", "revision") if key in made)
        if phase == "pretrain" and artefact.provenance.get("discover", {}).get("config", {}).get("co_training"):
            told += "; before it was trained along"
        lines += ["", f"## {phase} ({told})", "", "| measured | value |", "|---|---|"]
        lines += [f"| {name} | {_shown(value)} |" for name, value in metrics.items()]
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value}"


def resolve(name: str | os.PathLike[str]) -> Path:
    """The folder of an artefact: a path, a URI (copied here once), or the name of released weights."""
    if places.is_remote(name):
        return places.copy_here(remote_artefact(str(name)))
    path = places.local(name)
    if (path / "config.json").is_file():
        return path
    released = sorted(p.parent.name for p in RELEASED.glob("*/config.json"))
    if path.parent == Path(".") and path.name in released:
        return RELEASED / path.name
    # A checkpoint, a trial or a whole experiment: its newest artefact.
    inside = sorted(path.glob("**/artefact/config.json"), key=lambda found: found.stat().st_mtime)
    if inside:
        return inside[-1].parent
    raise UserError(
        f"{name}: no weights there (expected a folder with config.json and model.safetensors)."
        f"{did_you_mean(str(name), released)} Released: {', '.join(released) or 'none'}"
    )


def remote_artefact(place: str) -> str:
    """The URI of the newest whole artefact in a remote artefact, checkpoint, trial or experiment of one trial."""
    place = places.absolute(place)
    found = places.names_in(place)
    if {"config.json", "model.safetensors"} <= set(found):
        return place
    # A checkpoint; a phase on several workers; a trial, whose last upload may have been cut off.
    for inside in ("artefact", "workers", *reversed([n for n in found if re.fullmatch(r"checkpoint_[^a-z]+", n)])):
        if inside in found:
            with contextlib.suppress(UserError):
                return remote_artefact(places.join(place, inside))
    trials = [n for n in found if "params.json" in places.names_in(places.join(place, n))]
    if len(trials) > 1:
        raise UserError(f"{place}: holds {len(trials)} trials; name one of them, such as {trials[0]}")
    if not trials:
        raise UserError(f"{place}: no weights there (expected a folder with config.json and model.safetensors)")
    return remote_artefact(places.join(place, trials[0]))


def artefacts_of_trials(folder: str | os.PathLike[str]) -> list[str]:
    """The newest artefact of every trial of an experiment, in the order of the trials: absolute paths, or URIs.

    Raises:
        UserError: if a trial has none.
    """
    inside = [places.join(folder, name) for name in places.names_in(folder)]
    trials = [trial for trial in inside if "params.json" in places.names_in(trial)]
    if not trials:
        raise UserError(f"{folder}: holds no trials")
    if places.is_remote(folder):
        return [remote_artefact(trial) for trial in trials]
    return [str(resolve(trial).resolve()) for trial in trials]


def load(name: str | os.PathLike[str], *required: str, device: str | torch.device = "cpu") -> Artefact:
    """Reads an artefact with plain JSON and safetensors.

    Args:
        name: a folder, or the name of released weights such as "gridworld".
        required: parts that must be there; the base model unless others are named.
        device: where the weights go.

    Raises:
        UserError: if anything is missing, truncated, of another version or of another shape.
    """
    folder = resolve(name)
    config = _read_config(folder / "config.json")
    weights = folder / "model.safetensors"
    try:
        tensors = load_file(weights)
    except FileNotFoundError:
        raise UserError(f"{weights}: missing; copy the whole folder or train it again") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{weights}: not a safetensors file or cut short ({error})") from None
    for part in required or ("base",):
        if part not in config:
            raise UserError(f"{folder}: holds no {part}; {_HOW[part]}")
    world = _world_told(config, folder)
    artefact = Artefact(world, metrics=config["metrics"], provenance=config["provenance"])
    if "expert" in config:
        artefact.expert = Expert(build(ExpertConfig, config["expert"], f"{folder}: expert"))
    if "base" in config:
        artefact.base = new_base(model_config(config["base"], f"{folder}: base"), world)
    if "metacontroller" in config:
        # Weights without the key are older than it: their summary is read per step.
        told = {"summary": "step", **config["metacontroller"]}
        shape = build(MetacontrollerConfig, told, f"{folder}: metacontroller")
        artefact.metacontroller = Metacontroller(shape, artefact.base.width, artefact.base.num_layers)
    if "segmenter" in config:
        shape = build(SegmenterConfig, config["segmenter"], f"{folder}: segmenter")
        artefact.segmenter = new_segmenter(shape, artefact.base.config, world)
    if "policy" in config:
        artefact.policy = CodePolicy(build(CodePolicyConfig, config["policy"], f"{folder}: policy"))
    for part, module in artefact.parts.items():
        own = {k.removeprefix(f"{part}."): v for k, v in tensors.items() if k.startswith(f"{part}.")}
        try:
            module.load_state_dict(own)
        except RuntimeError as error:
            first = str(error).splitlines()[1 if "\n" in str(error) else 0].strip()
            raise UserError(f"{weights}: does not fit config.json: {first}") from None
        if not all(bool(torch.isfinite(tensor).all()) for tensor in own.values()):
            raise UserError(f"{weights}: {part} holds values that are not finite")
        module.to(device).eval().requires_grad_(False)
    return artefact


def described(name: str | os.PathLike[str]) -> Mapping[str, Any]:
    """What an artefact tells of its parts, without reading its weights."""
    return _read_config(resolve(name) / "config.json")


def described_world(name: str | os.PathLike[str]) -> World:
    """The world that an artefact was trained in, without reading its weights."""
    folder = resolve(name)
    return _world_told(_read_config(folder / "config.json"), folder)


def _world_told(config: Mapping[str, Any], folder: Path) -> World:
    return worlds.told(config.get("environment", worlds.DEFAULT_ID), config["world"], f"{folder}/config.json: world")


_HOW = {
    "expert": "train one (rllib train file ant_expert)",
    "base": "pretrain one (rllib train file X_pretrain)",
    "metacontroller": "run discovery on it first (rllib train file gridworld_discover)",
    "policy": "run internal RL on it first (rllib train file gridworld_internal)",
}


def _read_config(path: Path) -> Mapping[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        found = config.get("format") if isinstance(config, dict) else type(config).__name__
        raise UserError(f"{path}: format {found}, this version reads format {FORMAT}")
    missing = {"world", "metrics", "provenance"} - config.keys()
    if missing:
        raise UserError(f"{path}: lacks {', '.join(sorted(missing))}; train or download it again")
    worlds.find(config.get("environment", worlds.DEFAULT_ID), f"{path}: environment")
    return config
