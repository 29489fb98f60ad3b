"""Watching a run: curves as they are written, an episode of its newest weights, the page."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browsing import get, pages, served

from irl_ray.analysis.steered import code_map
from irl_ray.cli import film, runs, watch
from irl_ray.cli.evaluation import evaluation_world
from irl_ray.cli.irl_ray import main, parser
from irl_ray.errors import UserError
from irl_ray.internal.agent import Agent
from irl_ray.models import weights
from irl_ray.models.code_policy import CodePolicy, CodePolicyConfig

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
    """What the page is told; it asks for the run first."""
    watched.look("/run", {})
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
    assert (trial["label"], trial["seconds"], trial["left"]) == ("0 seed=0", 20, None)  # nobody is running it
    result.write_text(row(100) + row(200, float("nan")) + row(300))
    assert [point[0] for point in told(watched)["trials"][0]["points"]] == [100, 200, 300]


@pytest.mark.parametrize("again", ["shorter", "longer", "behind it"])
def test_a_run_that_goes_on_from_before_its_end_is_drawn_once(run, again):
    result, watched = run / TRIAL.format(0) / "result.json", watch.Watched(str(run), 0)
    result.write_text(row(100) + row(200) + row(300))
    assert len(told(watched)["trials"][0]["points"]) == 3
    if again == "behind it":
        with result.open("a") as file:
            file.write(row(150, 0.5) + row(250, 0.5))
    else:
        more = "".join(row(n, 0.5) for n in range(350, 950, 100))
        result.write_text(row(100) + row(150, 0.5) + row(250, 0.5) + (more if again == "longer" else ""))
    points = told(watched)["trials"][0]["points"]
    assert [point[0] for point in points][:3] == [100, 150, 250] and points[1][1] == 0.5
    assert len(points) == (9 if again == "longer" else 3)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "[1]",
        "null",
        "7",
        '{"time_total_s": NaN}',
        '{"time_total_s": "x", "progress": "y"}',
        "9" * 5000,
        "\ud800",
    ],
)
def test_a_line_that_is_none_costs_no_other(run, line):
    result, watched = run / TRIAL.format(0) / "result.json", watch.Watched(str(run), 0)
    with runs.held(str(run)):
        result.write_bytes(row(100).encode() + line.encode(errors="surrogatepass") + b"\n")
        told(watched)
        with result.open("a") as file:
            file.write(row(200, True) + row(300, 10**400))  # numbers that are none
        points = told(watched)["trials"][0]["points"]
    kept = [point[:2] for point in points if point[0] is not None]
    assert kept == [[100, 0.25], [200, None], [300, None]]


def test_time_is_left_to_what_goes_on(run):
    """To a trial of a run that somebody is running, until its last row says done, or Tune that it has ended."""
    result, watched = run / TRIAL.format(0) / "result.json", watch.Watched(str(run), 0)
    result.write_text(row(200))
    state = {"trial_data": [[json.dumps({"trial_id": "1a2b3_00000", "status": "TERMINATED"}), "{}"]]}
    with runs.held(str(run)):
        assert told(watched)["trials"][0]["left"] == 80  # of 1,000 episodes 200 in 20 s
        record = runs.read_record(str(run))
        runs.write_record(str(run), {**record, "changed": {"stop": {"env_runners/num_episodes_lifetime": 400}}})
        assert told(watched)["trials"][0]["left"] == 20  # carried on with another stop
        (run / "experiment_state-2026.json").write_text(json.dumps(state))
        assert told(watched)["trials"][0]["left"] is None
        (run / "experiment_state-2026.json").write_text("{}")
        assert told(watched)["trials"][0]["left"] == 20
        with result.open("a") as file:
            file.write(row(300, done=True))
        assert told(watched)["trials"][0]["left"] is None


def test_long_curves_are_thinned_and_keep_their_end(run):
    (run / TRIAL.format(0) / "result.json").write_text("".join(row(n) for n in range(1, 1 + 5 * watch.POINTS)))
    points = told(watch.Watched(str(run), 0))["trials"][0]["points"]
    assert len(points) == watch.POINTS and points[-1][0] == 5 * watch.POINTS


def test_curves_of_many_trials_are_thinned_further(tmp_path):
    run = make_run(tmp_path, trials=60)
    for folder in run.glob("Int*"):
        (folder / "result.json").write_text("".join(row(n) for n in range(1, 201)))
    found = [len(trial["points"]) for trial in told(watch.Watched(str(run), 0))["trials"]]
    assert len(found) == 60 and max(found) <= watch.ALL_POINTS / 60 and min(found) >= watch.FEWEST


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
    for looking in (fcntl.LOCK_SH, fcntl.LOCK_EX):  # others that look are no one who runs it
        descriptor = os.open(run, os.O_RDONLY)
        fcntl.flock(descriptor, looking)
        assert runs.is_held(str(run)) == (looking == fcntl.LOCK_EX)
        os.close(descriptor)
    ended = {"trial_data": [[json.dumps({"trial_id": "a", "status": "TERMINATED"}), "{}"]]}
    (run / "experiment_state-2026.json").write_text(json.dumps(ended))
    assert told(watched)["state"] == "finished"
    with runs.held(str(run)):  # for longer
        assert told(watched)["state"] == "running"


def test_an_episode_of_the_newest_weights(run, tiny_weights):
    watched = watch.Watched(str(run), 3)
    assert "no checkpoint yet" in told(watched, "/episode")["why"]
    with_weights(run, tiny_weights)
    first = told(watched, "/episode")
    assert len(first["betas"]) == len(first["codes"]) == first["steps"]
    assert first["number"] == 1 and not first["chosen"]
    assert watched.look("/frame", {"step": first["steps"], "of": 1})[1].startswith(b"\x89PNG")
    for asked in ({"step": first["steps"] + 1, "of": 1}, {"step": 0, "of": 2}, {"step": 0}):
        with pytest.raises(UserError, match="step: expected below"):
            watched.look("/frame", asked)
    assert told(watched, "/episode") == first  # not lived again
    place = with_weights(run, tiny_weights, checkpoint=1)
    assert told(watched, "/episode") == {**first, "number": 2}  # the same weights, the same layout
    os.utime(place / "config.json", (9, 9))  # written anew
    assert told(watched, "/episode")["number"] == 3
    watched.look("/frame", {"step": 0, "of": 2})  # of the one before, until the page has turned to this one
    with pytest.raises(UserError):
        watched.look("/frame", {"step": 0, "of": 1})


def test_it_is_the_episode_of_an_agent_as_it_is_trained(tiny_agent):
    """Sampled codes, the tasks and temperature of its RL, layout and draws of the seed; the map from where it began."""
    policy = CodePolicy(CodePolicyConfig(32, 4, hidden=8, action_temperature=0.3))
    told_tasks = {"InternalRL": {"env_config": {"preset": "tiny", "tasks": [[1, 0]]}}}
    agent = replace(tiny_agent, policy=policy, provenance=told_tasks)
    world = evaluation_world(agent, {})
    assert world.tasks == ((1, 0),)
    episode = watch.lived(agent, world, 3)
    env, acting, frames = world.drawn_row(), Agent(agent, 3), []
    assert film.walk(env, acting, 3, lambda: frames.append(env.frame(acting.beta, acting.decisions))) == episode.success
    assert len(episode.frames) == len(frames) + 1 and episode.chosen
    for ours, theirs in zip(episode.frames, [*frames, env.frame(code=acting.decisions)]):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_allclose(episode.codes[-1], acting.code, atol=1e-3)
    assert episode.map == code_map(agent, world, 3, 0.3).told(world)


def test_checkpoints_may_go_while_one_looks(run, tiny_weights):
    """Tune removes old ones, and copies new ones file by file: the episode of before stays."""
    watched = watch.Watched(str(run), 3)
    place = with_weights(run, tiny_weights)
    config = (place / "config.json").read_text()
    (place / "model.safetensors").rename(place / "x")
    assert "model.safetensors: missing" in told(watched, "/episode")["why"]
    (place / "x").rename(place / "model.safetensors")
    first = told(watched, "/episode")
    (place / "config.json").write_text(config[:40])
    assert told(watched, "/episode") == first
    shutil.rmtree(place.parent)
    assert told(watched, "/episode") == first


def test_why_there_is_no_episode(run, tmp_path):
    watched = watch.Watched(str(run), 3)
    place = run / TRIAL.format(0) / "checkpoint_000000"
    place.mkdir()
    (place / "rllib_checkpoint.json").write_text("{}")
    assert "RLlib's own" in told(watched, "/episode")["why"]
    shutil.copytree(weights.resolve("ant_expert"), place / "artefact")
    assert "an expert has no codes" in told(watched, "/episode")["why"]


def test_the_next_run_of_a_file_is_followed(tmp_path):
    first = make_run(tmp_path)
    watched = watch.Watched(str(tmp_path), 0)
    named = watch.Watched(str(first), 0)
    assert told(watched)["name"] == first.name
    time.sleep(0.01)
    second = make_run(tmp_path, trials=2, name="internal_20260101-120001")
    assert (told(watched)["name"], len(told(watched)["trials"])) == (second.name, 2)
    assert told(named)["name"] == first.name
    (second / runs.RECORD).write_text("{")  # what cannot be read keeps nobody from watching the others
    (tmp_path / "x_99999999-999999").mkdir()
    assert told(watched)["name"] == first.name


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
    for place, error in ((tmp_path, "no results of rllib train"), ("s3://bucket/run", "not on this machine")):
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
    with urllib.request.urlopen(address) as answer:
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]


def test_what_fails_is_told_and_the_page_goes_on(address, run, capfd):
    moved = run.rename(run.with_name("elsewhere"))
    status, found, _ = get(address + "/run")
    assert status in (400, 500) and json.loads(found)["error"]
    moved.rename(run)
    assert get(address + "/run")[0] == 200 and capfd.readouterr().err == ""


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
