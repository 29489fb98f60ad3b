"""Demonstrations that a function makes as they are learned from, and BabyAI's, made by the thousand."""

from __future__ import annotations

import sys
from collections import deque

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from irl_ray import worlds
from irl_ray.cli import irl_ray as tools
from irl_ray.cli import rllib as cli
from irl_ray.data.sources import check_data, open_demonstrations
from irl_ray.data.streams import POOL, FunctionStream
from irl_ray.errors import UserError
from irl_ray.phases.pretrain import Pretrain, pretrain_config
from irl_ray.phases.training import MOST_STEPS

BALLS = "irl_ray/BabyAIChain-v0"
WALKS = "irl_ray.worlds.babyai.walks:walks"
WORLD = {"num_subgoals": 4, "memory": True}


@pytest.fixture(scope="module")
def walks():
    pytest.importorskip("minigrid")
    from irl_ray.worlds.babyai import walks

    return walks


@pytest.fixture
def world(walks):
    return worlds.make(BALLS, WORLD)


def room_of(env) -> tuple[np.ndarray, int]:
    """What lies in an environment's room, and the agent's state."""
    from irl_ray.worlds.babyai.chain import BALL, COLOURS, FREE, WALL

    side = env.width
    cells = [env.grid.get(x, y) for x, y in np.ndindex(side, side)]
    kinds = {"wall": lambda cell: WALL, "ball": lambda cell: BALL + COLOURS.index(cell.color)}
    truth = np.array([FREE if cell is None else kinds[cell.type](cell) for cell in cells])
    inner, (x, y) = side - 2, env.agent_pos
    return truth, env.agent_dir * inner**2 + (x - 1) * inner + y - 1


@pytest.mark.parametrize("side", [6, 7, 9])
def test_walks_are_what_the_environment_shows_and_does(walks, side):
    """In MiniGrid's own rooms: replayed, each walk's actions succeed at its last step, past the same observations."""
    from irl_ray.worlds.babyai.chain import ORDERS, BallChain

    orders = [ORDERS[seed % len(ORDERS)][: 2 + seed % 2] for seed in range(60)]  # of two balls and of three
    envs = [BallChain(memory=True, room_size=side, orders=[order]) for order in orders]
    first = [env.reset(seed=seed)[0] for seed, env in enumerate(envs)]
    truth, state = (np.array(part) for part in zip(*(room_of(env) for env in envs)))
    made, done = walks.walk(truth, state, [env.order for env in envs], side)
    assert done.sum() >= 55
    for env, number in ((envs[n], n) for n in np.flatnonzero(done)):
        assert (made["observation"][number, 0] == first[number]).all()
        for t in range(made["length"][number]):
            assert env.leg == made["leg"][number, t] and env.order[env.leg] == made["subgoal"][number, t]
            seen, reward, terminated, _, _ = env.step(int(made["action"][number, t]))
            assert (seen == made["observation"][number, t + 1]).all()
            assert terminated == (reward == 1) == (t == made["length"][number] - 1)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), side=st.integers(5, 9))
def test_ways_are_the_shortest(walks, seed, side):
    """Against a search step by step, from one goal backwards through rooms full of balls."""
    random, room = np.random.default_rng(seed), walks.tables(side)
    blocked = random.random(side**2) < 0.4
    goal = random.random(len(room.cell)) < 0.02
    found = walks.steps_to(goal[None], blocked[None], room)[0]
    steps, queue = {int(s): 0 for s in np.flatnonzero(goal)}, deque(np.flatnonzero(goal).tolist())
    before = [[] for _ in room.cell]
    for state, (left, right, forward) in enumerate(room.after):
        for after in (left, right, *([] if blocked[room.front[state]] else [forward])):
            before[after].append(state)
    while queue:
        state = queue.popleft()
        for earlier in before[state]:
            if earlier not in steps:
                steps[earlier] = steps[state] + 1
                queue.append(earlier)
    assert found.tolist() == [steps.get(state, walks.FAR) for state in range(len(room.cell))]


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), side=st.integers(6, 9))
def test_rooms_are_as_minigrid_makes_them(walks, seed, side):
    from irl_ray.worlds.babyai.chain import BALL, FREE, WALL

    truth, state = walks._rooms(50, np.random.default_rng(seed), side)
    cell, x, y = walks.tables(side).cell[state], *np.divmod(np.arange(side**2), side)
    for ball in range(BALL, BALL + 4):
        assert ((truth == ball).sum(1) == 1).all()
        at = (truth == ball).argmax(1)
        assert (abs(x[at] - x[cell]) + abs(y[at] - y[cell]) >= 2).all()
    assert (truth[np.arange(50), cell] == FREE).all() and ((truth == WALL).sum(1) == 4 * (side - 1)).all()


