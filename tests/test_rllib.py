"""Internal and raw RL on RLlib: determinism over workers, ratios, seeds, learning, checkpoints."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
import ray
import torch
from conftest import make_agent

from irl_ray import InternalRLConfig, RawRLConfig, load_agent
from irl_ray.errors import UserError
from irl_ray.internal.sampler import sample_code_episodes
from irl_ray.models import weights
from irl_ray.models.weights import fingerprint
from irl_ray.rllib.algorithms import NoRunnerError
from irl_ray.rllib.env_runner import episode_seed
from irl_ray.rllib.episodes import episode_advantages, to_batch
from irl_ray.worlds.pinpad.specs import GridworldSpec

WORLD = {"preset": "tiny", "tasks": [[0, 1]]}  # which an untrained agent does now and then, so that there is learning


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def internal(folder, runners=0, **training):
    return (
        InternalRLConfig()
        .environment("irl_ray/GridPinpad-v0", env_config=WORLD)
        .internal(metacontroller=str(folder), policy={"hidden": 8})
        .env_runners(num_env_runners=runners, num_cpus_per_env_runner=0.5)
        .training(train_batch_episodes=24, **training)
        .debugging(seed=3, log_level="ERROR")
    )


def signature(algorithm, iterations):
    """Per iteration: what was sampled, and the policy after learning from it."""
    seen = []
    for _ in range(iterations):
        result = algorithm.train()["env_runners"]
        seen.append((result["num_raw_steps_lifetime"], result["legs_mean"], result["codes_per_episode"]))
    return seen, torch.cat([p.detach().flatten() for p in algorithm.get_module().policy.parameters()])


def test_the_number_of_workers_does_not_change_the_run(tiny_weights):
    runs = []
    for runners in (0, 2):
        algorithm = internal(tiny_weights, runners).build_algo()
        before = fingerprint(algorithm.get_module().policy)
        runs.append(signature(algorithm, 6))
        assert fingerprint(algorithm.get_module().policy) != before
        algorithm.stop()
    (alone, policy), (spread, other) = runs
    assert [s[0] for s in alone] == [s[0] for s in spread]
    np.testing.assert_allclose([s[1:] for s in alone], [s[1:] for s in spread], rtol=1e-6)
    torch.testing.assert_close(policy, other, atol=1e-4, rtol=1e-3)


def learned(config):
    """Weights of the policy after some updates, and of the last what the learners told."""
    algorithm = config.build_algo()
    updates = 5
    for _ in range(updates):
        result = algorithm.train()
    policy = torch.cat([p.detach().flatten() for p in algorithm.get_module().policy.parameters()])
    algorithm.stop()
    assert updates - result["num_updates_skipped_lifetime"] >= 2
    return policy, result["learners"]["default_policy"]


@pytest.mark.parametrize("target_kl", [None, 3e-4])
def test_two_learners_see_whole_episodes(target_kl, tiny_weights):
    """Unequal shares of an odd number of episodes: the same updates as one learner's, which has them all."""
    training = {"entropy_coeff": 0.01, "target_kl": target_kl}
    config = lambda: internal(tiny_weights, **training).training(train_batch_episodes=25)  # noqa: E731
    alone, told = learned(config())
    two, told_by_two = learned(config().learners(num_learners=2, num_cpus_per_learner=0.5))
    torch.testing.assert_close(two, alone, atol=2e-5, rtol=1e-4)
    for name in ("policy_loss", "entropy", "kl_to_old_policy"):
        assert told_by_two[name] == pytest.approx(told[name], abs=1e-5), name


def loss_by_hand(learner, batch, config):
    """Eq. 10 and the entropy bonus, one decision after the other; and the KL to the policy that acted."""
    module, surrogate, entropy, kl, count = learner.module["default_policy"], 0.0, 0.0, 0.0, 0
    inputs = module.forward_train({"obs": batch["obs"]})["action_dist_inputs"]
    for row, length in enumerate(batch["loss_mask"].sum(1).tolist()):
        for k in range(length):
            mean, log_std = inputs[row, k].chunk(2)
            normal = torch.distributions.Normal(mean, log_std.exp())
            ratio = torch.exp(normal.log_prob(batch["actions"][row, k]).sum() - batch["action_logp"][row, k])
            clipped = min(max(float(ratio), 1 - config.clip_param), 1 + config.clip_param)
            advantage = float(batch["advantages"][row])
            surrogate += min(float(ratio) * advantage, clipped * advantage)
            entropy += float(normal.entropy().sum())
            kl += float(ratio - 1 - torch.log(ratio))
            count += 1
    return -(surrogate + config.entropy_coeff * entropy) / count, kl / count


