"""Small things made on the fly: worlds, models, agents."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings

from irl_ray.data.shards import write_manifest, write_shard
from irl_ray.models import weights
from irl_ray.models.metacontroller import Metacontroller, MetacontrollerConfig
from irl_ray.models.sequence_model import SequenceModelConfig
from irl_ray.models.weights import Artefact, new_base
from irl_ray.worlds.pinpad.collect import walk
from irl_ray.worlds.pinpad.specs import AntSpec, GridworldSpec

torch.set_num_threads(1)
settings.register_profile("project", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("project")


@pytest.fixture(scope="session")
def tiny_world():
    return GridworldSpec.of({"preset": "tiny"})


def make_agent(world, mixer="transformer", seed=0, **meta):
    """An untrained agent; its switch fires about every third step."""
    torch.manual_seed(seed)
    base = new_base(SequenceModelConfig(mixer=mixer, width=32, layers=2, heads=2, mlp=48), world)
    shape = {"code_size": 4, "memory_size": 8, "summary_size": 8, "rank": 4, "initial_switch_bias": 0.0, **meta}
    agent = Artefact(world, base, Metacontroller(MetacontrollerConfig(**shape), 32, 2))
    for part in agent.parts.values():
        part.eval().requires_grad_(False)
    return agent


@pytest.fixture
def tiny_agent(tiny_world):
    return make_agent(tiny_world)


@pytest.fixture(scope="session")
def tiny_weights(tiny_world, tmp_path_factory):
    """Folder of an untrained tiny agent."""
    return weights.save(make_agent(tiny_world), tmp_path_factory.mktemp("weights") / "tiny")


def make_ant_agent(encoder="relative", seed=0, **meta):
    """An untrained agent of the small ant."""
    torch.manual_seed(seed)
    world = AntSpec.of({"preset": "small"})
    shape = {"mixer": "hawk", "width": 32, "layers": 2, "heads": 2, "mlp": 48, "encoder": encoder}
    base = new_base(SequenceModelConfig(**shape), world)
    small = {"code_size": 4, "memory_size": 8, "summary_size": 8, "rank": None, "initial_switch_bias": 0.0, **meta}
    agent = Artefact(world, base, Metacontroller(MetacontrollerConfig(**small), 32, 2))
    for part in agent.parts.values():
        part.eval().requires_grad_(False)
    return agent


@pytest.fixture(scope="session")
def ant_weights(tmp_path_factory):
    """Folder of an untrained agent of the ant."""
    return weights.save(make_ant_agent(), tmp_path_factory.mktemp("weights") / "ant")


@pytest.fixture(scope="session")
def ant_data(tmp_path_factory):
    """Folder of a few demonstrations of the released expert."""
    artefact, folder = weights.load("ant_expert", "expert"), tmp_path_factory.mktemp("data")
    walks = walk(artefact.expert, artefact.world, range(60), 0, True)
    write_manifest(folder, artefact.world, [write_shard(folder, 0, walks.demonstrations)], {"ends": {}})
    return folder
