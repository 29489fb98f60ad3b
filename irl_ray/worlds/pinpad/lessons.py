"""Why small models fall into codes that are not goals: how fast a decoder learns to use each kind.

A decoder is given codes that are right from the start, named by ground truth: the subgoal, the
cell of the next target, or the next action. What it gains in its first steps is what pulls the
encoder in discovery. Labels are used here for diagnosis and train nothing that is released.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from irl_ray.data.trajectories import Trajectories
from irl_ray.models.metacontroller import ControllerDecoder
from irl_ray.models.weights import Artefact
from irl_ray.seeding import torch_seed
from irl_ray.worlds.pinpad.rules import NUM_ACTIONS
from irl_ray.worlds.pinpad.stream import GridworldExpert
from irl_ray.worlds.pinpad.walks import target_cells

MEANINGS = ("subgoal", "target cell", "action")
CODE_SIZE = 8
WINDOW = 20  # steps over which a loss is averaged


def labels(batch: Trajectories, meaning: str) -> Tensor:
    """int64 [B, T]: ground truth of one kind."""
    found = {"subgoal": batch.subgoal.clamp(min=0), "target cell": target_cells(batch), "action": batch.action}
    return found[meaning]


def lesson(agent: Artefact, meaning: str, layer: int, steps: int, batch_size: int, seed: int) -> list[float]:
    """Action NLL of a decoder that learns to use given codes, one value per `WINDOW` steps.

    Args:
        agent: its base model is frozen.
        meaning: one of `MEANINGS`.
        layer: l at which the decoder acts.
        steps: optimiser steps.
        batch_size: trajectories per step.
        seed: of codes, initial weights and data.
    """
    base, expert = agent.base, GridworldExpert(agent.world)
    count = {"subgoal": agent.world.num_subgoals, "target cell": agent.world.num_cells, "action": NUM_ACTIONS}[meaning]
    with torch.random.fork_rng():
        torch.manual_seed(torch_seed(seed, "lesson", meaning))
        codes = F.normalize(torch.randn(count, CODE_SIZE), dim=1) * CODE_SIZE**0.5
        decoder = ControllerDecoder(CODE_SIZE, 32, base.width, None, 1.0)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=1e-2)
    losses = []
    for _, batch in zip(range(steps), expert.batches(batch_size, seed, "lesson")):
        with torch.no_grad():
            residual = base.lower(base.embed(batch.observation[:, :-1]), layer)
        top = base.upper(residual + decoder(codes[labels(batch, meaning)], residual), layer)
        loss = -base.action_log_prob(top[batch.mask], batch.action[batch.mask]).mean()
        optimizer.zero_grad()
        loss.backward(inputs=list(decoder.parameters()))
        optimizer.step()
        losses.append(float(loss.detach()))
    return [sum(losses[i : i + WINDOW]) / WINDOW for i in range(0, steps - WINDOW + 1, WINDOW)]


@torch.no_grad()
def uncontrolled_nll(agent: Artefact, seed: int, episodes: int = 1024) -> float:
    """Action NLL of the base model alone."""
    batch = GridworldExpert(agent.world).sample(episodes, torch.Generator().manual_seed(seed))
    inputs = agent.base(batch.observation[:, :-1])
    return float(-agent.base.actions.log_prob(inputs, batch.action)[batch.mask].mean())


def draw(plt: Any, alone: float, curves: dict[str, list[float]], found: dict[str, dict[str, float]], out: Path) -> None:
    """Left: how fast each kind of code pays. Right: what the codes of some metacontrollers mean."""
    figure, panels = plt.subplots(1, 2 if found else 1, figsize=(10 if found else 5.5, 3.8), layout="constrained")
    left = panels[0] if found else panels
    for (meaning, values), style in zip(curves.items(), ("-", "--", ":")):
        steps = [WINDOW * (i + 0.5) for i in range(len(values))]
        left.plot(steps, values, style, color="black", label=f"given codes of the {meaning}")
    left.axhline(alone, color="0.6", label="base model without codes")
    left.set(xlabel="optimiser steps of the decoder", ylabel="action NLL (nats per step)")
    left.set_ylim(0, max(0.6, 1.6 * alone))
    left.legend(frameon=False, fontsize=8)
    if found:
        bars = {
            "switches: F1": "switch_f1",
            "code tells subgoal": "code_subgoal_accuracy",
            "code tells action": "code_action_accuracy",
            "code tells target cell (R²)": "code_location_r2",
        }
        width = 0.8 / len(found)
        for i, (label, gates) in enumerate(found.items()):
            shade = str(0.15 + 0.75 * i / len(found))
            at = [j + (i - (len(found) - 1) / 2) * width for j in range(len(bars))]
            heights = [max(0.0, gates[name]) for name in bars.values()]
            panels[1].bar(at, heights, width, color=shade, edgecolor="black", linewidth=0.5, label=label)
        panels[1].axhline(next(iter(found.values()))["code_subgoal_chance"], color="0.6", linestyle=":")
        panels[1].set_xticks(range(len(bars)), [name.replace(" tells ", "\ntells ") for name in bars], fontsize=8)
        panels[1].set_ylim(0, 1.05)
        panels[1].legend(frameon=False, fontsize=8)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=160)
    plt.close(figure)
    with out.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("codes", "step", "action_nll"))
        writer.writerow(("none", 0, alone))
        writer.writerows((m, WINDOW * (i + 1), v) for m, values in curves.items() for i, v in enumerate(values))