def test_the_loss_is_that_of_a_plain_loop_and_shares_add_up(tiny_weights):
    """Over a masked batch of unequal episodes, off the policy that sampled it; the shares' mean is the whole."""
    algorithm = internal(tiny_weights, entropy_coeff=0.03).build_algo()
    learner, config = algorithm.learner_group._learner, algorithm.config
    episodes = algorithm.env_runner.sample_indices(0, range(9), "train")
    advantages = episode_advantages(np.arange(9.0) % 4)
    with torch.no_grad():
        for parameter in algorithm.get_module().policy.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))

    def loss_of(numbers, decisions=None):
        made = to_batch(episodes.select(numbers), advantages[numbers], decisions)["default_policy"]
        batch = {name: torch.as_tensor(values) for name, values in made.items()}
        fwd_out = learner.module["default_policy"].forward_train({"obs": batch["obs"]})
        with torch.no_grad():
            loss = learner.compute_loss_for_module(
                module_id="default_policy", config=config, batch=batch, fwd_out=fwd_out
            )
        kl = float(learner.metrics.peek(("default_policy", "kl_to_old_policy")))
        return (float(loss), kl), loss_by_hand(learner, batch, config)

    assert len(set(episodes.decisions.tolist())) > 1
    whole, expected = loss_of(np.arange(9))
    assert whole == pytest.approx(expected, rel=1e-4)
    shares = [np.arange(9)[i::2] for i in range(2)]
    each = episodes.decisions.sum() / 2
    assert np.mean([loss_of(share, each)[0] for share in shares], 0) == pytest.approx(whole, rel=1e-5)
    assert np.mean([loss_of(share)[0] for share in shares], 0) != pytest.approx(whole, rel=1e-5)
    algorithm.stop()


def test_steps_stay_within_the_target_kl(tiny_weights):
    """Where no step could, nothing is learned; where all do, nothing changes; in between, the KL stays below it."""
    near, far = {"target_kl": 1e-6, "num_epochs": 2}, {"target_kl": 1e9}
    after, told = {}, {}
    for way, training in {"near": near, "between": {"target_kl": 3e-3}, "far": far, "anywhere": {}}.items():
        config = internal(tiny_weights, lr=1e-2, **{"num_epochs": 6, **training}).training(train_batch_episodes=48)
        after[way], told[way] = learned(config)
    start = internal(tiny_weights).build_algo()
    untrained = torch.cat([p.detach().flatten() for p in start.get_module().policy.parameters()])
    start.stop()
    torch.testing.assert_close(after["near"], untrained, atol=0, rtol=0)
    torch.testing.assert_close(after["far"], after["anywhere"], atol=0, rtol=0)
    assert told["anywhere"]["kl_to_old_policy"] > 3e-3 > told["between"]["kl_to_old_policy"] > 1e-5
    assert (after["between"] - untrained).abs().max() > 1e-3
    assert (after["between"] - after["anywhere"]).abs().max() > 1e-3


@pytest.mark.parametrize("passes, share", [(1, 0.0), (2, 0.5), (3, 0.25)])
def test_a_step_beyond_the_target_kl_is_halved_and_leaves_no_momentum(passes, share, tiny_weights, monkeypatch):
    """Half of it for each pass that sees it too far; all of it goes after the last. AdamW forgets its gradient."""
    algorithm = internal(tiny_weights, target_kl=0.1, num_epochs=passes).training(train_batch_episodes=48).build_algo()
    learner = algorithm.learner_group._learner
    (optimizer,) = learner._named_optimizers.values()
    policy = learner.module["default_policy"].unwrapped().policy
    flat = lambda: torch.cat([p.detach().flatten() for p in policy.parameters()])  # noqa: E731
    seen, before = [], flat()

    def too_far(kl, config):
        seen.append(flat())
        return 1 < len(seen) <= passes + (share == 0)

    monkeypatch.setattr(learner, "_goes_too_far", too_far)
    while not seen:
        algorithm.train()
    assert len(seen) == passes + 1
    torch.testing.assert_close(flat(), before + share * (seen[1] - before), atol=1e-7, rtol=1e-5)
    assert (seen[1] - before).abs().max() > 1e-4 and not optimizer.state_dict()["state"]
    algorithm.stop()


