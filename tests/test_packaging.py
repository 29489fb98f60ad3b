"""What an installed package holds: the package, and two folders that lie beside it in a checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
BESIDE = ("cluster", "tuned_configs")


def test_every_package_is_named():
    tomllib = pytest.importorskip("tomllib")
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    there = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in ROOT.glob("irl_ray/**/*.py")}
    assert set(told["packages"]) == there | {f"irl_ray.{name}" for name in BESIDE}
    assert told["package-dir"] == {f"irl_ray.{name}": name for name in BESIDE}
    assert set(told["package-data"]) == {"irl_ray", "irl_ray.cli", *told["package-dir"]}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The content of a wheel that was built from what a checkout has."""
    if int(metadata.version("setuptools").split(".")[0]) < 77:
        pytest.skip("setuptools is older than pyproject.toml asks for")
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name in ("irl_ray", *BESIDE):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(site)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (wheel,) = site.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    return site


def test_a_wheel_holds_what_a_checkout_does(installed: Path):
    wanted = {path.relative_to(ROOT) for path in files(ROOT / "irl_ray")}
    wanted |= {Path("irl_ray") / path.relative_to(ROOT) for name in BESIDE for path in files(ROOT / name)}
    assert wanted == {path.relative_to(installed) for path in files(installed / "irl_ray")}


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]


def test_examples_of_a_wheel_are_found_from_an_empty_folder(installed: Path, tmp_path: Path):
    environment = {**os.environ, "PYTHONPATH": str(installed)}

    def said(*words: str) -> str:
        line = [sys.executable, "-m", "irl_ray.cli.rllib", *words]
        return subprocess.run(line, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout

    files = {path.stem: path for path in ROOT.glob("tuned_configs/*.yaml")}
    listed = [line.split()[0] for line in said("example", "list").splitlines() if not line.startswith(" ")]
    assert listed == sorted(files)
    assert yaml.safe_load(said("example", "get", "ant_internal")) == yaml.safe_load(files["ant_internal"].read_text())
    read = (
        "import irl_ray\nfrom irl_ray.cli import experiment\nfrom irl_ray.analysis import results\n"
        "print(irl_ray.__file__, experiment.read_file('gridworld_internal')[0].run, "
        "len(results.read([results.KEPT]).experiments) > 20)"
    )
    done = subprocess.run([sys.executable, "-c", read], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == [str(installed / "irl_ray" / "__init__.py"), "InternalRL", "True"], done.stderr