def test_a_stream_resumes_and_never_shares_seeds(world):
    stream = open_demonstrations(world, WALKS)
    batches, later = stream.batches(4, 0, "x"), stream.batches(4, 0, "x", start=POOL + 1)
    first = [next(batches) for _ in range(2 * POOL + 2)]
    for batch in first[POOL + 1 :]:
        assert torch.equal(batch.observation, next(later).observation)
    assert len({batch.observation[0, 0].numpy().tobytes() for batch in first}) == len(first)
    assert not torch.equal(first[0].observation[:, 0], next(stream.batches(4, 1, "x")).observation[:, 0])
    assert not torch.equal(first[0].observation[:, 0], next(stream.batches(4, 0, "y")).observation[:, 0])
    held_out = open_demonstrations(world, WALKS, truth=True).sample(4, torch.Generator().manual_seed(0))
    assert not any(torch.equal(held_out.observation[:, 0], batch.observation[:, 0]) for batch in first)
    assert (held_out.subgoal >= 0).equal(held_out.mask) and held_out.leg.max() == 2
    assert held_out.observation.dtype == torch.int64 and len(set(first[0].mask.sum(1).tolist())) > 1
    assert first[0].mask.any(0).all()  # no longer than its longest walk


def test_labels_are_read_for_analysis_alone(walks, world):
    """And never where the world says nothing of them."""
    unlabelled = worlds.make(BALLS, {"memory": True})
    for stream in (open_demonstrations(world, WALKS), open_demonstrations(unlabelled, WALKS, truth=True)):
        for batch in (stream.sample(4, torch.Generator()), next(stream.batches(4, 0))):
            assert (batch.subgoal == -1).all() and (batch.leg == 0).all()
    phase = Pretrain(pretrain_config({"env": BALLS, "data": WALKS, "preset": "tiny", "world": WORLD}))
    assert (next(phase.demonstrations.batches(4, 0)).subgoal == -1).all()


def test_who_sees_the_ball_behind_turns_left(walks):
    """Both ways round are as short."""
    from irl_ray.worlds.babyai.chain import BALL, FREE, WALL

    truth = np.full((7, 7), WALL)
    truth[1:6, 1:6] = FREE
    truth[[1, 5, 5, 5], [3, 1, 3, 5]] = BALL + np.arange(4)  # to the west of the middle, and along the east
    state = 0 * 25 + 2 * 5 + 2  # in the middle, heading east
    made, done = walks.walk(truth.reshape(1, -1), np.array([state]), [(0,)], 7)
    assert done.all() and made["action"][0].tolist() == [walks.LEFT, walks.LEFT, walks.FORWARD, walks.PICK_UP]


def test_phases_learn_from_a_function(world):
    options = {"preset": "tiny", "world": WORLD, "post_task": {"orders": [[0, 1, 2, 3]]}}
    phase = Pretrain(pretrain_config({"env": BALLS, "data": WALKS, **options}))
    assert phase.step()["observation_nll"] > 0  # Eq. 5's, where λ is not 0
    phase = Pretrain(pretrain_config({"env": BALLS, "data": WALKS, **options, "observation_weight": 0.0}))
    first = phase.step()
    assert "observation_nll" not in first and phase.config.steps == 20
    assert 0 < phase.gates()["eval/action_nll"] < 3
    assert pretrain_config({"env": BALLS, "data": WALKS, "world": WORLD}).steps == MOST_STEPS


def poles(count, random):
    """Walks of CartPole, numbers in a box."""
    seen = random.normal(size=(count, 6, 4))
    return {"observation": seen, "action": random.integers(2, size=(count, 5)), "length": np.full(count, 5)}


def test_numbers_have_to_be_finite_up_to_the_last(monkeypatch):
    world, source = worlds.make("CartPole-v1", {}), f"{__name__}:poles"
    batch = FunctionStream(world, source).sample(3, torch.Generator())
    assert batch.observation.dtype == torch.float32 and batch.action.dtype == torch.int64

    def spoilt(count, random, made=poles):
        walks = made(count, random)
        walks["observation"][-1, -1, 0] = np.nan
        return walks

    monkeypatch.setattr(sys.modules[__name__], "poles", spoilt)
    with pytest.raises(UserError, match="observation: some are not finite"):
        FunctionStream(world, source).sample(3, torch.Generator())


