"""Watching a run: curves as they are written, an episode of its newest weights, the page."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from browsing import get, pages, served

from irl_ray.cli import runs, watch
from irl_ray.cli.irl_ray import main, parser
from irl_ray.errors import UserError
from irl_ray.internal.sampler import sample_code_episodes
from irl_ray.models import weights

TRIAL = "InternalRL_internal_1a2b3_0000{0}_{0}_seed={0}_2026-01-01_12-00-00"


def row(episodes: int, success: float | None = 0.25, **more: object) -> str:
    """A line of a trial's results."""
    env_runners = {"num_episodes_lifetime": episodes, "success_rate": success, "codes_per_episode": 3.5}
    return json.dumps({"env_runners": env_runners, "time_total_s": episodes / 10, **more}) + "\n"


def make_run(storage: Path, trials: int = 1, name: str = "internal_20260101-120000") -> Path:
    folder = storage / name
    for number in range(trials):
        (folder / TRIAL.format(number)).mkdir(parents=True)
        (folder / TRIAL.format(number) / "params.json").write_text("{}")
    stop = {"env_runners/num_episodes_lifetime": 1000}
    record = {"folder": str(folder), "started": time.time(), "trials": trials, "changed": {}}
    runs.write_record(str(folder), {**record, "experiment": {"name": "internal", "config": {}, "stop": stop}})
    return folder


@pytest.fixture
def run(tmp_path) -> Path:
    return make_run(tmp_path / "results")


def with_weights(run: Path, tiny_weights: Path, number: int = 0, checkpoint: int = 0) -> Path:
    place = run / TRIAL.format(number) / f"checkpoint_{checkpoint:06}" / "artefact"
    shutil.copytree(tiny_weights, place)
    os.utime(place / "config.json", (checkpoint + 1, checkpoint + 1))
    return place


def told(watched: watch.Watched, path: str = "/run", **asked: object) -> dict:
    return json.loads(watched.look(path, asked)[1])


def test_curves_grow_with_what_is_written(run):
    result, watched = run / TRIAL.format(0) / "result.json", watch.Watched(str(run), 0)
    (trial,) = told(watched)["trials"]
    assert trial["points"] == [] and trial["left"] is None
    result.write_text(row(100) + row(200, float("nan")) + row(300)[:20])  # the third line is being written
    state = told(watched)
    (trial,) = state["trials"]
    assert state["over"] == "episodes" and state["charts"] == ["success", "codes/ep", "legs/ep", "entropy", "KL"]
    assert [point[:3] for point in trial["points"]] == [[100, 0.25, 3.5], [200, None, 3.5]]
    assert trial["points"][0][3:] == [None] * 3  # what is not reported
    assert (trial["label"], trial["seconds"], trial["left"]) == ("0 seed=0", 20, 80)  # 200 of 1,000 in 20 s
    result.write_text(row(100) + row(200, float("nan")) + row(300))
    assert [point[0] for point in told(watched)["trials"][0]["points"]] == [100, 200, 300]
    result.write_text(row(100))  # carried on from before its end
    assert [point[0] for point in told(watched)["trials"][0]["points"]] == [100]


def test_long_curves_are_thinned_and_keep_their_end(run):
    (run / TRIAL.format(0) / "result.json").write_text("".join(row(n) for n in range(1, 1 + 5 * watch.POINTS)))
    points = told(watch.Watched(str(run), 0))["trials"][0]["points"]
    assert len(points) == watch.POINTS and points[-1][0] == 5 * watch.POINTS


def test_trials_that_begin_later_are_seen(run):
    watched = watch.Watched(str(run), 0)
    assert len(told(watched)["trials"]) == 1
    later = run / TRIAL.format(1)
    later.mkdir()
    assert [trial["label"] for trial in told(watched)["trials"]] == ["0 seed=0", "1 seed=1"]


def test_the_state_of_a_run(run):
    watched = watch.Watched(str(run), 0)
    assert told(watched)["state"] == "stopped"
    with runs.held(str(run)):
        assert told(watched)["state"] == "running"
    ended = {"trial_data": [[json.dumps({"status": "TERMINATED"}), "{}"]]}
    (run / "experiment_state-2026.json").write_text(json.dumps(ended))
    assert told(watched)["state"] == "finished"
    with runs.held(str(run)):  # for longer
        assert told(watched)["state"] == "running"