def test_a_step_taken_back_gives_back_the_momentum_of_before(tiny_weights, monkeypatch):
    """The moments and the count of AdamW are those that the last accepted step left."""
    algorithm = internal(tiny_weights, target_kl=1e9, num_epochs=1).training(train_batch_episodes=48).build_algo()
    learner, passes = algorithm.learner_group._learner, []
    (optimizer,) = learner._named_optimizers.values()
    while not optimizer.state_dict()["state"]:
        algorithm.train()
    before = copy.deepcopy(optimizer.state_dict()["state"])

    def too_far(kl, config):
        passes.append(kl)
        return len(passes) == 2

    monkeypatch.setattr(learner, "_goes_too_far", too_far)
    while not passes:
        algorithm.train()
    after = optimizer.state_dict()["state"]
    assert len(passes) == 2 and after.keys() == before.keys()
    for key, moments in before.items():
        for name, value in moments.items():
            torch.testing.assert_close(after[key][name], value, atol=0, rtol=0)
    algorithm.stop()


@pytest.mark.parametrize("kl, beyond", [(0.1, False), (0.3, True), (float("inf"), True), (float("nan"), True)])
def test_what_is_beyond_the_target_kl(kl, beyond, tiny_weights):
    algorithm = internal(tiny_weights, target_kl=0.2).build_algo()
    assert algorithm.learner_group._learner._goes_too_far(torch.tensor(kl), algorithm.config) is beyond
    algorithm.stop()


def test_a_learning_rate_falls_with_the_decisions_taken(tiny_weights):
    """RLlib's schedule: linear in between, constant after its last point."""
    schedule = [[0, 1e-2], [200, 2e-3]]
    algorithm = internal(tiny_weights, lr=schedule).build_algo()
    learner, skipped = algorithm.learner_group._learner, 0
    (optimizer,) = learner._named_optimizers.values()
    rate = lambda: optimizer.param_groups[0]["lr"]  # noqa: E731
    assert rate() == 1e-2
    seen = []
    while not seen or seen[-1] < 250:
        result = algorithm.train()
        if skipped == (skipped := result["num_updates_skipped_lifetime"]):
            seen.append(result["env_runners"]["num_env_steps_sampled_lifetime"])
            assert rate() == pytest.approx(np.interp(seen[-1], *zip(*schedule)))
    assert seen[0] < 200 and rate() == pytest.approx(2e-3)
    algorithm.stop()


@pytest.mark.parametrize("returns", [0.0, 1.0])
def test_a_batch_in_which_all_episodes_did_alike_changes_nothing(returns, tiny_weights, monkeypatch):
    """Neither the policy nor AdamW's momentum, which would carry the policy on; it is counted."""
    algorithm = internal(tiny_weights).build_algo()
    skipped = lambda: algorithm.metrics.peek("num_updates_skipped_lifetime", default=0)  # noqa: E731
    rewarded = lambda: algorithm.metrics.peek("num_updates_with_reward_lifetime", default=0)  # noqa: E731
    updates = 0
    while updates - skipped() < 1:
        assert (updates := updates + 1) < 20
        algorithm.train()
    before, seen = fingerprint(algorithm.get_module().policy), (rewarded(), skipped())
    sample = algorithm._sample

    def alike(*args):
        episodes = sample(*args)
        return replace(episodes, reward=np.full_like(episodes.reward, returns))

    monkeypatch.setattr(algorithm, "_sample", alike)
    result = algorithm.train()
    assert fingerprint(algorithm.get_module().policy) == before
    assert (rewarded(), skipped()) == (seen[0] + int(returns > 0), seen[1] + 1)
    assert result["num_updates_skipped_lifetime"] == skipped()
    algorithm.config = algorithm.config.copy(copy_frozen=False).training(entropy_coeff=0.1)
    algorithm.train()
    assert skipped() == seen[1] + 1  # an entropy bonus is a reason to learn
    algorithm.stop()


