"""What a metacontroller has found: when it switches, what its codes mean, what they can do.

Ground-truth labels are used here and nowhere in training.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from irl_ray.analysis.probe import probe_accuracy
from irl_ray.data.trajectories import Trajectories
from irl_ray.internal.rollout import roll_out
from irl_ray.internal.sampler import sample_code_episodes
from irl_ray.models.metacontroller import Codes
from irl_ray.models.steering import found_codes, steered_log_prob
from irl_ray.models.weights import Artefact
from irl_ray.seeding import generator, torch_seed
from irl_ray.worlds.world import World


def switch_alignment(
    switched: np.ndarray, change: np.ndarray, allowed: np.ndarray, tolerance: int = 1
) -> dict[str, float]:
    """Precision, recall and F1 of switches against true subgoal changes, matched one to one.

    Args:
        switched: bool [B, T], the gate's switches; the forced one at t = 1 must be left out.
        change: bool [B, T], the first step of a subgoal that differs from the one before.
        allowed: bool [B, T], steps at which a switch is neither right nor wrong (the same subgoal
            starts again).
        tolerance: steps by which a switch may be early or late.
    """
    matched = unmatched = 0
    for row, truth, free in zip(switched, change, allowed):
        open_changes, free_steps = np.flatnonzero(truth).tolist(), np.flatnonzero(free).tolist()
        for time in np.flatnonzero(row):
            near = [c for c in open_changes if abs(c - time) <= tolerance]
            if near:
                open_changes.remove(near[0])
                matched += 1
            else:
                near = [c for c in free_steps if abs(c - time) <= tolerance]
                unmatched += not near
                free_steps = [c for c in free_steps if c not in near[:1]]
    precision, recall = matched / max(1, matched + unmatched), matched / max(1, int(change.sum()))
    f1 = 2 * precision * recall / max(1e-9, precision + recall)
    return {"switch_f1": f1, "switch_precision": precision, "switch_recall": recall}


def subgoal_starts(batch: Trajectories) -> tuple[np.ndarray, np.ndarray]:
    """bool [B, T] twice: where the subgoal changes, and where the same one starts again (t > 1)."""
    subgoal, leg, mask = batch.subgoal.numpy(), batch.leg.numpy(), batch.mask.numpy()
    change, again = np.zeros_like(mask), np.zeros_like(mask)
    change[:, 1:] = (subgoal[:, 1:] != subgoal[:, :-1]) & mask[:, 1:]
    new_leg = (leg[:, 1:] != leg[:, :-1]) & mask[:, 1:]
    again[:, 1:] = new_leg & ~change[:, 1:] & (leg[:, 1:] % batch.world.legs_per_subgoal == 0)
    return change, again


@torch.no_grad()
def codes_of(
    agent: Artefact, batch: Trajectories, threshold: float | None, clean_slate: bool = False
) -> tuple[Codes, float]:
    """The metacontroller's mean codes on demonstrations and the action NLL they give.

    Args:
        agent: base model and metacontroller.
        batch: demonstrations.
        threshold: beta at or above it is a switch; None leaves beta as it is.
        clean_slate: whether the base model's memory starts anew at every switch.
    """
    base, meta = agent.base, agent.metacontroller
    noise = torch.zeros(*batch.mask.shape, meta.config.code_size, device=batch.mask.device)
    residual, codes = found_codes(base, meta, batch, noise, threshold, clean_slate=clean_slate)
    begins = codes.beta > 0.5 if clean_slate else None
    log_prob = steered_log_prob(base, meta, batch, residual, codes.code, begins)
    return codes, float(-log_prob.sum() / batch.mask.sum())


def code_meaning(codes: Tensor, batch: Trajectories, samples: int = 6000) -> dict[str, float]:
    """What the codes in force tell about subgoal, target location and action, by linear probes.

    Codes that mean the goal score high on `code_subgoal_accuracy`; location codes on
    `code_location_r2`, in worlds with places; direction codes on `code_action_accuracy` without the first (the
    "action" being what the world calls headings).
    """
    where = batch.mask.flatten().nonzero()[:, 0]
    where = where[:: max(1, len(where) // samples)]
    group = where // batch.mask.shape[1]
    code = codes.flatten(0, 1)[where]
    held_out = group % 2 == 1
    result, world = {}, batch.world
    probed = {"subgoal": batch.subgoal}
    headings, places = world.headings(batch), world.places(batch)
    if headings is not None:
        probed["action"] = headings
    if world.legs_per_subgoal > 1:
        probed["target"] = world.target(batch)
    for name, labels in probed.items():
        result[f"code_{name}_accuracy"] = float(probe_accuracy(code[None], labels.flatten()[where], group))
    counts = batch.subgoal.flatten()[where][held_out].bincount()
    result["code_subgoal_chance"] = float(counts.max() / counts.sum())
    if places is None:
        return result
    place = places.flatten(0, 1)[where].to(code.dtype)
    inputs = F.pad(code, (0, 1), value=1.0)
    fit = torch.linalg.lstsq(inputs[~held_out], place[~held_out]).solution
    residual = ((inputs @ fit - place)[held_out] ** 2).sum()
    total = ((place[held_out] - place[~held_out].mean(0)) ** 2).sum()
    result["code_location_r2"] = float(1 - residual / total)
    return result


def ways_to_tell(world: World) -> dict[str, str]:
    """What codes may be one for each of: endings of metrics' names and the labels."""
    return {"": "subgoal", f"_by_{world.target_name}": "target"} if world.legs_per_subgoal > 1 else {"": "subgoal"}


