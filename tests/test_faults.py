"""What may go wrong on machines, and what it costs: nothing counted twice, counters right, training goes on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import torch
from ray.cluster_utils import Cluster

from irl_ray import InternalRLConfig

WORLD = {"preset": "tiny", "tasks": "post_two_pairs"}
EPISODES = 48


def internal(folder: Path, runners: int) -> InternalRLConfig:
    return (
        InternalRLConfig()
        .environment("irl_ray/GridPinpad-v0", env_config=WORLD)
        .internal(metacontroller=str(folder), policy={"hidden": 8})
        .env_runners(num_env_runners=runners, num_cpus_per_env_runner=1)
        .training(train_batch_episodes=EPISODES)
        .debugging(seed=3, log_level="ERROR")
    )


def trained(algorithm: object, iterations: int, at: int = -1, fault: object = None) -> tuple[list[dict], torch.Tensor]:
    """Results of some iterations, with a fault shortly after one of them has begun, and the policy."""
    results = []
    for i in range(iterations):
        timer = threading.Timer(0.05, fault) if i == at else None
        if timer:
            timer.start()
        results.append(algorithm.train()["env_runners"])
        if timer:
            timer.join()
    return results, torch.cat([p.detach().flatten() for p in algorithm.get_module().policy.parameters()])


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head without room for env runners, and two nodes of one core."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.nodes = [made.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture(scope="module")
def undisturbed(tiny_weights: Path) -> tuple[list[dict], torch.Tensor]:
    """The same run in one process without any fault."""
    algorithm = internal(tiny_weights, 0).build_algo()
    found = trained(algorithm, 5)
    algorithm.stop()
    ray.shutdown()
    return found


def assert_as_undisturbed(found: tuple, undisturbed: tuple) -> None:
    (results, policy), (expected, other) = found, undisturbed
    assert [r["num_episodes_lifetime"] for r in results] == [EPISODES * (i + 1) for i in range(len(results))]
    # The same episodes, those of the dead runner included: the same policy.
    assert [r["success_rate"] for r in results] == pytest.approx([r["success_rate"] for r in expected])
    torch.testing.assert_close(policy, other, atol=1e-4, rtol=1e-3)


def test_an_env_runner_killed_while_it_samples(cluster: Cluster, tiny_weights: Path, undisturbed: tuple):
    algorithm = internal(tiny_weights, 2).build_algo()
    victim = algorithm.env_runner_group._worker_manager.actors()[1]
    found = trained(algorithm, 5, at=1, fault=lambda: ray.kill(victim))
    assert_as_undisturbed(found, undisturbed)
    algorithm.stop()


def test_a_node_removed_and_another_added(cluster: Cluster, tiny_weights: Path, undisturbed: tuple):
    algorithm = internal(tiny_weights, 2).build_algo()

    def fault() -> None:
        cluster.remove_node(cluster.nodes[0], allow_graceful=False)
        cluster.add_node(num_cpus=1)

    found = trained(algorithm, 5, at=1, fault=fault)
    assert_as_undisturbed(found, undisturbed)
    algorithm.stop()
