"""Sequence models and metacontroller: two forms, causality, algebra, gradients."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import make_agent
from hypothesis import given
from hypothesis import strategies as st

from irl_ray.errors import UserError
from irl_ray.models.code_policy import CodePolicy, CodePolicyConfig
from irl_ray.models.hawk import linear_scan, parallel_scan
from irl_ray.models.metacontroller import ControllerDecoder, Proposal
from irl_ray.models.sequence_model import SequenceModelConfig
from irl_ray.models.state import reset_rows
from irl_ray.models.transformer import CausalSelfAttention, position_buckets
from irl_ray.models.weights import new_base
from irl_ray.worlds.pinpad.encoders import ENCODERS, AbsoluteEncoder
from irl_ray.worlds.pinpad.specs import GridworldSpec

TOLERANCE = {"atol": 1e-5, "rtol": 1e-4}
WORLD = GridworldSpec.of({"preset": "tiny"})


def observations(batch, steps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(WORLD.num_cells, (batch, steps, WORLD.num_entities), generator=generator)


def base_model(mixer, seed=0, **changes):
    torch.manual_seed(seed)
    shape = {"mixer": mixer, "width": 32, "layers": 3, "heads": 2, "mlp": 48, **changes}
    model = new_base(SequenceModelConfig(**shape), WORLD)
    for parameter in model.parameters():  # also what starts at zero, such as position biases
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("mixer", ["transformer", "hawk"])
@given(steps=st.integers(1, 12), cut=st.integers(0, 11), layer=st.integers(0, 3), seed=st.integers(0, 99))
def test_step_form_equals_parallel_form_with_resets(mixer, steps, cut, layer, seed):
    model = base_model(mixer, seed)
    observed = observations(3, steps, seed)
    cut = min(cut, steps - 1)
    whole = model(observed)
    fresh = model(observed[:, cut:])  # row 1 starts anew at `cut`
    state = model.initial_state(3, steps)
    for t in range(steps):
        if t == cut:
            reset_rows(state, torch.tensor([1]))
        lower = model.lower_step(observed[:, t], state, layer)
        logits = model.action_inputs(model.upper_step(lower, state, layer))
        expected = whole[:, t].clone()
        if t >= cut:
            expected[1] = fresh[1, t - cut]
        torch.testing.assert_close(logits, expected, **TOLERANCE)


@pytest.mark.parametrize("mixer", ["transformer", "hawk"])
def test_base_model_is_causal(mixer):
    model, observed = base_model(mixer), observations(2, 9)
    changed = observed.clone()
    changed[:, 5:] = observations(2, 4, seed=1)
    for before, after in zip(model.residuals(observed), model.residuals(changed)):
        torch.testing.assert_close(before[:, :5], after[:, :5], **TOLERANCE)
        assert not torch.allclose(before[:, 5:], after[:, 5:])


@pytest.mark.parametrize("mixer", ["transformer", "hawk"])
def test_halves_compose_at_every_layer(mixer):
    model, observed = base_model(mixer), observations(2, 6)
    for layer in range(4):
        lower = model.lower(model.embed(observed), layer)
        torch.testing.assert_close(lower, model.residuals(observed)[layer], **TOLERANCE)
        torch.testing.assert_close(model.action_inputs(model.upper(lower, layer)), model(observed), **TOLERANCE)


def test_absolute_encoder_is_the_linear_map_of_one_hots():
    encoder = AbsoluteEncoder(GridworldSpec(4, 2, 0, 9, ((0, 1),)), 8, 0.3)
    cells = torch.randint(16, (5, 7, 3))
    onehot = torch.nn.functional.one_hot(cells, 16).float().flatten(-2)
    torch.testing.assert_close(encoder(cells), onehot @ encoder.table.weight + encoder.bias, **TOLERANCE)


@given(st.integers(1, 40), st.integers(0, 99))
def test_scan_equals_the_loop(steps, seed):
    generator = torch.Generator().manual_seed(seed)
    decay, drive = torch.rand(2, steps, 3, generator=generator), torch.randn(2, steps, 3, generator=generator)
    hidden, expected = torch.zeros(2, 3), []
    for t in range(steps):
        hidden = decay[:, t] * hidden + drive[:, t]
        expected.append(hidden)
    for scan in (linear_scan, parallel_scan):  # the CPU's and the GPU's
        torch.testing.assert_close(scan(decay, drive), torch.stack(expected, 1), **TOLERANCE)
    inputs = decay.double().requires_grad_(True), drive.double().requires_grad_(True)
    weight = torch.randn(2, steps, 3, generator=generator, dtype=torch.double)
    gradients = [
        torch.autograd.grad((scan(*inputs) * weight).sum(), inputs, allow_unused=True)
        for scan in (linear_scan, parallel_scan)
    ]
    for ours, other in zip(*gradients):
        torch.testing.assert_close(ours, torch.zeros_like(ours) if other is None else other)


def test_position_buckets_grow_and_saturate():
    buckets = position_buckets(300)
    assert buckets[:16].tolist() == list(range(16))
    assert (buckets.diff() >= 0).all() and int(buckets.max()) == 31


# Metacontroller


@pytest.mark.parametrize("rank", [1, 4, None])
@given(seed=st.integers(0, 99))
def test_low_rank_control_equals_the_dense_product(rank, seed):
    torch.manual_seed(seed)
    decoder = ControllerDecoder(4, 8, 16, rank, 1.0)
    code, residual = torch.randn(3, 5, 4), torch.randn(3, 5, 16)
    dense = (decoder.matrix(code) @ residual[..., None]).squeeze(-1)
    torch.testing.assert_close(decoder(code, residual), dense, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rank", [4, None])
def test_controller_scale_is_what_it_says(rank):
    torch.manual_seed(0)
    decoder = ControllerDecoder(8, 64, 64, rank, 0.5)
    residual = torch.randn(2000, 64)
    ratio = decoder(torch.randn(2000, 8), residual).std() / residual.std()
    assert 0.3 < float(ratio) < 0.9


def test_kl_is_summed_over_code_dimensions():
    mean, log_std = torch.randn(2, 3, 8), torch.randn(2, 3, 8) * 0.3
    normal = torch.distributions.Normal(mean, log_std.exp())
    expected = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(Proposal(mean, log_std).kl(), expected, **TOLERANCE)


def run_meta(agent, observed, mask=None, threshold=None):
    mask = torch.ones(observed.shape[:2], dtype=torch.bool) if mask is None else mask
    residual = agent.base.lower(agent.base.embed(observed), agent.metacontroller.layer)
    noise = torch.randn(*mask.shape, 4, generator=torch.Generator().manual_seed(0))
    return residual, agent.metacontroller(residual, mask, noise, threshold)


@given(st.integers(0, 1000))
def test_surroundings_do_not_tell_where_the_agent_is(seed):
    """The whole scene shifted by a row and a column looks the same; to the egocentric encoder it does not."""
    random = torch.Generator().manual_seed(seed)
    places = torch.randperm(9, generator=random)[: WORLD.num_entities]  # of the upper left 3x3 cells
    cells = places // 3 * 4 + places % 3
    for name, alike in (("surroundings", True), ("egocentric", False)):
        encoder = ENCODERS[name](WORLD, 8, 0.3)
        assert encoder.rows(cells).unique().numel() == len(encoder.rows(cells)) == WORLD.num_entities - alike
        assert int(encoder.rows(cells).max()) < encoder.num_rows
        assert torch.allclose(encoder(cells[None]), encoder(cells[None] + 5)) == alike


def test_switch_and_memory_are_causal_but_the_encoder_sees_the_future():
    agent = make_agent(WORLD)
    meta, observed = agent.metacontroller, observations(2, 8)
    changed = observed.clone()
    changed[:, 5:] = observations(2, 3, seed=1)
    residual, before = run_meta(agent, observed)
    other, after = run_meta(agent, changed)
    torch.testing.assert_close(meta.memory(residual)[:, :6], meta.memory(other)[:, :6], **TOLERANCE)
    proposed, mask = torch.randn(2, 8, 4), torch.ones(2, 8, dtype=torch.bool)
    beta, _ = meta.integrate(residual, meta.memory(residual), proposed, mask)
    beta_after, _ = meta.integrate(other, meta.memory(other), proposed, mask)
    torch.testing.assert_close(beta[:, :5], beta_after[:, :5], **TOLERANCE)
    assert not torch.allclose(before.proposal.mean[:, :5], after.proposal.mean[:, :5])


def test_switch_reads_the_integrated_code_not_the_proposal():
    agent = make_agent(WORLD)
    meta, residual = agent.metacontroller, torch.randn(1, 4, 32)
    memory, proposed, mask = meta.memory(residual), torch.randn(1, 4, 4), torch.ones(1, 4, dtype=torch.bool)
    beta, code = meta.integrate(residual, memory, proposed, mask)
    expected = meta.switch(residual[:, 2], memory[:, 2], code[:, 1])
    torch.testing.assert_close(beta[:, 2], expected, **TOLERANCE)
    torch.testing.assert_close(code[:, 2], beta[:, 2, None] * proposed[:, 2] + (1 - beta[:, 2, None]) * code[:, 1])
    assert (beta[:, 0] == 1).all() and torch.equal(code[:, 0], proposed[:, 0])


@given(seed=st.integers(0, 1000), rows=st.integers(1, 4), steps=st.integers(1, 9))
def test_codes_read_at_the_end_are_of_the_last_step_that_they_are_in_force_for(seed, rows, steps):
    """By a plain loop over each sequence's steps; the switch, which knows no code, is as causal as ever."""
    torch.manual_seed(seed)
    meta = make_agent(WORLD, seed=seed, read_at="end").metacontroller
    residual, noise = torch.randn(rows, steps, 32), torch.randn(rows, steps, 4)
    length = torch.randint(1, steps + 1, (rows,))
    mask = torch.arange(steps) < length[:, None]
    code, beta, proposal = meta(residual, mask, noise, threshold=0.5)
    proposed, memory = meta.propose(proposal, noise), meta.memory(residual)
    for row in range(rows):
        end = int(length[row]) - 1
        for t in range(int(length[row]) - 1, -1, -1):
            assert torch.equal(code[row, t], proposed[row, end])
            assert bool(beta[row, t]) == (t == 0 or bool(meta.switch(residual[row, t], memory[row, t], None) >= 0.5))
            end = t - 1 if beta[row, t] else end


