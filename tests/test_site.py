"""The pages: commands that can be typed, files that are there, a site that builds strictly and needs no network."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from irl_ray.cli import irl_ray, rllib

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "irl_ray" / "docs").glob("*.md"))]
PARSERS = {"rllib": rllib.parser, "irl-ray": irl_ray.parser}


def blocks(page: Path) -> list[str]:
    """Lines of a page's shell blocks, continued ones joined."""
    found = re.findall(r"^```bash\n(.*?)^```", page.read_text(), re.M | re.S)
    return [line for block in found for line in block.replace("\\\n", " ").splitlines()]


def commands(page: Path) -> list[list[str]]:
    """Words of each command of ours that a page has in a shell block."""
    parts = [part for line in blocks(page) for part in re.split(r"&&|;(?=\s)", line)]
    words = [shlex.split(part, comments=True) for part in parts if re.match(r"\s*(rllib|irl-ray) ", part)]
    return [command for command in words if not any("|" in word for word in command)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_on_a_page_are_understood(page: Path):
    """By their parsers; what they name among the files that come along is there."""
    for program, *words in commands(page):
        own = words[: words.index("--")] if "--" in words else words
        PARSERS[program]().parse_args(own)
    for name in re.findall(r"tuned_configs/(\w+\.yaml)", page.read_text()):
        assert (ROOT / "tuned_configs" / name).is_file(), f"{page.name}: tuned_configs/{name}"


def test_the_method_names_tests_that_are_there():
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", (ROOT / "irl_ray" / "docs" / "method.md").read_text())
    assert len(named) > 15
    assert [name for name in named if f"def {name}(" not in tests] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_on_github_too(page: Path):
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", re.sub(r"`[^`]*`", "", page.read_text()))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_readme_is_two_screens():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 70


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    line = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    found = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr  # mkdocs.yml is strict: a dead link is an error
    return folder


def test_the_site_asks_the_network_for_nothing(site: Path):
    assert {"index.html", "start.html", "api.html", "commands.html", "settings.html"} <= {
        p.name for p in site.iterdir()
    }
    for page in site.glob("*.html"):
        loaded = re.findall(
            r"<(?:script|img|iframe)[^>]*\ssrc=\"https?:|<link[^>]*stylesheet[^>]*https?:", page.read_text()
        )
        assert loaded == [], page.name


def test_pictures_of_the_site_are_there(site: Path):
    for page in site.glob("*.html"):
        for source in re.findall(r"<img[^>]*\ssrc=\"([^\"]+)", page.read_text()):
            assert (site / source).is_file(), (page.name, source)


def test_every_setting_and_argument_has_a_meaning(site: Path):
    for name in ("settings.html", "commands.html"):
        rows = re.findall(r"<tr>\s*<td>(.*?)</tr>", (site / name).read_text(), re.S)
        cells = [[re.sub(r"<[^>]+>", "", cell).strip() for cell in re.split(r"</td>\s*<td>", row)] for row in rows]
        assert len(cells) > 100
        assert [row for row in cells if name == "settings.html" and not row[-1]] == []
