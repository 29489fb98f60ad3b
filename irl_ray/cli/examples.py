"""The experiments that come along: `tuned_configs`, inside an installed package or beside it in a checkout."""

from __future__ import annotations

from pathlib import Path

from irl_ray.errors import UserError, did_you_mean

_PACKAGE = Path(__file__).resolve().parent.parent


def come_along(name: str) -> Path:
    """The folder `tuned_configs` or `cluster`."""
    installed = _PACKAGE / name
    return installed if installed.is_dir() else _PACKAGE.parent / name


def examples() -> dict[str, Path]:
    """The files of `tuned_configs` by name."""
    return {path.stem: path for path in sorted(come_along("tuned_configs").glob("*.yaml"))}


def example(name: str) -> Path:
    """The file of one example.

    Raises:
        UserError: if there is none of that name.
    """
    found = examples()
    if name not in found:
        raise UserError(f"example {name!r}: unknown.{did_you_mean(name, found)} rllib example list shows all")
    return found[name]


def experiment_file(named: str | Path) -> Path:
    """A file of experiments: its path, or the name of an example.

    Raises:
        UserError: if it is neither.
    """
    path, found = Path(named).expanduser(), examples()
    if path.is_file():
        return path
    if str(named) in found:
        return found[str(named)]
    beside = [str(p) for p in sorted(path.parent.glob("*.yaml"))]
    meant = did_you_mean(str(path), beside) or did_you_mean(path.stem, found)
    raise UserError(f"{path}: no such file, and no example of that name.{meant}")