def test_an_episode_of_the_newest_weights(run, tiny_weights, tiny_world):
    watched = watch.Watched(str(run), 3)
    with pytest.raises(UserError, match="no checkpoint yet"):
        watched.look("/episode", {})
    with_weights(run, tiny_weights)
    first = told(watched, "/episode")
    agent = weights.load(tiny_weights)
    expected = sample_code_episodes(agent, None, tiny_world, [3], threshold=0.5, action_temperature=1.0)
    assert first["steps"] <= tiny_world.horizon and len(first["betas"]) == len(first["codes"]) == first["steps"]
    assert first["number"] == 1 and len(first["map"]["codes"]) == 256 and len(expected) == 1
    assert watched.look("/frame", {"step": first["steps"]})[1].startswith(b"\x89PNG")
    with pytest.raises(UserError, match="step: expected below"):
        watched.look("/frame", {"step": first["steps"] + 1})
    assert told(watched, "/episode") == first  # not lived again
    with_weights(run, tiny_weights, checkpoint=1)
    again = told(watched, "/episode")
    assert again == {**first, "number": 2}  # the same weights, the same layout


def test_codes_in_force_are_those_of_the_gate(run, tiny_weights):
    with_weights(run, tiny_weights)
    episode = told(watch.Watched(str(run), 3), "/episode")
    for beta, before, code in zip(episode["betas"][1:], episode["codes"], episode["codes"][1:]):
        assert (beta >= 0.5) == (before != code)


def test_a_model_without_codes_has_an_episode_and_no_map(run, tiny_agent):
    place = run / TRIAL.format(0) / "checkpoint_000000" / "artefact"
    weights.save(weights.Artefact(tiny_agent.world, tiny_agent.base), place)
    episode = told(watch.Watched(str(run), 3), "/episode")
    assert episode["map"] is None and episode["betas"] == [] and episode["steps"] > 0


def test_which_run_is_watched(tmp_path, run, monkeypatch):
    assert watch.newest(str(run)) == str(run)
    time.sleep(0.01)
    other = make_run(run.parent, name="another_20250101-120000")
    assert watch.newest(str(run.parent)) == str(other)  # by when it began, not by its name
    monkeypatch.chdir(tmp_path)
    assert Path(watch.newest(None)).resolve() == other
    for place, error in ((tmp_path, "no results of rllib train"), ("s3://bucket/run", "of this machine")):
        with pytest.raises(UserError, match=error):
            watch.newest(str(place))


def test_what_makes_no_sense_costs_one_line(run, tmp_path, capsys):
    for arguments, error in (
        ([str(tmp_path / "nowhere")], "no results of rllib train there"),
        ([str(run), "--seed", "-1"], "--seed: expected a whole number"),
        ([str(run), "--port", "99999"], "--port 99999"),
    ):
        assert main(["watch", "--no-browser", *arguments]) == 2
        assert error in capsys.readouterr().err


@pytest.fixture
def address(run, tiny_weights):
    (run / TRIAL.format(0) / "result.json").write_text(row(100) + row(200, 0.5))
    with_weights(run, tiny_weights)
    options = parser().parse_args(["watch", str(run), "--port", "0", "--no-browser"])
    with served(watch.serve(options)) as there:
        yield there


def test_over_the_wire(address):
    status, page, _ = get(address + "/")
    assert status == 200 and not re.search(rb"https?://(?!www.w3.org/2000/svg)|//[a-z]+\.[a-z]+/", page)
    assert json.loads(get(address + "/run")[1])["trials"][0]["points"][-1][0] == 200
    for path, posted in (("/nowhere", None), ("/episode?trial=5", None), ("/frame?step=x", None), ("/run", {})):
        assert get(address + path, posted)[0] == 400
    assert get(address + "/run", None, Host="evil.example")[0] == 403


def test_in_a_browser(address, run):
    """Curves, the episode by keyboard and mouse, and a line that comes while one looks."""
    for number, (page, expect) in enumerate(pages(address)):
        expect(page.locator("#name")).to_have_text(run.name)
        expect(page.locator(".chart polyline")).to_have_count(2)  # of what has been reported
        expect(page.locator("#count")).to_contain_text("of")
        page.keyboard.press(" ")
        expect(page.locator("#play")).to_have_attribute("aria-pressed", "false")
        page.locator("#at").fill("0")
        expect(page.locator("#count")).to_contain_text("0 of")
        page.keyboard.press("Tab")  # off the slider, which has arrow keys of its own
        page.keyboard.press("ArrowRight")
        expect(page.locator("#count")).to_contain_text("1 of")
        page.locator("#back").click()
        expect(page.locator("#count")).to_contain_text("0 of")
        with (run / TRIAL.format(0) / "result.json").open("a") as file:
            file.write(row(300 + number, 0.75))
        expect(page.locator(".chart h2 span").first).to_have_text("0.750", timeout=10_000)
        assert np.isfinite(page.locator("canvas").bounding_box()["width"])
