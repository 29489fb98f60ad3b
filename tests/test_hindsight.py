"""The label-free teacher: events, outcomes, hindsight, and which changes are worth a code."""

from __future__ import annotations

import pytest
import torch

from irl_ray.analysis.codes import subgoal_starts
from irl_ray.errors import UserError
from irl_ray.models import weights
from irl_ray.models.weights import fingerprint
from irl_ray.phases import hindsight
from irl_ray.phases.discover import Discover, discover_config
from irl_ray.phases.hindsight import OutcomeTeacher, TeacherConfig, jump_weights, spread_codes
from irl_ray.worlds.pinpad.stream import GridworldExpert

CONFIG = TeacherConfig(trajectories=400)


@pytest.fixture(scope="module")
def marked_weights(tiny_world, tmp_path_factory):
    """An untrained base model that marks the cells of colours, as trained ones come to do."""
    from conftest import make_agent

    agent = make_agent(tiny_world)
    span = 2 * tiny_world.grid_size - 1
    directions = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(0)))[0]
    for colour in range(tiny_world.num_colours):
        centre = colour * span**2 + span * (tiny_world.grid_size - 1) + tiny_world.grid_size - 1
        agent.base.encoder.table.weight[centre] = 12 * directions[colour]
    return weights.save(agent, tmp_path_factory.mktemp("weights") / "marked")


@pytest.fixture(scope="module")
def setting(marked_weights):
    agent = weights.load(marked_weights)
    batch = GridworldExpert(agent.world).sample(400, torch.Generator().manual_seed(3))
    teacher = OutcomeTeacher(CONFIG, agent.base, 4, 0.1, batch, torch.Generator().manual_seed(0))
    return agent, batch, teacher


def target_colours(world, batch):
    """int64 [B, T]: the colour the expert is on its way to."""
    tasks = torch.tensor(world.tasks)
    return tasks[batch.task[:, None], batch.leg.clamp(max=tasks.shape[1] - 1)]


def test_hindsight_names_the_next_colour(setting):
    """Each outcome is one colour, and the outcome in force is the colour that is reached next."""
    agent, batch, teacher = setting
    assert len(teacher.codes) == agent.world.num_colours and teacher.contrast > 1.2
    reached, colour = teacher.reached(batch)[batch.mask], target_colours(agent.world, batch)[batch.mask]
    table = torch.zeros(4, 4)
    known = reached >= 0
    table.index_put_((reached[known], colour[known]), torch.ones(int(known.sum())), accumulate=True)
    assert float(table.amax(1).sum() / table.sum()) > 0.99
    assert len(set(table.argmax(1).tolist())) == 4
    assert float(known.float().mean()) > 0.95  # only those that the horizon cut reach nothing


def test_the_teacher_reads_no_labels(setting):
    agent, batch, teacher = setting
    blind = GridworldExpert(agent.world).sample(400, torch.Generator().manual_seed(3))
    blind.subgoal[:], blind.leg[:], blind.task[:] = 0, 0, 0
    again = OutcomeTeacher(CONFIG, agent.base, 4, 0.1, blind, torch.Generator().manual_seed(0))
    for name, value in teacher.state().items():
        torch.testing.assert_close(value, again.state()[name], equal_nan=True)
    assert torch.equal(teacher.segments(batch)[0], again.segments(blind)[0])


def test_changes_that_gain_nothing_are_left_out(setting):
    """With the way from the first to the second colour of a pair known, subgoals are left."""
    agent, batch, teacher = setting
    colour_of = [
        int(target_colours(agent.world, batch)[teacher.reached(batch) == outcome].mode().values) for outcome in range(4)
    ]
    gain = torch.full((4, 4), 9.0)
    for first, second in ((0, 1), (2, 3)):
        gain[colour_of.index(first), colour_of.index(second)] = 0.0
    pruned = OutcomeTeacher.from_state(CONFIG, agent.base, 0.1, {**teacher.state(), "gain": gain})
    outcome, switch = pruned.segments(batch)
    change, again = subgoal_starts(batch)
    arrived = (teacher.reached(batch) >= 0) & batch.mask
    wanted = torch.from_numpy(change | again) & arrived
    assert float((switch & batch.mask == wanted).float().mean()) > 0.999
    held = (~switch[:, 1:]) & batch.mask[:, 1:]
    assert torch.equal(outcome[:, 1:][held], outcome[:, :-1][held])


