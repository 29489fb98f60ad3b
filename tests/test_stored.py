"""Collecting demonstrations, storing them, and reading them back."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from irl_ray.analysis.probe import late_steps
from irl_ray.cli import irl_ray as cli
from irl_ray.data import shards
from irl_ray.data.shards import StoredDemonstrations
from irl_ray.errors import UserError
from irl_ray.models import weights
from irl_ray.worlds.pinpad.ant import AntPinpadVectorEnv
from irl_ray.worlds.pinpad.collect import walk
from irl_ray.worlds.pinpad.specs import ANT_ID
from irl_ray.worlds.pinpad.walks import agent_cells, at_entries, directions, target_cells


@pytest.fixture(scope="module")
def expert():
    return weights.load("ant_expert", "expert")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "ant"
    arguments = ["collect", ANT_ID, "--expert", "ant_expert", "--episodes", "120", "--shard", "50"]
    assert cli.main([*arguments, "--out", str(folder), "--seed", "3", "--deterministic"]) == 0
    return folder


def test_the_released_expert_does_its_tasks(expert):
    """At least 85 % with mean actions, also where no task of its training has these transitions."""
    for tasks in ("table_a2", "post_a2"):
        walks = walk(
            expert.expert, expert.world.__class__(**{**vars(expert.world), "tasks": tasks}), range(128), 9, True
        )
        assert walks.ends["success"] / 128 > 0.85
        assert sum(walks.ends.values()) == 128


def test_demonstrations_obey_the_rules(expert):
    """Replayed in the environment, the stored actions succeed and give the stored observations."""
    walks = walk(expert.expert, expert.world, range(24), 5, True)
    for demonstration in walks.demonstrations[:6]:
        env = AntPinpadVectorEnv(1, autoreset="disabled", preset="small")
        state = shards_seed(5, demonstration.episode)
        observation, _ = env.reset(seed=[state])
        assert env.task[0] == demonstration.task
        for t, action in enumerate(demonstration.action):
            np.testing.assert_array_equal(observation[0].astype(np.float16), demonstration.observation[t])
            assert env.leg[0] == demonstration.leg[t]
            observation, reward, *_ = env.step(action[None])
        assert reward[0] == 1
        assert (demonstration.subgoal == np.array(env.world.tasks[demonstration.task])[demonstration.leg]).all()


def shards_seed(seed, episode):
    from irl_ray.seeding import seed_sequence

    return int(seed_sequence(seed, "collect", episode).generate_state(2, np.uint64)[0] >> np.uint64(1))


@pytest.mark.parametrize("deterministic", [True, False])
def test_an_episode_depends_on_seed_and_number_alone(expert, deterministic):
    whole = walk(expert.expert, expert.world, range(30), 1, deterministic)
    parts = [walk(expert.expert, expert.world, range(first, first + 10), 1, deterministic) for first in (0, 10, 20)]
    split = [d for part in parts for d in part.demonstrations]
    assert [d.episode for d in split] == [d.episode for d in whole.demonstrations]
    for a, b in zip(split, whole.demonstrations):
        np.testing.assert_allclose(a.observation, b.observation, atol=2e-2)
    assert sum((part.ends for part in parts), start=whole.ends.__class__()) == whole.ends
    assert sum(part.steps for part in parts) == whole.steps


def test_every_episode_that_is_started_is_counted(stored):
    manifest = shards.read_manifest(stored)
    assert sum(manifest["ends"].values()) == manifest["episodes"] == 120
    assert manifest["kept"] == manifest["ends"]["success"] == sum(s["episodes"] for s in manifest["shards"])
    assert len(manifest["shards"]) == 3 and manifest["expert"] == weights.fingerprint(
        weights.load("ant_expert", "expert").expert
    )


def test_an_interrupted_collection_goes_on(stored, tmp_path, monkeypatch):
    """Finished shards of the same settings are kept, those of other settings are made again."""
    from irl_ray.worlds.pinpad import collect

    folder = broken(stored, tmp_path, "manifest.json", lambda path: path.unlink())
    (folder / "shard-00002.parquet").unlink()
    made, walked = [], collect.walk
    monkeypatch.setattr(collect, "walk", lambda *given: made.append(given[2]) or walked(*given))
    arguments = [
        "collect",
        ANT_ID,
        "--expert",
        "ant_expert",
        "--episodes",
        "120",
        "--shard",
        "50",
        "--out",
        str(folder),
    ]
    assert cli.main([*arguments, "--seed", "3", "--deterministic"]) == 0
    assert made == [range(100, 120)]
    assert shards.read_manifest(folder) == shards.read_manifest(stored)
    (folder / "manifest.json").unlink()
    assert cli.main([*arguments, "--seed", "4", "--deterministic"]) == 0
    assert len(made) == 4


def test_a_collection_grows(stored, tmp_path, monkeypatch, capsys):
    """More episodes of the same collection: only what is missing is walked."""
    from irl_ray.worlds.pinpad import collect

    folder = tmp_path / "ant"
    shutil.copytree(stored, folder)
    made, walked = [], collect.walk
    monkeypatch.setattr(collect, "walk", lambda *given: made.append(given[2]) or walked(*given))
    arguments = ["collect", ANT_ID, "--expert", "ant_expert", "--episodes", "150", "--shard", "50"]
    arguments += ["--out", str(folder)]
    assert cli.main([*arguments, "--seed", "4", "--deterministic"]) == 2
    assert "another collection" in capsys.readouterr().err
    assert cli.main([*arguments, "--seed", "3", "--deterministic"]) == 0
    assert made == [range(100, 150)]
    before, after = shards.read_manifest(stored), shards.read_manifest(folder)
    assert after["episodes"] == 150 and after["shards"][:2] == before["shards"][:2]


def test_ray_workers_write_the_same_shards(stored, tmp_path):
    arguments = ["collect", ANT_ID, "--expert", "ant_expert", "--episodes", "120", "--shard", "50", "--workers", "2"]
    assert cli.main([*arguments, "--out", str(tmp_path / "ant"), "--seed", "3", "--deterministic"]) == 0
    here, there = shards.read_manifest(stored), shards.read_manifest(tmp_path / "ant")
    assert [s["sha256"] for s in here["shards"]] == [s["sha256"] for s in there["shards"]]
    assert here["ends"] == there["ends"]


def test_batches_hold_whole_trajectories(stored):
    data = StoredDemonstrations(stored, truth=True)
    batch = data.take(torch.arange(len(data)))
    table = pq.read_table(stored / "shard-00000.parquet").to_pylist()
    for row, one in enumerate(table):
        steps = one["length"]
        assert int(batch.mask[row].sum()) == steps
        np.testing.assert_array_equal(
            batch.observation[row, : steps + 1].numpy().ravel(), np.float32(np.array(one["observation"], np.float16))
        )
        np.testing.assert_array_equal(batch.action[row, :steps].numpy().ravel(), np.float32(one["action"]))
        assert batch.subgoal[row, :steps].tolist() == one["subgoal"] and (batch.subgoal[row, steps:] == -1).all()
        # The last step leads into the cell of the task's last colour.
        assert int(target_cells(batch)[row, steps - 1]) == int(agent_cells(batch)[row, steps])
    assert set(directions(batch)[batch.mask].tolist()) <= {0, 1, 2, 3}
    assert 0 < float(late_steps(batch)[batch.mask].float().mean()) < 1


def test_batches_follow_from_seed_and_number(stored):
    data = StoredDemonstrations(stored)
    first = [next_ for next_, _ in zip(data.batches(8, 0, "x"), range(4))]
    again = next(data.batches(8, 0, "x", start=3))
    assert torch.equal(first[3].observation, again.observation)
    assert not torch.equal(first[0].action[:, :20], first[1].action[:, :20])
    held_out = data.sample(1000, torch.Generator().manual_seed(0))
    assert len(held_out) == len(data.held_out)
    assert not set(data.held_out.tolist()) & set(data.training.tolist())


def test_training_readers_do_not_open_the_truth(stored, monkeypatch):
    opened, read = [], pq.read_table
    monkeypatch.setattr(pq, "read_table", lambda path, columns: opened.extend(columns) or read(path, columns=columns))
    batch = StoredDemonstrations(stored).take(torch.arange(3))
    assert not set(opened) & set(shards.TRUTH_COLUMNS)
    assert (batch.subgoal == -1).all() and (batch.task == -1).all()


def broken(stored, tmp_path, name, change):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in stored.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    change(copy / name)
    return copy


@pytest.mark.parametrize(
    "change, told",
    [
        (lambda path: path.unlink(), "missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-300]), "not readable"),
        (lambda path: path.write_bytes(b"hello"), "not readable"),
        (lambda path: pq.write_table(pq.read_table(path).select(["episode", "length"]), path), "other columns"),
        (lambda path: pq.write_table(pq.read_table(path).slice(1), path), "episodes, the manifest says"),
    ],
)
def test_a_bad_shard_is_named_and_the_others_are_used(stored, tmp_path, change, told, capsys):
    copy, lines = broken(stored, tmp_path, "shard-00001.parquet", change), []
    data = StoredDemonstrations(copy, report=lines.append)
    assert len(lines) == 1 and "shard-00001.parquet" in lines[0] and told in lines[0]
    kept = shards.read_manifest(stored)["shards"]
    assert len(data) == kept[0]["episodes"] + kept[2]["episodes"]
    assert cli.main(["data", "verify", str(copy)]) == 2
    assert "2 of 3 shards are good" in capsys.readouterr().out


def test_verify_sees_a_changed_value(stored, tmp_path, capsys):
    def change(path):
        content = bytearray(path.read_bytes())
        content[2000] ^= 1
        path.write_bytes(bytes(content))

    assert cli.main(["data", "verify", str(stored)]) == 0
    assert cli.main(["data", "verify", str(broken(stored, tmp_path, "shard-00002.parquet", change))]) == 2
    assert "shard-00002.parquet: " in capsys.readouterr().out


def test_mistakes_cost_one_line(stored, tmp_path, capsys):
    collect = ["collect", ANT_ID, "--episodes", "10", "--out", str(tmp_path / "x"), "--expert"]
    for arguments, told in (
        ([*collect, "gridworld"], "holds no expert"),
        ([*collect, "ant_expert", "--env-config", '{"control": "torque"}'], "control is torque"),
        ([*collect, "ant_expert", "--env-config", '{"tasks": "0-7"}'], "colours 0..3"),
        (["collect", "irl_ray/GridPinpad-v0", *collect[2:], "ant_expert"], "no expert that is a network"),
        (["collect", ANT_ID, "--episodes", "9", "--expert", "ant_expert", "--out", str(stored)], "another"),
        (["data", "info", str(tmp_path)], "manifest.json: missing"),
    ):
        assert cli.main(arguments) == 2
        error = capsys.readouterr().err
        assert told in error and error.count("\n") == 1, error
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "manifest.json").write_text(json.dumps({"schema": 99}))
    with pytest.raises(UserError, match="schema"):
        shards.read_manifest(bad)


def test_exports_to_minari(stored, tmp_path, monkeypatch):
    minari = pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    assert cli.main(["data", "export", str(stored), "--minari", "ant/test-v0", "--limit", "3"]) == 0
    assert minari.load_dataset("ant/test-v0").total_episodes == 3


def test_walks_seen_at_entries_keep_their_way(stored):
    """Every step leads into another cell, the last one into the last colour's; the labels stay in place."""
    data = StoredDemonstrations(stored, truth=True)
    batch = data.take(torch.arange(len(data)))
    short = at_entries(batch)
    cells, full = agent_cells(short), agent_cells(batch)
    assert (cells[:, 1:] != cells[:, :-1])[short.mask].all()
    for row in range(len(batch)):
        steps, whole = int(short.mask[row].sum()), int(batch.mask[row].sum())
        path = [int(full[row, 0])]
        for cell in full[row, 1 : whole + 1].tolist():
            path += [cell] if cell != path[-1] else []
        assert cells[row, : steps + 1].tolist() == path
        assert (short.observation[row, steps] == batch.observation[row, whole]).all()
    assert short.mask.sum() < 0.25 * batch.mask.sum()
    assert torch.equal(short.subgoal[:, 0], batch.subgoal[:, 0])


def test_floors_at_arrivals_are_ordered(stored):
    """Who knows the goal is hardly surprised; who ignores the identity of colours most of all."""
    from irl_ray.worlds.pinpad.floors import ant_entities, arrival_floors

    data = StoredDemonstrations(stored, truth=True)
    batch = data.take(torch.arange(len(data)))
    floors = arrival_floors(batch)
    assert floors["oracle"] < 0.1 < floors["bayes"] < floors["colour_blind"]
    entities, cells = ant_entities(batch), agent_cells(batch)
    tasks = np.array(data.world.tasks)
    for row in range(len(batch)):  # the walk ends on the last colour of its task
        last = int(batch.mask[row].sum())
        assert int(cells[row, last]) == entities[row, tasks[batch.task[row], -1]]
