"""What a person may get wrong, case by case: one line that names the culprit and the cure, exit code 2, nothing
written, nothing executed."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from conftest import make_ant_agent
from safetensors.torch import load_file, save_file

from irl_ray.cli.irl_ray import main as irl_ray
from irl_ray.cli.rllib import main as rllib
from irl_ray.data.shards import Demonstration, write_manifest, write_shard
from irl_ray.models import weights
from irl_ray.worlds.pinpad.senses import NUM_JOINTS
from irl_ray.worlds.pinpad.specs import AntSpec

GRID = "irl_ray/GridPinpad-v0"
INTERNAL = {"run": "InternalRL", "env": GRID, "config": {"metacontroller": "WEIGHTS", "env_config": {"preset": "tiny"}}}
DISCOVER = {"run": "Discover", "config": {"preset": "tiny", "base": "WEIGHTS"}}
PRETRAIN = {"run": "Pretrain", "config": {"preset": "tiny"}}


def changed(spec: dict[str, Any], **keys: Any) -> dict[str, Any]:
    """A spec with other top-level keys, or settings where a key begins with `config__`."""
    made = json.loads(json.dumps(spec))
    for key, value in keys.items():
        if key.startswith("config__"):
            made["config"][key.removeprefix("config__")] = value
        else:
            made[key] = value
    return made


# Files of experiments: what is in the file, and words that the one line holds.
TEXTS = {
    "not a mapping": ("- a\n- b\n", "expected a mapping"),
    "empty": ("", "expected a mapping"),
    "a word": ("hello", "expected a mapping"),
    "a tab": ("x:\n\trun: InternalRL\n", "not readable"),
    "an open bracket": ("x: [1, 2", "not readable"),
    "an object of Python": ("x: !!python/object/apply:os.system ['touch pwned']\n", "not readable"),
    "an experiment that is a list": ("x: [1]\n", "expected a mapping with the keys"),
    "bytes that are no text": (b"\xff\xfe\x00x", "not readable"),
}
SPECS: dict[str, tuple[Any, str]] = {
    "no run": ({"env": GRID}, "run: None is unknown"),
    "an unknown run": (changed(INTERNAL, run="InternalRl"), "Did you mean 'InternalRL'"),
    "a run that is a list": (changed(INTERNAL, run=["InternalRL"]), "is unknown"),
    "an unknown key": (changed(INTERNAL, stopp={}), "Did you mean 'stop'"),
    "a setting that is no mapping": (changed(INTERNAL, config=[1]), "expected a mapping of settings"),
    "an unknown setting": (changed(INTERNAL, config__train_batch_episode=5), "train_batch_episode"),
    "an unknown setting of a phase": (changed(DISCOVER, config__alhpa=0.1), "alhpa"),
    "an unknown setting further in": (changed(DISCOVER, config__metacontroller={"code_sise": 4}), "code_sise"),
    "text for a number": (changed(DISCOVER, config__alpha="much"), "expected a number"),
    "a fraction for a count": (changed(DISCOVER, config__steps=1.5), "expected an integer"),
    "a number for a switch": (changed(DISCOVER, config__gates_at_reports=1), "expected true or false"),
    "a preset that is not there": (changed(DISCOVER, config__preset="smal"), "Did you mean 'small'"),
    "an unknown mixer": (changed(PRETRAIN, config__model={"mixer": "mamba"}), "mamba"),
    "no environment": ({"run": "PPO", "config": {}}, "env"),
    "an unknown environment": (changed(INTERNAL, env="irl_ray/GridPinpad-v9"), "GridPinpad-v9"),
    "an unknown setting of the world": (changed(INTERNAL, config__env_config={"grid": 4}), "grid"),
    "a world of another shape": (changed(INTERNAL, config__env_config={"preset": "small"}), "world"),
    "a task of a colour too many": (changed(INTERNAL, config__env_config={"preset": "tiny", "tasks": ["0-99"]}), "99"),
    "a task that is no task": (changed(INTERNAL, config__env_config={"preset": "tiny", "tasks": ["up"]}), "up"),
    "weights that are not there": (changed(INTERNAL, config__metacontroller="gridwrld"), "Did you mean 'gridworld'"),
    "no weights named": (changed(INTERNAL, config__metacontroller=None), "metacontroller"),
    "a base for a metacontroller": (changed(INTERNAL, config__metacontroller="BASE"), "holds no metacontroller"),
    "weights that are a number": (changed(DISCOVER, config__base=7), "expected text"),
    "a URI of an unknown kind": (changed(INTERNAL, config__metacontroller="gopher://x/y"), "cannot be reached"),
    "a stop key that no metric has": (changed(INTERNAL, stop={"sucess": 0.5}), "sucess"),
    "a stop that is no number": (changed(INTERNAL, stop={"training_iteration": "ten"}), "ten"),
    "a stop that is no mapping": (changed(INTERNAL, stop=5), "stop"),
    "an unknown checkpoint key": (changed(INTERNAL, checkpoint_config={"frequency": 1}), "checkpoint_frequency"),
    "checkpoints every minus one": (changed(INTERNAL, checkpoint_config={"checkpoint_frequency": -1}), "frequency"),
    "no samples": (changed(INTERNAL, num_samples=0), "num_samples"),
    "an unknown scheduler": (changed(DISCOVER, scheduler="ahsa"), "Did you mean 'asha'"),
    "a scheduler without a metric": (changed(DISCOVER, scheduler="asha"), "metric"),
    "an empty grid": (changed(DISCOVER, config__alpha={"grid_search": []}), "non-empty list"),
    "a range the wrong way round": (changed(DISCOVER, config__alpha={"uniform": [1, 0]}), "low < high"),
    "a result of nothing": (changed(DISCOVER, config__base={"result_of": "y"}), "no experiment above"),
    "a batch of nothing": (changed(DISCOVER, config__batch_size=0), "batch_size"),
    "no step": (changed(DISCOVER, config__steps=0), "steps"),
    "a key in a URI": (changed(INTERNAL, config__metacontroller="s3://KEY:SECRET@bucket/x"), "leave the key out"),
    "more workers than cores": (changed(DISCOVER, config__num_workers=2), "num_workers"),
    "a learning rate below zero": (changed(DISCOVER, config__optimizer={"learning_rate": -1.0}), "learning_rate"),
    "no episodes a batch": (changed(INTERNAL, config__train_batch_episodes=0), "train_batch_episodes"),
    "a layer that is not there": (changed(DISCOVER, config__metacontroller={"layer": 99}), "layer"),
    "a temperature of zero": (changed(INTERNAL, config__action_temperature=0.0), "action_temperature"),
    "a threshold above one": (changed(INTERNAL, config__switch_threshold=1.5), "switch_threshold"),
    "a device that is none": (changed(DISCOVER, config__device="gpu"), "device"),
    "data that is not there": (changed(PRETRAIN, config__data="nowhere"), "nowhere"),
    "a seed that is text": (changed(DISCOVER, config__seed="one"), "expected an integer"),
    "no base model": (changed(DISCOVER, config={"preset": "tiny"}), "config.base: missing"),
    "the ant without data": (
        changed(DISCOVER, config={"base": "ant", "env": "irl_ray/AntPinpad-v0"}),
        "irl-ray collect",
    ),
    "a task to end on that is none": (changed(PRETRAIN, config__post_task="text"), "text"),
    "a task of another world": (changed(DISCOVER, config__post_task="post_a1"), "colours"),
    "an encoder that is none": (changed(PRETRAIN, config__model={"encoder": "text"}), "encoder"),
    "a metric that is a number": (
        changed(DISCOVER, scheduler="asha", scheduler_config={"metric": 3, "max_t": 3}),
        "name of a metric",
    ),
    "nothing to reduce by": (
        changed(DISCOVER, scheduler="asha", scheduler_config={"metric": "kl", "max_t": 3, "reduction_factor": 1}),
        "reduction_factor",
    ),
    "a stop that never comes": (changed(INTERNAL, stop={"training_iteration": float("nan")}), "finite"),
    "a wish at the end": (changed(INTERNAL, checkpoint_config={"checkpoint_at_end": "yes"}), "true or false"),
    "a seed beyond all": (changed(INTERNAL, config__seed=10**30), "2**32"),
    "a norm that is none": (changed(INTERNAL, config__grad_clip_by="bla"), "grad_clip_by"),
    "the old stack": (changed(INTERNAL, config__enable_rl_module_and_learner=False), "has no effect"),
    "several agents": (changed(INTERNAL, config__multiagent={"policies": ["a"]}), "has no effect"),
    "an evaluation of another kind": (changed(INTERNAL, config__evaluation_config={"gamma": 0.9}), "evaluation_config"),
    "an evaluation that is cold": (
        changed(INTERNAL, config__evaluation_config={"action_temperature": -1}),
        "evaluation_config",
    ),
    "an evaluation that is a list": (changed(INTERNAL, config__evaluation_config=[1]), "evaluation_config"),
    "weights that are a list": (changed(INTERNAL, config__metacontroller=[1]), "got [1]"),
    "a world that is a number": ({"run": "PPO", "env": "CartPole-v1", "config": {"env_config": 3}}, "env_config"),
    "a list for checkpoints": (
        {"run": "PPO", "env": "CartPole-v1", "checkpoint_freq": 2, "checkpoint_config": [1]},
        "checkpoint_config",
    ),
    "runners that are text": ({"run": "PPO", "env": "CartPole-v1", "config": {"num_env_runners": "two"}}, "config"),
    "a model of nothing": ({"run": "PPO", "env": "CartPole-v1", "config": {"model": {"grid_search": 3}}}, "model"),
    "a layer misspelt": (
        {"run": "PPO", "env": "CartPole-v1", "config": {"model_config": {"fcnet_hiden": [3]}}},
        "'fcnet_hiddens'",
    ),
    "a learner that is not there": (
        {"run": "PPO", "env": "CartPole-v1", "config": {"_learner_class": "nope.X"}},
        "cannot be imported",
    ),
    "one of several that is not there": (
        {"run": "PPO", "env": "CartPole-v1", "config": {"learner_class": {"grid_search": ["nope.X"]}}},
        "be imported",
    ),
    "a callback that is not there": (
        {"run": "PPO", "env": "CartPole-v1", "config": {"callbacks_on_episode_end": "nope.x"}},
        "cannot be imported",
    ),
    "two names of one setting": (
        {"run": "PPO", "env": "CartPole-v1", "config": {"num_workers": 1, "num_env_runners": 2}},
        "config.num_workers",
    ),
    "an old key of an experiment": (changed(INTERNAL, local_dir="x"), "--storage-path"),
    "codes without weights": ({"run": "PPO", "env": "irl_ray/Internal-v0"}, "metacontroller"),
    "codes of a strange setting": (
        {"run": "PPO", "env": "irl_ray/Internal-v0", "config": {"env_config": {"metacontroler": "gridworld"}}},
        "Did you mean 'metacontroller'",
    ),
}


def one_line(capsys: pytest.CaptureFixture, code: int, *words: str) -> str:
    """What was said: one line on stderr, exit code 2."""
    said = capsys.readouterr().err
    assert code == 2, said
    assert said.count("\n") == 1 and "Traceback" not in said, said
    for word in words:
        assert word in said, said
    return said


def inside(folder: Path) -> dict[str, int]:
    """Every file with its time of change."""
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture(scope="module", autouse=True)
def no_ray_stays() -> Iterator[None]:
    """Some cases are found out by Ray; what they started has one core."""
    ray.shutdown()
    yield
    ray.shutdown()


@pytest.fixture
def here(tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory; WEIGHTS and BASE stand for folders."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    return tmp_path


def run_file(path: Path) -> int:
    return rllib(["train", "file", str(path), "--ray-num-cpus", "1"])


@pytest.mark.parametrize("case", TEXTS)
def test_files_that_cannot_be_read(case: str, here: Path, capsys: pytest.CaptureFixture):
    text, words = TEXTS[case]
    path = here / "in" / "x.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    before = inside(here)
    one_line(capsys, run_file(path), "x.yaml", words)
    assert inside(here) == before


@pytest.mark.parametrize("case", SPECS)
def test_experiments_that_make_no_sense(case: str, here: Path, tiny_weights: Path, capsys: pytest.CaptureFixture):
    spec, words = SPECS[case]
    base = weights.load(tiny_weights)
    base.metacontroller = None
    named = {"WEIGHTS": str(tiny_weights), "BASE": str(weights.save(base, here / "in" / "base"))}
    text = json.dumps({"x": spec})
    for name, folder in named.items():
        text = text.replace(f'"{name}"', json.dumps(folder))
    path = here / "in" / "x.json"
    path.write_text(text)
    before = inside(here)
    one_line(capsys, run_file(path), "x.json", "x", words)
    assert inside(here) == before


LINES: dict[str, tuple[Callable[[list[str]], int], list[str], str]] = {
    "a file that is not there": (rllib, ["train", "file", "tuned_configs/gridworld_internl.yaml"], "no such file"),
    "a file of another kind": (rllib, ["train", "file", "in/x.txt"], "expected a .yaml, .json or .py file"),
    "no file": (rllib, ["train", "file"], "which one?"),
    "nothing to run": (rllib, ["train"], "train: give"),
    "settings that are no JSON": (rllib, ["train", "file", "in/good.json", "--config", "{seed: 1"], "not JSON"),
    "settings that are a list": (rllib, ["train", "file", "in/good.json", "--config", "[1]"], "expected a JSON object"),
    "a setting that is not there": (rllib, ["train", "file", "in/good.json", "--config", '{"sed": 1}'], "sed"),
    "more CPUs than there are": (
        rllib, ["train", "file", "in/good.json", "--config", '{"num_env_runners": 500}', "--ray-num-cpus", "1"], "CPU"
    ),
    "a GPU where there is none": (
        rllib, ["train", "file", "in/good.json", "--config", '{"num_gpus_per_learner": 9}', "--ray-num-cpus", "1"],
        "GPU",
    ),
    "storage of an unknown kind": (rllib, ["train", "file", "in/good.json", "--storage-path", "gopher://x"], "gopher"),
    "resume of nothing": (rllib, ["resume", "results/x_20260101-120000"], "no such folder"),
    "resume of some folder": (rllib, ["resume", "in"], "no experiment to resume"),
    "evaluate nothing": (rllib, ["evaluate", "gridwrld"], "Did you mean 'gridworld'"),
    "evaluate no episodes": (rllib, ["evaluate", "gridworld", "--episodes", "0"], "episodes"),
    "evaluate on no task": (
        rllib, ["evaluate", "gridworld", "--episodes", "1", "--env-config", '{"tasks": "post_four"}'], "post_four"
    ),
    "no samples": (rllib, ["train", "file", "in/good.json", "--num-samples", "-1"], "--num-samples"),
    "checkpoints every minus one": (rllib, ["train", "file", "in/good.json", "--checkpoint-freq", "-1"], "frequency"),
    "no checkpoint to keep": (rllib, ["train", "file", "in/good.json", "--keep-checkpoints-num", "0"], "num_to_keep"),
    "a file and a run": (rllib, ["train", "file", "in/good.json", "--run", "PPO"], "--run PPO"),
    "evaluate by a seed below zero": (rllib, ["evaluate", "gridworld", "--seed", "-1"], "--seed"),
    "evaluate at a threshold of none": (rllib, ["evaluate", "gridworld", "--switch-threshold", "nan"], "[0, 1]"),
    "evaluate at a temperature of text": (
        rllib, ["evaluate", "gridworld", "--config", '{"action_temperature": "x"}'], "above 0"
    ),
    "evaluate on a slate of text": (
        rllib, ["evaluate", "gridworld", "--config", '{"clean_slate": "x"}'], "clean_slate"
    ),
    "evaluate in a world of three": (rllib, ["evaluate", "gridworld", "--config", '{"env_config": 3}'], "env_config"),
    "evaluate in a world it does not know": (
        rllib, ["evaluate", "gridworld", "--env-config", '{"preset": "medium"}'], "another world"
    ),
    "a picture without a name": (rllib, ["evaluate", "gridworld", "--render", ""], "--render"),
    "an example that is not there": (rllib, ["example", "get", "gridworld_intrnal"], "Did you mean"),
    "an example to run that is not there": (rllib, ["example", "run", "gridworld_intrnal"], "Did you mean"),
    "a card of nothing": (irl_ray, ["card", "antt"], "Did you mean 'ant'"),
    "a look into nothing": (irl_ray, ["probe", "antt", "--out", "x.json"], "Did you mean 'ant'"),
    "a look at the ant without data": (irl_ray, ["probe", "ant", "--out", "x.json"], "--data"),
    "data of no folder": (irl_ray, ["data", "info", "nowhere"], "nowhere"),
    "collect in an unknown world": (
        irl_ray, ["collect", "irl_ray/Ant-v0", "--expert", "ant_expert", "--episodes", "1", "--out", "d"], "Ant-v0"
    ),
    "collect without an expert": (
        irl_ray, ["collect", "irl_ray/AntPinpad-v0", "--expert", "gridworld", "--episodes", "1", "--out", "d"], "expert"
    ),
    "collect nothing": (
        irl_ray, ["collect", "irl_ray/AntPinpad-v0", "--expert", "ant_expert", "--episodes", "0", "--out", "d"],
        "episodes",
    ),
    "a report of nothing": (irl_ray, ["report", "in", "--out", "report"], "neither results"),
    "a curve without a label": (irl_ray, ["curve", "in", "--out", "x.png"], "LABEL=FOLDER"),
}  # fmt: skip


@pytest.mark.parametrize("case", LINES)
def test_lines_that_make_no_sense(case: str, here: Path, tiny_weights: Path, capsys: pytest.CaptureFixture):
    main, arguments, words = LINES[case]
    good = changed(INTERNAL, config__metacontroller=str(tiny_weights))
    (here / "in" / "good.json").write_text(json.dumps({"x": good}))
    (here / "in" / "x.txt").write_text("x")
    before = inside(here)
    try:
        code = main(arguments)
    except SystemExit as stopped:  # argparse: usage, then one line
        said = capsys.readouterr().err
        assert stopped.code == 2 and words in said.splitlines()[-1] and "Traceback" not in said, said
    else:
        one_line(capsys, code, words)
    assert inside(here) == before


class Planted:
    """What a pickle would run."""

    def __reduce__(self) -> tuple:
        return Path.touch, (Path("pwned"),)


def _cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps(Planted()))


def _config(**keys: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))

    return change


def _without(key: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != key}))

    return change


def _tensors(change: Callable[[dict], dict]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "model.safetensors"
        save_file(change(load_file(path)), path)

    return apply


def _first(value: Callable[[Any], Any]) -> Callable[[dict], dict]:
    def change(tensors: dict) -> dict:
        name = sorted(tensors)[0]
        return {**tensors, name: value(tensors[name])}

    return change


WEIGHTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "missing"),
    "weights cut in half": (_cut, "not a safetensors file or cut short"),
    "empty weights": (lambda f: (f / "model.safetensors").write_bytes(b""), "not a safetensors file or cut short"),
    "a pickle for weights": (_pickled, "not a safetensors file or cut short"),
    "no settings": (lambda f: (f / "config.json").unlink(), "no weights there"),
    "settings cut in half": (lambda f: (f / "config.json").write_text('{"format": 1, "wor'), "not readable as JSON"),
    "a pickle for settings": (lambda f: (f / "config.json").write_bytes(pickle.dumps(Planted())), "not readable"),
    "settings of another version": (_config(format=999), "format 999"),
    "settings that are a list": (lambda f: (f / "config.json").write_text("[1]"), "format list"),
    "no world": (_without("world"), "lacks world"),
    "an unknown key of the world": (_config(world={"colours": 3}), "colours"),
    "an unknown environment": (_config(environment="x/Y-v0"), "x/Y-v0"),
    "a base of another shape": (
        _config(base={"mixer": "transformer", "width": 64, "layers": 2, "heads": 2}),
        "not fit",
    ),
    "a tensor too few": (_tensors(lambda t: dict(list(t.items())[1:])), "does not fit config.json"),
    "a tensor of another shape": (_tensors(_first(lambda t: t.flatten()[:1].clone())), "does not fit config.json"),
    "a tensor that is not finite": (_tensors(_first(lambda t: t * float("nan"))), "not finite"),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights_that_cannot_be_used(case: str, here: Path, tiny_world: Any, capsys: pytest.CaptureFixture):
    from conftest import make_agent

    spoil, words = WEIGHTS[case]
    folder = weights.save(make_agent(tiny_world), here / "in" / "weights")
    spoil(folder)
    before = inside(here)
    one_line(capsys, rllib(["evaluate", str(folder), "--prior", "--episodes", "2"]), "weights", words)
    assert inside(here) == before and not Path("pwned").exists()


def _table(change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "shard-00000.parquet"
        pq.write_table(change(pq.read_table(path)), path)

    return apply


def _manifest(**keys: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "manifest.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))

    return change


def _column(name: str, change: Callable[[list], list], kind: Any = None) -> Callable[[Path], None]:
    def apply(table: pa.Table) -> pa.Table:
        field = table.schema.field(name)
        at = table.schema.get_field_index(name)
        made = change(table[name].to_pylist())
        return table.set_column(at, pa.field(name, kind or field.type), pa.array(made, kind or field.type))

    return _table(apply)


def _entry(**keys: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "manifest.json"
        manifest = json.loads(path.read_text())
        manifest["shards"][0] |= keys
        path.write_text(json.dumps(manifest))

    return change


DATA: dict[str, tuple[Callable[[Path], None], str]] = {
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "missing"),
    "a manifest cut in half": (lambda f: (f / "manifest.json").write_text('{"sch'), "not readable as JSON"),
    "a manifest of another schema": (_manifest(schema=9), "schema"),
    "a manifest without shards": (_manifest(shards=[]), "no usable shard"),
    "shards that are text": (_manifest(shards="all"), "shards"),
    "a shard that is not there": (lambda f: (f / "shard-00000.parquet").unlink(), "no usable shard"),
    "a shard cut in half": (
        lambda f: (f / "shard-00000.parquet").write_bytes((f / "shard-00000.parquet").read_bytes()[:200]),
        "no usable shard",
    ),
    "a pickle for a shard": (
        lambda f: (f / "shard-00000.parquet").write_bytes(pickle.dumps(Planted())),
        "no usable shard",
    ),
    "a shard outside of the folder": (_entry(file="../../elsewhere.parquet"), "no usable shard"),
    "a shard by an absolute path": (_entry(file="/etc/passwd"), "no usable shard"),
    "numbers of another kind": (
        _column("action", lambda rows: [[str(v) for v in row] for row in rows], pa.list_(pa.string())),
        "no usable shard",
    ),
    "a column too few": (_table(lambda t: t.drop_columns(["action"])), "no usable shard"),
    "no episodes": (_table(lambda t: t.slice(0, 0)), "no usable shard"),
    "values that are not finite": (_column("observation", lambda r: [[np.nan] * len(v) for v in r]), "no usable"),
    "ragged ends": (_column("action", lambda rows: [row[:-3] for row in rows]), "no usable"),
    "lengths that are not so": (_column("length", lambda rows: [n + 1 for n in rows]), "no usable"),
    "a length of nothing": (_column("length", lambda rows: [0 for _ in rows]), "no usable"),
    "too few to hold any out": (
        lambda f: (_table(lambda t: t.slice(0, 1))(f), _entry(episodes=1)(f)),
        "too few",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def ant_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return weights.save(make_ant_agent(), tmp_path_factory.mktemp("ant") / "ant")


def write_data(folder: Path) -> None:
    """Forty made-up walks of the small ant."""
    world, random = AntSpec.of({"preset": "small"}), np.random.default_rng(0)
    wide, deep = world.observation_size, NUM_JOINTS
    walks = [
        Demonstration(i, random.normal(size=(6, wide)), random.normal(size=(5, deep)), 0, np.zeros(5), np.zeros(5))
        for i in range(40)
    ]
    folder.mkdir()
    write_manifest(folder, world, [write_shard(folder, 0, walks)], {"seed": 0})


@pytest.mark.parametrize("case", DATA)
def test_demonstrations_that_cannot_be_used(case: str, here: Path, ant_weights: Path, capsys: pytest.CaptureFixture):
    spoil, words = DATA[case]
    write_data(here / "in" / "walks")
    (here / "elsewhere.parquet").write_bytes((here / "in" / "walks" / "shard-00000.parquet").read_bytes())
    spoil(here / "in" / "walks")
    before = inside(here)
    arguments = ["probe", str(ant_weights), "--data", "in/walks", "--episodes", "16", "--out", "out.json"]
    code = irl_ray(arguments)
    one_line(capsys, code, "walks", words)
    assert inside(here) == before and not Path("pwned").exists()


def test_good_input_is_taken(here: Path, ant_weights: Path):
    """What the cases above spoil is fine before."""
    write_data(here / "in" / "walks")
    assert irl_ray(["data", "verify", "in/walks"]) == 0


def test_there_are_many_cases():
    assert sum(map(len, (TEXTS, SPECS, LINES, WEIGHTS, DATA))) >= 60