def class_mean_codes(codes: Tensor, batch: Trajectories, told: str = "subgoal") -> Tensor:
    """Codes [B, T, z] -> [classes, z]: mean code in force under each ground-truth subgoal, or "target" of a leg."""
    world = batch.world
    count = world.num_subgoals if told == "subgoal" else world.num_targets
    labels = batch.subgoal if told == "subgoal" else world.target(batch)
    code, label = codes[batch.mask], labels[batch.mask]
    return torch.stack([code[label == g].mean(0) if bool((label == g).any()) else code.mean(0) for g in range(count)])


def injected_success(
    agent: Artefact,
    codes: Tensor,
    world: World,
    episodes: int,
    seed: int,
    temperature: float = 1.0,
    told: str = "subgoal",
    clean_slate: bool = False,
) -> float:
    """Success when codes [classes, z] are put in force in the task's order.

    Args:
        agent: base model and metacontroller.
        codes: one for each subgoal, or "target" of a leg.
        world: with the task.
        episodes: how many.
        seed: of layouts and actions.
        temperature: at which actions are drawn.
        told: what a code is put in force for.
        clean_slate: whether the base model's memory starts anew with every code.
    """

    def steer(residual: Tensor, info: dict[str, Any]) -> Tensor:
        return agent.metacontroller.control(residual, codes[torch.from_numpy(info[told]).clamp(min=0)])

    layer, anew = agent.metacontroller.layer, told if clean_slate else None
    return roll_out(agent.base, world, episodes, seed, layer, steer, temperature, anew=anew).success_rate


def random_code_reach(
    agent: Artefact,
    codes: Tensor,
    world: World,
    episodes: int,
    seed: int,
    temperature: float = 1.0,
    told: str = "subgoal",
    clean_slate: bool = False,
) -> float:
    """What codes drawn from N(0, I) do once a task's first subgoal is done: where RL over them starts from.

    The first subgoal is done under the class means `codes`; then a code is drawn for each subgoal, or target.

    Args:
        agent, codes, episodes, seed, temperature, told, clean_slate: as for `injected_success`.
        world: with a task whose first change of subgoal no demonstration shows.

    Returns:
        Of the episodes whose first subgoal was done, the share that goes on to the task's next target; 0 if none was.
        Codes that are obeyed, and name K subgoals or targets equally often, have 1/K.
    """
    first = world.legs_per_subgoal
    world = world.first_legs(2 * first)
    random = torch.Generator().manual_seed(torch_seed(seed, "random codes"))
    drawn = torch.randn(episodes, *codes.shape, generator=random)
    rows, layer = torch.arange(episodes), agent.metacontroller.layer

    def steer(residual: Tensor, info: dict[str, Any]) -> Tensor:
        class_ = torch.from_numpy(info[told]).clamp(min=0)
        known = torch.from_numpy(info["leg"] < first)
        return agent.metacontroller.control(residual, torch.where(known[:, None], codes[class_], drawn[rows, class_]))

    anew = told if clean_slate else None
    legs = roll_out(agent.base, world, episodes, seed, layer, steer, temperature, anew=anew).legs
    done = legs >= first
    return float((legs[done] > first).mean()) if done.any() else 0.0