def test_evaluation_workers_measure_without_touching_the_run(tiny_weights):
    runs, evaluations = [], []
    for workers in (None, 0, 2):
        config = internal(tiny_weights)
        if workers is not None:
            config.evaluation(evaluation_interval=2, evaluation_num_env_runners=workers, evaluation_duration=21)
        algorithm = config.build_algo()
        results = [algorithm.train() for _ in range(4)]
        runs.append([r["env_runners"]["num_raw_steps_lifetime"] for r in results])
        evaluations.append([results[i].get("evaluation", {}).get("env_runners", {}) for i in (1, 3)])
        algorithm.stop()
    assert runs[0] == runs[1] == runs[2]
    for one, spread in zip(*evaluations[1:]):  # shares of 11 and 10 episodes: the mean is that of all
        assert one["num_episodes"] == spread["num_episodes"] == 21
        for name in ("num_raw_steps_lifetime", "success_rate", "legs_mean", "codes_per_episode"):
            assert one[name] == pytest.approx(spread[name]), name
        assert one["num_raw_steps_lifetime"] not in runs[0]  # episodes of its own
    assert evaluations[1][0]["legs_mean"] != evaluations[1][1]["legs_mean"]  # fresh ones each time


def test_without_its_runners_evaluation_is_left_out_and_training_goes_on(tiny_weights):
    config = internal(tiny_weights).evaluation(evaluation_interval=1, evaluation_num_env_runners=1)
    config.evaluation(evaluation_duration=4, evaluation_error_after_n_consecutive_skips=2)
    algorithm = config.build_algo()
    assert algorithm.train()["evaluation"]["env_runners"]["num_episodes"] == 4
    ray.kill(algorithm.eval_env_runner_group._worker_manager.actors()[1])
    before = algorithm.metrics.peek(("env_runners", "num_episodes_lifetime"))
    algorithm.train()
    assert algorithm.metrics.peek(("env_runners", "num_episodes_lifetime")) > before
    with pytest.raises(NoRunnerError):
        algorithm.train()
    algorithm.stop()


def test_evaluation_may_take_mean_codes(tiny_weights):
    config = internal(tiny_weights).evaluation(evaluation_interval=1, evaluation_duration=4)
    config.evaluation(evaluation_config={"explore": False})
    algorithm = config.build_algo()
    seen = []
    runner = algorithm.eval_env_runner_group.local_env_runner
    run = runner.run_episodes
    runner.run_episodes = lambda seeds, explore: seen.append(explore) or run(seeds, explore)
    algorithm.train()
    algorithm.stop()
    assert seen == [False]


def test_runners_are_sent_the_name_of_the_weights(tiny_weights):
    """Each machine reads them from its disk, or copies them there once; no message carries them."""
    config = internal(tiny_weights)
    config.validate()
    size = (tiny_weights / "model.safetensors").stat().st_size
    assert len(pickle.dumps(config)) < size / 2


def test_runners_act_with_the_learners_present_policy(tiny_weights):
    algorithm = internal(tiny_weights, 2).build_algo()
    seen = set()
    for _ in range(6):
        before = fingerprint(algorithm.get_module().policy)
        seen.add(before)
        algorithm.train()
        acted = algorithm.env_runner_group.foreach_env_runner(
            lambda runner: fingerprint(runner.module.policy), local_env_runner=False
        )
        assert acted == [before, before]
    assert len(seen) > 1
    algorithm.stop()


def test_runners_that_are_too_slow_are_told_of(tiny_weights):
    algorithm = internal(tiny_weights, 1).env_runners(sample_timeout_s=0.001).build_algo()
    with pytest.raises(NoRunnerError, match="sample_timeout_s"):
        algorithm.train()
    algorithm.stop()


def test_first_pass_ratio_is_one_and_later_rounds_differ(tiny_weights):
    algorithm = internal(tiny_weights).build_algo()
    first, second = (algorithm.env_runner.sample_indices(r, range(12), "train") for r in (0, 1))
    again = algorithm.env_runner.sample_indices(0, range(12), "train")
    batch = to_batch(first, np.ones(12))["default_policy"]
    module = algorithm.get_module()
    with torch.no_grad():
        inputs = module.forward_inference({"obs": torch.as_tensor(batch["obs"])})["action_dist_inputs"]
    log_prob = module.action_dist_cls.from_logits(inputs).logp(torch.as_tensor(batch["actions"]))
    mask = torch.as_tensor(batch["loss_mask"])
    torch.testing.assert_close(log_prob[mask], torch.as_tensor(batch["action_logp"])[mask], atol=1e-4, rtol=1e-4)
    assert (first.action == again.action).all()
    assert not np.array_equal(first.action, second.action)
    algorithm.stop()


def test_no_two_episodes_share_a_seed():
    keys = [(p, r, i) for p in ("train", "evaluate", "sample") for r in range(20) for i in range(50)]
    assert len({episode_seed(0, *key) for key in keys}) == len(keys)
    assert episode_seed(0, "train", 0, 0) != episode_seed(1, "train", 0, 0)


