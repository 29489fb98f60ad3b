"""Sealed checkpoints and kept records: what is cut off is noticed and replaced."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import fs
from ray.tune import Checkpoint

from irl_ray.cli.records import KEPT, keep_records, mend_records
from irl_ray.errors import UserError
from irl_ray.rllib.checkpoints import SEAL, is_whole, seal, whole_before


def sealed(folder: Path) -> Path:
    (folder / "artefact").mkdir(parents=True)
    (folder / "state.pt").write_bytes(b"x" * 1000)
    (folder / "artefact" / "config.json").write_text("{}")
    seal(folder)
    return folder


@pytest.mark.parametrize("remote", [False, True])
def test_the_newest_whole_checkpoint_before_a_broken_one(tmp_path, remote):
    for number in range(4):
        sealed(tmp_path / f"checkpoint_00000{number}")
    os.truncate(tmp_path / "checkpoint_000003" / "state.pt", 500)
    (tmp_path / "checkpoint_000002" / "artefact" / "config.json").unlink()
    files = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()) if remote else fs.LocalFileSystem()
    base = "runs" if remote else str(tmp_path)
    if remote:
        (tmp_path / "runs").mkdir()
        for folder in tmp_path.glob("checkpoint_*"):
            shutil.move(folder, tmp_path / "runs" / folder.name)
    made = [Checkpoint(f"{base}/checkpoint_00000{number}", files) for number in range(4)]
    assert [is_whole(checkpoint) for checkpoint in made] == [True, True, False, False]
    assert whole_before(made[3]).path == made[1].path
    assert whole_before(made[0]) is None
    assert not is_whole(Checkpoint(f"{base}/checkpoint_000009", files))


@given(st.data())
def test_a_seal_that_is_cut_is_no_seal(tmp_path_factory, data):
    folder = sealed(tmp_path_factory.mktemp("x") / "checkpoint_000000")
    size = (folder / SEAL).stat().st_size
    os.truncate(folder / SEAL, data.draw(st.integers(0, size - 1)))
    assert not is_whole(Checkpoint(str(folder), fs.LocalFileSystem()))


def experiment(folder: Path, trials: int = 2, session: int = 1) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"experiment_state-{session}.json").write_text(json.dumps({"session": session}))
    (folder / f"basic-variant-state-{session}.json").write_bytes(pickle.dumps({"session": session}))
    for number in range(trials):
        trial = folder / f"InternalRL_{number}"
        trial.mkdir(exist_ok=True)
        (trial / "params.json").write_text("{}")
        (trial / "result.json").write_text("".join(f'{{"row": {row}}}\n' for row in range(3)))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != KEPT)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_whatever_is_cut_is_put_back(tmp_path, capsys):
    staging, folder = experiment(tmp_path / "staging"), experiment(tmp_path / "x")
    assert keep_records(staging, str(folder))
    whole = contents(folder)
    mend_records(str(folder))
    assert not capsys.readouterr().out
    for name, content in whole.items():
        os.truncate(folder / name, len(content) // 2)
        mend_records(folder.as_uri())
        assert contents(folder) == whole
        assert "cut off" in capsys.readouterr().out


def test_a_second_session_keeps_the_records_of_the_first(tmp_path):
    folder = experiment(tmp_path / "x")
    keep_records(experiment(tmp_path / "first"), str(folder))
    experiment(folder, session=2, trials=0)
    keep_records(experiment(tmp_path / "second", session=2, trials=0), str(folder))  # its trials have not begun
    whole = contents(folder)
    os.truncate(folder / "InternalRL_1" / "params.json", 1)
    mend_records(str(folder))
    assert contents(folder) == whole


def test_kept_records_from_elsewhere_write_nothing_outside(tmp_path):
    """Nor do they make links, which a later file could follow."""
    folder = experiment(tmp_path / "x")
    with tarfile.open(folder / KEPT, "w") as archive:
        for name in ("../outside", str(tmp_path / "absolute"), "InternalRL_0/params.json"):
            member = tarfile.TarInfo(name)
            member.size = 2
            archive.addfile(member, io.BytesIO(b"{}"))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        archive.addfile(link)
    os.truncate(folder / "InternalRL_0" / "params.json", 1)
    mend_records(str(folder))
    assert (folder / "InternalRL_0" / "params.json").read_bytes() == b"{}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x"] and not (folder / "link").is_symlink()


def test_without_kept_records_rows_are_cut_and_the_rest_is_refused(tmp_path):
    folder = experiment(tmp_path / "x")
    results = folder / "InternalRL_0" / "result.json"
    os.truncate(results, results.stat().st_size - 3)
    mend_records(str(folder))
    assert results.read_text() == '{"row": 0}\n{"row": 1}\n'
    os.truncate(folder / "experiment_state-1.json", 3)
    with pytest.raises(UserError, match="start the run anew"):
        mend_records(str(folder))


def test_a_full_disk_leaves_the_older_records(tmp_path, monkeypatch):
    staging, folder = experiment(tmp_path / "staging"), experiment(tmp_path / "x")
    keep_records(staging, str(folder))
    before = (folder / KEPT).read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tarfile.TarFile.add", full)
    assert not keep_records(staging, str(folder))
    assert (folder / KEPT).read_bytes() == before and not list(folder.glob("*.new"))
