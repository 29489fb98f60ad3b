"""How fast the parts are, each beside a named alternative in the same process and thread.

    python -m pytest tests/benchmarks --benchmark-columns=min,median,rounds

`extra_info` of each benchmark (in the JSON, and printed at the end) holds rates and ratios.
"""

from __future__ import annotations

import time

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import SETTINGS, WORLD

from irl_ray.internal.sampler import sample_code_episodes
from irl_ray.models.metacontroller import Metacontroller, MetacontrollerConfig
from irl_ray.models.sequence_model import SequenceModelConfig
from irl_ray.models.weights import new_base
from irl_ray.worlds.pinpad.gridworld import GridPinpadEnv, GridPinpadVectorEnv
from irl_ray.worlds.pinpad.stream import GridworldExpert


def median_seconds(function, rounds=5):
    """Median wall-clock of `function` after one warm-up call."""
    function()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def report(benchmark, **numbers):
    benchmark.extra_info.update({key: round(float(value), 3) for key, value in numbers.items()})
    print("\n  " + "  ".join(f"{key} {value:,.3g}" for key, value in numbers.items()))


@pytest.mark.parametrize("preset", ["small", "paper"])
def test_environment(benchmark, preset):
    """Vector environment (256 copies, cells) against a loop over the single environment."""
    env = GridPinpadVectorEnv(256, preset=preset, observation="cells")
    env.reset(seed=0)
    actions = np.random.default_rng(0).integers(4, size=(100, 256))

    def run():
        for action in actions:
            env.step(action)

    benchmark.pedantic(run, rounds=5, warmup_rounds=1)
    single = GridPinpadEnv(preset=preset, observation="cells")
    single.reset(seed=0)

    def loop():
        for action in actions[:, 0]:
            *_, terminated, truncated, _ = single.step(int(action))
            if terminated or truncated:
                single.reset()

    rate = 100 * 256 / benchmark.stats.stats.median
    report(benchmark, steps_per_s=rate, times_single=rate / (100 / median_seconds(loop)))


@pytest.mark.parametrize("preset", ["small", "paper"])
def test_demonstrations(benchmark, preset):
    """Trajectories per second of the expert's stream (batches of 1024)."""
    stream = GridworldExpert(GridPinpadVectorEnv(1, preset=preset).world).stream(1024, 0)
    benchmark.pedantic(lambda: next(stream), rounds=5, warmup_rounds=1)
    report(benchmark, trajectories_per_s=1024 / benchmark.stats.stats.median)


def test_discovery_step(benchmark):
    """Forward and backward of the metacontroller, d=256, T=100, batch 32, n_z=8, rank 7.

    Beside metacontroller-pytorch 0.3.3 on the same residual stream with the same hidden sizes; its
    rank must be below n_z, hence 7 instead of 16. The frozen base model is left out of both; the
    whole step of ours with rank 16 and the upper half of the paper's base model is given too.
    """
    package = pytest.importorskip("metacontroller")
    batch, steps, width = 32, 100, 256
    residual, mask = torch.randn(batch, steps, width), torch.ones(batch, steps, dtype=torch.bool)
    noise = torch.randn(batch, steps, 8)
    ours = Metacontroller(MetacontrollerConfig(rank=7), width, 6)

    def step():
        codes = ours(residual, mask, noise)
        (ours.control(residual, codes.code).square().mean() + codes.proposal.kl().mean()).backward()

    benchmark.pedantic(step, rounds=5, warmup_rounds=1)
    theirs = package.MetaController(
        width, dim_meta_controller=32, dim_latent=8, hypernetwork_low_rank=7, decoder_expansion_factor=4.0
    )
    lengths = torch.full((batch,), steps)

    def their_step():
        control, output = theirs(residual, discovery_phase=True, episode_lens=lengths)
        (control.square().mean() + output.kl_loss).backward()

    base = new_base(
        SequenceModelConfig(width=width, layers=6, mlp=512), GridPinpadVectorEnv(1, preset="paper").world
    ).requires_grad_(False)
    whole = Metacontroller(MetacontrollerConfig(), width, 6)
    actions = torch.randint(4, (batch, steps))

    def whole_step():
        codes = whole(residual, mask, noise)
        logits = base.action_inputs(base.upper(whole.control(residual, codes.code), 3))
        loss = F.cross_entropy(logits.flatten(0, 1), actions.flatten())
        (loss + codes.proposal.kl().mean()).backward()

    own, other = benchmark.stats.stats.median, median_seconds(their_step, rounds=3)
    report(
        benchmark, ours_s=own, metacontroller_pytorch_s=other, times_faster=other / own,
        ours_rank16_with_base_s=median_seconds(whole_step, rounds=3),
    )  # fmt: skip


