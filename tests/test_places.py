"""Folders by path and by URI: the same results, weights copied once, and one line when they are not there."""

from __future__ import annotations

import os
import shutil

import pytest
from pyarrow import fs

from irl_ray import places
from irl_ray.errors import UserError
from irl_ray.models import weights


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "irl_ray"


def test_paths_and_uris_hold_the_same_names(tmp_path):
    (tmp_path / "runs" / "b").mkdir(parents=True)
    (tmp_path / "runs" / "a").write_text("x")
    for place in (tmp_path, tmp_path.as_uri()):
        assert places.names_in(places.join(place, "runs")) == ["a", "b"]
        assert places.names_in(places.join(place, "absent")) == []
        assert places.read_text(places.join(place, "runs", "a")) == "x"
        assert places.read_text(places.join(place, "runs", "absent")) is None
    assert places.absolute(tmp_path.as_uri() + "/") == tmp_path.as_uri()
    assert places.join("s3://b/runs?scheme=http", "x", "y") == "s3://b/runs/x/y?scheme=http"
    assert places.split("s3://b/runs/x?scheme=http") == ("s3://b/runs?scheme=http", "x")
    assert places.split(places.join(tmp_path, "x")) == (str(tmp_path), "x")


def test_remote_weights_are_copied_once_and_again_when_they_change(tmp_path, tiny_weights, cache, monkeypatch):
    trial = tmp_path / "x_20260101-120000" / "Discover_0"
    shutil.copytree(tiny_weights, trial / "checkpoint_000000" / "artefact")
    shutil.copytree(tiny_weights, trial / "checkpoint_000001" / "artefact")
    (trial / "params.json").write_text("{}")
    (remote,) = weights.artefacts_of_trials(trial.parent.as_uri())
    assert remote == (trial / "checkpoint_000001" / "artefact").as_uri()
    own, copied = weights.load(tiny_weights), weights.load(trial.parent.as_uri())
    assert weights.fingerprint(own.base) == weights.fingerprint(copied.base)
    first = weights.resolve(remote)
    with monkeypatch.context() as patched:
        patched.setattr(fs, "copy_files", lambda *a: pytest.fail("copied twice"))
        assert weights.resolve(remote) == first and first.parent == cache
    (trial / "checkpoint_000001" / "artefact" / "CARD.md").write_text("changed")
    assert weights.resolve(remote) != first


def test_a_uri_that_leads_nowhere_costs_one_line(tmp_path, tiny_weights):
    for place, words in (
        (f"{tmp_path.as_uri()}/absent", "no weights there"),
        ("gopher://host/x", "cannot be reached"),
    ):
        with pytest.raises(UserError, match=words) as error:
            weights.load(place)
        assert place in str(error.value) and "\n" not in str(error.value)
    for name in ("a", "b"):
        shutil.copytree(tiny_weights, tmp_path / "two" / name / "checkpoint_000000" / "artefact")
        (tmp_path / "two" / name / "params.json").write_text("{}")
    with pytest.raises(UserError, match="holds 2 trials"):
        weights.load((tmp_path / "two").as_uri())


@pytest.mark.parametrize("home", ["/dev/null/none", None])
@pytest.mark.parametrize("named", ["/dev/null/cache", "relative", None])
def test_copies_are_kept_somewhere_without_a_home(tmp_path, monkeypatch, home, named):
    monkeypatch.chdir(tmp_path)
    for name, value in (("HOME", home), ("XDG_CACHE_HOME", named)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    if home is None:  # nor is there one in the list of users
        monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "config.json").write_text("{}")
    copy = places.copy_here((tmp_path / "weights").as_uri())
    assert (copy / "config.json").read_text() == "{}"
    assert places.copy_here((tmp_path / "weights").as_uri()) == copy
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]


def test_the_users_cache_is_used_where_it_can_be(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "config.json").write_text("{}")
    assert tmp_path / "cache" / "irl_ray" in places.copy_here((tmp_path / "weights").as_uri()).parents


def test_a_home_that_is_unknown_is_no_traceback():
    with pytest.raises(UserError, match="nobody-here"):
        weights.load("~nobody-here/weights")
