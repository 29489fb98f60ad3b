"""Supervised phases: gradients, frozen weights, resuming, learning against a baseline, presets."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from conftest import make_agent

from irl_ray.analysis.codes import (
    alignment_and_meaning,
    code_meaning,
    codes_of,
    subgoal_starts,
    switch_alignment,
)
from irl_ray.analysis.control import SubgoalControllers
from irl_ray.analysis.probe import fit_probe, probe_accuracy
from irl_ray.data.trajectories import random_starts
from irl_ray.errors import UserError
from irl_ray.models import weights
from irl_ray.models.weights import fingerprint
from irl_ray.phases.compile import compile_config
from irl_ray.phases.discover import Discover, discover_config
from irl_ray.phases.pretrain import Pretrain, pretrain_config, pretraining_losses
from irl_ray.phases.training import OptimizerConfig
from irl_ray.seeding import torch_seed
from irl_ray.worlds.pinpad.stream import GridworldExpert
from irl_ray.worlds.pinpad.terms import STATIC_EVERY
from irl_ray.worlds.pinpad.walks import target_cells

TEACHER = {"trajectories": 128, "weigh_after": 7, "min_contrast": 1.0}


def discover(tiny_weights, **changes):
    return Discover(discover_config({"preset": "tiny", "base": str(tiny_weights), **changes}))


def test_pretraining_learns_what_the_visits_tell():
    """Better than any policy that ignores the observation, and than the untrained model."""
    phase = Pretrain(pretrain_config({"preset": "tiny", "steps": 300, "control_steps": 0}))
    batch = phase.demonstrations.sample(200, torch.Generator().manual_seed(5))
    before = float(pretraining_losses(phase.base, batch)["action"] / batch.mask.sum())
    while not phase.finished:
        phase.step()
    gates = phase.gates()
    assert before > 1.3
    assert gates["eval/action_nll"] < 0.9 * math.log(4)
    assert gates["eval/action_nll"] > gates["floor/bayes"] > gates["floor/oracle"]


def test_a_base_of_surroundings_goes_on_from_one_that_was_told_its_own_cell(tiny_weights):
    """All but the rows of that cell is kept; another width or another encoder costs one line."""
    shape = {"width": 32, "heads": 2, "layers": 2, "mlp": 48}

    def made(start_from, **model):
        values = {"preset": "tiny", "start_from": str(start_from), "model": {**shape, **model}}
        return Pretrain(pretrain_config(values))

    kept, source = made(tiny_weights, encoder="surroundings"), weights.load(tiny_weights).base.state_dict()
    for name, tensor in kept.base.state_dict().items():
        torch.testing.assert_close(tensor, source[name][: len(tensor)] if tensor.ndim else source[name])
    cells = kept.config.world.num_cells
    assert len(source["encoder.table.weight"]) == kept.base.encoder.num_rows + cells
    with pytest.raises(UserError, match="start_from: .* another shape"):
        made(tiny_weights, encoder="surroundings", mlp=32)
    with pytest.raises(UserError, match="start_from: .* another shape"):
        made(tiny_weights, encoder="absolute")


def test_pretraining_on_windows_is_pretraining_on_the_rest_of_the_walks(tiny_weights):
    """Of a share of the walks; at 0 nothing is cut, and the same seed cuts the same for any number of length groups."""

    def gradient(**changes):
        phase = Pretrain(pretrain_config({"preset": "tiny", "start_from": str(tiny_weights), "seed": 3, **changes}))
        phase.accumulate_gradients()
        return phase, torch.cat([p.grad.flatten() for p in phase.base.parameters() if p.grad is not None])

    shape = {"layers": 2, "mlp": 48}
    whole, plain = gradient(model={"width": 32, "heads": 2, **shape})
    cut, windows = gradient(model={"width": 32, "heads": 2, **shape}, window_share=1.0)
    _, grouped = gradient(model={"width": 32, "heads": 2, **shape}, window_share=1.0, length_groups=1)
    torch.testing.assert_close(windows, grouped, atol=1e-5, rtol=1e-3)
    assert not torch.allclose(plain, windows, atol=1e-4)
    batch = next(whole.demonstrations.batches(32, 3, "pretrain"))
    rest = batch.since(
        random_starts(batch.mask, 1.0, torch.Generator().manual_seed(torch_seed(3, "pretrain", "windows", 0)))
    )
    cut.base.zero_grad()
    losses = pretraining_losses(cut.base, rest)
    further = cut.config.term_weights["static"] * losses["static"]
    total = losses["action"] + cut.config.observation_weight * losses["observation"] + further
    (total / rest.mask.sum()).backward()
    expected = torch.cat([p.grad.flatten() for p in cut.base.parameters() if p.grad is not None])
    torch.testing.assert_close(windows, expected, atol=1e-5, rtol=1e-3)


def test_windows_of_a_length_are_all_of_the_walks_that_are_cut():
    """As often as asked on average, in a share of the walks; every step is in one of them."""
    phase = Pretrain(pretrain_config({"preset": "tiny", "window_share": 0.5, "window_length": 4}))
    batch = phase.demonstrations.sample(2000, torch.Generator().manual_seed(0))
    cut = phase._windows_of(batch)
    assert int(cut.mask.sum()) == int(batch.mask.sum())
    steps = int(batch.mask[:, 1:].sum())
    assert (len(cut) - len(batch)) / steps == pytest.approx(0.5 / 4, abs=0.01)
    whole = Pretrain(pretrain_config({"preset": "tiny", "window_share": 1.0, "window_length": 1}))._windows_of(batch)
    assert len(whole) == int(batch.mask.sum()) and whole.mask.shape[1] == 1
    with pytest.raises(UserError, match="window_length"):
        pretrain_config({"preset": "tiny", "window_length": 4})
    with pytest.raises(UserError, match="window_length"):
        pretrain_config({"preset": "tiny", "window_share": 1.0, "window_length": 0.5})


def test_pretraining_losses_are_those_of_a_plain_loop(tiny_weights, tiny_world):
    """The action taken, the agent's cell one step later, the fixed cells: over real steps alone."""
    base = weights.load(tiny_weights).base
    batch = GridworldExpert(tiny_world).sample(5, torch.Generator().manual_seed(2))
    found = pretraining_losses(base, batch)
    hidden = base.norm(base.upper(base.embed(batch.observation[:, :-1]), 0))
    sums = torch.zeros(3)
    for row, length in enumerate(batch.mask.sum(1).tolist()):
        for t in range(length):
            at = hidden[row, t]
            sums[0] -= base.action_head(at).log_softmax(-1)[batch.action[row, t]]
            sums[1] -= base.agent_head(at).log_softmax(-1)[batch.observation[row, t + 1, -1]]
            if t % STATIC_EVERY == 0:
                static = base.static_head(at).unflatten(-1, (-1, tiny_world.num_cells)).log_softmax(-1)
                cells = batch.observation[row, t, :-1]
                sums[2] -= STATIC_EVERY * static[torch.arange(len(cells)), cells].mean()
    assert len(set(batch.mask.sum(1).tolist())) > 1
    torch.testing.assert_close(torch.stack([*found.values()]), sums, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize(
    "memory",
    [
        {},
        {"cut_share": 0.6},
        {"cut_share": 1.0, "cuts": 2},
        {"cut_share": 0.6, "cuts": 3},
        {"clean_slate": True},
        {"clean_slate": True, "cut_share": 0.5},
        {"clean_slate": True, "turned_summaries": True},
        {"cut_share": 1.0, "cuts": 2, "read_at": "end"},
        {"clean_slate": True, "read_at": "end"},
        {"clean_slate": True, "turned_summaries": True, "read_at": "end"},
        {"cut_share": 1.0, "cuts": 2, "read_at": "arrival"},
        {"clean_slate": True, "read_at": "arrival"},
        {"turned_summaries": True, "read_at": "arrival"},
    ],
)
@pytest.mark.parametrize("switch", ["soft", "gumbel"])
def test_discovery_losses_are_those_of_a_plain_loop(switch, memory, layer, tiny_weights, tiny_world):
    """Eq. 9 step by step: action NLL under the code in force, and the KL of every proposal, taken or not.

    Where memory starts anew, both halves of the base model read what follows alone; so does the metacontroller where it
    starts anew at switches, but for the summary. A code that is read at the end is of the step before the next switch,
    at the arrival of the observation after it, and all that it is read from is turned, where anything is.
    """
    memory = dict(memory)
    read_at = memory.pop("read_at", "start")
    at_end, arrives = read_at != "start", read_at == "arrival"
    shape = {"switch": switch, "layer": layer, "read_at": read_at}
    if layer and "clean_slate" in memory and (arrives or (at_end and "turned_summaries" in memory)):
        with pytest.raises(UserError, match="(turned_summaries|read_at: arrival): .* layer 0 alone"):
            discover(tiny_weights, metacontroller=shape, **memory)
        return
    phase = discover(tiny_weights, metacontroller=shape, **memory)
    base, meta = phase.agent.base, phase.agent.metacontroller
    batch = phase.demonstrations.sample(4, torch.Generator().manual_seed(3))
    phase._noise.manual_seed(9)
    with torch.no_grad():
        found = torch.stack(phase.losses(batch))
    phase._noise.manual_seed(9)
    shape = batch.mask.shape
    noise = torch.randn(*shape, meta.config.code_size, generator=phase._noise)
    uniform = torch.rand(shape, generator=phase._noise)
    share = memory.get("cut_share", 0.0)
    drawn = torch.rand(len(batch), memory.get("cuts", 1) if share else 0, 2, generator=phase._noise)
    turns = torch.zeros(len(batch), dtype=torch.int64)
    if memory.get("turned_summaries"):
        turns = torch.randint(8, (len(batch),), generator=phase._noise)
        assert len(set(turns.tolist())) > 1 and bool(turns.any())
    sums, pieces = torch.zeros(3), 0
    with torch.no_grad():
        for row, length in enumerate(batch.mask.sum(1).tolist()):
            walk, real = batch.observation[row : row + 1, :length], torch.ones(1, length, dtype=torch.bool)
            residual = base.lower(base.embed(walk), meta.layer)
            grid = torch.arange(tiny_world.num_cells).reshape(tiny_world.grid_size, -1)
            grid = (grid.flip(0) if turns[row] >= 4 else grid).rot90(int(turns[row]) % 4).flatten().tolist()
            seen = batch.observation[row : row + 1, : length + arrives]
            turned = base.lower(base.embed(seen.clone().apply_(grid.index)), meta.layer)
            summary, remembered = meta.summarise(turned[:, :length], real), meta.memory(turned)
            hidden, code, codes, since = torch.zeros(1, 1, meta.config.memory_size), None, [], 0
            proposals, betas = [], []
            cut = bool(share) and float(drawn[row, 0, 0]) < share
            begins = {0, *(int(where * length) for _, where in drawn[row].tolist() if cut)}
            for t in range(length):
                e, memory_state = residual[:, t], hidden[0]
                if memory.get("clean_slate"):
                    e = base.lower(base.embed(batch.observation[row : row + 1, since : t + 1]), meta.layer)[:, -1]
                turns_all = at_end and memory.get("turned_summaries")
                at = t + arrives
                read = (turned[:, at], remembered[:, at]) if turns_all or arrives else (e, memory_state)
                mean, log_std = meta.encode(*read, summary[:, t])
                proposed = mean + log_std.exp() * noise[row, t]
                beta = torch.ones(1)
                if code is not None:
                    logit = meta.switch_logit(e, memory_state, code)
                    opened = torch.logit(uniform[row, t]) + logit > 0
                    beta = torch.sigmoid(logit) if switch == "soft" else opened.float()
                code = proposed if code is None else beta * proposed + (1 - beta) * code
                sums[1] += torch.distributions.kl_divergence(
                    torch.distributions.Normal(mean, log_std.exp()), torch.distributions.Normal(0.0, 1.0)
                ).sum()
                sums[2] += float(beta)
                codes.append(code)
                proposals.append(proposed)
                betas.append(beta)
                if memory.get("clean_slate") and float(beta) > 0.5:
                    begins.add(t)
                    since = t
                _, hidden = meta.gru(meta.norm(e)[:, None], hidden)
            if at_end:
                code = codes[-1] = proposals[-1]
                for t in range(length - 2, -1, -1):
                    code = codes[t] = betas[t + 1] * proposals[t] + (1 - betas[t + 1]) * code
            pieces += len(begins)
            for begin, end in pairwise([*sorted(begins), length]):
                seen = base.lower(base.embed(batch.observation[row : row + 1, begin:end]), meta.layer)
                matrices = torch.stack([meta.decoder.matrix(code) for code in codes[begin:end]], 1)
                top = base.upper(seen + (matrices @ seen[..., None])[..., 0], meta.layer)
                taken = batch.action[row, begin:end, None]
                sums[0] -= base.action_inputs(top)[0].log_softmax(-1).gather(1, taken).sum()
    assert len(set(batch.mask.sum(1).tolist())) > 1
    forgets = memory.keys() & {"clean_slate", "cut_share"}
    assert pieces == len(batch) if not forgets else pieces > len(batch) or switch == "soft"
    torch.testing.assert_close(found, sums, atol=1e-3, rtol=1e-4)


def test_all_of_a_metacontroller_learns_on_a_clean_slate(tiny_weights):
    layer = {"switch": "gumbel", "layer": 1}
    phase = discover(tiny_weights, metacontroller=layer, clean_slate=True, alpha_hold=0.0, alpha_ramp=0.0)
    phase.accumulate_gradients()
    assert not [name for name, p in phase.trained.named_parameters() if p.grad is None or not p.grad.any()]
    with pytest.raises(UserError, match="layer 0 alone"):
        discover(tiny_weights, co_training="pretrained", clean_slate=True)
    discover(tiny_weights, co_training="pretrained", clean_slate=True, metacontroller={"layer": 0})
    with pytest.raises(UserError, match="num_workers"):
        discover_config({"preset": "tiny", "base": "x", "clean_slate": True, "batch_size": 9, "num_workers": 4})


@pytest.mark.parametrize("threshold", [None, 0.45])
@pytest.mark.parametrize("mixer", ["transformer", "hawk"])
def test_codes_on_a_clean_slate_by_hand(mixer, threshold, tiny_world):
    agent = make_agent(tiny_world, mixer, layer=1)
    base, meta = agent.base, agent.metacontroller
    batch = GridworldExpert(tiny_world).sample(8, torch.Generator().manual_seed(3))
    found, _ = codes_of(agent, batch, threshold, clean_slate=True)
    summary, count = meta.summarise(base.lower(base.embed(batch.observation[:, :-1]), 1), batch.mask), 0
    for row, length in enumerate(batch.mask.sum(1).tolist()):
        read, since, code = [], 0, torch.zeros(1, 4)
        for t in range(length):
            read.append(base.lower(base.embed(batch.observation[row : row + 1, since : t + 1]), 1)[:, -1])
            memory = meta.memory(torch.stack(read, 1))[:, -1]
            beta = meta.switch(read[-1], memory, code) if t else torch.ones(1)
            beta = beta if threshold is None else (beta >= threshold).float()
            code = torch.lerp(code, meta.encode(read[-1], memory, summary[row, t][None]).mean, beta[:, None])
            torch.testing.assert_close(found.beta[row, t], beta[0], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(found.code[row, t], code[0], atol=1e-5, rtol=1e-4)
            since, count = (t, count + 1) if beta > 0.5 else (since, count)
    assert count > len(batch)


def test_gates_of_codes_found_on_clean_slates_are_of_clean_slates(tiny_weights, monkeypatch):
    phase = discover(tiny_weights, metacontroller={"layer": 1, "initial_switch_bias": 0.0}, clean_slate=True)
    got = []
    monkeypatch.setattr(
        "irl_ray.phases.discover.code_gates", lambda config, agent, codes, batch: got.append((codes, batch)) or {}
    )
    phase.gates()
    ((codes, batch),) = got
    torch.testing.assert_close(codes, codes_of(phase.agent, batch, 0.5, True)[0].code)
    assert not torch.allclose(codes, codes_of(phase.agent, batch, 0.5)[0].code)


def test_length_groups_do_not_change_the_gradient(tiny_weights):
    gradients = []
    for groups in (1, 4):
        phase = Pretrain(pretrain_config({"preset": "tiny", "length_groups": groups}))
        phase.accumulate_gradients()
        gradients.append([p.grad.clone() for p in phase.base.parameters()])
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("walks", ["gridworld", "ant", "entries"])
def test_products_in_bfloat16_leave_weights_and_gradient_float32(walks, ant_data):
    """The gradient points the same way, up to rounding; another name is refused."""
    world = {"grid_size": 4, "num_walls": 1, "horizon": 200}
    ant = {"env": "irl_ray/AntPinpad-v0", "world": world, "data": str(ant_data), "entries_only": walks == "entries"}
    gradients = []
    for precision in ("float32", "bfloat16"):
        settings = {} if walks == "gridworld" else ant
        phase = Pretrain(pretrain_config({"preset": "tiny", "precision": precision, **settings}))
        phase.accumulate_gradients()
        reached = [p for p in phase.base.parameters() if p.grad is not None]
        assert all(p.dtype == p.grad.dtype == torch.float32 for p in reached)
        gradients.append(torch.cat([p.grad.flatten() for p in reached]))
    exact, rounded = gradients
    assert not torch.equal(exact, rounded)
    assert float(torch.cosine_similarity(exact, rounded, dim=0)) > 0.999
    with pytest.raises(UserError, match="precision"):
        pretrain_config({"preset": "tiny", "precision": "float16"})


def test_discovery_trains_the_metacontroller_and_nothing_else(tiny_weights):
    phase = discover(tiny_weights, alpha_hold=0.0, alpha_ramp=0.0)
    base, meta = phase.agent.base, phase.agent.metacontroller
    before, untrained = fingerprint(base), {n: p.clone() for n, p in meta.named_parameters()}
    while not phase.finished:
        phase.step()
    assert fingerprint(base) == before
    assert all(p.grad is None for p in base.parameters())
    unchanged = [n for n, p in meta.named_parameters() if torch.equal(p, untrained[n])]
    assert not unchanged


@pytest.mark.parametrize("how", ["pretrained", "scratch"])
def test_co_training_trains_the_base_model_along(how, tiny_weights):
    phase = discover(tiny_weights, co_training=how, steps=20)
    started = weights.load(tiny_weights).base
    assert (fingerprint(phase.agent.base) == fingerprint(started)) == (how == "pretrained")
    before = {n: p.clone() for n, p in phase.trained.named_parameters()}
    phase.step()
    still = {n for n, p in phase.trained.named_parameters() if torch.equal(p, before[n])}
    # The observation heads are no part of the loss of section 5.
    assert all(n.startswith(("base.agent_head", "base.static_head")) for n in still)
    with pytest.raises(UserError, match="frozen"):
        discover(tiny_weights, co_training=how, teacher=TEACHER | {"steps": 10})


def test_what_goes_on_does_so_in_the_base_model_that_it_was_found_in(tiny_weights):
    config = discover_config({"preset": "tiny", "start_from": str(tiny_weights), "teacher": {"steps": 0}})
    assert config.base == config.start_from
    phase = Discover(config)
    assert weights.fingerprint(phase.agent.base) == weights.fingerprint(weights.load(tiny_weights).base)
    with pytest.raises(UserError, match="base"):
        discover_config({"preset": "tiny"})


def test_discovery_goes_on_from_a_metacontroller(tiny_weights, tmp_path):
    found = weights.load(tiny_weights).metacontroller
    shape = {"code_size": 4, "memory_size": 8, "summary_size": 8, "rank": 4}
    phase = discover(tiny_weights, start_from=str(tiny_weights), metacontroller=shape)
    assert fingerprint(phase.agent.metacontroller) == fingerprint(found)
    with pytest.raises(UserError, match="another shape.*code_size is 4 there and 3 here"):
        discover(tiny_weights, start_from=str(tiny_weights), metacontroller=shape | {"code_size": 3})
    other = weights.load(tiny_weights)
    with torch.no_grad():
        next(other.base.parameters()).add_(1e-3)
    weights.save(other, tmp_path / "other")
    with pytest.raises(UserError, match="start_from: .* in another base model"):
        discover(tiny_weights, start_from=str(tmp_path / "other"), metacontroller=shape)


@pytest.mark.parametrize("rank", [None, 3])
def test_a_linear_decoder_goes_on_in_a_hidden_layer(rank, tiny_weights, tmp_path):
    shape = {"code_size": 4, "memory_size": 8, "summary_size": 8, "rank": rank, "decoder_hidden": None}
    linear = discover(tiny_weights, metacontroller=shape, steps=4)
    linear.step()
    weights.save(linear.artefact(), tmp_path / "linear")
    matrix = linear.agent.metacontroller.decoder.matrix(torch.eye(4)).detach()
    source, few = str(tmp_path / "linear"), shape | {"decoder_hidden": 7}
    with pytest.raises(UserError, match="start_from: .*decoder_hidden: 8 or more, or null, got 7"):
        discover(tiny_weights, start_from=source, metacontroller=few)
    for changed in ({"decoder_hidden": None}, {"decoder_hidden": 8}):  # linear as it was; nothing left over
        again = discover(tiny_weights, start_from=source, metacontroller=shape | changed).agent.metacontroller
        torch.testing.assert_close(again.decoder.matrix(torch.eye(4)), matrix)
    with pytest.raises(UserError, match="another shape: metacontroller.memory_size is 8 there and 9 here$"):
        discover(tiny_weights, start_from=source, metacontroller=shape | {"decoder_hidden": 11, "memory_size": 9})
    with pytest.raises(UserError, match="rank is .* there and 2 here"):
        discover(tiny_weights, start_from=source, metacontroller=shape | {"decoder_hidden": 11, "rank": 2})
    other = weights.load(source)
    with torch.no_grad():
        next(other.base.parameters()).add_(1e-3)
    weights.save(other, tmp_path / "other")
    with pytest.raises(UserError, match="in another base model"):
        discover(tiny_weights, start_from=str(tmp_path / "other"), metacontroller=shape | {"decoder_hidden": 11})
    wide = discover(tiny_weights, start_from=str(tmp_path / "linear"), metacontroller=shape | {"decoder_hidden": 11})
    old, new = linear.agent.metacontroller, wide.agent.metacontroller
    code, residual = torch.randn(5, 4), torch.randn(5, new.width)
    torch.testing.assert_close(new.decoder.matrix(code), old.decoder.matrix(code))
    torch.testing.assert_close(new.control(residual, code), old.control(residual, code))
    rest = {n: p for n, p in new.state_dict().items() if not n.startswith("decoder.")}
    assert all(torch.equal(p, old.state_dict()[n]) for n, p in rest.items()) and rest
    wide.step()
    wide.step()
    assert new.decoder.basis(code).shape == (5, 12)
    learned = {n: p.grad for n, p in new.decoder.named_parameters()}
    free = learned["full" if rank is None else "up"][8:11]
    assert (free != 0).any() and (learned["hidden.weight"][8:] != 0).any()  # the units that are left over learn too


def test_every_step_has_noise_and_windows_of_its_own(tiny_weights):
    found, seen = discover(tiny_weights), []
    base = Pretrain(pretrain_config({"preset": "tiny", "window_share": 0.5}))
    for _ in range(3):
        found.accumulate_gradients()
        base.accumulate_gradients()
        seen.append((found._noise.initial_seed(), base._windows.initial_seed()))
        found.step_number += 1
        base.step_number += 1
    assert all(len(set(seeds)) == 3 for seeds in zip(*seen))


def test_gates_see_demonstrations_whose_ties_are_broken_as_those_learned_from(tiny_weights):
    for ties in ("free", "rule"):
        held = discover(tiny_weights, ties=ties)._held_out()
        random = torch.Generator().manual_seed(torch_seed(0, "discover", "gates"))
        assert torch.equal(held.action, GridworldExpert(held.world, ties=ties).sample(len(held), random).action)


def test_gates_on_the_way_do_not_disturb_training(tiny_weights):
    """The same weights with and without them, and a score between 0 and 1 at each report."""
    ends = []
    for measured in (False, True):
        phase = discover(tiny_weights, steps=40, gates_at_reports=measured)
        while not phase.finished:
            phase.step()
            found = phase.gates_on_the_way()
            assert not measured or 0 <= found["gate_score"] <= 1
        ends.append(fingerprint(phase.agent.metacontroller))
    assert ends[0] == ends[1]


def test_discovery_codes_help_the_base_model_against_no_codes(tiny_weights):
    """With α = 0 the codes carry the actions: NLL falls below that of the base model alone."""
    phase = discover(tiny_weights, alpha=0.0, steps=150)
    batch = phase.demonstrations.sample(100, torch.Generator().manual_seed(1))
    alone = float(pretraining_losses(phase.agent.base, batch)["action"] / batch.mask.sum())
    while not phase.finished:
        metrics = phase.step()
    assert metrics["action_nll"] < alone - 0.1


@pytest.mark.parametrize("phase_name", ["pretrain", "discover", "taught", "weighed"])
def test_a_resumed_run_equals_an_uninterrupted_one(phase_name, tiny_weights, tmp_path):
    def fresh():
        if phase_name == "discover":
            return discover(tiny_weights, report_every=5, steps=20)
        if phase_name in ("taught", "weighed"):
            teacher = {**TEACHER, "steps": 12, "weigh_after": 7 if phase_name == "taught" else 4}
            return discover(tiny_weights, report_every=5, steps=20, teacher=teacher)
        return Pretrain(pretrain_config({"preset": "tiny", "report_every": 5, "steps": 20}))

    whole, first, second = fresh(), fresh(), fresh()
    while not whole.finished:
        whole.step()
    first.step()
    torch.save(first.state(), tmp_path / "state.pt")
    second.load_state(torch.load(tmp_path / "state.pt", weights_only=True))
    while not second.finished:
        second.step()
    assert fingerprint(whole.trained) == fingerprint(second.trained)


@pytest.mark.parametrize("wrong", [{"ties": "fair"}, {"cut_share": 1.5}, {"cuts": 2}])
def test_cuts_and_ties_that_mean_nothing_are_refused(wrong, tiny_weights):
    with pytest.raises(UserError, match=next(iter(wrong))):
        discover(tiny_weights, **wrong)


@pytest.mark.parametrize("weight", ["alpha", "switch_cost"])
def test_weights_are_held_then_ramped(weight, tiny_weights):
    phase = discover(tiny_weights, **{weight: 0.4, f"{weight}_hold": 0.25, f"{weight}_ramp": 0.75}, steps=100)
    seen = []
    for step in (0, 25, 50, 75, 100):
        phase.step_number = step
        seen.append(round(getattr(phase, weight), 3))
    assert seen == [0.0, 0.0, 0.2, 0.4, 0.4]


@pytest.mark.parametrize("switch", ["soft", "gumbel"])
def test_a_switch_costs_what_it_is_told_to(switch, tiny_weights):
    """The gradient of NLL + α KL + cost x (sum of beta), over the steps of the batch; the loss that is told as well."""
    gradients, told = {}, {}
    for cost in (0.0, 0.7):
        shape = {"metacontroller": {"switch": switch}, "alpha_hold": 0.0, "alpha_ramp": 0.0}
        phase = discover(tiny_weights, switch_cost=cost, **shape)
        told[cost] = phase.accumulate_gradients()
        gradients[cost] = torch.cat([p.grad.flatten() for p in phase.trained.parameters() if p.grad is not None])
    batch = next(phase.demonstrations.batches(phase.config.batch_size, phase.config.seed, "discover"))
    phase.optimizer.zero_grad()
    phase._noise.manual_seed(torch_seed(phase.config.seed, "discover", "noise", 0))
    nll, kl, beta = map(sum, zip(*(phase.losses(part) for part in batch.split_by_length(phase.config.length_groups))))
    ((nll + phase.alpha * kl + 0.7 * beta) / batch.mask.sum()).backward()
    expected = torch.cat([p.grad.flatten() for p in phase.trained.parameters() if p.grad is not None])
    torch.testing.assert_close(gradients[0.7], expected, atol=1e-6, rtol=1e-4)
    assert (gradients[0.7] - gradients[0.0]).abs().max() > 1e-3
    assert told[0.7]["loss"] - told[0.0]["loss"] == pytest.approx(0.7 * told[0.7]["beta_mean"], rel=1e-4)


def test_a_cost_on_switches_that_is_never_counted_is_refused(tiny_weights):
    for settings in ({"metacontroller": {"forced_switch": True}}, {"teacher": {"steps": 60, "weigh_after": 20}}):
        with pytest.raises(UserError, match="switch_cost: has no effect"):
            discover(tiny_weights, switch_cost=0.1, **settings)


def test_reading_codes_at_the_end_where_it_changes_nothing_is_refused(tiny_weights):
    end = {"read_at": "end"}
    for settings in (
        {"metacontroller": {**end, "forced_switch": True}},
        {"metacontroller": end, "teacher": {"steps": 60, "weigh_after": 20}},
    ):
        with pytest.raises(UserError, match="read_at: has no effect"):
            discover(tiny_weights, **settings)
    with pytest.raises(UserError, match="metacontroller.read_at: CompILE"):
        compile_config({"preset": "tiny", "base": str(tiny_weights), "metacontroller": end})


def test_schedules():
    cosine = OptimizerConfig(learning_rate=1.0, schedule="cosine", warmup_steps=10)
    assert cosine.rate(0, 100) == pytest.approx(0.1)
    assert cosine.rate(50, 100) == pytest.approx(0.5)
    assert cosine.rate(100, 100) == pytest.approx(0.0)
    assert OptimizerConfig(learning_rate=1.0).rate(99, 100) == 1.0
    with pytest.raises(UserError, match="schedule"):
        OptimizerConfig(schedule="linear")


@pytest.mark.parametrize("mixer", ["transformer", "hawk"])
def test_paper_presets_build_exactly_and_take_a_step_of_each_phase(mixer, tmp_path):
    small_batch = {"batch_size": 2, "report_every": 1, "length_groups": 1}
    layers = 6 if mixer == "transformer" else 8
    config = pretrain_config({"preset": "paper", "model": {"mixer": mixer, "layers": layers}, **small_batch})
    assert (config.steps, config.optimizer.learning_rate, config.optimizer.weight_decay) == (256_000, 3e-4, 0.03)
    assert (config.world.grid_size, config.world.num_colours, config.world.num_walls) == (7, 8, 4)
    assert pretrain_config({"preset": "paper"}).batch_size == 1024
    phase = Pretrain(config)
    assert (phase.base.width, phase.base.num_layers, phase.base.config.mlp) == (256, layers, 512)
    phase.step()
    folder = phase.export(tmp_path / "base", {})
    found = Discover(discover_config({"preset": "paper", "base": str(folder), **small_batch}))
    meta = found.agent.metacontroller
    assert meta.layer == layers // 2
    shape = meta.config
    assert (shape.code_size, shape.memory_size, shape.summary_size, shape.rank) == (8, 32, 32, 16)
    assert discover_config({"preset": "paper", "base": str(folder)}).batch_size == 512
    found.step()


def test_unknown_settings_are_errors():
    with pytest.raises(UserError, match="learning_rate"):
        pretrain_config({"optimizer": {"learning_rat": 1e-3}})
    with pytest.raises(UserError, match="steps"):
        pretrain_config({"steps": "many"})
    with pytest.raises(UserError, match="preset"):
        discover_config({"preset": "huge", "base": "x"})


# Analyses against known answers


def test_probe_finds_a_planted_label_and_nothing_in_noise():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (3000,), generator=generator)
    noise = torch.randn(2, 3000, 6, generator=generator)
    noise[0, :, 2] += labels * 4.0
    planted, nothing = probe_accuracy(noise, labels, torch.arange(3000) // 10)
    assert planted > 0.9
    assert nothing < 0.45


def test_a_probe_reads_a_label_off_small_features_beside_large_ones():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (600,), generator=generator)
    told = torch.eye(3)[labels] + 0.1 * torch.randn(600, 3, generator=generator)
    features = torch.cat([1e-3 * told, 100 * torch.randn(600, 4, generator=generator)], 1)[None] + 50
    assert (fit_probe(features, labels).log_prob(features)[0].argmax(-1) == labels).float().mean() > 0.98


def test_alignment_by_hand():
    import numpy as np

    def at(*steps):
        row = np.zeros((1, 12), bool)
        row[0, list(steps)] = True
        return row

    assert switch_alignment(at(3, 8), at(3, 7), at())["switch_f1"] == pytest.approx(1.0)
    assert switch_alignment(at(3, 4), at(3), at())["switch_precision"] == 0.5
    assert switch_alignment(at(3, 10), at(3), at(10))["switch_precision"] == 1.0
    assert switch_alignment(at(), at(3), at())["switch_recall"] == 0.0


def test_the_forced_first_switch_is_no_hit_and_no_miss(tiny_world):
    """It counts as a switch of the episode, and is left out where switches are compared with changes of subgoal."""
    batch = GridworldExpert(tiny_world).sample(16, torch.Generator().manual_seed(0))
    change = torch.from_numpy(subgoal_starts(batch)[0])
    code = torch.randn(*batch.mask.shape, 3, generator=torch.Generator().manual_seed(1))
    for beta in (change.float(), change.float().index_fill(1, torch.tensor([0]), 1.0)):
        told = alignment_and_meaning(beta, code, batch, tolerance=0)
        assert told["switch_precision"] == told["switch_f1"] == 1.0
        assert told["switches_per_episode"] == told["subgoals_per_episode"] > 1


def test_places_are_read_off_codes_on_walks_that_were_not_fitted(tiny_world):
    """Codes of noise with many numbers fit what they were fitted to, and tell nothing; places themselves tell all."""
    batch = GridworldExpert(tiny_world).sample(16, torch.Generator().manual_seed(0))
    noise = torch.randn(*batch.mask.shape, 40, generator=torch.Generator().manual_seed(1))
    assert code_meaning(noise, batch)["code_location_r2"] < 0
    places = batch.world.places(batch).float()
    assert code_meaning(places, batch)["code_location_r2"] == pytest.approx(1.0, abs=1e-4)


def test_target_cell_is_where_the_leg_ends(tiny_world):
    batch = GridworldExpert(tiny_world).sample(20, torch.Generator().manual_seed(0))
    expert = GridworldExpert(tiny_world)
    colours = expert.tasks[batch.task[:, None], batch.leg.clamp(max=expert.tasks.shape[1] - 1)]
    expected = batch.observation[:, :-1, :-1].gather(2, colours[..., None])[..., 0]
    assert torch.equal(target_cells(batch)[batch.mask], expected[batch.mask])


def test_subgoal_controllers_leave_unlabelled_steps_alone():
    controllers, residual = SubgoalControllers(3, 16, 4), torch.randn(2, 5, 16)
    assert torch.equal(controllers(residual, torch.full((2, 5), -1)), residual)
    one = controllers(residual, torch.full((2, 5), 1))
    dense = residual + residual @ (controllers.up[1].T @ controllers.down[1]).T
    torch.testing.assert_close(one, dense, atol=1e-4, rtol=1e-4)


def test_gates_are_stored_in_the_card(tiny_weights, tmp_path):
    phase = discover(tiny_weights, steps=5)
    phase.step()
    gates = phase.gates()
    for name in ("switch_f1", "code_subgoal_accuracy", "code_location_r2", "injected_success", "eval/kl"):
        assert name in gates
    phase.export(tmp_path / "a", gates)
    assert weights.load(tmp_path / "a").metrics["discover"]["switch_f1"] == gates["switch_f1"]