class OneCopyWrapper(gym.Wrapper):
    """The obvious way: a wrapper around one environment that runs the model on a batch of one."""

    def __init__(self, env, agent):
        super().__init__(env)
        self.base, self.meta = agent.base, agent.metacontroller

    def reset(self, **kwargs):
        observation, info = self.env.reset(**kwargs)
        self.state, self.memory = self.base.initial_state(1, 256), self.meta.initial_state(1)
        return self._perceive(observation), info

    def _perceive(self, observation):
        self.residual = self.base.lower_step(torch.from_numpy(observation)[None], self.state, self.meta.layer)
        self.beta = float(self.meta.switch_step(self.residual, self.memory))
        return self.residual[0].numpy()

    @torch.no_grad()
    def step(self, code):
        self.memory["code"][0] = torch.from_numpy(code)
        self.raw_steps = 0
        while True:
            controlled = self.meta.control(self.residual, self.memory["code"])
            inputs = self.base.action_inputs(self.base.upper_step(controlled, self.state, self.meta.layer))
            noise = torch.from_numpy(self.base.actions.noise(np.random.default_rng(), 1))
            action = self.base.actions.sample(inputs, noise)[0].numpy()
            observation, reward, terminated, truncated, info = self.env.step(action)
            self.raw_steps += 1
            seen = self._perceive(observation)
            if self.beta >= 0.5 or terminated or truncated:
                return seen, reward, terminated, truncated, info

    @torch.no_grad()
    def raw_rate(self, at_least):
        """Raw steps per second under codes of the prior, after a warm-up of the same length."""
        for _ in range(2):
            steps, random, start = 0, np.random.default_rng(0), time.perf_counter()
            while steps < at_least:
                self.reset()
                over = False
                while not over:
                    _, _, terminated, truncated, _ = self.step(random.standard_normal(8).astype(np.float32))
                    steps += self.raw_steps
                    over = terminated or truncated
            rate = steps / (time.perf_counter() - start)
        return rate


def test_internal_environment(benchmark, small_agent):
    """Raw steps per second of complete internal episodes (512 at once, prior over codes)."""
    counted = []

    def run():
        seeds = range(512 * len(counted), 512 * (len(counted) + 1))
        counted.append(sum(e.raw_steps for e in sample_code_episodes(small_agent, None, WORLD, seeds)))

    benchmark.pedantic(run, rounds=5, warmup_rounds=1)
    rate = np.mean(counted) / benchmark.stats.stats.median
    env = OneCopyWrapper(GridPinpadEnv(observation="cells", **SETTINGS), small_agent)

    wrapper = env.raw_rate(600)
    with torch.no_grad():
        bare = bare_products(small_agent.base)
    report(
        benchmark, raw_steps_per_s=rate, wrapper_per_s=wrapper, times_wrapper=rate / wrapper,
        bare_products_per_s=bare, share_of_bare_products=rate / bare,
    )  # fmt: skip


def bare_products(base, rows=512):
    """Raw steps per second if a step were nothing but the base model's matrix products."""
    matrices = [p for p in base.parameters() if p.ndim == 2 and min(p.shape) > 4 and p.shape[0] < 1000]
    inputs = [torch.randn(rows, matrix.shape[1]) for matrix in matrices]
    return rows / median_seconds(lambda: [x @ m.T for x, m in zip(inputs, matrices)], rounds=20)


def test_internal_rl_iteration(benchmark, small_weights):
    """One iteration (512 episodes, 4 epochs), its parts, and what RLlib costs on top.

    The overhead is measured against a plain PyTorch loop that samples the same episodes and takes
    the same gradient steps.
    """
    ray = pytest.importorskip("ray")
    from irl_ray import InternalRLConfig
    from irl_ray.models import weights
    from irl_ray.models.code_policy import CodePolicy, CodePolicyConfig, gaussian_log_prob
    from irl_ray.rllib.env_runner import episode_seed
    from irl_ray.rllib.episodes import episode_advantages

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    algorithm = (
        InternalRLConfig()
        .environment("irl_ray/GridPinpad-v0", env_config=SETTINGS)
        .internal(metacontroller=str(small_weights))
        .debugging(seed=0, log_level="ERROR")
        .build_algo()
    )
    timers = []
    benchmark.pedantic(lambda: timers.append(algorithm.train()["timers"]), rounds=8, warmup_rounds=2)
    algorithm.stop()
    ray.shutdown()

    agent = weights.load(small_weights)
    policy = CodePolicy(CodePolicyConfig())
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3, weight_decay=0.0)
    rounds = iter(range(1000))

    def plain():
        index = next(rounds)
        seeds = [episode_seed(0, "train", index, i) for i in range(512)]
        episodes = sample_code_episodes(agent, policy, WORLD, seeds)
        pad = lambda arrays: torch.nn.utils.rnn.pad_sequence([torch.from_numpy(a) for a in arrays], True)
        observed, codes = pad([e.observation[:-1] for e in episodes]), pad([e.action for e in episodes])
        old, lengths = pad([e.log_prob for e in episodes]), torch.tensor([len(e.action) for e in episodes])
        mask = torch.arange(observed.shape[1]) < lengths[:, None]
        returns = np.array([e.reward.sum() for e in episodes])
        advantage = torch.from_numpy(episode_advantages(returns)).float()[:, None]
        for _ in range(4):
            ratio = torch.exp((gaussian_log_prob(policy(observed), codes) - old) * mask)
            surrogate = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
            optimizer.zero_grad()
            (-(surrogate * mask).sum() / mask.sum()).backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), 1e9)
            optimizer.step()

    whole, alone = benchmark.stats.stats.median, median_seconds(plain, rounds=8)
    parts = {
        "sampling_s": "env_runner_sampling_timer",
        "batch_s": "batch_building_timer",
        "learning_s": "learner_update_timer",
        "sync_s": "synch_weights",
    }
    split = {name: np.median([t[key] for t in timers]) for name, key in parts.items()}
    report(benchmark, iteration_s=whole, **split, plain_torch_s=alone, overhead_share=1 - alone / whole)