def test_gains_equal_those_of_a_loop(setting):
    agent, _, teacher = setting
    batch = GridworldExpert(agent.world).sample(24, torch.Generator().manual_seed(9))
    meta = agent.metacontroller
    teacher.weigh(meta, batch)
    reached = teacher.reached(batch)

    def likelihood(row, outcomes):
        residual = agent.base.lower(agent.base.embed(batch.observation[row : row + 1, :-1]), meta.layer)
        controlled = meta.control(residual, teacher.codes[outcomes.clamp(min=0)][None])
        log_p = agent.base.action_inputs(agent.base.upper(controlled, meta.layer)).log_softmax(-1)[0]
        return log_p[torch.arange(len(outcomes)), batch.action[row]]

    gains = {}
    for row in range(len(batch)):
        path, steps = reached[row].clone(), int(batch.mask[row].sum())
        for t in range(1, len(path)):  # where nothing more is reached the code before stays
            path[t] = path[t - 1] if path[t] < 0 else path[t]
        full = likelihood(row, path)
        changes = [t for t in range(1, steps) if path[t] != path[t - 1]]
        for number, start in enumerate(changes, start=1):
            held = path.clone()
            for other in range(number % 2, len(changes) + 1, 2):  # the changes of one parity at once
                if other:
                    first = changes[other - 1]
                    last = changes[other] if other < len(changes) else len(path)
                    held[first:last] = path[first - 1]
            end = changes[number] if number < len(changes) else steps
            gain = (full - likelihood(row, held))[start:end].sum()
            gains.setdefault((int(path[start - 1]), max(0, int(path[start]))), []).append(float(gain))
    for (before, after), values in gains.items():
        assert float(teacher.gain[before, after]) == pytest.approx(sum(values) / len(values), abs=1e-4)


def test_an_untrained_base_model_is_refused(tiny_world):
    from conftest import make_agent

    batch = GridworldExpert(tiny_world).sample(400, torch.Generator().manual_seed(3))
    with pytest.raises(UserError, match="no events"):
        OutcomeTeacher(CONFIG, make_agent(tiny_world).base, 4, 0.1, batch, torch.Generator().manual_seed(0))


def test_the_regression_finds_what_goes_with_jumps():
    """Rows 3 and 7 make jumps grow; row 9 is often seen beside row 3 and must not share its blame."""
    generator = torch.Generator().manual_seed(0)
    seen = torch.randint(20, (4000, 3), generator=generator)
    beside = (seen == 3).any(1) & (torch.rand(4000, generator=generator) < 0.7)
    seen[beside, 0] = torch.where(seen[beside, 0] == 3, 3, 9)
    grown = 0.5 * (seen == 3).any(1) + 0.8 * (seen == 7).any(1)
    weight = jump_weights(seen, grown + 0.1 * torch.randn(4000, generator=generator), 20)
    assert weight.topk(2).indices.tolist() == [7, 3]
    assert float(weight.sort().values[-3]) < 0.15 * float(weight[3])


def test_taught_codes_are_spread_and_of_the_priors_norm():
    codes = spread_codes(6, 8, torch.Generator().manual_seed(0))
    torch.testing.assert_close(codes.norm(dim=1), torch.full((6,), 8**0.5))
    assert float(torch.cdist(codes, codes).fill_diagonal_(9).min()) > 2


def test_a_code_stays_until_the_next_change_taken():
    outcome = torch.tensor([[0, 0, 1, 1, 2, 3]])
    taken = torch.tensor([[False, False, False, False, True, False]])
    assert hindsight._hold(outcome, taken).tolist() == [[0, 0, 0, 0, 2, 2]]


def test_teaching_finds_codes_that_mean_colours_against_chance(marked_weights):
    teacher = {"steps": 200, "weigh_after": 100, "trajectories": 400}
    values = {"preset": "tiny", "base": str(marked_weights), "steps": 200, "report_every": 50, "teacher": teacher}
    phase = Discover(discover_config({**values, "metacontroller": {"layer": 0}}))
    with pytest.raises(UserError, match="weigh_after"):
        Discover(discover_config({**values, "teacher": {**teacher, "weigh_after": 200}}))
    first = phase.step()
    while not phase.finished:
        last = phase.step()
    assert last["action_nll"] < first["action_nll"]
    assert last["teacher/code_nll"] < first["teacher/code_nll"]
    gates = phase.gates()
    assert gates["code_subgoal_accuracy"] > 0.9 > gates["code_subgoal_chance"] + 0.2


def test_discovery_reads_no_labels(marked_weights):
    teacher = {"steps": 12, "weigh_after": 6, "trajectories": 200}
    values = {"preset": "tiny", "base": str(marked_weights), "steps": 20, "report_every": 20, "teacher": teacher}

    def scrambled(batch):
        batch.subgoal[:], batch.leg[:], batch.task[:] = 0, 7, 0
        return batch

    seeing, blind = (Discover(discover_config(values)) for _ in range(2))
    sample = blind.demonstrations.sample
    blind.demonstrations.sample = lambda *arguments: scrambled(sample(*arguments))
    seeing.step(), blind.step()
    assert fingerprint(seeing.trained) == fingerprint(blind.trained)
