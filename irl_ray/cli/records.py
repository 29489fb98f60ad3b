"""Whole copies of what Tune writes about an experiment, for when a full disk or a kill cuts the originals short."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

from irl_ray.errors import UserError

KEPT = "records.tar"
RECORDS = ("tuner.pkl", "experiment_state-*.json", "basic-variant-state-*.json", "*/params.json", "*/result.json")


def keep_records(staging: Path, folder: str) -> bool:
    """Packs Tune's state and results into one file of the experiment's folder, whole at any moment.

    Tune itself overwrites them one by one in place there, which a full disk or a kill cuts short.

    Args:
        staging: where Tune writes first; what it has from before it was carried on is in the folder alone.
        folder: of the experiment.

    Returns:
        Whether the folder has Tune's present state.
    """
    place = Path(folder)
    if not place.is_dir():  # object storage shows a file when it is whole
        return True
    fresh, staged = place / f"{KEPT}.new", sorted(path for path in staging.rglob("*") if path.is_file())
    packed = {path.relative_to(staging): path for path in staged}
    older = {path.relative_to(place): path for path in _records(place) if _is_complete(path)}
    try:
        with tarfile.open(fresh, "w") as archive:
            for name, path in {**older, **packed}.items():
                archive.add(path, str(name))
    except OSError:
        fresh.unlink(missing_ok=True)
        return False
    fresh.replace(place / KEPT)
    return True


def mend_records(folder: str) -> None:
    """Puts the kept records in place if a state or result file was cut off.

    Raises:
        UserError: if none was kept of a file that was cut off.
    """
    place = Path(folder.removeprefix("file://"))
    cut = [path for path in _records(place) if not _is_complete(path)]
    if not cut:
        return
    kept = _put_back(place) if (place / KEPT).is_file() else set()
    for path in set(cut) - kept:
        if path.name == "result.json":  # no copy: the whole lines are what is left
            path.write_bytes(b"".join(line for line in path.read_bytes().splitlines(True) if _is_json(line)))
        else:
            raise UserError(f"{path}: cut off (a full disk?), and no copy of it was kept; start the run anew")
    print(f"{cut[0]}: cut off (a full disk?); going on from the records kept at the last checkpoint")


def _put_back(place: Path) -> set[Path]:
    """Writes the kept records over the originals, plain files inside of the folder alone; returns which.

    By hand, since the archive may come from somewhere else, and Python before 3.11.4 unpacks whatever it is told.
    """
    put: set[Path] = set()
    with tarfile.open(place / KEPT) as archive:
        for member in filter(tarfile.TarInfo.isfile, archive):
            path = place / member.name
            if path.resolve().is_relative_to(place.resolve()):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.extractfile(member).read())
                put.add(path)
    return put


def _records(place: Path) -> list[Path]:
    return [path for pattern in RECORDS for path in sorted(place.glob(pattern))]


def _is_complete(path: Path) -> bool:
    """Whether a file of JSON, of lines of JSON, or of a pickle was not cut off."""
    content = path.read_bytes()
    if content.startswith(b"\x80"):
        return content.endswith(b".")  # a pickle's last byte; nothing is unpickled here
    if path.name == "result.json":
        return content.endswith(b"\n") and all(map(_is_json, content.splitlines()))
    return _is_json(content)


def _is_json(content: bytes) -> bool:
    try:
        json.loads(content)
    except ValueError:
        return False
    return True
