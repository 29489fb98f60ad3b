"""The `irl-ray` command: what needs no Ray."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import yaml

from irl_ray.errors import UserError
from irl_ray.models import weights


def parser() -> argparse.ArgumentParser:
    """Arguments of every subcommand."""
    top = argparse.ArgumentParser(prog="irl-ray", description="Tools around internal RL.")
    commands = top.add_subparsers(dest="command", required=True)
    phase = commands.add_parser("phase", help="run a supervised phase without Ray (CPU or GPU)")
    phase.add_argument("file", help="an experiment file with run: Pretrain or Discover")
    phase.add_argument("--out", required=True, help="folder for the weights")
    phase.add_argument("--device", default=None, help="cpu or cuda")
    phase.add_argument("--steps", type=int, default=None, help="optimiser steps in place of the file's")
    phase.add_argument("--minutes", type=float, default=None, help="stop after this long")
    card = commands.add_parser("card", help="print a model card")
    card.add_argument("name", help="artefact folder, checkpoint or released name")
    curve = commands.add_parser("curve", help="success over episodes: median and quartiles over seeds")
    curve.add_argument("results", nargs="+", metavar="LABEL=FOLDER", help="results of `rllib train`")
    curve.add_argument("--out", required=True, help=".png or .svg; a .csv is written beside it")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Entry point of the console script; returns the exit code."""
    options = parser().parse_args(arguments)
    try:
        return {"phase": run_phase, "card": print_card, "curve": draw_curve}[options.command](options)
    except UserError as error:
        print(f"irl-ray: {error}", file=sys.stderr)
        return 2


def print_card(options: argparse.Namespace) -> int:
    """`irl-ray card NAME`."""
    print(weights.card(weights.load(options.name)), end="")
    return 0


def run_phase(options: argparse.Namespace) -> int:
    """`irl-ray phase FILE --out DIR`: the same phase as under Tune, as a plain loop."""
    from irl_ray.phases.discover import Discover, discover_config
    from irl_ray.phases.pretrain import Pretrain, pretrain_config

    made = {"Pretrain": (Pretrain, pretrain_config), "Discover": (Discover, discover_config)}
    path = Path(options.file)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    content = yaml.safe_load(path.read_text())
    spec = next(iter(content.values())) if isinstance(content, dict) and content else None
    if not isinstance(spec, dict) or spec.get("run") not in made:
        raise UserError(f"{path}: expected an experiment with run: Pretrain or Discover")
    values = dict(spec.get("config") or {})
    values |= {k: v for k in ("device", "steps") if (v := getattr(options, k)) is not None}
    phase_class, typed = made[spec["run"]]
    phase, started = phase_class(typed(values)), time.monotonic()
    while not phase.finished:
        metrics = phase.step()
        elapsed = time.monotonic() - started
        left = elapsed * (phase.config.steps / phase.step_number - 1)
        shown = "  ".join(f"{k} {v:.4g}" for k, v in metrics.items())
        print(f"{shown}  elapsed {elapsed:.0f}s  eta {left:.0f}s", flush=True)
        if options.minutes and elapsed > 60 * options.minutes:
            break
    gates = phase.gates()
    for name, value in gates.items():
        print(f"{name:<40}{value:.4g}")
    print(f"weights: {phase.export(options.out, gates)}")
    return 0


def draw_curve(options: argparse.Namespace) -> int:
    """`irl-ray curve internal=results/a raw=results/b --out curve.png`."""
    from irl_ray.analysis.curves import draw, read_runs

    groups = {}
    for item in options.results:
        label, _, folder = item.partition("=")
        if not folder:
            raise UserError(f"{item!r}: expected LABEL=FOLDER, such as internal=results/gridworld_internal_x")
        groups[label] = groups.get(label, []) + read_runs(Path(folder))
    print(draw(groups, Path(options.out)), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
