"""Steering by hand: an episode under given codes, the map of codes, the page and its server."""

from __future__ import annotations

import json
import re
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from browsing import get, pages, served

from irl_ray.analysis.steered import SteeredEpisode, code_map, probe_layers
from irl_ray.cli import steer
from irl_ray.cli.irl_ray import main, parser
from irl_ray.errors import UserError
from irl_ray.internal.internal_env import InternalVectorEnv
from irl_ray.models import weights
from irl_ray.models.code_policy import CodePolicy, CodePolicyConfig

GREEDY = 1e-4  # of actions, so that none is left to chance


@pytest.fixture
def episode(tiny_agent, tiny_world) -> SteeredEpisode:
    return SteeredEpisode(tiny_agent, tiny_world, seed=3, temperature=GREEDY)


def codes(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 4)).astype(np.float32)


@pytest.mark.parametrize("slate", [False, True])
def test_codes_do_what_they_do_in_the_internal_environment(tiny_agent, tiny_world, slate):
    """One at first, another from the fourth step on."""
    episode = SteeredEpisode(tiny_agent, tiny_world, 3, GREEDY, clean_slate=slate)
    env = InternalVectorEnv(
        tiny_agent, tiny_world, 1, threshold=2.0, action_temperature=GREEDY, clean_slate=slate, autoreset="disabled"
    )
    env.reset(seed=[3])
    for number in range(12):
        code = codes(2)[int(number >= 3)]
        if number in (0, 3):
            env.hold(torch.tensor([0]), torch.from_numpy(code)[None])
        episode.step(code)
        step = env.advance()
        torch.testing.assert_close(episode.residual, env.residual, atol=1e-5, rtol=1e-4)
        assert bool(episode.over) == bool(step.terminated[0] or step.truncated[0])
        if episode.over:
            break
        assert episode.beta == pytest.approx(float(step.beta[0]), abs=1e-5)
    assert number > 3


def test_left_alone_the_gate_asks_and_the_policy_answers(tiny_agent, tiny_world):
    """Without a policy codes are drawn; with one that is sure of itself they are its mean."""
    episode = SteeredEpisode(tiny_agent, tiny_world, seed=5)
    while not episode.over:
        asks, code = episode.now().asks, episode.code
        episode.step(None)
        assert asks == (code is None or not np.array_equal(code, episode.code))
    policy = CodePolicy(CodePolicyConfig(tiny_agent.base.width, 4, hidden=8, log_std=-30.0))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.copy_(torch.where(parameter == -30.0, parameter, torch.randn_like(parameter)))
    sure = replace(tiny_agent, policy=policy)
    episode = SteeredEpisode(sure, tiny_world, seed=5)
    mean = policy.step(episode.residual, policy.initial_state(1), torch.zeros(1, dtype=torch.long)).chunk(2, -1)[0]
    episode.step(None)
    np.testing.assert_allclose(episode.code, mean[0].detach().numpy(), atol=1e-5)


def test_going_back_is_as_if_one_had_not_gone_on(tiny_agent, tiny_world):
    episode = SteeredEpisode(tiny_agent, tiny_world, seed=5)  # with drawn actions and codes
    given = [None, codes(1)[0], None, codes(1, 1)[0], None]
    seen = []
    for number, code in enumerate(given):
        seen.append((episode.now(), episode.frame()))
        episode.step(code, steered=number != 2)
    length = len(episode.given)
    for step in reversed(range(length)):
        episode.go_to(step)
        now, frame = episode.now(), episode.frame()
        np.testing.assert_array_equal(frame, seen[step][1])
        np.testing.assert_array_equal(now.steered, seen[step][0].steered)
        assert (now.beta, len(episode.given)) == (seen[step][0].beta, step)
    episode.go_to(-1)
    assert episode.given == []


def test_looking_changes_nothing(episode):
    other = SteeredEpisode(episode.agent, episode.world, 3, GREEDY)
    for code in codes(5):
        episode.now(), episode.now(), episode.frame()
        episode.step(code), other.step(code)
        torch.testing.assert_close(episode.residual, other.residual)


def test_a_code_changes_what_it_is_compared_with(episode):
    before = episode.now()
    np.testing.assert_array_equal(before.steered, before.free)  # none is in force yet
    episode.step(codes(1)[0])
    now = episode.now()
    assert not episode.over and np.abs(now.steered - now.free).max() > 1e-4
    assert episode.decisions == 1
    episode.step(codes(1)[0])
    assert episode.decisions == 1  # the same code goes on


