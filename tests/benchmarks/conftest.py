"""Models of the small scale with random weights, on one thread."""

from __future__ import annotations

import os
import time
from pathlib import Path

import page
import pytest
import torch

from irl_ray.models import weights
from irl_ray.models.metacontroller import Metacontroller, MetacontrollerConfig
from irl_ray.models.sequence_model import SequenceModelConfig
from irl_ray.models.weights import Artefact, new_base
from irl_ray.worlds.pinpad.specs import GridworldSpec

SETTINGS = {"preset": "small", "tasks": "post_three_pairs"}
WORLD = GridworldSpec.of(SETTINGS)


def pytest_addoption(parser):
    parser.addoption("--page", type=Path, help="write the comparisons to a page, such as irl_ray/docs/benchmarks.md")


def pytest_configure(config):
    config.load_at_begin = os.getloadavg()[0]


def pytest_collection_modifyitems(items):
    for item in items:
        item.add_marker(pytest.mark.benchmark(timer=time.process_time))


def pytest_sessionfinish(session, exitstatus):
    path, benchmarks = session.config.getoption("--page"), session.config._benchmarksession.benchmarks
    if path is None:
        return
    if exitstatus or len(benchmarks) < session.testscollected:
        print(f"\n{path}: not written, for not all benchmarks ran")
    else:
        page.write(page.rows_of(benchmarks), path, session.config.load_at_begin)


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