FAULTS = {
    "names": (lambda made: {"walks": made["action"]}, "by the names"),
    "walks": (lambda made: {**made, "length": made["length"][1:]}, "expected 3 walks"),
    "steps": (lambda made: {**made, "length": made["length"] + 1}, "of 1 to 80 steps"),
    "no step": (lambda made: {**made, "length": made["length"] * 0}, "of 1 to 80 steps"),
    "horizon": (
        lambda made: {
            "observation": made["observation"][:, [0] * 101],
            "action": made["action"][:, [0] * 100],
            "length": made["length"] * 0 + 100,
        },
        "of 1 to 80 steps",
    ),
    "half a step": (lambda made: {**made, "length": made["length"] + 0.5}, "length: expected whole"),
    "one walk fewer": (lambda made: {name: value[1:] for name, value in made.items()}, "expected 3 walks"),
    "fewer actions": (lambda made: {**made, "action": made["action"][1:]}, "expected 3 walks"),
    "flat": (lambda made: {**made, "action": made["action"][:, 0]}, "action: expected"),
    "below": (lambda made: {**made, "action": made["action"] - 5}, "action: some lie outside"),
    "last observation": (
        lambda made: {
            **made,
            "observation": np.where(
                np.arange(made["observation"].shape[1])[:, None] == made["length"][:, None, None],
                99,
                made["observation"],
            ),
        },
        "observation: some",
    ),
    "unlabelled": (lambda made: {**made, "subgoal": made["subgoal"] - 9}, "subgoal: labels from"),
    "shape": (lambda made: {**made, "observation": made["observation"][..., 1:]}, "observation: expected"),
    "kind": (lambda made: {**made, "action": made["action"] * 1.0}, "action: expected"),
    "range": (lambda made: {**made, "action": made["action"] + 5}, "action: some lie outside"),
    "last walk": (
        lambda made: {**made, "observation": made["observation"] + [[[0]], [[0]], [[9]]]},
        "observation: some",
    ),
    "label": (lambda made: {**made, "subgoal": made["subgoal"] + 1}, "num_subgoals 4"),
    "label shape": (lambda made: {**made, "leg": made["leg"][:, 1:]}, "leg: expected one for each step"),
    "list": (lambda made: [made], "got list"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_fit_is_told_in_a_line(walks, world, monkeypatch, fault):
    change, message = FAULTS[fault]
    made = walks.walks(3, np.random.default_rng(0), memory=True)
    longest = int(made["length"].max())
    made = {k: v if k == "length" else v[:, : longest + (k == "observation")] for k, v in made.items()}
    monkeypatch.setattr(walks, "walks", lambda count, random, **_: change(made))
    with pytest.raises(UserError, match=message):
        FunctionStream(world, WALKS, truth=True).sample(3, torch.Generator())


def test_functions_are_looked_for_before_a_run(tmp_path, world, capsys, monkeypatch):
    check_data(world, WALKS)
    with pytest.raises(UserError, match="cannot be imported"):
        check_data(world, "irl_ray.worlds.babyai.walks:wolks")
    for option in ({"noise": 0.1}, {"ties": "rule"}):
        with pytest.raises(UserError, match=f"config.{next(iter(option))}"):
            open_demonstrations(world, WALKS, **option)
    with pytest.raises(UserError, match="cannot be called"):
        FunctionStream(world, "builtins:dict")
    with pytest.raises(UserError, match="no demonstrations there"):
        check_data(world, ".walks:walks")
    with monkeypatch.context() as spoilt, pytest.raises(UserError, match="by the names"):
        spoilt.setattr(sys.modules[__name__], "poles", lambda count, random: {"walk": 0})
        check_data(worlds.make("CartPole-v1", {}), f"{__name__}:poles")
    with pytest.raises(UserError, match="memory: true"):
        FunctionStream(worlds.make(BALLS, {}), WALKS).sample(2, torch.Generator())
    with pytest.raises(UserError, match="cannot be called"):
        FunctionStream(world, "irl_ray.worlds.babyai.walks:tables").sample(2, torch.Generator())
    file = tmp_path / "a.yaml"
    file.write_text(
        f"a:\n  run: Pretrain\n  config: {{env: {BALLS}, world: {{memory: true}}, data: 'no_such:thing'}}\n"
    )
    assert cli.main(["train", "file", str(file)]) == 2
    assert "no_such:thing: cannot be imported" in capsys.readouterr().err


def test_check_looks_at_what_a_function_makes(world, monkeypatch, walks, capsys):
    arguments = ["check", BALLS, "--env-config", '{"num_subgoals": 4, "memory": true}', "--data", WALKS]
    assert tools.main(arguments) == 0
    told = capsys.readouterr().out
    assert "of 256" in told and "they tell subgoals" in told
    monkeypatch.setattr(walks, "walks", lambda count, random, **_: {"action": None})
    assert tools.main(arguments) == 2 and "by the names" in capsys.readouterr().err


def test_a_functions_own_errors_are_shown_as_they_are(world, monkeypatch, walks):
    monkeypatch.setattr(walks, "walks", lambda count, random, **_: len(count))
    with pytest.raises(TypeError, match="has no len"):
        FunctionStream(world, WALKS).sample(3, torch.Generator())
