"""What codes are worth: against the floors, by hand, and in the order that the page tells."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import torch

import irl_ray as irl_ray_package
from irl_ray.analysis.curves import figure_module
from irl_ray.cli.irl_ray import main as irl_ray
from irl_ray.data.trajectories import random_starts
from irl_ray.models import weights
from irl_ray.worlds.pinpad.economics import Worth, _priors, code_economics, draw
from irl_ray.worlds.pinpad.floors import action_floors
from irl_ray.worlds.pinpad.specs import GridworldSpec
from irl_ray.worlds.pinpad.stream import GridworldExpert

SMALL = GridworldSpec.of({"preset": "small"})


def demonstrations(world, ties, count=512):
    expert = GridworldExpert(world, ties=ties)
    return expert, expert.sample(count, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("ties", ["free", "rule"])
def test_with_the_whole_past_they_are_the_floors(ties):
    expert, batch = demonstrations(SMALL, ties)
    found, floors = code_economics(expert, batch), action_floors(expert, batch)
    per_segment = float(batch.mask.sum()) / (3 * len(batch))
    assert found["no code"].left == pytest.approx(floors["bayes"] * per_segment, rel=1e-4)
    for name in ("subgoal", "every colour"):  # the pair and the visits tell the colour
        assert found[name].left == pytest.approx(floors["oracle"] * per_segment, rel=1e-3, abs=1e-4)
    assert found["subgoal"].cost == math.log(3) and found["every colour"].cost == 2 * math.log(6)
    assert found["every action"] == Worth(0.0, pytest.approx(found["no code"].left))
    assert found["nudge"].left + found["nudge"].cost == pytest.approx(found["no code"].left)
    whole = code_economics(expert, batch, torch.zeros(len(batch), dtype=torch.long))
    assert {name: worth.left for name, worth in whole.items()} == {name: worth.left for name, worth in found.items()}


def test_a_past_that_begins_anywhere_makes_goals_dear_and_nudges_cheap():
    """What the codes of discovery became: nudges with the whole past, colours and then pairs with cut ones."""
    expert, batch = demonstrations(SMALL, "rule", 2048)
    whole = code_economics(expert, batch)
    cut = code_economics(expert, batch, random_starts(batch.mask, 1.0, torch.Generator().manual_seed(1)))
    assert cut["no code"].left > 1.5 * whole["no code"].left
    gain = {
        name: (w["no code"].left - w["nudge"].left) / w["no code"].left for name, w in (("whole", whole), ("cut", cut))
    }
    assert gain["cut"] < 0.5 * gain["whole"]
    assert cut["subgoal"].left > 0.2 and cut["every colour"].left == pytest.approx(0, abs=1e-4)
    best = lambda alpha: min(("subgoal", "every colour", "nudge"), key=lambda name: cut[name].objective(alpha))
    assert best(0.05) == "every colour" and best(0.3) == "subgoal"


def test_a_memory_that_starts_anew_with_every_colour_costs_an_ideal_observer_nothing():
    """So it changes the way that training takes, not where it should end; without any past only colours say enough."""
    expert, batch = demonstrations(SMALL, "rule")
    steps = torch.arange(batch.mask.shape[1]).expand_as(batch.mask)
    changed = torch.ones_like(batch.mask)
    changed[:, 1:] = batch.leg[:, 1:] != batch.leg[:, :-1]
    whole = code_economics(expert, batch)
    anew = code_economics(expert, batch, torch.where(changed, steps, 0).cummax(1).values)
    none = code_economics(expert, batch, steps)
    for name, worth in whole.items():
        assert anew[name].left == pytest.approx(worth.left, rel=1e-3, abs=1e-3) and anew[name].cost == worth.cost
    saved = {name: 1 - worth.left / none["no code"].left for name, worth in none.items()}
    assert saved["nudge"] < 0.1 < 0.4 < saved["subgoal"] < 0.6 < 0.99 < saved["every colour"]


def test_the_page_tells_what_the_command_says():
    page = (Path(irl_ray_package.__file__).parent / "docs" / "codes.md").read_text(encoding="utf-8")
    expert, random = GridworldExpert(SMALL, ties="rule"), torch.Generator().manual_seed(0)
    batch = expert.sample(4096, random)
    whole = code_economics(expert, batch)
    cut = code_economics(expert, batch, random_starts(batch.mask, 1.0, random))
    none = code_economics(expert, batch, torch.arange(batch.mask.shape[1]).expand_as(batch.mask))
    shown = {"no code": "none", "subgoal": "the pair", "every colour": "each colour", "nudge": "nudge"}
    for name, words in shown.items():
        left = [f"{abs(w[name].left):.2f}".removeprefix("0.") for w in (whole, cut, none)]
        left = [text if "." in text else f".{text}" for text in left]
        cost = f"{whole[name].cost:.2f}".replace("0.45", ".45") if whole[name].cost else "0"
        assert f"| {words} | {left[0]} | {left[1]} | {left[2]} | {cost} |" in page
    gates = weights.load("gridworld").metrics["pretrain"]
    for layer in (1, 2):
        seen, known = (
            f"{gates[f'control_success{way}/layer_{layer}']:.3f}".removeprefix("0") for way in ("", "_training_tasks")
        )
        assert f"{seen} ({known}) |" in page
    assert f"**.{gates['control_success/layer_0'] * 1000:.0f}**" in page


def test_priors_by_hand():
    """Tasks 0-1-2-3 and 2-3-0-1: who saw the start knows all from the first visit on, others what may follow it."""
    world = GridworldSpec(4, 4, 0, 30, ((0, 1, 2, 3), (2, 3, 0, 1)))
    priors = _priors(world)
    assert priors[0, 0, 0].tolist() == [0.5, 0, 0.5, 0]
    assert priors[0, 1, 0].tolist() == [0, 1, 0, 0]
    assert priors[0, 2, 3].tolist() == [0.25] * 4  # the past begins in this very leg
    assert priors[0, 3, 3].tolist() == [0, 0, 0, 1]  # it saw colour 2 alone
    assert priors[0, 2, 2].tolist() == [0, 0, 1, 0]  # it saw colour 1 alone, after which 2 follows or the end


def test_nothing_is_left_where_all_is_known():
    expert, batch = demonstrations(GridworldSpec(4, 4, 0, 30, "post_two_pairs"), "rule", 64)
    assert code_economics(expert, batch)["no code"].left == pytest.approx(0, abs=1e-4)


def test_the_command_draws_worlds_and_writes_the_numbers(tmp_path, capsys):
    worlds = ["--env-config", '{"preset": "tiny"}', "--env-config", '{"preset": "small"}']
    assert irl_ray(["economics", *worlds, "--episodes", "64", "--out", str(tmp_path / "worth.svg")]) == 0
    with (tmp_path / "worth.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 4 * 5 and (tmp_path / "worth.svg").stat().st_size > 0
    expert, batch = demonstrations(SMALL, "rule", 64)
    steps = torch.arange(batch.mask.shape[1]).expand_as(batch.mask)
    legs = torch.where(torch.diff(batch.leg, dim=1, prepend=batch.leg[:, :1]) != 0, steps, 0).cummax(1).values
    starts = {"the whole past": None, "a past since the last colour": legs, "no past": steps}
    for past, start in starts.items():
        told = [row for row in rows if row["world"] == "preset small" and row["past"] == past]
        for row, (kind, worth) in zip(told, code_economics(expert, batch, start).items(), strict=True):
            assert row["code"] == kind
            assert float(row["left"]) == pytest.approx(worth.left, abs=1e-4)
            assert float(row["cost"]) == pytest.approx(worth.cost, abs=1e-4)
    pairs = [row for row in rows if row["world"] == "preset small" and row["code"] == "subgoal"]
    left = {row["past"]: float(row["left"]) for row in pairs}
    assert left["the whole past"] < left["a past from a random step on"] < left["no past"]
    for wrong in (["--out", "worth.txt"], ["--alpha", "-3"]):
        assert irl_ray(["economics", *wrong]) == 2
        assert wrong[0] in capsys.readouterr().err


def test_bars_are_what_is_left_and_the_share_of_the_cost(tmp_path):
    """As shares of what no code leaves; a world in which nothing is left is drawn too."""
    plt = figure_module(tmp_path / "a.png")
    kinds = ("no code", "subgoal", "every colour", "nudge", "every action")
    worth = dict(zip(kinds, (Worth(2.0, 0.0), Worth(0.5, 1.0), Worth(0.0, 4.0), Worth(1.0, 0.5), Worth(0.0, 2.0))))
    kept = []
    plt.close, close = kept.append, plt.close
    try:
        nothing = dict.fromkeys(kinds, Worth(0.0, 0.0))
        draw(plt, {"a": {"the whole past": worth}, "b": {"no past": nothing}}, 0.5, tmp_path / "a.png")
    finally:
        plt.close = close
    bars = [(bar.get_y(), bar.get_height()) for bar in kept[0].axes[0].patches]
    assert bars == [(0, 1), (1, 0), (0, 0.25), (0.25, 0.25), (0, 0), (0, 1), (0, 0.5), (0.5, 0.125), (0, 0), (0, 0.5)]
    close(kept[0])


def test_the_command_prints_every_past(capsys):
    assert irl_ray(["economics", "--episodes", "256"]) == 0
    out = capsys.readouterr().out
    assert out.count("subgoal ") == 4 and "every colour" in out and "a past from a random step on" in out
    assert irl_ray(["economics", "--ties", "fair"]) == 2
    assert "ties" in capsys.readouterr().err
    assert irl_ray(["economics", "--env-config", '{"preset": "smal"}']) == 2
    assert "--env-config" in capsys.readouterr().err
