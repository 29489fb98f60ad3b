"""Odd places to run in: locales without umlauts, no home, a thread, another default precision."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import irl_ray

PACKAGE = Path(irl_ray.__file__).parent
C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def unsaid(call: ast.Call) -> bool:
    """Whether a call opens a file as text in the encoding of the locale."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if isinstance(call.func, ast.Attribute) and getattr(call.func.value, "id", "") in ("places", "tarfile", "os"):
        return False  # UTF-8, or no text
    texts = [argument.value for argument in call.args if isinstance(getattr(argument, "value", None), str)]
    binary = any(set(text) <= set("rwxab+") and "b" in text for text in texts)
    said = any(keyword.arg == "encoding" for keyword in call.keywords)
    return name in ("open", "read_text", "write_text", "fdopen", "NamedTemporaryFile") and not binary and not said


def test_every_text_file_is_opened_as_utf8():
    found = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and unsaid(node)
    ]
    assert not found


def test_who_reads_no_further_ends_a_command():
    """As `rllib example get X | head -1` does; the file is longer than what a pipe holds."""
    code = (
        "import sys; from irl_ray.cli import irl_ray; irl_ray.print_card = lambda o: print('x' * 10**6) or 0; "
        "sys.exit(irl_ray.main(['card', 'gridworld']))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.read(1) == "x"
    process.stdout.close()
    assert process.wait(60) == 0 and process.stderr.read() == ""


def test_a_file_with_umlauts_under_the_c_locale(tmp_path):
    (tmp_path / "tuned_configs").mkdir()
    text = "grün:\n  run: InternalRL\n  description: α schön 0.1\n  config: {metacontroler: grün}\n"
    (tmp_path / "tuned_configs" / "x.yaml").write_text(text, encoding="utf-8")
    code = "import sys; from irl_ray.cli.rllib import main; sys.exit(main(sys.argv[1:]))"
    for arguments, expected in ((["example", "list"], 0), (["train", "file", "tuned_configs/x.yaml"], 2)):
        environment = {**os.environ, **C_LOCALE, "PYTHONPATH": str(PACKAGE.parent)}
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == expected, done.stderr
        assert "Traceback" not in done.stderr
        assert ("sweep of ? " if expected == 0 else "metacontroller") in done.stdout + done.stderr


IN_A_THREAD = """
import sys, threading
import ray
from irl_ray.cli.rllib import main
codes = []
worker = threading.Thread(target=lambda: codes.append(main(sys.argv[1:])))
worker.start()
worker.join()
ray.shutdown()
sys.exit(codes[0])
"""


def test_trains_in_a_thread_and_without_a_home(tmp_path, tiny_weights):
    config = {"env_config": {"preset": "tiny"}, "metacontroller": str(tiny_weights), "train_batch_episodes": 16}
    spec = {"run": "InternalRL", "env": "irl_ray/GridPinpad-v0", "stop": {"training_iteration": 1}, "config": config}
    (tmp_path / "x.json").write_text(json.dumps({"x": spec}))
    arguments = ["train", "file", "x.json", "--ray-num-cpus", "1"]
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), "HOME": "/dev/null/none"}
    done = subprocess.run(
        [sys.executable, "-c", IN_A_THREAD, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("results/x_*/*/checkpoint_*"))


IN_DOUBLE = """
import numpy as np
import torch
torch.set_default_dtype(torch.float64)
from irl_ray import load_agent
from irl_ray.cli.rllib import main
from irl_ray.internal.internal_env import InternalVectorEnv
from irl_ray.models import weights
from irl_ray.models.code_policy import CodePolicy, CodePolicyConfig

for name in ("ant", "gridworld"):
    agent = load_agent(name)
    env = agent.artefact.world.rows(1)
    observation, _ = env.reset(seed=0)
    assert env.action_space.contains(np.clip([agent.act(observation[0])], -1, 3).astype(env.action_space.dtype))
    artefact = weights.load(name)
    width, size = artefact.base.width, artefact.metacontroller.config.code_size
    artefact.policy = CodePolicy(CodePolicyConfig(width, size))
    inside = InternalVectorEnv(artefact, artefact.world, 2)
    residual, _ = inside.reset(seed=0)
    artefact.policy(torch.from_numpy(residual)[:, None])
    inside.step(np.zeros((2, size), np.float32))
    weights.save(artefact, "made/" + name)
    assert main(["evaluate", "made/" + name, "--episodes", "4"]) == 0
weights.save(weights.Artefact(artefact.world, artefact.base), "made/base")
assert main(["evaluate", "made/base", "--episodes", "4"]) == 0
assert main(["evaluate", "ant_expert", "--episodes", "4"]) == 0
"""


def test_agents_act_in_double_precision(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run(
        [sys.executable, "-c", IN_DOUBLE], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
