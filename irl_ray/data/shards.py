"""Stored demonstrations: Parquet shards with a manifest.

A folder holds `manifest.json` and `shard-00000.parquet`, ... A row is one successful trajectory:

| column | type | what |
|---|---|---|
| episode | int64 | number of the episode in the collection; failed ones are missing |
| length | int32 | T |
| observation | list of numbers, (T+1) F | o_1 ... o_{T+1}, each flat |
| action | list of numbers, T A | a_1 ... a_T |
| task | int32 | ground truth, for analysis only |
| leg, subgoal | list<int8>, T | ground truth, for analysis only |

Training readers open the first four columns only.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from irl_ray import places, worlds
from irl_ray.data.trajectories import Trajectories
from irl_ray.errors import UserError
from irl_ray.seeding import torch_seed
from irl_ray.worlds.world import World

SCHEMA = 1
MANIFEST = "manifest.json"
TRAINING_COLUMNS = ("episode", "length", "observation", "action")
TRUTH_COLUMNS = ("task", "leg", "subgoal")


def _schema(observation: np.dtype, action: np.dtype) -> pa.Schema:
    return pa.schema(
        [
            ("episode", pa.int64()),
            ("length", pa.int32()),
            ("observation", pa.list_(pa.from_numpy_dtype(observation))),
            ("action", pa.list_(pa.from_numpy_dtype(action))),
            ("task", pa.int32()),
            ("leg", pa.list_(pa.int8())),
            ("subgoal", pa.list_(pa.int8())),
        ]
    )


@dataclass
class Demonstration:
    """One successful trajectory; see the columns above.

    Attributes:
        observation: [T+1, ...], of the type in which it is stored.
        action: [T, ...], likewise.
        task: number of the task, -1 where it is not known.
        leg, subgoal: [T], -1 where they are not known.
    """

    episode: int
    observation: np.ndarray
    action: np.ndarray
    task: int
    leg: np.ndarray
    subgoal: np.ndarray


def write_shard(
    folder: Path, number: int, demonstrations: list[Demonstration], made: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Writes one shard, complete or not at all.

    Args:
        folder: of the shards.
        number: of the shard.
        demonstrations: its rows.
        made: how it was made, kept in the file's metadata for `finished_shard`.

    Returns:
        Its entry in the manifest.
    """
    columns = {
        "episode": [d.episode for d in demonstrations],
        "length": [len(d.action) for d in demonstrations],
        "observation": [d.observation.ravel() for d in demonstrations],
        "action": [d.action.ravel() for d in demonstrations],
        "task": [d.task for d in demonstrations],
        "leg": [d.leg.astype(np.int8) for d in demonstrations],
        "subgoal": [d.subgoal.astype(np.int8) for d in demonstrations],
    }
    path = shard_path(folder, number)
    partial = path.with_suffix(".partial")
    first = demonstrations[0] if demonstrations else None
    types = (first.observation.dtype, first.action.dtype) if first else (np.dtype(np.float16),) * 2
    schema = _schema(*types).with_metadata({"made": json.dumps(made)})
    pq.write_table(pa.table(columns, schema=schema), partial, compression="zstd")
    os.replace(partial, path)
    return _entry(path, columns["length"])


def shard_path(folder: Path, number: int) -> Path:
    """The file of a shard."""
    return folder / f"shard-{number:05d}.parquet"


def _entry(path: Path, lengths: list[int]) -> dict[str, Any]:
    return {"file": path.name, "episodes": len(lengths), "steps": int(sum(lengths)), "sha256": file_hash(path)}


def finished_shard(folder: Path, number: int) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """A shard that an earlier collection has finished: its entry and how it was made; None if there is none."""
    try:
        table = pq.read_table(shard_path(folder, number), columns=["length"])
        made = json.loads(table.schema.metadata[b"made"])
    except (OSError, pa.ArrowException, KeyError, TypeError, json.JSONDecodeError):
        return None
    return _entry(shard_path(folder, number), table["length"].to_pylist()), made


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path, world: World, shards: list[dict[str, Any]], made: dict[str, Any]) -> None:
    """Writes the manifest.

    Args:
        folder: of the shards.
        world: whose demonstrations they are.
        shards: entries of `write_shard`.
        made: how they were collected: seed, expert, counts.
    """
    manifest = {
        "schema": SCHEMA,
        "environment": world.id,
        "world": world.settings,
        "kept": sum(shard["episodes"] for shard in shards),
        "steps": sum(shard["steps"] for shard in shards),
        **made,
        "shards": shards,
    }
    partial = folder / "manifest.partial"
    partial.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    os.replace(partial, folder / MANIFEST)