def test_relaxed_codes_read_at_the_end_mix_as_those_at_the_start_do_and_all_of_it_learns():
    meta = make_agent(WORLD, read_at="end").metacontroller.requires_grad_(True)
    residual, mask = torch.randn(2, 6, 32), torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    code, beta, proposal = meta(residual, mask, torch.zeros(2, 6, 4))
    mixed = beta[0, 4, None] * proposal.mean[0, 3] + (1 - beta[0, 4, None]) * code[0, 4]
    torch.testing.assert_close(code[0, 3], mixed, **TOLERANCE)
    torch.testing.assert_close(code[[0, 1], [5, 3]], proposal.mean[[0, 1], [5, 3]], **TOLERANCE)
    (meta.control(residual, code)[mask].square().sum() + proposal.kl()[mask].sum()).backward()
    assert [name for name, p in meta.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("read_at", ["start", "end"])
def test_step_form_of_the_switch_equals_the_parallel_form(read_at):
    agent, observed = make_agent(WORLD, read_at=read_at), observations(3, 9)
    meta = agent.metacontroller
    residual, codes = run_meta(agent, observed, threshold=0.5)
    proposed = meta.propose(codes.proposal, torch.randn(3, 9, 4, generator=torch.Generator().manual_seed(0)))
    state = meta.initial_state(3)
    for t in range(9):
        beta = meta.switch_step(residual[:, t], state)
        switched = beta >= 0.5
        torch.testing.assert_close(switched.float(), codes.beta[:, t])
        # Where codes are read at the end, another will be in force: here it is told.
        state["code"][switched] = (proposed if read_at == "start" else codes.code)[:, t][switched]
        torch.testing.assert_close(state["code"], codes.code[:, t], **TOLERANCE)
        controlled = meta.control(residual[:, t], state["code"])
        torch.testing.assert_close(controlled, meta.control(residual, codes.code)[:, t], **TOLERANCE)


@pytest.mark.parametrize("threshold", [None, 0.5])
@pytest.mark.parametrize("switch", ["soft", "gumbel"])
def test_step_form_of_the_codes_equals_the_parallel_form(switch, threshold):
    meta = make_agent(WORLD, switch=switch).metacontroller
    residual, noise, uniform = torch.randn(3, 9, 32), torch.randn(3, 9, 4), torch.rand(3, 9)
    summary, state = torch.randn(3, 9, meta.config.summary_size), meta.initial_state(3)
    codes = meta(residual, torch.ones(3, 9, dtype=torch.bool), noise, threshold, uniform, summary)
    for t in range(9):
        beta = meta.forward_step(residual[:, t], summary[:, t], noise[:, t], state, threshold, uniform[:, t])
        torch.testing.assert_close(beta, codes.beta[:, t], **TOLERANCE)
        torch.testing.assert_close(state["code"], codes.code[:, t], **TOLERANCE)
    assert codes.beta[:, 1:].round().unique().tolist() == [0, 1] or switch == "soft"


@pytest.mark.parametrize("read_at", ["start", "end"])
def test_padding_changes_nothing(read_at):
    agent, observed = make_agent(WORLD, read_at=read_at), observations(1, 6)
    _, alone = run_meta(agent, observed)
    padded = torch.cat([observed, observations(1, 4, seed=3)], 1)
    mask = torch.arange(10)[None] < 6
    residual = agent.base.lower(agent.base.embed(padded), agent.metacontroller.layer)
    noise = torch.randn(1, 6, 4, generator=torch.Generator().manual_seed(0))
    noise = torch.cat([noise, torch.zeros(1, 4, 4)], 1)
    masked = agent.metacontroller(residual, mask, noise)
    torch.testing.assert_close(masked.code[:, :6], alone.code, **TOLERANCE)
    torch.testing.assert_close(masked.proposal.mean[:, :6], alone.proposal.mean, **TOLERANCE)


def test_the_summary_is_one_vector_of_the_whole_sequence():
    agent, observed = make_agent(WORLD), observations(2, 7)
    meta, residual = agent.metacontroller, torch.randn(2, 7, 32)
    mask = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])
    summary = meta.summarise(residual, mask)
    assert summary.shape == (2, 7, meta.config.summary_size)
    assert torch.equal(summary, summary[:, :1].expand_as(summary))
    blocks = meta.norm(residual)
    for block in meta.summary.blocks:
        blocks = block(blocks)
    last = torch.stack([blocks[0, 6], blocks[1, 3]])
    torch.testing.assert_close(summary[:, 0], meta.summary.out(meta.summary.norm(last)), **TOLERANCE)
    for t in range(7):  # every real step reaches it, padding does not
        changed = residual.clone()
        changed[:, t] += 1.0
        moved = (meta.summarise(changed, mask) - summary).abs().amax((1, 2)) > 1e-6
        assert moved.tolist() == [True, t < 4]
    by_step = make_agent(WORLD, summary="step")
    _, codes = run_meta(by_step, observed)
    told = by_step.metacontroller.summarise(residual, mask)
    assert not torch.allclose(told[:, 0], told[:, 1])
    assert codes.code.shape == (2, 7, 4)


