"""How fast the parts are, each beside a named alternative in the same process and thread.

python -m pytest tests/benchmarks -s [--page irl_ray/docs/benchmarks.md]
"""

from __future__ import annotations

import time

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import SETTINGS, WORLD
from page import Row, median_seconds, report

from irl_ray.internal.sampler import sample_code_episodes
from irl_ray.models.code_policy import CodePolicy, CodePolicyConfig, gaussian_log_prob
from irl_ray.models.metacontroller import Metacontroller, MetacontrollerConfig
from irl_ray.models.sequence_model import SequenceModelConfig
from irl_ray.models.weights import new_base
from irl_ray.worlds.pinpad.gridworld import GridPinpadEnv, GridPinpadVectorEnv
from irl_ray.worlds.pinpad.stream import GridworldExpert

PACKAGE = "metacontroller-pytorch 0.3.3"


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

    rate, alone = 100 * 256 / benchmark.stats.stats.median, 100 / median_seconds(loop)
    report(benchmark, Row(f"gridworld, {preset}, 256 copies", rate, "steps/s", "a loop over the single one", alone))


@pytest.mark.parametrize("preset", ["small", "paper"])
def test_demonstrations(benchmark, preset):
    """Trajectories per second of the expert's stream (batches of 1024), against batches of one."""
    expert = GridworldExpert(GridPinpadVectorEnv(1, preset=preset).world)
    stream, single = expert.stream(1024, 0), expert.stream(1, 0)
    benchmark.pedantic(lambda: next(stream), rounds=5, warmup_rounds=1)
    rate, alone = 1024 / benchmark.stats.stats.median, 1 / median_seconds(lambda: next(single), rounds=20)
    name = f"gridworld's demonstrations, {preset}, 1,024 at once"
    report(benchmark, Row(name, rate, "walks/s", "one at a time", alone))


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
    name = "discovery, forward and backward, d=256, T=100, batch 32, rank 7"
    whole_seconds = median_seconds(whole_step, rounds=3)
    report(
        benchmark,
        Row(name, own, "s", PACKAGE, other),
        Row(
            "the same with rank 16 and the upper half of a base model",
            whole_seconds,
            "s",
            PACKAGE + ", rank 7, no base",
            other,
        ),
    )


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
            steps, random, start = 0, np.random.default_rng(0), time.process_time()
            while steps < at_least:
                self.reset()
                over = False
                while not over:
                    _, _, terminated, truncated, _ = self.step(random.standard_normal(8).astype(np.float32))
                    steps += self.raw_steps
                    over = terminated or truncated
            rate = steps / (time.process_time() - start)
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
    name = "gridworld's internal environment, 512 episodes"
    report(
        benchmark,
        Row(name, rate, "raw steps/s", "a one-copy `gym.Wrapper` of the same model", wrapper),
        Row(name, rate, "raw steps/s", "bare matrix products of the model", bare, bound=True),
    )


def test_stock_runner(benchmark, small_agent, small_weights):
    """Decisions/s of complete internal episodes, against RLlib's own env runner on the same environment.

    Both step 512 episodes at once; the stock runner has RLlib's default module, two layers of 32 units as ours.
    """
    pytest.importorskip("ray")
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
    from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

    policy, counted = CodePolicy(CodePolicyConfig()), []

    def run():
        seeds = range(512 * len(counted), 512 * (len(counted) + 1))
        counted.append(int(sample_code_episodes(small_agent, policy, WORLD, seeds).decisions.sum()))

    benchmark.pedantic(run, rounds=5, warmup_rounds=1)
    settings = {"metacontroller": str(small_weights), "world": {"tasks": "post_three_pairs"}}
    config = (
        PPOConfig()
        .environment("irl_ray/Internal-v0", env_config=settings)
        .env_runners(num_envs_per_env_runner=512, gym_env_vectorize_mode="vector_entry_point")
        .rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[32, 32]))
    )
    runner = SingleAgentEnvRunner(config=config)
    stock = 5120 / median_seconds(lambda: runner.sample(num_timesteps=5120), rounds=3)
    rate = float(np.mean(counted)) / benchmark.stats.stats.median
    name = "gridworld's internal environment under a policy, 512 episodes"
    report(benchmark, Row(name, rate, "decisions/s", "RLlib's own env runner on `irl_ray/Internal-v0`", stock))


def bare_products(base, rows=512):
    """Raw steps per second if a step were nothing but the base model's matrix products."""
    matrices = [p for p in base.parameters() if p.ndim == 2 and min(p.shape) > 4 and p.shape[0] < 1000]
    inputs = [torch.randn(rows, matrix.shape[1]) for matrix in matrices]
    return rows / median_seconds(lambda: [x @ m.T for x, m in zip(inputs, matrices)], rounds=20)


def test_internal_rl_iteration(benchmark, small_weights):
    """One iteration (512 episodes, 4 epochs), and what RLlib costs on top.

    The overhead is measured against a plain PyTorch loop that samples the same episodes and takes
    the same gradient steps.
    """
    ray = pytest.importorskip("ray")
    from irl_ray import InternalRLConfig
    from irl_ray.models import weights
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
    benchmark.pedantic(algorithm.train, rounds=8, warmup_rounds=2)
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
    name = "an iteration of internal RL, 512 episodes, 4 epochs"
    report(benchmark, Row(name, whole, "s", "the same in plain PyTorch", alone, bound=True))