def read_manifest(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest of a folder of shards.

    Raises:
        UserError: if it is missing, unreadable or of another schema.
    """
    path = Path(folder).expanduser() / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        made = "`irl-ray collect` or `irl-ray data import`"
        raise UserError(f"{path}: missing; expected a folder that {made} made") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise UserError(f"{path}: not a manifest of schema {SCHEMA}; collect the data again")
    missing = {"environment", "world", "shards"} - manifest.keys()
    if missing:
        raise UserError(f"{path}: incomplete ({', '.join(sorted(missing)) or 'environment'}); collect the data again")
    shards, needed = manifest["shards"], {"file", "episodes", "sha256"}
    if not isinstance(shards, list) or not all(isinstance(s, dict) and needed <= s.keys() for s in shards):
        raise UserError(f"{path}: shards: expected entries with file, episodes, sha256; collect the data again")
    return manifest


def world_of(manifest: dict[str, Any], folder: str | os.PathLike[str]) -> World:
    """The world whose demonstrations a folder holds."""
    return worlds.told(manifest["environment"], manifest["world"], f"{folder}/{MANIFEST}: world")


def check_shard(folder: Path, entry: dict[str, Any], thorough: bool = False) -> str | None:
    """What is wrong with a shard, in a few words; None if nothing is.

    Args:
        folder: of the shards.
        entry: its entry in the manifest.
        thorough: also compare the hash and look at every value, as every reader does.
    """
    path = folder / str(entry["file"])
    if path.name != entry["file"]:
        return "named outside of its folder"
    if not path.is_file():
        return "missing"
    try:
        file = pq.ParquetFile(path)
        if not _fits(file.schema_arrow):
            return "has other columns than demonstrations have"
        if file.metadata.num_rows != entry["episodes"]:
            return f"holds {file.metadata.num_rows} episodes, the manifest says {entry['episodes']}"
        if thorough and file_hash(path) != entry["sha256"]:
            return "is not the file that was written (its hash differs)"
        if thorough:
            return _misfit(file.read())
    except (pa.ArrowException, OSError) as error:
        return f"not readable ({str(error).splitlines()[0]})"
    return None


def _fits(schema: pa.Schema) -> bool:
    """Whether columns are those of demonstrations."""
    if schema.names != [*TRAINING_COLUMNS, *TRUTH_COLUMNS]:
        return False
    numbers = [schema.field(name).type for name in ("observation", "action")]
    if not all(pa.types.is_list(t) and (is_number(t.value_type)) for t in numbers):
        return False
    return schema.remove_metadata().equals(_schema(*(np.dtype(t.value_type.to_pandas_dtype()) for t in numbers)))


def is_number(kind: pa.DataType) -> bool:
    """Whether it is a type of observations and actions: whole numbers or floats."""
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _misfit(table: pa.Table) -> str | None:
    """What is wrong with the trajectories of a shard, in a few words; None if nothing is."""
    length = np.array(table["length"], np.int64)
    if not len(length) or length.min() < 1:
        return "holds a trajectory of length 0" if len(length) else "holds no trajectory"
    for name in set(table.column_names) - {"episode", "length", "task"}:
        rows = length + 1 if name == "observation" else length
        values = pc.list_value_length(table[name]).to_numpy()
        if (values % rows).any() or len(set(values // rows)) > 1 or not values.all():
            return f"has another length in its column {name} than in length"
        if name in TRAINING_COLUMNS and not np.isfinite(_flat(table, name)).all():
            return "holds values that are not finite"
    return None


def _flat(table: pa.Table, name: str) -> np.ndarray:
    return np.array(table[name].combine_chunks().flatten(), copy=True)


class StoredDemonstrations:
    """All usable shards of a folder, in memory as half precision.

    One in `HELD_OUT_SHARE` trajectories is held out for `sample`; `batches` draws from the others.

    Args:
        folder: what `irl-ray collect` made.
        truth: also read the ground truth; without it those columns are not opened.
        report: told, a line each, about shards that are left out.

    Raises:
        UserError: if no shard is usable.
    """

    HELD_OUT_SHARE = 20

    def __init__(self, folder: str | os.PathLike[str], truth: bool = False, report: Any = print):
        folder = places.local(folder)
        self.manifest = read_manifest(folder)
        self.world = world_of(self.manifest, folder)
        tables = []
        for entry in self.manifest["shards"]:
            problem = check_shard(folder, entry)
            if not problem:
                names = [*TRAINING_COLUMNS, *(TRUTH_COLUMNS if truth else ())]
                table = pq.read_table(folder / entry["file"], columns=names)
                problem = _misfit(table)
            if problem:
                report(f"{folder / str(entry['file'])}: {problem}; left out")
            else:
                tables.append(table)
        if not tables:
            raise UserError(f"{folder}: no usable shard; `irl-ray data verify {folder}` says why. Collect again")
        table = pa.concat_tables(tables)
        self.length = torch.from_numpy(np.array(table["length"], np.int64))
        steps = int(self.length.sum())
        self.start = self.length.cumsum(0) - self.length
        observed, acted = self.world.observation_space.shape, self.world.action_space.shape
        seen, done = _flat(table, "observation"), _flat(table, "action")
        if seen.size != (steps + len(self.length)) * np.prod(observed) or done.size != steps * np.prod(acted):
            raise UserError(
                f"{folder}: observations or actions have another size than those of {self.world.id}, {observed} and "
                f"{acted}; import or collect them again"
            )
        self._observation = torch.from_numpy(seen.reshape(-1, *observed))
        self._action = torch.from_numpy(done.reshape(-1, *acted))
        self._truth = None
        if truth:
            task = torch.from_numpy(np.array(table["task"], np.int64))
            leg, subgoal = (torch.from_numpy(_flat(table, name).astype(np.int64)) for name in ("leg", "subgoal"))
            self._truth = task, leg, subgoal
        held_out = torch.from_numpy(np.array(table["episode"], copy=True)) % self.HELD_OUT_SHARE == 0
        self.training, self.held_out = (~held_out).nonzero()[:, 0], held_out.nonzero()[:, 0]
        if not len(self.training) or not len(self.held_out):
            raise UserError(f"{folder}: {len(self.length)} trajectories are too few to train on and to test with")

    def __len__(self) -> int:
        return len(self.length)

    def take(self, rows: torch.Tensor) -> Trajectories:
        """The given trajectories as a padded batch, of whole numbers or of float32 as models read them."""
        length = self.length[rows]
        steps = torch.arange(int(length.max()) + 1)
        mask = steps[None, :-1] < length[:, None]
        at = self.start[rows][:, None] + steps[:-1].minimum(length[:, None] - 1)
        # Observations have one row more per trajectory than actions.
        seen = (self.start[rows] + rows)[:, None] + steps.minimum(length[:, None])
        blank = torch.full(mask.shape, -1)
        task, leg, subgoal = blank[:, 0], blank, blank
        if self._truth is not None:
            task, leg, subgoal = self._truth[0][rows], self._truth[1][at], self._truth[2][at]
        return Trajectories(
            self.world,
            _read(self._observation[seen]),
            _read(self._action[at]),
            mask,
            task,
            leg,
            subgoal.masked_fill(~mask, -1),
        )

    def sample(self, count: int, random: torch.Generator) -> Trajectories:
        """`count` of the held-out trajectories (all of them, if they are fewer)."""
        order = torch.randperm(len(self.held_out), generator=random)
        return self.take(self.held_out[order[:count]])

    def batches(self, size: int, seed: int, *key: str | int, start: int = 0) -> Iterator[Trajectories]:
        """Random training batches for ever; batch i depends on (seed, key, i) alone."""
        random, index = torch.Generator(), start
        while True:
            random.manual_seed(torch_seed(seed, "demonstrations", *key, index))
            yield self.take(self.training[torch.randint(len(self.training), (size,), generator=random)])
            index += 1


def _read(values: torch.Tensor) -> torch.Tensor:
    return values.float() if values.is_floating_point() else values.long()
