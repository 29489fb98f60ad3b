"""How fast the ant is, each part beside a named alternative in the same process and thread."""

from __future__ import annotations

import gymnasium as gym
import mujoco
import numpy as np
import pytest
import torch
from page import Row, median_seconds, report
from test_speed import OneCopyWrapper, bare_products

from irl_ray.data.trajectories import Trajectories
from irl_ray.internal.sampler import sample_code_episodes
from irl_ray.models.hawk import linear_scan, parallel_scan
from irl_ray.models.metacontroller import Metacontroller, MetacontrollerConfig
from irl_ray.models.weights import Artefact, new_base
from irl_ray.phases.pretrain import pretrain_config, pretraining_losses
from irl_ray.worlds.pinpad.ant import AntPinpadEnv, AntPinpadVectorEnv
from irl_ray.worlds.pinpad.specs import AntSpec

WORLD = AntSpec.of({"preset": "small", "tasks": "post_a2"})


@pytest.fixture(scope="module")
def ant_agent():
    """Random weights at the size of the small scale; the switch fires about every fourth step."""
    torch.manual_seed(0)
    config = pretrain_config({"env": "irl_ray/AntPinpad-v0"})
    base = new_base(config.model, WORLD)
    meta = Metacontroller(MetacontrollerConfig(layer=0, rank=None, decoder_hidden=None), base.width, base.num_layers)
    agent = Artefact(WORLD, base, meta)
    for part in agent.parts.values():
        part.eval().requires_grad_(False)
    return agent


@pytest.mark.parametrize("preset", ["small", "paper"])
def test_environment(benchmark, preset):
    """256 ants against a Python loop over Gymnasium's single Ant with the same physics."""
    env = AntPinpadVectorEnv(256, preset=preset)
    env.reset(seed=0)
    actions = np.random.default_rng(0).uniform(-0.5, 0.5, (40, 256, 8)).astype(np.float32)

    def run():
        for action in actions:
            env.step(action)

    benchmark.pedantic(run, rounds=5, warmup_rounds=1)
    single = gym.make("Ant-v5", frame_skip=env.substeps, include_cfrc_ext_in_observation=False)
    inner = single.unwrapped.model
    inner.opt.timestep, inner.opt.integrator = env.model.opt.timestep, mujoco.mjtIntegrator.mjINT_EULER
    single.reset(seed=0)

    def loop():
        for action in actions.reshape(-1, 8)[:500]:
            *_, terminated, truncated, _ = single.step(action)
            if terminated or truncated:
                single.reset()

    rate, alone = 40 * 256 / benchmark.stats.stats.median, 500 / median_seconds(loop)
    beside = "a loop over Gymnasium's Ant with the same physics"
    report(benchmark, Row(f"ants, {preset}, 256 copies", rate, "steps/s", beside, alone))


def test_internal_environment(benchmark, ant_agent):
    """Raw steps/s of complete internal episodes (256 at once), and where the time goes.

    Physics is MuJoCo's own share, products the bare matrix products of base model and decoder.
    """
    counted = []

    def run():
        seeds = range(256 * len(counted), 256 * (len(counted) + 1))
        counted.append(sum(e.raw_steps for e in sample_code_episodes(ant_agent, None, WORLD, seeds)))

    benchmark.pedantic(run, rounds=5, warmup_rounds=1)
    rate = np.mean(counted) / benchmark.stats.stats.median

    raw = AntPinpadVectorEnv(256, preset="small", autoreset="disabled")
    raw.reset(seed=0)
    control = np.repeat(np.random.default_rng(0).uniform(-0.5, 0.5, (256, 1, 8)), raw.substeps, 1)
    for _ in range(10):  # legs that touch the ground cost MuJoCo twice as much as those that have not yet
        raw.step(control[:, 0])
    physics = 256 / median_seconds(lambda: raw._rollout.rollout(raw.model, raw._data, raw.physics, control), rounds=20)
    raw_rate = 256 / median_seconds(lambda: raw.step(control[:, 0]), rounds=20)
    decoder = ant_agent.metacontroller.decoder.full.flatten(0, 1)
    inputs = torch.randn(256, decoder.shape[1])
    products = 256 / bare_products(ant_agent.base, rows=256) + median_seconds(lambda: inputs @ decoder.T, rounds=20)
    env = OneCopyWrapper(AntPinpadEnv(preset="small", tasks="post_a2"), ant_agent)
    wrapper, limit = env.raw_rate(400), 1 / (1 / physics + products / 256)
    name = "the ant's internal environment, 256 episodes"
    report(
        benchmark,
        Row(name, rate, "raw steps/s", "a one-copy `gym.Wrapper` of the same model", wrapper),
        Row(name, rate, "raw steps/s", "MuJoCo's own time and bare matrix products", limit, bound=True),
        Row("the ants alone, 256 copies", raw_rate, "steps/s", "MuJoCo's own time", physics, bound=True),
    )


def test_pretraining_step(benchmark, ant_agent):
    """Trajectories/s of pretraining, 64 trajectories of 65 steps, against bare products, forward and twice backward."""
    base = ant_agent.base.requires_grad_(True)
    random = torch.Generator().manual_seed(0)
    blank = torch.zeros(64, 65, dtype=torch.long)
    batch = Trajectories(
        WORLD, torch.randn(64, 66, 41, generator=random), torch.randn(64, 65, 8, generator=random),
        torch.ones(64, 65, dtype=torch.bool), blank[:, 0], blank, blank,
    )  # fmt: skip

    def step():
        for part in batch.split_by_length(4):
            sum(pretraining_losses(base, part).values()).backward()

    benchmark.pedantic(step, rounds=5, warmup_rounds=1)
    with torch.no_grad():
        products = bare_products(base, rows=16 * 65) / (3 * 65)
    rate, name = 64 / benchmark.stats.stats.median, "the ant's pretraining, 64 walks of 65 steps"
    report(benchmark, Row(name, rate, "walks/s", "bare matrix products of the model", products, bound=True))


def test_scan(benchmark):
    """Hawk's recurrence on a CPU, forward and backward, against parallel sweeps."""
    decay, drive = (torch.rand(16, 65, 96, requires_grad=True) for _ in range(2))
    benchmark.pedantic(lambda: linear_scan(decay, drive).sum().backward(), rounds=20, warmup_rounds=2)
    sweeps = median_seconds(lambda: parallel_scan(decay, drive).sum().backward(), rounds=20)
    name = "Hawk's recurrence, 16 × 65 × 96, forward and backward, step by step"
    report(benchmark, Row(name, benchmark.stats.stats.median, "s", "parallel sweeps", sweeps))
