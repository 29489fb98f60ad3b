"""Models of the small scale with random weights, on one thread."""

from __future__ import annotations

import pytest
import torch

from irl_ray.models import weights
from irl_ray.models.metacontroller import Metacontroller, MetacontrollerConfig
from irl_ray.models.sequence_model import SequenceModelConfig
from irl_ray.models.weights import Artefact, new_base
from irl_ray.worlds.pinpad.specs import GridworldSpec

SETTINGS = {"preset": "small", "tasks": "post_three_pairs"}
WORLD = GridworldSpec.of(SETTINGS)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def small_agent():
    """Random weights at the size of the small scale; the switch fires about every fourth step."""
    torch.manual_seed(0)
    world = GridworldSpec.of({"preset": "small"})
    base = new_base(SequenceModelConfig(), world)
    agent = Artefact(world, base, Metacontroller(MetacontrollerConfig(layer=1), base.width, base.num_layers))
    for part in agent.parts.values():
        part.eval().requires_grad_(False)
    return agent


@pytest.fixture(scope="session")
def small_weights(small_agent, tmp_path_factory):
    return weights.save(small_agent, tmp_path_factory.mktemp("weights") / "small")