@pytest.mark.parametrize(
    "wrong", [{"summary": "both"}, {"summary_layers": 0}, {"switch": "hard"}, {"rank": 0}, {"read_at": "last"}]
)
def test_shapes_of_a_metacontroller_that_cannot_be_are_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        make_agent(WORLD, **wrong)


def test_gumbel_switches_are_binary_and_carry_gradient():
    agent = make_agent(WORLD, switch="gumbel")
    meta = agent.metacontroller.requires_grad_(True)
    residual, mask = torch.randn(4, 7, 32), torch.ones(4, 7, dtype=torch.bool)
    codes = meta(residual, mask, torch.randn(4, 7, 4), switch_noise=torch.rand(4, 7))
    assert set(codes.beta.detach().round(decimals=4).unique().tolist()) <= {0.0, 1.0}
    codes.code.sum().backward()
    assert float(meta.switch_context.weight.grad.abs().sum()) > 0


@pytest.mark.parametrize("temperature", [0.3, 1.0])
@given(logit=st.floats(-4, 4))
def test_gumbel_switches_are_open_as_often_as_the_sigmoid_says(temperature, logit):
    """P(beta = 1) = sigma(logit), at any temperature of the relaxation."""
    meta = make_agent(WORLD, switch="gumbel", switch_temperature=temperature).metacontroller
    torch.nn.init.zeros_(meta.switch_out.weight)
    torch.nn.init.constant_(meta.switch_out.bias, logit)
    residual, proposed, mask = torch.zeros(400, 21, 32), torch.zeros(400, 21, 4), torch.ones(400, 21, dtype=torch.bool)
    noise = torch.rand(400, 21, generator=torch.Generator().manual_seed(0))
    beta, _ = meta.integrate(residual, meta.memory(residual), proposed, mask, switch_noise=noise)
    share, expected = float(beta[:, 1:].mean()), 1 / (1 + math.exp(-logit))
    assert share == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 8000) ** 0.5 + 1e-4)


