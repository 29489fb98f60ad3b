"""CompILE: exact masks, the prior by hand, planted segments, the phase, internal RL over what it found."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from irl_ray.internal.sampler import sample_code_episodes
from irl_ray.models import weights
from irl_ray.models.segmenter import Segmenter, SegmenterConfig, gumbel_noise, log_length_prior
from irl_ray.models.sequence_model import SequenceModelConfig
from irl_ray.models.weights import fingerprint
from irl_ray.phases.compile import CompILE, compile_config

SHAPE = SequenceModelConfig(width=16, layers=2, heads=2, mlp=32)


def make_segmenter(symbols=5, **config):
    torch.manual_seed(0)
    return Segmenter(SegmenterConfig(**{"code_size": 4, **config}), SHAPE, nn.Embedding(symbols, SHAPE.width))


def ragged(lengths, symbols=5, seed=0):
    steps = max(lengths)
    random = torch.Generator().manual_seed(seed)
    observation = torch.randint(symbols, (len(lengths), steps + 1), generator=random)
    return observation, torch.arange(steps) < torch.tensor(lengths)[:, None]


@given(lengths=st.lists(st.integers(1, 14), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_segments_tile_every_sequence(lengths, seed):
    """Every step has exactly one segment, none reaches into the padding, there are at most M."""
    segmenter, (observation, mask) = make_segmenter(segments=3), ragged(lengths, seed=seed)
    random = torch.Generator().manual_seed(seed)
    gumbel = gumbel_noise(torch.rand(len(lengths), 2, mask.shape[1] + 1, generator=random))
    noise = torch.randn(len(lengths), 3, 4, generator=random)
    found = segmenter(observation, mask, noise, gumbel)
    assert bool(found.switch[:, 0].all()) and not bool((found.switch & ~mask).any())
    assert int(found.switch.sum(1).max()) <= 3
    change = (found.code[:, 1:] - found.code[:, :-1]).abs().amax(-1) > 1e-6
    assert torch.equal(change & mask[:, 1:], found.switch[:, 1:])
    assert bool((found.boundary_kl >= -1e-5).all()) and bool((found.code_kl >= 0).all())


def test_padding_and_neighbours_leave_no_trace():
    segmenter, (observation, mask) = make_segmenter(), ragged([9, 5])
    together = segmenter(observation, mask)
    alone = segmenter(observation[1:, :6], mask[1:, :5])
    torch.testing.assert_close(together.code[1:, :5], alone.code)
    torch.testing.assert_close(together.boundary_kl[1:], alone.boundary_kl)


def test_a_segment_sees_nothing_before_its_start():
    segmenter, (observation, mask) = make_segmenter(), ragged([10])
    seen = F.pad(mask, (1, 0), value=True).float()
    seen[:, :4] = 0
    changed = observation.clone()
    changed[:, :4] = (changed[:, :4] + 1) % 5
    states = [segmenter.encode(segmenter.embedding(x), seen)[:, 4:] for x in (observation, changed)]
    torch.testing.assert_close(*states)
    fresh = segmenter.encode(segmenter.embedding(observation[:, 4:]), seen[:, 4:])
    torch.testing.assert_close(states[0], fresh)


def test_length_prior_by_hand():
    """Poisson(2) given at least one step, and everything longer at the end of a sequence of 3."""
    poisson = [math.exp(-2) * 2**k / math.factorial(k) / (1 - math.exp(-2)) for k in range(4)]
    found = log_length_prior(2.0, 6, torch.tensor([0, 1, 3]), torch.tensor([3, 3, 3])).exp()
    torch.testing.assert_close(found[0], torch.tensor([0, poisson[1], poisson[2], 1 - poisson[1] - poisson[2], 0, 0]))
    torch.testing.assert_close(found[1], torch.tensor([0, 0, poisson[1], 1 - poisson[1], 0, 0]))
    torch.testing.assert_close(found[2], torch.tensor([0, 0, 0, 1.0, 0, 0]))


def planted(count, random, symbols=5, segments=3):
    """Each segment shows one symbol, three to six times, and is followed by another symbol's."""
    first = torch.randint(symbols, (count, 1), generator=random)
    steps = torch.randint(1, symbols, (count, segments - 1), generator=random)
    names = torch.cat([first, steps], 1).cumsum(1) % symbols
    lengths = torch.randint(3, 7, (count, segments), generator=random)
    ends = lengths.cumsum(1)
    at = torch.arange(6 * segments)
    segment = (at >= ends[..., None]).sum(1).clamp(max=segments - 1)
    mask = at < ends[:, -1:]
    symbol = names.gather(1, segment)
    starts = F.pad(segment[:, 1:] != segment[:, :-1], (1, 0), value=True) & mask
    return F.pad(symbol, (0, 1)), symbol, mask, starts


