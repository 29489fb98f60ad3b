"""Results of experiments, read from Tune's folders or from what `irl-ray store` kept of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from irl_ray import places, worlds
from irl_ray.analysis.statistics import Curve
from irl_ray.errors import UserError
from irl_ray.models import weights

KEPT = Path(__file__).resolve().parent.parent / "docs" / "results"  # stored results of README's runs
STORED = "experiment"  # the `kind` of a stored experiment; analyses have kinds of their own
LARGER = ("medium", "paper")  # presets whose runs are not compared with those of the small one
ANALYSES = ("probe", "control", "codes", "variance")
_BOOKKEEPING = {"date", "done", "hostname", "node_ip", "pid", "time_since_restore", "time_this_iter_s", "timestamp",
                "iterations_since_restore", "training_iteration", "trial_id", "should_checkpoint",
                "trajectories_per_s"}  # fmt: skip
# An algorithm's configuration has hundreds of keys; these are the ones that tell its runs apart.
_RL_KEYS = ("env", "env_config", "metacontroller", "base", "lr", "seed", "action_temperature", "switch_threshold",
            "clean_slate", "train_batch_episodes", "num_epochs", "target_kl", "entropy_coeff")  # fmt: skip
_WEIGHT_KEYS = ("base", "metacontroller", "start_from")
# Discovery's settings that figures tell its runs apart by, whether a file gives them or a preset does.
_KINDS = ("clean_slate", "metacontroller.summary", "metacontroller.forced_switch", "cut_share", "switch_cost",
          "turned_summaries", "metacontroller.read_at")  # fmt: skip
_PATH_KEYS = ("base", "start_from", "data", "clean_data")


@dataclass
class TrialResult:
    """One run.

    Attributes:
        params: its settings by dotted key.
        metrics: the numbers of its last report, gates included.
        curve: RL: success by episodes, [n, 2].
        origin: how the weights it started from were made, as `phase.key`, such as `discover.alpha`.
        seconds: how long it ran.
        finished: whether it ran to its end, and was not stopped by a scheduler before.
        revision: of the code that ran it.
    """

    params: dict[str, Any]
    metrics: dict[str, float]
    curve: list[list[float]] = field(default_factory=list)
    origin: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    finished: bool = True
    revision: str = "unknown"

    @property
    def learning_curve(self) -> Curve:
        """Episodes and success."""
        episodes, success = np.array(self.curve, float).T
        return episodes, success

    @property
    def world(self) -> str:
        """The world's title, and the preset where it is not the small one, such as "gridworld, medium"; of worlds that
        are not in this package the id, since a record should import nothing."""
        env = str(self.params.get("env", worlds.DEFAULT_ID))
        if not env.startswith("irl_ray/"):
            return env
        name = worlds.find(env).title
        preset = self.params.get("env_config.preset", self.params.get("preset"))
        return f"{name}, {preset}" if preset in LARGER else name

    @property
    def what(self) -> str:
        """Settings, origin and length as text: two runs with the same are the same run, done twice."""
        return json.dumps([self.params, self.origin, len(self.curve)], sort_keys=True)


@dataclass
class ExperimentResult:
    """All runs of one experiment.

    Attributes:
        name: from its file.
        run: its trainable.
        date: when it started.
        trials: its runs.
    """

    name: str
    run: str
    date: str
    trials: list[TrialResult]

    @property
    def varied(self) -> list[str]:
        """Settings in which its runs differ, the seed left out."""
        keys = {key for trial in self.trials for key in trial.params}
        shown = lambda key: {json.dumps(trial.params.get(key)) for trial in self.trials}  # noqa: E731
        return sorted(key for key in keys if key != "seed" and len(shown(key)) > 1)


@dataclass
class Results:
    """Everything a report is made of: experiments, and analyses as `irl-ray probe` and its like wrote them."""

    experiments: list[ExperimentResult]
    analyses: list[dict[str, Any]]

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        """Analyses of a kind."""
        return [analysis for analysis in self.analyses if analysis["kind"] == kind]

    def trials(self, run: str, *names: str) -> list[TrialResult]:
        """The finished runs of a trainable, in experiments whose names begin so."""
        chosen = [e for e in self.experiments if e.run == run and (not names or e.name.startswith(names))]
        return [trial for e in chosen for trial in e.trials if trial.finished]


def read(paths: Iterable[str | Path]) -> Results:
    """Results under folders, or in files.

    Raises:
        UserError: if a path does not exist, or there is nothing in any.
    """
    experiments, analyses = [], []
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f"{path}: no such file or folder")
        files = [path] if path.is_file() else sorted(path.rglob("*.json"))
        for file in files:
            if file.name in ("params.json", "result.json") or file.parent.name == "artefact":
                continue
            content = _json(file)
            kind = content.get("kind") if isinstance(content, dict) else None
            if kind == STORED:
                try:
                    trials = [TrialResult(**trial) for trial in content["trials"]]
                except (TypeError, KeyError) as error:
                    raise UserError(f"{file}: stored by another version ({error}); store the results again") from None
                experiments.append(ExperimentResult(content["name"], content["run"], content["date"], trials))
            elif kind in ANALYSES:
                analyses.append(content)
        if path.is_dir():
            trials: dict[Path, list[Path]] = {}
            for file in sorted(path.resolve().rglob("params.json")):
                trials.setdefault(file.parent.parent, []).append(file.parent)
            experiments += [read_experiment(folder, inside) for folder, inside in trials.items()]
    if not experiments and not analyses:
        raise UserError(f"{', '.join(map(str, paths))}: neither results of rllib train nor analyses there")
    return Results(_each_once(experiments), analyses)


def _each_once(experiments: list[ExperimentResult]) -> list[ExperimentResult]:
    """Without runs that were done, or are stored, twice: the newest of each stays."""
    seen: set[tuple[str, str]] = set()
    for experiment in sorted(experiments, key=lambda e: e.date, reverse=True):
        fresh = []
        for trial in experiment.trials:
            key = (experiment.run, trial.what)
            if key not in seen or not trial.finished:
                fresh.append(trial)
            seen |= {key} if trial.finished else set()
        experiment.trials = fresh
    return [experiment for experiment in experiments if experiment.trials]


def read_experiment(folder: Path, inside: list[Path]) -> ExperimentResult:
    """Some of the trials of one of Tune's experiment folders."""
    trials, run = [], ""
    for trial in inside:
        rows = _rows(trial / "result.json")
        if rows:
            run = trial.name.split("_", 1)[0].removesuffix("Trainable")
            trials.append(_trial(trial, _json(trial / "params.json"), rows))
    name = places.DATED.sub("", folder.name)
    date = places.DATED.search(folder.name)
    return ExperimentResult(name, {"Compile": "CompILE"}.get(run, run), date[0][1:] if date else "", trials)