def test_advantages_compare_within_the_batch():
    advantages = episode_advantages(np.array([1.0, 0.0, 0.0, 0.0]))
    deviation = np.sqrt(3) / 4 + 1e-3
    assert advantages == pytest.approx([0.75 / deviation, *[-0.25 / deviation] * 3])
    assert episode_advantages(np.array([10.0, 0.0, 0.0, 0.0])) == pytest.approx(advantages, rel=3e-3)  # no units
    assert (episode_advantages(np.zeros(5)) == 0).all()


def test_only_the_policy_learns_and_a_restored_run_goes_on(tiny_weights, tmp_path):
    before = fingerprint(weights.load(tiny_weights).base)
    algorithm = internal(tiny_weights).build_algo()
    algorithm.train()
    checkpoint = algorithm.save(str(tmp_path / "checkpoint")).checkpoint.path
    expected = algorithm.train()["env_runners"]["num_raw_steps_lifetime"]
    after_policy = fingerprint(algorithm.get_module().policy)
    # The parts in the runner's memory, which acted through training, not a fresh copy from disk.
    assert fingerprint(algorithm.env_runner.agent.base) == before
    assert fingerprint(algorithm.env_runner.agent.metacontroller) == fingerprint(
        weights.load(tiny_weights).metacontroller
    )
    algorithm.stop()
    restored = internal(tiny_weights).build_algo()
    restored.restore(checkpoint)
    assert restored.train()["env_runners"]["num_raw_steps_lifetime"] == expected
    assert fingerprint(restored.get_module().policy) == after_policy
    restored.stop()
    agent = load_agent(checkpoint)
    assert agent.artefact.policy is not None
    assert fingerprint(agent.artefact.base) == before


def test_raw_rl_learns_against_its_own_start(tmp_path):
    """Two colours on 3x3: the untrained base finds them by chance, RL finds them more often."""
    world = {"grid_size": 3, "num_colours": 2, "num_walls": 0, "horizon": 8, "tasks": [[0, 1]]}
    folder = weights.save(make_agent(GridworldSpec.of(world)), tmp_path / "base")
    algorithm = (
        RawRLConfig()
        .environment("irl_ray/GridPinpad-v0", env_config=world)
        .raw(base=str(folder))
        .training(lr=3e-3, train_batch_episodes=128)
        .debugging(seed=0, log_level="ERROR")
        .build_algo()
    )
    rates = [algorithm.train()["env_runners"]["success_rate"] for _ in range(40)]
    algorithm.stop()
    assert np.mean(rates[-5:]) > np.mean(rates[:5]) + 0.15


def planted_agent(world):
    """Its code's four dimensions are the logits of the four actions; a code lasts one step."""
    agent = make_agent(GridworldSpec.of(world), rank=None, decoder_hidden=8, forced_switch=True)
    base, decoder = agent.base, agent.metacontroller.decoder
    base.encoder.table.weight[:, :4] = 0
    base.encoder.table.weight[:, 4] = 1 / base.world.num_entities  # a constant for the controller to read
    for block in base.blocks:  # nothing is added to the residual stream
        block.mix.out.weight.zero_()
        block.mlp_out.weight.zero_()
    base.action_head.weight.zero_()
    base.action_head.weight[:, :4] = 2 * torch.eye(4)
    decoder.hidden.weight.copy_(torch.cat([torch.eye(4), -torch.eye(4)]))
    decoder.hidden.bias.zero_()
    decoder.full.zero_()
    for k in range(4):
        decoder.full[k, k, 4], decoder.full[k + 4, k, 4] = 1, -1
    return agent


def test_internal_rl_learns_which_codes_lead_to_the_goal(tmp_path):
    world = {"grid_size": 3, "num_colours": 2, "num_walls": 0, "horizon": 8, "tasks": [[0, 1]]}
    folder = weights.save(planted_agent(world), tmp_path / "agent")
    algorithm = (
        InternalRLConfig()
        .environment("irl_ray/GridPinpad-v0", env_config=world)
        .internal(metacontroller=str(folder), policy={"hidden": 32})
        .training(lr=1e-2, train_batch_episodes=128)
        .debugging(seed=0, log_level="ERROR")
        .build_algo()
    )
    rates = [algorithm.train()["env_runners"]["success_rate"] for _ in range(40)]
    algorithm.stop()
    assert np.mean(rates[-5:]) > np.mean(rates[:5]) + 0.15