def test_attention_is_that_of_a_plain_loop():
    """Each head on its own slice of the width, scaled by its size, with a bias by distance; nothing of the future."""
    torch.manual_seed(0)
    attention, x = CausalSelfAttention(12, 3), torch.randn(1, 5, 12)
    assert (attention.head_size, attention.qkv.weight.shape) == (4, (36, 12))
    torch.nn.init.normal_(attention.bias)
    q, k, v = attention.qkv(x)[0].split(12, -1)
    mixed = torch.zeros(5, 12)
    for head in range(3):
        part = slice(4 * head, 4 * head + 4)
        for t in range(5):
            scores = torch.stack([q[t, part] @ k[s, part] / 2 + attention.bias[head, t - s] for s in range(t + 1)])
            mixed[t, part] = scores.softmax(0) @ v[: t + 1, part]
    torch.testing.assert_close(attention(x)[0], attention.out(mixed), **TOLERANCE)


def test_forced_switch_takes_every_proposal():
    agent = make_agent(WORLD, forced_switch=True)
    _, codes = run_meta(agent, observations(2, 5))
    assert (codes.beta == 1).all()
    state = agent.metacontroller.initial_state(2)
    for _ in range(3):
        assert (agent.metacontroller.switch_step(torch.randn(2, 32), state) == 1).all()


# Policy over codes


def test_policy_forms_agree_and_it_is_causal():
    torch.manual_seed(0)
    policy = CodePolicy(CodePolicyConfig(observation_size=16, code_size=4, hidden=8))
    torch.nn.init.normal_(policy.mean[-1].weight)
    seen = torch.randn(3, 6, 16)
    with torch.no_grad():
        whole, state = policy(seen), policy.initial_state(3)
        for k in range(6):
            some = torch.tensor([2, 0, 1])
            torch.testing.assert_close(policy.step(seen[some, k], state, some), whole[some, k], **TOLERANCE)
        changed = seen.clone()
        changed[:, 3:] = 0
        torch.testing.assert_close(policy(changed)[:, :3], whole[:, :3], **TOLERANCE)


def test_policy_starts_at_the_prior():
    mean, log_std = CodePolicy(CodePolicyConfig())(torch.randn(2, 3, 64)).chunk(2, -1)
    assert (mean == 0).all() and (log_std == 0).all()
