"""The `irl-ray` command: what starts no Ray."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from functools import partial
from pathlib import Path

import torch
import yaml

from irl_ray.cli import inside, page, steer
from irl_ray.cli.examples import experiment_file
from irl_ray.cli.text import INTERRUPTED, duration, json_object, run_command
from irl_ray.config import merge, to_plain
from irl_ray.errors import UserError
from irl_ray.models import weights
from irl_ray.phases.training import Phase

STATE, SAVE_EVERY = "state.pt", 60.0  # seconds between saved states of `irl-ray phase`


def parser() -> argparse.ArgumentParser:
    """Arguments of every subcommand."""
    top = argparse.ArgumentParser(prog="irl-ray", description="Tools around internal RL.")
    commands = top.add_subparsers(dest="command", required=True)
    phase = commands.add_parser("phase", help="run a supervised phase without Ray (CPU or GPU)")
    phase.add_argument("file", help="an experiment file, or an example's name, with run: Pretrain, Discover or CompILE")
    phase.add_argument("--out", required=True, help="folder for the weights")
    phase.add_argument("--config", type=json_object, default={}, help="settings as JSON, laid over the file's")
    phase.add_argument("--minutes", type=float, default=None, help="stop after this long")
    collect = commands.add_parser("collect", help="collect demonstrations as Parquet shards")
    collect.add_argument("env", help="such as irl_ray/AntPinpad-v0")
    collect.add_argument("--expert", required=True, help="released name, checkpoint or artefact folder")
    collect.add_argument("--episodes", type=int, required=True, help="episodes to run; successes are kept")
    collect.add_argument("--out", required=True, help="folder for the shards")
    collect.add_argument("--deterministic", action="store_true", help="mean actions (the clean expert)")
    collect.add_argument("--env-config", type=json_object, default=None, help="world settings as JSON")
    collect.add_argument("--seed", type=int, default=0)
    collect.add_argument("--threads", type=int, default=0, help="of the physics, per process")
    collect.add_argument("--workers", type=int, default=0, help="Ray workers; 0 collects in this process")
    collect.add_argument("--shard", type=int, default=4096, help="episodes per shard (default: 4096)")
    check = commands.add_parser("check", help="will a world and its demonstrations work, and what is left out?")
    check.add_argument("env", help="such as my_worlds:Chain-v0")
    check.add_argument("--env-config", type=json_object, default=None, help="its settings as JSON")
    check.add_argument("--model", metavar="MODULE:CLASS", help="a base model of one's own, held to what is relied on")
    check.add_argument("--model-config", type=json_object, default={}, help="its options as JSON")
    check.add_argument(
        "--data", metavar="SOURCE", help="minari:ID, a folder of .npz episodes, or module:function as a phase is given"
    )
    check.add_argument("--seed", type=int, default=0)
    data = commands.add_parser("data", help="look at, check or convert demonstrations")
    actions = data.add_subparsers(dest="action", required=True)
    for name, what in (("info", "what a folder holds"), ("verify", "check every shard")):
        actions.add_parser(name, help=what).add_argument("folder")
    imported = actions.add_parser("import", help="make shards of others' demonstrations")
    imported.add_argument("source", help="minari:ID, a folder of .npz episodes, or module:function that makes them")
    imported.add_argument("--episodes", type=int, help="at most so many; a function is asked for them")
    imported.add_argument("--seed", type=int, default=0, help="of a function")
    imported.add_argument("--env", required=True, help="the world they are of, such as my_worlds:Chain-v0")
    imported.add_argument("--env-config", type=json_object, default=None, help="its settings as JSON")
    imported.add_argument("--out", required=True, help="folder for the shards")
    export = actions.add_parser("export", help="convert to another format")
    export.add_argument("folder")
    export.add_argument("--minari", required=True, metavar="ID", help="as a Minari dataset, such as ant/pinpad-v0")
    export.add_argument("--limit", type=int, default=None, help="trajectories to export (default: all)")
    card = commands.add_parser("card", help="print a model card")
    card.add_argument("name", help="artefact folder, checkpoint or released name")
    inside.add_parsers(commands)
    steer.add_parser(commands, json_object)
    watch = commands.add_parser("watch", help="watch a run of rllib train while it goes on, on a page of this machine")
    watch.add_argument("result", nargs="?", help="its folder, or one of several runs (default: the newest in results)")
    watch.add_argument("--seed", type=int, default=0, help="of the layout in which its newest weights are shown")
    page.add_arguments(watch, 8766)
    curve = commands.add_parser("curve", help="success over episodes: median and quartiles over seeds")
    curve.add_argument("results", nargs="+", metavar="LABEL=FOLDER", help="results of `rllib train`")
    curve.add_argument("--out", required=True, help=".png or .svg; a .csv is written beside it")
    report = commands.add_parser("report", help="the paper's figures of ours: SVG, PNG, CSV and one HTML page")
    report.add_argument(
        "results", nargs="*", help="results of rllib train, stored results, analyses (default: those kept here)"
    )
    report.add_argument("--out", required=True, help="folder for the report")
    report.add_argument(
        "--from-nothing", metavar="RESULTS", help="run every experiment first, or what is missing of them in RESULTS"
    )
    store = commands.add_parser("store", help="keep results without checkpoints: settings, last metrics, curves")
    store.add_argument("results", nargs="+", help="results of rllib train")
    store.add_argument("--out", required=True, help="folder for the JSON files")
    economics = commands.add_parser("economics", help="what each kind of code is worth in a gridworld, before training")
    worlds = 'a world as JSON: {"preset": "medium"}; may be given several times'
    economics.add_argument("--env-config", type=json_object, action="append", help=worlds)
    economics.add_argument("--ties", default="rule", help="how the clean expert chooses: free or rule (default: rule)")
    economics.add_argument("--episodes", type=int, default=4096, help="demonstrations (default: 4096)")
    economics.add_argument("--seed", type=int, default=0)
    economics.add_argument("--alpha", type=float, default=0.1, help="α of the figure (default: 0.1)")
    economics.add_argument("--out", help="a figure, .png or .svg; the numbers go beside it as .csv")
    lessons = commands.add_parser("lessons", help="how fast a decoder learns to use each kind of code")
    lessons.add_argument("base", help="artefact folder or released name")
    lessons.add_argument("found", nargs="*", metavar="LABEL=FOLDER", help="metacontrollers whose codes are compared")
    lessons.add_argument("--out", required=True, help=".png or .svg; a .csv is written beside it")
    lessons.add_argument("--layer", type=int, default=0, help="layer at which the decoder acts (default: 0)")
    lessons.add_argument("--steps", type=int, default=800, help="optimiser steps (default: 800)")
    lessons.add_argument("--seed", type=int, default=0)
    return top


def main(arguments: list[str] | None = None) -> int:
    """Entry point of the console script; returns the exit code."""
    return run_command("irl-ray", partial(_main, arguments))


def _main(arguments: list[str] | None) -> int:
    options = parser().parse_args(arguments)
    commands = {
        "phase": run_phase,
        "collect": collect_demonstrations,
        "check": check_world,
        "data": on_demonstrations,
        "card": print_card,
        "curve": draw_curve,
        "report": write_report,
        "store": store_results,
        "economics": print_economics,
        "lessons": draw_lessons,
        "steer": steer.steer,
        "watch": watch_run,
        **dict.fromkeys(inside.COMMANDS, inside.look),
    }
    return commands[options.command](options)


def collect_demonstrations(options: argparse.Namespace) -> int:
    """`irl-ray collect ENV --expert X --episodes N --out DIR`."""
    from irl_ray.cli.demonstrations import collect

    return collect(options)


def on_demonstrations(options: argparse.Namespace) -> int:
    """`irl-ray data info|verify|export FOLDER`, `irl-ray data import SOURCE`."""
    from irl_ray.cli import check, demonstrations

    if options.action == "import":
        return check.import_data(options)
    return getattr(demonstrations, options.action)(options)


def check_world(options: argparse.Namespace) -> int:
    """`irl-ray check WORLD`."""
    from irl_ray.cli.check import check

    return check(options)


def watch_run(options: argparse.Namespace) -> int:
    """`irl-ray watch [RESULT]`."""
    from irl_ray.cli.watch import watch

    return watch(options)


def print_card(options: argparse.Namespace) -> int:
    """`irl-ray card NAME`."""
    print(weights.card(weights.load(options.name)), end="")
    return 0


def run_phase(options: argparse.Namespace) -> int:
    """`irl-ray phase FILE --out DIR`: the same phase as under Tune, as a plain loop."""
    from irl_ray.phases.compile import CompILE, compile_config
    from irl_ray.phases.discover import Discover, discover_config
    from irl_ray.phases.pretrain import Pretrain, pretrain_config

    made = {
        "Pretrain": (Pretrain, pretrain_config),
        "Discover": (Discover, discover_config),
        "CompILE": (CompILE, compile_config),
    }
    path = experiment_file(options.file)
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    spec = next(iter(content.values())) if isinstance(content, dict) and content else None
    if not isinstance(spec, dict) or spec.get("run") not in made:
        raise UserError(f"{path}: expected an experiment with run: {', '.join(made)}")
    values = merge(spec.get("config") or {}, options.config)
    if "env" in spec:
        values["env"] = spec["env"]
    phase_class, typed = made[spec["run"]]
    phase, started = phase_class(typed(values)), time.monotonic()
    state, saved = Path(options.out) / STATE, started
    if state.is_file():
        found = torch.load(state, weights_only=True, map_location="cpu")
        if found.pop("settings", None) != settings_of(phase):
            raise UserError(f"{state}: belongs to a run with other settings; choose another --out or remove it")
        phase.load_state(found)
        print(f"going on from step {phase.step_number} ({state})", flush=True)
    first = phase.step_number
    while not phase.finished:
        metrics = phase.step()
        now = time.monotonic()
        elapsed = now - started
        left = elapsed * (phase.config.steps - phase.step_number) / (phase.step_number - first)
        stopped = not phase.finished and options.minutes and elapsed > 60 * options.minutes
        if now - saved > SAVE_EVERY or phase.finished or stopped:
            save_state(phase, state)
            saved = now
        shown = "  ".join(f"{k} {v:.4g}" for k, v in metrics.items())
        print(f"{shown}  elapsed {elapsed:.0f}s  eta {left:.0f}s", flush=True)
        if stopped:
            print(f"stopped after {options.minutes:g} minutes; {state} is saved, the same command goes on from there")
            return 0
    phase.export(options.out, {})
    gates = phase.measured()
    for name, value in gates.items():
        print(f"{name:<52}{value:.4g}")
    print(f"weights: {phase.export(options.out, gates)}")
    return 0


def settings_of(phase: Phase) -> str:
    """A phase's settings as text, to tell whether a saved state is of the same run."""
    return json.dumps(to_plain(phase.config), sort_keys=True)


