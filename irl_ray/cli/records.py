"""Whole copies of what Tune writes about an experiment, for when a full disk or a kill cuts the originals short."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

from irl_ray.errors import UserError

KEPT = "records.tar"


def keep_records(staging: Path, folder: str) -> None:
    """Packs Tune's state and results into one file of the experiment's folder, whole at any moment.

    Tune itself overwrites them one by one in place there, which a full disk or a kill cuts short.
    """
    if not Path(folder).is_dir():  # object storage shows a file when it is whole
        return
    fresh = Path(folder) / f"{KEPT}.new"
    try:
        with tarfile.open(fresh, "w") as packed:
            packed.add(staging, ".")
    except OSError:
        fresh.unlink(missing_ok=True)
    else:
        fresh.replace(fresh.with_name(KEPT))


def mend_records(folder: str) -> None:
    """Unpacks the kept records if a state or result file was cut off.

    Raises:
        UserError: if none were kept.
    """
    patterns = ("experiment_state-*.json", "basic-variant-state-*.json", "*/params.json", "*/result.json")
    records = [path for pattern in patterns for path in sorted(Path(folder).glob(pattern))]
    cut = [path for path in records if not _is_complete(path)]
    if not cut:
        return
    kept = Path(folder) / KEPT
    if not kept.is_file():
        raise UserError(f"{cut[0]}: cut off (a full disk?), and no copy of it was kept; start the run anew")
    for path in cut:
        path.unlink()
    with tarfile.open(kept) as packed:
        packed.extractall(folder, filter="data")
    print(f"{cut[0]}: cut off (a full disk?); going on from the records kept at the last checkpoint")


def _is_complete(path: Path) -> bool:
    """Whether a file of JSON, of lines of JSON, or of a pickle was not cut off."""
    content = path.read_bytes()
    if content.startswith(b"\x80"):
        return content.endswith(b".")  # a pickle's last byte; nothing is unpickled here
    try:
        return bool(content) and all(map(json.loads, content.splitlines() if path.name == "result.json" else [content]))
    except ValueError:
        return False