def test_the_map_tells_what_codes_lead_to(tiny_agent, tiny_world):
    found = code_map(tiny_agent, tiny_world, 3, GREEDY, count=24)
    kinds = [found.codes[found.outcome == kind].mean(0) for kind in set(found.outcome[found.outcome >= 0].tolist())]
    if len(kinds) == 2:  # codes that lead elsewhere lie apart in the plane
        assert np.linalg.norm(found.axes @ (kinds[0] - kinds[1])) > 0
    assert len(set(found.outcome.tolist())) > 1
    np.testing.assert_allclose(found.axes @ found.axes.T, np.eye(2), atol=1e-5)
    np.testing.assert_allclose(found.place, found.codes @ found.axes.T, atol=1e-5)
    for code, outcome in zip(found.codes[:8], found.outcome):
        episode = SteeredEpisode(tiny_agent, tiny_world, 3, GREEDY)
        episode.env.free = True
        while episode.entered < 0 and not episode.over and len(episode.given) < 40:
            episode.step(code)
        assert episode.entered == outcome


def test_probes_read_subgoals(tiny_agent, tiny_world):
    batch = tiny_world.demonstrations(noise=0.0, ties="rule", device="cpu").sample(64, torch.Generator().manual_seed(0))
    probe = probe_layers(tiny_agent, batch)
    episode = SteeredEpisode(tiny_agent, tiny_world, 3, GREEDY, probe)
    belief = episode.now().belief
    assert belief.shape == (tiny_agent.base.num_layers - tiny_agent.metacontroller.layer + 1, tiny_world.num_subgoals)
    np.testing.assert_allclose(belief.sum(1), 1, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_actions_are_shown_as_they_are_drawn(tiny_agent, tiny_world, temperature):
    """Probabilities at the temperature; the highest logit's grow as it falls."""
    episode = SteeredEpisode(tiny_agent, tiny_world, 3, temperature)
    episode.step(codes(1)[0])
    now, shown = episode.now(), steer._state(episode)
    for logits, probabilities in ((now.steered, shown["steered"]), (now.free, shown["free"])):
        expected = torch.from_numpy(logits / temperature).softmax(-1)
        np.testing.assert_allclose(probabilities, expected, atol=1e-4)


def test_weights_without_codes_are_refused(tiny_agent, tiny_world):
    bare = weights.Artefact(tiny_agent.world, tiny_agent.base)
    with pytest.raises(UserError, match="metacontroller"):
        SteeredEpisode(bare, tiny_world)


# The server.


@pytest.fixture
def address(tiny_weights) -> Iterator[str]:
    options = parser().parse_args(["steer", str(tiny_weights), "--port", "0", "--no-browser", "--seed", "3"])
    server = steer.serve(options)
    with served(server) as there:
        yield there


def test_the_page_asks_nobody_else(address):
    for path, expected in (("/", "html"), ("/page.css", "css"), ("/page.js", "javascript")):
        status, page, kind = get(address + path)
        assert (status, kind) == (200, f"text/{expected}; charset=utf-8")
        assert not re.search(rb"https?://|//[a-z]+\.[a-z]+/", page)


def test_an_episode_over_the_wire(address):
    (model,) = json.loads(get(address + "/models")[1])
    assert model["codeSize"] == 4 and model["choices"] and not model["policy"]
    state = json.loads(get(address + "/start", {"model": 0, "seed": 7})[1])
    assert (state["seed"], state["step"], state["code"]) == (7, 0, None)
    assert sum(state["steered"]) == pytest.approx(1, abs=1e-3) and state["belief"]
    state = json.loads(get(address + "/step", {"model": 0, "code": [1, 0, 0, -1]})[1])
    assert (state["step"], state["code"]) == (1, [1, 0, 0, -1])
    assert json.loads(get(address + "/state?model=0")[1]) == state
    assert get(address + "/frame?model=0")[1].startswith(b"\x89PNG")
    assert get(address + "/gif?model=0")[1].startswith(b"GIF89a")
    assert json.loads(get(address + "/state?model=0")[1]) == state
    assert json.loads(get(address + "/back", {"model": 0, "step": 0})[1])["step"] == 0
    assert len(json.loads(get(address + "/map?model=0")[1])["codes"]) == 256


@pytest.mark.parametrize(
    ("path", "told", "error"),
    [
        ("/nowhere", {}, "nothing there"),
        ("/step", {"model": 4}, "model: expected below 1"),
        ("/step", {"model": "x"}, "model: expected a whole number"),
        ("/step", {"code": [1, 2]}, "expected 4 numbers"),
        ("/step", {"code": [1, 2, 3, None]}, "expected 4 numbers"),
        ("/step", {"code": "zzzz"}, "expected 4 numbers"),
        ("/start", {"seed": -1}, "seed: expected a whole number"),
        ("/step", b"[" * 200_000, "expected a JSON object"),
        ("/start", {"seed": 1.5}, "seed: expected a whole number"),
        ("/step", {"model": True}, "model: expected a whole number"),
        ("/step", {"model": 0.0}, "model: expected a whole number"),
        ("/step", b" " * (1 << 20) + b"{}", "expected at most 1048576 bytes"),
        ("/start", {"seed": 10**400}, "seed: expected a whole number"),
        ("/step", {"code": [10**400, 0, 0, 0]}, "expected 4 numbers"),
        ("/step", b"{", "expected a JSON object"),
        ("/step", [1], "expected a JSON object"),
    ],
)
def test_what_makes_no_sense_is_told(address, path, told, error):
    status, found, _ = get(address + path, told)
    assert status == 400 and error in json.loads(found)["error"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example:80"},
        {"Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_other_pages_are_neither_answered_nor_obeyed(address, headers):
    before = get(address + "/state?model=0")
    for path, told in (("/start", {"model": 0, "seed": 99}), ("/models", None), ("/start?seed=99", None), ("/", None)):
        assert get(address + path, told, **headers)[0] == 403
    assert get(address + "/state?model=0") == before


def test_looking_never_steers(address):
    """What a picture or a link of another page can ask for."""
    before = get(address + "/state?model=0")
    assert get(address + "/start?seed=99")[0] == get(address + "/step?model=0")[0] == 400
    assert get(address + "/step", {"model": 0}, **{"Content-Type": "text/plain"})[0] == 400
    assert get(address + "/state?model=0") == before


def test_a_silent_connection_holds_nobody_up(address):
    host, port = address.removeprefix("http://").split(":")
    assert host == "127.0.0.1"
    with socket.create_connection((host, int(port))):
        assert get(address + "/models")[0] == 200


def test_a_page_that_is_closed_meanwhile_costs_no_word(address, capfd):
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as leaving:
        leaving.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, not an end
        leaving.sendall(b"GET /map?model=0 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        time.sleep(0.05)
    assert get(address + "/map?model=0")[0] == 200
    time.sleep(0.05)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--port", "99999"], "--port 99999: expected 0 to 65535"),
        (["--seed", "-1"], "--seed: expected a whole number"),
        (["--temperature", "0"], "--temperature: expected a number above 0"),
        (["--data", "nowhere"], "nowhere"),
    ],
)
def test_arguments_that_make_no_sense_cost_one_line(arguments, told, tiny_weights, capsys):
    assert main(["steer", str(tiny_weights), "--no-browser", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_a_taken_port_costs_one_line(address, tiny_weights, capsys):
    port = address.rpartition(":")[2]
    assert main(["steer", str(tiny_weights), "--port", port, "--no-browser"]) == 2
    assert f"--port {port}: " in capsys.readouterr().err


def test_in_a_browser(address):
    """Keyboard, mouse, both colour schemes; the console stays empty."""
    for page, expect in pages(address):
        count = page.locator(".count")
        expect(count).to_contain_text("of")
        page.keyboard.press("n")
        expect(count).to_contain_text("0 of")
        page.keyboard.press("ArrowRight")
        expect(count).to_contain_text("1 of")
        page.keyboard.press("ArrowLeft")
        expect(count).to_contain_text("0 of")
        box = page.locator("canvas").bounding_box()
        page.mouse.click(box["x"] + 0.7 * box["width"], box["y"] + 0.3 * box["height"])
        expect(page.locator("#hold")).to_have_attribute("aria-pressed", "true")
        page.locator("#step").click()
        expect(page.locator(".code")).not_to_have_text("none")
        page.keyboard.press("l")
        expect(page.locator("#own")).to_have_attribute("aria-pressed", "true")
