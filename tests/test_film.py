"""Episodes as pictures: what is told under them, and the files they become."""

import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from irl_ray.cli import film
from irl_ray.cli.rllib import main
from irl_ray.errors import UserError
from irl_ray.worlds.pinpad.ant import AntPinpadVectorEnv
from irl_ray.worlds.pinpad.gridworld import GridPinpadVectorEnv

UP, DOWN = 0, 2


def gridworld(colours: list[int], agent: int, horizon: int = 9) -> GridPinpadVectorEnv:
    """Three by three cells, two colours, the task 0-1; a layout as given."""
    world = {"grid_size": 3, "num_colours": 2, "num_walls": 0, "horizon": horizon, "tasks": [[0, 1]]}
    env = GridPinpadVectorEnv(1, **world, colours_per_subgoal=1, autoreset="disabled")
    env.reset(seed=0)
    env.entities[0] = [*colours, agent]
    env._colour_at[:] = -1
    env._colour_at[0, colours] = [0, 1]
    return env


@pytest.mark.parametrize(
    "env, actions, outcome",
    [
        (gridworld([3, 6], 0), [DOWN, DOWN], "done"),
        (gridworld([6, 3], 0), [DOWN], "wrong colour"),
        (gridworld([3, 6], 1, horizon=2), [UP, UP], "time"),
        (gridworld([3, 6], 0), [DOWN], ""),
    ],
)
def test_a_picture_tells_how_an_episode_ended(env, actions, outcome):
    before = env.frame(0.2, 1)
    for action in actions:
        env.step(np.array([action]))
    caption = env.caption(0.2, 4)
    assert (caption.outcome, caption.step, caption.code) == (outcome, len(actions), 4)
    after = env.frame(0.2, 4)
    assert after.shape == before.shape and after.dtype == np.uint8
    env.step(np.array([UP]))  # one that is over waits, and keeps saying why
    assert env.caption().outcome == outcome
    env.reset(seed=1)
    assert env.caption().outcome == "" and env.caption().step == 0


@pytest.mark.parametrize(
    "place, outcome", [((9.0, 0.0, 0.55), "off grid"), ((0.1, 0.1, 3.0), "fallen"), ((0.1, 0.1, np.nan), "exploded")]
)
def test_an_ant_tells_how_its_episode_ended(place, outcome):
    env = AntPinpadVectorEnv(1, preset="tiny", autoreset="disabled")
    env.reset(seed=0)
    env.physics[0, 1:4] = place
    env.step(np.zeros((1, 8)))
    assert env.caption().outcome == outcome


def test_a_new_episode_of_itself_forgets_the_outcome():
    env = GridPinpadVectorEnv(1, preset="tiny")
    env.reset(seed=0)
    while not env.caption().outcome:
        env.step(np.array([DOWN]))
    env.step(np.array([DOWN]))
    assert env.caption().outcome == "" and env.caption().step == 0


def test_bad_names_are_refused_before_anything_is_computed(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("x")
    for name, culprit in (
        ("x.png", ".gif or .mp4"),
        ("x", ".gif or .mp4"),
        ("file/x.gif", "cannot be written"),
        (".gif", ".gif or .mp4"),
    ):
        with pytest.raises(UserError, match=culprit):
            film.check(str(tmp_path / name))
    (tmp_path / "folder.gif").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        film.check(str(tmp_path / "folder.gif"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"irl_ray\[video\]"):
        film.check(str(tmp_path / "x.mp4"))
    film.check(str(tmp_path / "made" / "x.gif"))
    assert (tmp_path / "made").is_dir() and not list((tmp_path / "made").iterdir())
    for flag in ("--render", "--out"):
        assert main(["evaluate", "gridworld", "--episodes", "1000000", flag, str(tmp_path / "file" / "x.gif")]) == 2
        assert flag in capsys.readouterr().err


@pytest.mark.parametrize("good, drawn", [([], 19), ([4, 7], 4)])
def test_the_first_that_succeeds_is_drawn_else_the_last(good, drawn, monkeypatch):
    walked, looked = [], []

    def walk(env, agent, seed, look=None):
        walked.append(seed)
        if look is not None:
            looked.append(seed)
            look()
        return seed in good

    monkeypatch.setattr(film, "walk", walk)
    monkeypatch.setattr(film, "Agent", lambda *given: SimpleNamespace(beta=None, decisions=0))
    frames = film.record(None, gridworld([3, 6], 0).world, 0, True)
    assert len(frames) == 1 + film.HELD  # the end stays
    assert looked == [walked[-1]] == [drawn] and walked[:-1] == list(range(drawn + 1))


def pictures() -> list[np.ndarray]:
    """An episode of three steps, with its end held."""
    env = gridworld([3, 6], 0)
    frames = [env.frame(1.0, 1)]
    for action in (DOWN, DOWN):
        env.step(np.array([action]))
        frames.append(env.frame(0.1, 1))
    return [*frames, *frames[-1:] * film.HELD]


def test_a_gif_holds_its_last_picture(tmp_path):
    film.write(pictures(), str(tmp_path / "x.gif"))
    with Image.open(tmp_path / "x.gif") as image:
        assert image.n_frames == 3 and image.size == (pictures()[0].shape[1], pictures()[0].shape[0])
        image.seek(2)
        assert image.info["duration"] == (film.HELD + 1) * 1000 // film.FPS


def test_an_mp4_plays_as_long(tmp_path):
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    film.write(pictures(), str(tmp_path / "x.mp4"))
    count, seconds = ffmpeg.count_frames_and_secs(str(tmp_path / "x.mp4"))
    assert count == len(pictures()) and abs(seconds - count / film.FPS) < 0.3
    size = ffmpeg.read_frames(str(tmp_path / "x.mp4")).__next__()["size"]
    assert size == (pictures()[0].shape[1], pictures()[0].shape[0])
