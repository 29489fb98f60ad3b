"""Experiment files of older RLlib: each starts, or is refused in one line that tells what to write instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray.rllib.algorithms.registry import ALGORITHMS

from irl_ray.cli import experiment, old_files
from irl_ray.cli.old_files import mean_std_filter
from irl_ray.errors import UserError
from irl_ray.rllib import trainables


def defaults(run: str = "PPO") -> Any:
    return trainables.algorithm_config(run)


def translated(config: dict[str, Any], run: str = "PPO") -> dict[str, Any]:
    return old_files.settings(defaults(run), config)[0]


def refused(config: dict[str, Any], run: str = "PPO") -> str:
    with pytest.raises(UserError) as told:
        old_files.settings(defaults(run), config)
    assert "\n" not in str(told.value)
    return str(told.value)


@pytest.mark.parametrize(
    "old, new",
    {
        "num_workers": "num_env_runners",
        "num_rollout_workers": "num_env_runners",
        "num_envs_per_worker": "num_envs_per_env_runner",
        "num_cpus_per_worker": "num_cpus_per_env_runner",
        "num_cpus_for_driver": "num_cpus_for_main_process",
        "num_learner_workers": "num_learners",
        "num_gpus_per_learner_worker": "num_gpus_per_learner",
        "evaluation_num_workers": "evaluation_num_env_runners",
        "ignore_worker_failures": "ignore_env_runner_failures",
        "recreate_failed_workers": "restart_failed_env_runners",
        "worker_health_probe_timeout_s": "env_runner_health_probe_timeout_s",
        "num_sgd_iter": "num_epochs",
        "sgd_minibatch_size": "minibatch_size",
        "metrics_smoothing_episodes": "metrics_num_episodes_for_smoothing",
        "collect_metrics_timeout": "metrics_episode_collection_timeout_s",
        "min_iter_time_s": "min_time_s_per_iteration",
        "min_sample_timesteps_per_reporting": "min_sample_timesteps_per_iteration",
        "sample_batch_size": "rollout_fragment_length",
        "train_batch_size_per_learner": "_train_batch_size_per_learner",
        "model_config": "_model_config",
        "model_config_dict": "_model_config",
    }.items(),
)
def test_former_and_public_names_are_understood_as_rllib_means_them(old: str, new: str):
    made, told = old_files.settings(defaults(), {old: 3})
    assert made == {new: 3}
    assert told == ([] if new == f"_{old}" else [f"{old} -> {new}"])


@pytest.mark.parametrize("run", sorted(ALGORITHMS))
def test_every_name_that_rllib_has_now_stays_as_it_is(run: str):
    old = ("num_gpus", "optimization")  # kept by RLlib, to no effect
    held = {key: value for key, value in defaults(run).to_dict().items() if key not in old}
    given = {key: value for key, value in held.items() if type(value) is not int or value != -1}
    assert old_files.settings(defaults(run), given) == (given, [])


def test_names_that_rllib_keeps_for_itself_stay_as_they_are():
    given = {"lambda": 0.9, "framework": "torch", "callbacks": None, "input": "sampler", "num_gpus": 0}
    assert translated(given).items() >= {k: v for k, v in given.items() if k != "num_gpus"}.items()


def test_searches_are_translated_as_they_are():
    searched = {"grid_search": [4, 8]}
    assert translated({"num_envs_per_worker": searched}) == {"num_envs_per_env_runner": searched}
    assert translated({"model": {"grid_search": [{"fcnet_hiddens": [8]}, {"post_fcnet_hiddens": [4]}]}}) == {
        "_model_config": {"grid_search": [{"fcnet_hiddens": [8]}, {"head_fcnet_hiddens": [4]}]}
    }


def test_two_names_of_one_setting_are_refused():
    assert "num_env_runners" in refused({"num_workers": 1, "num_env_runners": 2})


def test_the_evaluation_is_translated_too():
    made = translated({"evaluation_config": {"explore": False, "num_envs_per_worker": 2}})
    assert made == {"evaluation_config": {"explore": False, "num_envs_per_env_runner": 2}}
    assert "exploree" in refused({"evaluation_config": {"exploree": False}})


def test_what_has_another_form_now():
    assert translated({"framework": "tf", "enable_connectors": True, "soft_horizon": False}) == {"framework": "torch"}
    made = translated({"observation_filter": "MeanStdFilter"})
    assert made == {"_env_to_module_connector": mean_std_filter}
    rates = {"actor_learning_rate": 0.1, "critic_learning_rate": 0.2, "entropy_learning_rate": 0.3}
    assert translated({"optimization": rates}, "SAC") == {"actor_lr": 0.1, "critic_lr": 0.2, "alpha_lr": 0.3}
    buffer = {"type": "MultiAgentPrioritizedReplayBuffer", "capacity": 9}
    made = translated({"replay_buffer_config": buffer, "learning_starts": 5}, "DQN")
    assert made["replay_buffer_config"] == {"type": "PrioritizedEpisodeReplayBuffer", "capacity": 9}
    assert made["num_steps_sampled_before_learning_starts"] == 5
    policies = {"policies": {"a"}, "policy_mapping_fn": None}
    assert translated({"multiagent": policies}) == policies


def test_classes_and_functions_are_named_by_their_path():
    learner = "ray.rllib.algorithms.ppo.torch.ppo_torch_learner.PPOTorchLearner"
    assert translated({"learner_class": learner})["_learner_class"].__name__ == "PPOTorchLearner"
    module = {"module_class": "irl_ray.rllib.modules.CodePolicyModule", "model_config": {"policy": {}}}
    assert translated({"rl_module_spec": module})["_rl_module_spec"].module_class.__name__ == "CodePolicyModule"
    assert "nowhere.Learner" in refused({"learner_class": "nowhere.Learner"})


@pytest.mark.parametrize(
    "run, config, words",
    [
        ("PPO", {"num_gpus": 1}, "num_gpus_per_learner"),
        ("PPO", {"horizon": 200}, "max_episode_steps"),
        ("PPO", {"model": {"custom_model": "mine"}}, "rl_module_spec"),
        ("PPO", {"model": {"use_attention": True}}, "use_attention"),
        ("PPO", {"optimizer": {"type": "sgd"}}, "grad_clip"),
        ("PPO", {"evaluation_num_episodes": 5}, "evaluation_duration"),
        ("PPO", {"timesteps_per_iteration": 5}, "min_sample_timesteps_per_iteration"),
        ("DQN", {"exploration_config": {"final_epsilon": 0.1}}, "epsilon"),
        ("DQN", {"hiddens": [16]}, "head_fcnet_hiddens"),
        ("DQN", {"prioritized_replay": True}, "PrioritizedEpisodeReplayBuffer"),
        ("DQN", {"buffer_size": 100}, "capacity"),
        ("SAC", {"q_model_config": {"fcnet_hiddens": [8]}}, "model_config"),
    ],
)
def test_what_is_gone_names_its_successor(run: str, config: dict[str, Any], words: str):
    told = refused(config, run)
    assert words in told and next(iter(config)) in told


def test_all_that_is_gone_is_told_at_once():
    told = refused({"horizon": 5, "num_gpus": 2, "policy_model": {}}, "SAC")
    assert all(key in told for key in ("horizon", "num_gpus", "policy_model"))


def test_on_the_old_api_stack_models_and_filters_are_what_they_were():
    given = {"enable_rl_module_and_learner": False, "model": {"use_attention": True}, "observation_filter": "NoFilter"}
    assert translated(given) == given


def test_a_suggestion_is_the_same_word_misspelt():
    assert "Did you mean 'num_env_runners'" in refused({"num_env_runer": 1})
    for key in ("num_workerz_for_rollouts", "use_rnn"):
        assert "Did you mean" not in refused({key: 1})


@pytest.mark.parametrize(
    "old, new",
    {
        "episode_reward_mean": "env_runners/episode_return_mean",
        "sampler_results/episode_reward_mean": "env_runners/episode_return_mean",
        "env_runners/episode_reward_max": "env_runners/episode_return_max",
        "evaluation/episode_reward_mean": "evaluation/env_runners/episode_return_mean",
        "evaluation/sampler_results/episode_reward_mean": "evaluation/env_runners/episode_return_mean",
        "episode_reward_min": "env_runners/episode_return_min",
        "episode_len_mean": "env_runners/episode_len_mean",
        "episodes_total": "env_runners/num_episodes_lifetime",
        "episodes_this_iter": "env_runners/num_episodes",
        "num_env_steps_sampled": "num_env_steps_sampled_lifetime",
        "timesteps_total": "num_env_steps_sampled_lifetime",
        "env_runners/episode_return_mean": "env_runners/episode_return_mean",
        "env_runners/episode_len_mean": "env_runners/episode_len_mean",
        "training_iteration": "training_iteration",
    }.items(),
)
def test_former_names_of_metrics(old: str, new: str):
    assert old_files.metric(old) == new


# Files in the shape of RLlib's own examples of that time: what is written, and what comes of it.
FILES: dict[str, tuple[str, str]] = {
    "PPO on the pole": (
        "{env: CartPole-v1, run: PPO, checkpoint_freq: 5, stop: {episode_reward_mean: 9, timesteps_total: 99}, config: "
        "{framework: tf, num_workers: 1, observation_filter: MeanStdFilter, num_sgd_iter: 6, enable_connectors: true, "
        "model: {fcnet_hiddens: [32], fcnet_activation: linear, vf_share_layers: true}}}",
        "",
    ),
    "PPO on the pendulum": (
        "{env: Pendulum-v1, run: PPO, config: {num_workers: 0, num_envs_per_worker: 20, lambda: 0.1, "
        "sgd_minibatch_size: 64, num_sgd_iter: 6, model: {fcnet_hiddens: [64, 64]}}}",
        "",
    ),
    "DQN": ("{env: CartPole-v1, run: DQN, config: {framework: tf, n_step: 3, gamma: 0.95}}", ""),
    "IMPALA": (
        "{env: CartPole-v1, run: IMPALA, config: {num_gpus: 0, vtrace_drop_last_ts: false, "
        "_disable_execution_plan_api: {grid_search: [true, false]}}}",
        "",
    ),
    "APPO": ("{env: CartPole-v1, run: APPO, config: {vtrace: false, num_workers: 1}}", "vtrace=True"),
    "SAC": (
        "{env: Pendulum-v1, run: SAC, config: {horizon: 200, Q_model: {fcnet_hiddens: [8]}, policy_model: {}, "
        "prioritized_replay: false, optimization: {actor_learning_rate: 3e-4}}}",
        "max_episode_steps",
    ),
    "a pendulum of old": ("{env: Pendulum-v0, run: PPO}", "Pendulum-v1"),
    "Atari": ("{env: {grid_search: [ALE/Breakout-v5, ALE/Qbert-v5]}, run: PPO}", "ALE"),
    "the cheetah of old": ("{env: HalfCheetah-v2, run: PPO, config: {num_gpus: 0}}", "HalfCheetah-v2"),
    "A2C": ("{env: CartPole-v1, run: A2C, config: {lr: 1e-3}}", "PPO"),
    "BC from JSON": ("{env: CartPole-v1, run: BC, config: {input: dataset, input_config: {format: json}}}", "config"),
    "CQL": (
        "{env: Pendulum-v1, run: CQL, config: {replay_buffer_config: {type: MultiAgentReplayBuffer, "
        "min_size_for_sampling: 0}}}",
        "num_steps_sampled_before_learning_starts",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_old_files_start_or_are_refused_in_one_line(case: str, tmp_path: Path):
    text, words = FILES[case]
    path = tmp_path / "old.yaml"
    path.write_text(f"old: {text}\n")
    if not words:
        (one,) = experiment.read_file(path)
        experiment.check_metrics(one, "here")
        assert one.translated and not any(key.startswith("episode_") for key in one.stop)
        for variant in experiment.variants(one.config):
            assert experiment.built_algorithm_config(one.run, variant)
        return
    with pytest.raises(UserError) as told:
        experiment.read_file(path)
    assert words in str(told.value) and "\n" not in str(told.value)


@pytest.mark.parametrize("run", ["InternalRL", "RawRL"])
@pytest.mark.parametrize(
    "key, value",
    [("gamma", 0.99), ("lambda", 0.9), ("lambda_", 0.9), ("train_batch_size", 512), ("minibatch_size", 64),
     ("train_batch_size_per_learner", 512), ("rollout_fragment_length", 10), ("use_critic", False),
     ("vf_loss_coeff", 0.5), ("kl_coeff", 0.1), ("model", {"fcnet_hiddens": [8]}), ("model_config", {}),
     ("exploration_config", {}), ("observation_filter", "MeanStdFilter"), ("normalize_actions", True),
     ("gym_env_vectorize_mode", "sync"), ("num_gpus", 1), ("batch_mode", "truncate_episodes")],
)  # fmt: skip
def test_settings_without_an_effect_on_our_algorithms_are_refused(run: str, key: str, value: Any):
    with pytest.raises(UserError, match=f"config.{key}: has no effect on {run}"):
        experiment.parse("x", {"run": run, "config": {key: value}}, "here")
