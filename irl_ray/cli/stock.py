"""`rllib evaluate` on checkpoints of RLlib's own algorithms, such as PPO.

They hold pickles, which run code when they are read: so with `--trust-pickle` alone, for those that one made oneself.
Ours are read from their artefacts, which hold none; where one lies, no pickle is looked for.
"""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import Any

import numpy as np

from irl_ray import places
from irl_ray.cli.evaluation import show
from irl_ray.errors import UserError, did_you_mean
from irl_ray.models import weights

EPISODES = 100
MADE_OF = "class_and_ctor_args.pkl"  # RLlib's file of what an algorithm was made from


def stock_checkpoint(name: str) -> Path | None:
    """The newest checkpoint in a checkpoint, a trial or a run that holds no artefact; None if there is none."""
    if places.is_remote(name):
        return None
    with contextlib.suppress(UserError):
        weights.resolve(name)
        return None
    folder = places.local(name)
    found = [folder, *folder.glob("checkpoint_*"), *folder.glob("*/checkpoint_*")]
    stock = [path for path in found if (path / MADE_OF).is_file()]
    return max(stock, key=lambda path: (path / MADE_OF).stat().st_mtime, default=None)


def evaluate(options: argparse.Namespace, checkpoint: Path) -> int:
    """Prints the mean return of whole episodes with its standard error, and writes JSON where asked."""
    if not options.trust_pickle:
        raise UserError(
            f"{checkpoint}: a checkpoint of RLlib's own, which holds pickles, and these run code when they are read; "
            "if you made it yourself, type --trust-pickle"
        )
    for flag in ("prior", "switch_threshold", "action_temperature", "clean_slate", "render"):
        if getattr(options, flag) not in (None, False):
            raise UserError(
                f"--{flag.replace('_', '-')}: is for agents of irl_ray; {checkpoint} is RLlib's; leave it out"
            )
    if options.episodes < 1:
        raise UserError(f"--episodes: expected a positive number, got {options.episodes}")
    from irl_ray.cli import runner
    from irl_ray.rllib import trainables

    runner.start_ray(None, num_cpus=1)
    trainables.register_everything()
    try:
        algorithm = _restored(options, checkpoint)
        exploring = {"explore": False} if options.greedy else {}
        episodes = algorithm.eval_env_runner.sample(num_episodes=options.episodes, random_actions=False, **exploring)
    except UserError:
        raise
    except Exception as error:  # whatever the environment, the settings or the pickles say
        told = (str(error).strip() or "no more is told").splitlines()[0]
        raise UserError(f"{checkpoint}: {type(error).__name__}: {told}") from error
    returns = np.array([episode.get_return() for episode in episodes])
    result = {
        "algorithm": type(algorithm).__name__,
        "environment": str(algorithm.config.env),
        "episodes": len(returns),
        "episode_return_mean": float(returns.mean()),
        "standard_error": float(returns.std() / len(returns) ** 0.5),
        "episode_return_min": float(returns.min()),
        "episode_return_max": float(returns.max()),
        "episode_len_mean": float(np.mean([len(episode) for episode in episodes])),
        "seed": options.seed,
    }
    algorithm.stop()
    show(result, options.out)
    return 0


def _restored(options: argparse.Namespace, checkpoint: Path) -> Any:
    """The algorithm in this process, with one environment: of several, short episodes would come first."""
    from ray import cloudpickle

    with (checkpoint / MADE_OF).open("rb") as file:
        made = cloudpickle.load(file)
    config = made["class"].get_default_config().from_state(made["ctor_args_and_kwargs"][0][0])
    known = {*config.to_dict(), *(key for key in vars(config) if not key.startswith("_"))}
    for key in options.config or {}:
        if key not in known:
            raise UserError(f"--config: {key}: unknown key.{did_you_mean(key, known)}")
    config.update_from_dict(options.config or {})
    config.environment(env=options.env or config.env, env_config={**config.env_config, **(options.env_config or {})})
    config.env_runners(num_env_runners=0, num_envs_per_env_runner=1)
    config.learners(num_learners=0, num_gpus_per_learner=0)
    config.evaluation(evaluation_interval=1, evaluation_num_env_runners=0)
    config.debugging(seed=options.seed)
    algorithm = config.build_algo()
    algorithm.restore_from_path(str(checkpoint.resolve()))
    # As `Algorithm.evaluate` does, which tells means alone.
    algorithm.eval_env_runner_group.sync_weights(
        from_worker_or_learner_group=algorithm.learner_group, inference_only=True
    )
    algorithm.eval_env_runner_group.sync_env_runner_states(
        config=algorithm.evaluation_config,
        from_worker=algorithm.env_runner,
        env_to_module=algorithm.env_to_module_connector,
        module_to_env=algorithm.module_to_env_connector,
    )
    return algorithm