def _trial(folder: Path, settings: dict[str, Any], rows: list[dict[str, Any]]) -> TrialResult:
    rl = "env_runners" in rows[-1]
    if rl:
        settings = {key: settings[key] for key in _RL_KEYS if key in settings}
    names = {key: settings[key] for key in _WEIGHT_KEYS if isinstance(settings.get(key), str)}
    origin = _origin(_newest_card(folder) or _named_card(names.get("metacontroller") or names.get("base")), not rl)
    shown = {key: shown_name(settings[key]) for key in _PATH_KEYS if isinstance(settings.get(key), str)}
    if isinstance(settings.get("lr"), list):  # a schedule
        shown["lr"] = json.dumps(settings["lr"])
    own = _flat(_newest_card(folder).get("provenance", {}).get("discover", {}).get("config", {}))
    effective = {} if rl else {key: own[key] for key in _KINDS if key in own}
    given = _flat({**settings, **{key: shown_name(value) for key, value in names.items()}, **shown})
    params = effective | given
    curve = [
        [r["env_runners"]["num_episodes_lifetime"], r["env_runners"]["success_rate"]]
        for r in rows
        if "success_rate" in r.get("env_runners", {})
    ]
    metrics = {
        key: value
        for key, value in rows[-1].items()
        if type(value) in (int, float) and math.isfinite(value) and key not in _BOOKKEEPING
    }
    return TrialResult(
        params=params,
        metrics=metrics,
        curve=curve,
        origin=origin,
        seconds=float(rows[-1].get("time_total_s", 0.0)),
        finished=bool(rows[-1].get("done", False)) and rows[-1].get("progress", 1.0) >= 1.0,
        revision=_revision(folder),
    )


def shown_name(value: str) -> str:
    """Weights without the path that leads to them: `/a/results/x_20260101-120000/Trial_3/...` as `x`."""
    path = Path(value)
    dated = [part for part in path.parts if places.DATED.search(part)]
    return places.DATED.sub("", dated[0]) if dated else path.name


def _newest_card(trial: Path) -> dict[str, Any]:
    """What a run's own newest artefact tells of itself; empty if there is none."""
    cards = sorted(trial.glob("**/artefact/config.json"))
    return _json(cards[-1]) if cards else {}


def _named_card(name: str | None) -> dict[str, Any]:
    """What weights tell of themselves; empty if they are gone."""
    try:
        return _json(weights.resolve(name) / "config.json")
    except (UserError, TypeError):
        return {}


def _origin(card: dict[str, Any], supervised: bool) -> dict[str, Any]:
    """How the supervised phases behind a run were run, as `phase.key`; of a supervised run only pretraining."""
    found: dict[str, Any] = {}
    for phase in ("pretrain",) if supervised else ("pretrain", "discover", "compile"):
        if phase in card.get("provenance", {}):
            config = {k: v for k, v in card["provenance"][phase].get("config", {}).items() if k not in _PATH_KEYS}
            found |= _flat(config, f"{phase}.")
    return found


def _revision(trial: Path) -> str:
    made = _newest_card(trial).get("provenance", {})
    return str(list(made.values())[-1].get("revision", "unknown")) if made else "unknown"


def _flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by dotted key; of a list only its length."""
    found: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        elif isinstance(value, (str, int, float, type(None))):
            found[f"{prefix}{key}"] = value
        elif isinstance(value, (list, tuple)):
            found[f"{prefix}{key}.length"] = len(value)
    return found


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        return {}


def _rows(path: Path) -> list[dict[str, Any]]:
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:  # the line that is being written
            continue
    return rows


def store(results: Results, folder: Path) -> list[Path]:
    """Writes one JSON per experiment (settings, last metrics, learning curves; no checkpoints, no paths) and
    one per analysis."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for analysis in results.analyses:
        path = folder / f"{analysis['model']}_{analysis['kind']}.json"
        path.write_text(json.dumps(analysis, indent=1) + "\n", encoding="utf-8")
        written.append(path)
    for experiment in results.experiments:
        trials = [asdict(trial) for trial in experiment.trials]
        for trial in trials:
            trial["curve"] = [[int(episodes), round(success, 5)] for episodes, success in trial["curve"]]
        content = {"kind": STORED, "name": experiment.name, "run": experiment.run, "date": experiment.date}
        path = folder / f"{experiment.name}_{experiment.date}.json".replace("_.json", ".json")
        path.write_text(json.dumps({**content, "trials": trials}) + "\n", encoding="utf-8")
        written.append(path)
    return written