def segments_found(seed):
    """What a segmenter makes of planted segments: its objective without labels, F1 of its boundaries, and the share
    of steps whose symbol its codes tell."""
    random = torch.Generator().manual_seed(seed)
    segmenter = make_segmenter(segments=3, segment_length=4.5)
    decoder = nn.Linear(4, 5)
    optimizer = torch.optim.AdamW([*segmenter.parameters(), *decoder.parameters()], lr=5e-3)

    def objective(found, action, mask):
        nll = F.cross_entropy(decoder(found.code[mask]), action[mask], reduction="sum")
        return (nll + 0.1 * (found.code_kl + found.boundary_kl).sum()) / len(mask)

    for _ in range(400):
        observation, action, mask, _ = planted(64, random)
        noise = torch.randn(64, 3, 4, generator=random)
        gumbel = gumbel_noise(torch.rand(64, 2, mask.shape[1] + 1, generator=random))
        optimizer.zero_grad()
        objective(segmenter(observation, mask, noise, gumbel), action, mask).backward()
        optimizer.step()
    observation, action, mask, starts = planted(200, random)
    with torch.no_grad():
        found = segmenter(observation, mask)
        right = decoder(found.code).argmax(-1) == action
        hits = float((found.switch & starts).sum())
        f1 = 2 * hits / float(found.switch.sum() + starts.sum())
        return float(objective(found, action, mask)), f1, float(right[mask].float().mean())


def test_planted_segments_are_found():
    """Without labels: the boundaries and the meaning of the codes, on toy sequences whose segments are known.

    One run in several ends in another optimum; which one depends on the last bits of the processor's sums, and the
    objective tells it.
    """
    _, f1, told = min(segments_found(seed) for seed in (2, 3, 5))
    assert f1 > 0.95
    assert told > 0.95


@pytest.fixture(scope="module")
def trained(tiny_weights):
    phase = CompILE(compile_config({"preset": "tiny", "base": str(tiny_weights), "steps": 40}))
    while not phase.finished:
        phase.step()
    return phase


def test_the_phase_trains_its_parts_and_its_artefact_is_whole(trained, tiny_weights, tmp_path):
    assert fingerprint(trained.agent.base) != fingerprint(weights.load(tiny_weights).base)
    gates = trained.gates()
    for name in ("switch_f1", "causal/switch_f1", "eval/kl", "injected_success"):
        assert name in gates
    again = weights.load(trained.export(tmp_path / "a", gates))
    for part in ("base", "metacontroller", "segmenter"):
        assert fingerprint(getattr(again, part)) == fingerprint(getattr(trained.agent, part))


def test_a_resumed_run_equals_an_uninterrupted_one(tiny_weights):
    def fresh():
        return CompILE(compile_config({"preset": "tiny", "base": str(tiny_weights), "steps": 20, "report_every": 10}))

    whole, first, second = fresh(), fresh(), fresh()
    whole.step(), whole.step(), first.step()
    second.load_state(first.state())
    second.step()
    assert fingerprint(second.trained) == fingerprint(whole.trained)


def test_the_decoder_learns_through_the_codes(tiny_weights):
    """The action loss alone reaches the segment encoder, its boundaries included, and the decoder."""
    phase = CompILE(compile_config({"preset": "tiny", "base": str(tiny_weights)}))
    batch = phase.demonstrations.sample(8, torch.Generator().manual_seed(0))
    phase.losses(batch)[0].backward()
    for name in ("segmenter.code_head.0.weight", "segmenter.boundary_head.0.weight", "segmenter.embedding.table.weight",
                 "metacontroller.decoder.up", "base.action_head.weight"):  # fmt: skip
        assert bool(phase.trained.get_parameter(name).grad.any()), name
    assert all(p.grad is None for n, p in phase.trained.named_parameters() if n.startswith("metacontroller.switch"))


def test_internal_rl_runs_over_what_it_found(trained, tmp_path):
    """The causal switch and the decoder make an agent of it, acting from the artefact alone."""
    agent = weights.load(trained.export(tmp_path / "a", {}))
    found = sample_code_episodes(agent, None, agent.world, range(20))
    assert len(found) == 20 and all(len(e.action) >= 1 for e in found)
    assert "discover" not in agent.provenance and "compile" in agent.provenance


def test_the_switch_learns_without_moving_anything_else(tiny_weights):
    phase = CompILE(compile_config({"preset": "tiny", "base": str(tiny_weights)}))
    batch = phase.demonstrations.sample(8, torch.Generator().manual_seed(0))
    phase.losses(batch)[3].backward()
    moved = {name for name, p in phase.trained.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved and all(name.startswith(("metacontroller.switch_", "metacontroller.gru")) or
                         name == "metacontroller.norm.weight" for name in moved)  # fmt: skip