def random_code_gates(
    agent: Artefact, codes: Tensor, world: World, batch: Trajectories, episodes: int, seed: int, temperature: float
) -> dict[str, float]:
    """`random_code_reach` with class means by subgoal and by target, with the whole past and on clean slates.

    Args:
        agent: base model and metacontroller.
        codes: [B, T, z], in force on the demonstrations `batch`.
        world: with a task whose first change of subgoal no demonstration shows.
        batch: has the labels.
        episodes, seed, temperature: of the episodes.

    Returns:
        One metric for each; none if a task has a single subgoal, so that nothing changes.
    """
    result: dict[str, float] = {}
    if world.fewest_legs < 2 * world.legs_per_subgoal:
        return result
    for way, told in ways_to_tell(world).items():
        means = class_mean_codes(codes, batch, told)
        for slate in (False, True):
            result[f"random_code_reach{way}{'_clean_slate' if slate else ''}"] = random_code_reach(
                agent, means, world, episodes, seed, temperature, told, slate
            )
    return result


def prior_success(
    agent: Artefact, world: World, episodes: int, seed: int, threshold: float, temperature: float
) -> dict[str, float]:
    """Success under codes drawn from N(0, I) at every switch, which is where RL over them starts from; no labels."""
    seeds = generator(seed, "prior").integers(2**62, size=episodes).tolist()
    trial = {"threshold": threshold, "action_temperature": temperature, "clean_slate": False}
    return {"prior_success": float(sample_code_episodes(agent, None, world, seeds, **trial).success.mean())}


def metacontroller_gates(
    agent: Artefact, batch: Trajectories, threshold: float, tolerance: int = 1, clean_slate: bool = False
) -> dict[str, float]:
    """Alignment, losses and meaning of a metacontroller on clean held-out demonstrations.

    Args:
        agent: base model and metacontroller.
        batch: held-out demonstrations.
        threshold: beta at or above it is a switch.
        tolerance: steps by which a switch may miss a subgoal change.
        clean_slate: whether the base model's memory starts anew at every switch.
    """
    soft, soft_nll = codes_of(agent, batch, None, clean_slate)
    hard, hard_nll = codes_of(agent, batch, threshold, clean_slate)
    return {
        "eval/action_nll": soft_nll,
        "eval/action_nll_hard": hard_nll,
        "eval/kl": float(soft.proposal.kl()[batch.mask].mean()),
        **alignment_and_meaning(hard.beta, hard.code, batch, tolerance),
    }


def alignment_and_meaning(beta: Tensor, code: Tensor, batch: Trajectories, tolerance: int) -> dict[str, float]:
    """Do switches fall on subgoal changes, and what do the codes in force tell?

    Args:
        beta: [B, T], binary switches; the first step's is left out.
        code: [B, T, z], the codes in force.
        batch: the demonstrations they belong to.
        tolerance: steps by which a switch may miss a subgoal change.

    Returns:
        Alignment, meaning, and `gate_score`, which a search may maximise: F1 times the share by
        which the subgoal probe exceeds chance. In worlds without labels the number of switches alone.
    """
    switched = (beta.numpy() > 0.5) & batch.mask.numpy()
    switched[:, 0] = False
    count = {"switches_per_episode": float(1 + switched.sum(1).mean())}
    if not batch.world.num_subgoals:
        return count
    change, again = subgoal_starts(batch)
    result = {
        **count,
        "subgoals_per_episode": float(1 + change.sum(1).mean()),
        **switch_alignment(switched, change, again, tolerance),
        **code_meaning(code, batch),
    }
    if batch.world.legs_per_subgoal > 1:
        legs = np.zeros_like(change)
        legs[:, 1:] = ((batch.leg[:, 1:] != batch.leg[:, :-1]) & batch.mask[:, 1:]).numpy()
        result["switch_f1_legs"] = switch_alignment(switched, legs, np.zeros_like(legs), tolerance)["switch_f1"]
    chance = result["code_subgoal_chance"]
    above = max(0.0, result["code_subgoal_accuracy"] - chance) / max(1e-9, 1 - chance)
    return {**result, "gate_score": result["switch_f1"] * above}