def save_state(phase: Phase, path: Path) -> None:
    """Writes what resuming needs, complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save({**phase.state(), "settings": settings_of(phase)}, partial)
    os.replace(partial, path)


def draw_curve(options: argparse.Namespace) -> int:
    """`irl-ray curve internal=results/a raw=results/b --out curve.png`."""
    from irl_ray.analysis.curves import draw, read_runs

    groups = {}
    for label, folder in map(labelled, options.results):
        groups[label] = groups.get(label, []) + read_runs(Path(folder))
    print(draw(groups, Path(options.out)), end="")
    return 0


def write_report(options: argparse.Namespace) -> int:
    """`irl-ray report RESULTS... --out report/`."""
    from irl_ray.analysis import report, results
    from irl_ray.analysis.curves import figure_module

    started, out = time.monotonic(), Path(options.out)
    plots = figure_module(out / "x.svg")
    code = 0
    if options.from_nothing:
        code = run_everything(Path(options.from_nothing))
        options.results.append(options.from_nothing)
    missing = report.write(results.read(options.results or [results.KEPT]), out, plots)
    print(f"{out / 'index.html'}, {duration(time.monotonic() - started)}")
    if missing:
        print(f"not run: {', '.join(missing)}")
    return code


def run_everything(storage: Path) -> int:
    """Every experiment and analysis of the report, those that are there already left out."""
    from irl_ray.analysis.report import ANT_DATA, EXPERIMENTS, LOOKS
    from irl_ray.cli.rllib import main as rllib

    if not Path(ANT_DATA).is_dir():
        raise UserError(f"{ANT_DATA}: no such folder; the ant's demonstrations are collected first (README, Retrain)")
    code = 0
    for name in EXPERIMENTS:  # each goes on where it was; one that fails does not keep the others waiting
        ended = rllib(["train", "file", name, "--storage-path", str(storage), "--resume"])
        if ended in INTERRUPTED.values():
            return ended
        code |= ended
    for arguments in LOOKS:
        out = storage / "inside" / f"{arguments[1]}_{arguments[0]}.json"
        if not out.exists():
            code |= main([*arguments, "--out", str(out)])
    return code


def store_results(options: argparse.Namespace) -> int:
    """`irl-ray store RESULTS... --out DIR`."""
    from irl_ray.analysis import results

    for path in results.store(results.read(options.results), Path(options.out)):
        print(path)
    return 0


def print_economics(options: argparse.Namespace) -> int:
    """`irl-ray economics --env-config '{"preset": "medium"}' --out economics.png`."""
    from irl_ray.analysis.curves import figure_module
    from irl_ray.worlds.pinpad import economics
    from irl_ray.worlds.pinpad.specs import GridworldSpec

    if options.episodes < 1:
        raise UserError(f"--episodes: expected at least 1, got {options.episodes}")
    if not 0 <= options.alpha < math.inf:
        raise UserError(f"--alpha: expected a number from 0 on, got {options.alpha}")
    plots = figure_module(Path(options.out)) if options.out else None
    told = {", ".join(f"{k} {v}" for k, v in one.items()) or "small": one for one in options.env_config or [{}]}
    worlds = {world: GridworldSpec.of(settings, "--env-config") for world, settings in told.items()}
    found = {}
    for world, spec in worlds.items():
        found[world] = economics.economics_by_past(spec, options.ties, options.episodes, options.seed)
        for past, worths in found[world].items():
            print(f"{world}, {past}, nats per subgoal: left, cost, left + α cost at α =")
            print(f"  {'':<14}{'left':>7}{'cost':>7}" + "".join(f"{alpha:>7g}" for alpha in economics.ALPHAS))
            for name, worth in worths.items():
                totals = "".join(f"{worth.objective(alpha):>7.2f}" for alpha in economics.ALPHAS)
                print(f"  {name:<14}{worth.left:>7.2f}{worth.cost:>7.2f}{totals}")
    if options.out:
        economics.draw(plots, found, options.alpha, Path(options.out))
    return 0


def draw_lessons(options: argparse.Namespace) -> int:
    """`irl-ray lessons gridworld_taught plain=results/a taught=gridworld_taught --out lessons.png`."""
    from irl_ray.analysis.curves import figure_module
    from irl_ray.worlds.pinpad.lessons import MEANINGS, WINDOW, draw, lesson, uncontrolled_nll

    if options.steps < WINDOW:
        raise UserError(f"--steps {options.steps}: expected at least {WINDOW}")
    plots = figure_module(Path(options.out))
    agent = weights.load(options.base)
    found = {}
    for label, folder in map(labelled, options.found):
        found[label] = weights.load(folder).metrics.get("discover", {})
        if "switch_f1" not in found[label]:
            raise UserError(f"{folder}: holds no gates of discovery; was the run finished?")
    alone, curves = uncontrolled_nll(agent, options.seed), {}
    print(f"no codes: {alone:.4f} nats per step")
    for meaning in MEANINGS:
        started = time.monotonic()
        curves[meaning] = lesson(agent, meaning, options.layer, options.steps, 64, options.seed)
        worth = next((i for i, value in enumerate(curves[meaning]) if value < alone), None)
        after = "never" if worth is None else f"after {WINDOW * (worth + 1)} steps"
        print(f"{meaning}: below that {after}; {curves[meaning][-1]:.4f} at the end; "
              f"{time.monotonic() - started:.0f}s", flush=True)  # fmt: skip
    draw(plots, alone, curves, found, Path(options.out))
    return 0


def labelled(item: str) -> tuple[str, str]:
    """`"a=b"` as `("a", "b")`."""
    label, _, folder = item.partition("=")
    if not folder:
        raise UserError(f"{item!r}: expected LABEL=FOLDER, such as internal=results/gridworld_internal_x")
    return label, folder


if __name__ == "__main__":
    sys.exit(main())