def test_forced_switching_decides_at_every_raw_step(tiny_weights):
    algorithm = internal(tiny_weights).internal(switch_threshold=0).build_algo()
    result = algorithm.train()["env_runners"]
    algorithm.stop()
    assert result["raw_steps_per_code"] == 1.0 and result["codes_per_episode"] > 3


def test_a_clean_slate_is_sampled_with_and_kept(tiny_weights, tmp_path):
    """The memory starts anew in the runners, and in whatever acts with the policy later."""
    algorithm = internal(tiny_weights).internal(clean_slate=True).build_algo()
    runner = algorithm.env_runner
    seeds = range(24)
    sampled = runner.run_episodes(seeds, True)
    policy, world = algorithm.get_module().policy, runner.world
    for clean in (True, False):
        alone = sample_code_episodes(runner.agent, policy, world, seeds, action_temperature=1.0, clean_slate=clean)
        assert (sampled.raw_steps.tolist() == alone.raw_steps.tolist()) == clean
    algorithm.save(str(tmp_path / "checkpoint"))
    algorithm.stop()
    assert weights.load(tmp_path / "checkpoint").policy.config.clean_slate
    with pytest.raises(UserError, match="clean_slate"):
        internal(tiny_weights).internal(clean_slate="no").validate()


@pytest.mark.parametrize("temperature", [0.3, 2.0])
def test_raw_rl_samples_and_learns_at_its_temperature(temperature, tiny_weights, tmp_path):
    """The ratio of the first pass is one; the learned policy is kept with its temperature."""
    algorithm = (
        RawRLConfig()
        .environment("irl_ray/GridPinpad-v0", env_config=WORLD)
        .raw(base=str(tiny_weights), action_temperature=temperature)
        .training(train_batch_episodes=24)
        .debugging(seed=3, log_level="ERROR")
    ).build_algo()
    episodes, base = algorithm.env_runner.sample_indices(0, range(24), "train"), weights.load(tiny_weights).base
    batch = to_batch(episodes, np.zeros(24))["default_policy"]
    tensors = {key: torch.as_tensor(batch[key]) for key in ("obs", "loss_mask")}
    with torch.no_grad():
        inputs = algorithm.get_module()._forward(tensors)["action_dist_inputs"]
        expected = (base(tensors["obs"].long()) / temperature).log_softmax(-1)
    taken = torch.as_tensor(batch["actions"])[..., None]
    mask, log_prob = tensors["loss_mask"], torch.as_tensor(batch["action_logp"])
    for found in (inputs.log_softmax(-1), expected):
        torch.testing.assert_close(found.gather(-1, taken)[..., 0][mask], log_prob[mask], atol=1e-4, rtol=1e-4)
    algorithm.save(str(tmp_path / "checkpoint"))
    algorithm.stop()
    assert weights.load(tmp_path / "checkpoint").action_temperature == temperature


def test_bad_configurations_are_refused(tiny_weights):
    with pytest.raises(UserError, match="train_batch_episodes"):
        internal(tiny_weights).training(train_batch_episodes=1).validate()
    with pytest.raises(UserError, match="switch_threshold"):
        internal(tiny_weights).internal(switch_threshold=-0.1).validate()
    with pytest.raises(UserError, match="action_temperature"):
        internal(tiny_weights).internal(action_temperature=0.0).validate()


def test_raw_policy_in_length_groups_equals_the_padded_policy(tiny_weights):
    algorithm = (
        RawRLConfig()
        .environment("irl_ray/GridPinpad-v0", env_config=WORLD)
        .raw(base=str(tiny_weights))
        .training(train_batch_episodes=24)
        .debugging(seed=3, log_level="ERROR")
    ).build_algo()
    module = algorithm.get_module()
    episodes = algorithm.env_runner.sample_indices(0, range(24), "train")
    batch = to_batch(episodes, np.zeros(24))["default_policy"]
    tensors = {key: torch.as_tensor(batch[key]) for key in ("obs", "loss_mask")}
    mask = tensors["loss_mask"]
    with torch.no_grad():
        grouped = module._forward(tensors)["action_dist_inputs"]
        padded = module._forward({"obs": tensors["obs"]})["action_dist_inputs"]
    torch.testing.assert_close(grouped[mask], padded[mask], atol=1e-5, rtol=1e-4)
    algorithm.stop()
