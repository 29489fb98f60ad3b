"""Why codes: the variance of policy gradients as one decision lasts for more raw steps (E.2).

For one episode of return R the estimate is A ∇ log π(decisions), A being R relative to the batch. Internal
RL decides once and holds its code for n raw steps; raw RL decides n times. Return that does not
depend on the decisions, with unit variance, adds E |∇ log π|² to the estimate's variance: by construction
the same for every n in internal RL, a sum over n steps in raw RL. With a real return the variance is
measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from irl_ray.models.code_policy import CodePolicy, CodePolicyConfig, gaussian_log_prob
from irl_ray.models.weights import Artefact
from irl_ray.seeding import generator, torch_seed
from irl_ray.worlds.world import World


def gradient_statistics(scores: Iterable[Tensor], advantages: Sequence[float]) -> dict[str, float]:
    """Moments of the policy-gradient estimates of single episodes.

    Args:
        scores: ∇ log π of each episode's decisions, one vector [P] each.
        advantages: A of each.

    Returns:
        `score`, mean |∇ log π|²; `variance`, the trace of the estimates' covariance; and `signal`,
        the squared norm of their mean without its bias, variance / N.
    """
    total: Tensor | float = 0.0
    squares = norms = 0.0
    for score, advantage in zip(scores, advantages):
        norm = float(score.square().sum())
        norms, squares = norms + norm, squares + advantage**2 * norm
        total = total + advantage * score
    count = len(advantages)
    mean = float((total / count).square().sum())
    variance = (squares / count - mean) * count / (count - 1)
    return {"score": norms / count, "variance": variance, "signal": mean - variance / count}


@torch.no_grad()
def held_walks(
    agent: Artefact, world: World, codes: Tensor | None, steps: int, episodes: int, seed: int, temperature: float
) -> tuple[Tensor, Tensor, np.ndarray, np.ndarray, Tensor]:
    """Walks of `steps` steps without a task, each under one code, or without codes.

    Returns:
        Observations [N, n, ...], actions [N, n, ...], targets entered [N, n] (-1 for none), steps until the
        walk ended by itself [N] (n if it did not), and the residual stream e_l at the start [N, d].
    """
    base, meta = agent.base, agent.metacontroller
    env = world.rows(episodes)
    env.free = True
    random = generator(seed, "variance", "actions")
    seen, _ = env.reset(seed=[int(s) for s in generator(seed, "variance", "layouts").integers(2**62, size=episodes)])
    state = base.initial_state(episodes, steps)
    observations, actions, entered, start = [], [], [], None
    lasted, running = np.zeros(episodes, np.int64), np.ones(episodes, bool)
    for _ in range(steps):
        observations.append(torch.from_numpy(np.array(seen)))
        residual = base.lower_step(observations[-1], state, meta.layer)
        start = residual if start is None else start
        if codes is not None:
            residual = meta.control(residual, codes)
        inputs = base.action_inputs(base.upper_step(residual, state, meta.layer))
        noise = torch.from_numpy(base.actions.noise(random, episodes))
        actions.append(base.actions.sample(inputs, noise, temperature))
        seen, _, terminated, truncated, info = env.step(actions[-1].numpy())
        entered.append(np.where(running, info["entered"], -1))
        lasted += running
        running &= ~(terminated | truncated)
    env.close()
    return torch.stack(observations, 1), torch.stack(actions, 1), np.stack(entered, 1), lasted, start


def score_of(log_prob: Tensor, trained: nn.Module) -> Tensor:
    """∇ log π with respect to what is trained, as one vector."""
    parameters = [p for p in trained.parameters() if p.requires_grad]
    found = torch.autograd.grad(log_prob, parameters, allow_unused=True)
    return torch.cat([g.flatten() for g in found if g is not None])


def variance_by_steps(
    agent: Artefact, world: World, lengths: Sequence[int], episodes: int, seed: int, target: int = 0
) -> dict[str, list[float]]:
    """Statistics of internal and raw policy gradients when a decision's effect lasts n raw steps.

    The return is 1 if `target` is the first target entered within n steps. Internal RL's policy is a
    fresh one, close to the prior; raw RL's is the base model itself; both act at temperature 1.

    Returns:
        `internal/NAME` and `raw/NAME` of `gradient_statistics`, and `internal/return`,
        `raw/return`, its mean; each a list over `lengths`.
    """
    steps, base = max(lengths), agent.base
    with torch.random.fork_rng():
        torch.manual_seed(torch_seed(seed, "variance", "policy"))
        policy = CodePolicy(CodePolicyConfig(base.width, agent.metacontroller.config.code_size))
    random = torch.Generator().manual_seed(torch_seed(seed, "variance", "codes"))
    codes = torch.randn(episodes, agent.metacontroller.config.code_size, generator=random)
    _, _, entered, _, start = held_walks(agent, world, codes, steps, episodes, seed, 1.0)
    observation, action, entered_raw, lasted, _ = held_walks(agent, world, None, steps, episodes, seed, 1.0)
    result: dict[str, list[float]] = {}

    def internal(row: int, _: int) -> Tensor:  # one decision, however long its code is held
        inputs = policy(start[row][None, None])[0, 0]
        return score_of(gaussian_log_prob(inputs, codes[row]), policy)

    def raw(row: int, length: int) -> Tensor:
        length = min(length, int(lasted[row]))
        inputs = base(observation[row : row + 1, :length])
        return score_of(base.actions.log_prob(inputs, action[row : row + 1, :length]).sum(), base)

    base.requires_grad_(True)
    for name, score, reached in (("internal", internal, entered), ("raw", raw, entered_raw)):
        for length in lengths:
            returns = first_is(reached[:, :length], target)
            advantages = (returns - returns.mean()) / (returns.std() + 1e-3)
            scores = (score(row, length) for row in range(episodes))
            found = {"return": float(returns.mean()), **gradient_statistics(scores, advantages.tolist())}
            for key, value in found.items():
                result.setdefault(f"{name}/{key}", []).append(value)
    base.requires_grad_(False)
    return result


def first_is(entered: np.ndarray, target: int) -> np.ndarray:
    """float [N]: 1 where the first target entered, of [N, n], is `target`."""
    first = entered[np.arange(len(entered)), (entered >= 0).argmax(1)]
    return (first == target).astype(float)
