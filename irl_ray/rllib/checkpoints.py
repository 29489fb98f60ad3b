"""Checkpoints that tell whether they are whole: a full disk or a killed process may have cut one in half."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

from pyarrow import fs
from ray.tune import Checkpoint

SEAL = "files.json"


def seal(folder: str | Path) -> None:
    """Lists what a checkpoint holds and how large it is; called when all else is written."""
    files = {p.relative_to(folder).as_posix(): p.stat().st_size for p in sorted(Path(folder).rglob("*")) if p.is_file()}
    (Path(folder) / SEAL).write_text(json.dumps(files, indent=1), encoding="utf-8")


def is_whole(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint holds every file at its full size; one that is not sealed is older than seals."""
    files, folder = checkpoint.filesystem, checkpoint.path
    infos = files.get_file_info(fs.FileSelector(folder, recursive=True, allow_not_found=True))
    sizes = {PurePosixPath(info.path).relative_to(folder).as_posix(): info.size for info in infos if info.is_file}
    if SEAL not in sizes:
        return bool(sizes)
    with files.open_input_stream(f"{folder}/{SEAL}") as stream:
        try:
            told = json.loads(stream.read())
        except ValueError:
            return False
    return all(sizes.get(name) == size for name, size in told.items())


def whole_before(checkpoint: Checkpoint) -> Checkpoint | None:
    """The newest whole checkpoint beside one that is not."""
    parent, name = checkpoint.path.rsplit("/", 1)
    infos = checkpoint.filesystem.get_file_info(fs.FileSelector(parent, allow_not_found=True))
    names = sorted(i.base_name for i in infos if i.base_name.startswith("checkpoint_") and i.base_name < name)
    found = (Checkpoint(f"{parent}/{name}", checkpoint.filesystem) for name in reversed(names))
    return next(filter(is_whole, found), None)
