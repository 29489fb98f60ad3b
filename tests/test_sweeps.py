"""Trials of a sweep: what they are called, which is the best, and what Tune keeps of their settings."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from ray import tune
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.tune.experiment import Trial
from ray.tune.search.variant_generator import generate_variants

import irl_ray
from irl_ray import InternalRL, InternalRLConfig
from irl_ray.analysis.results import shown_name
from irl_ray.cli import labels, progress, runner, scheduling
from irl_ray.rllib.algorithms import told_settings
from irl_ray.rllib.trainables import trainable_of


def made(
    params: dict,
    name: str = "InternalRL",
    number: int = 3,
    env: str | None = "irl_ray/GridPinpad-v0",
    run: str = "1a2b3",
) -> Trial:
    """A trial as Tune makes it."""
    return Trial(
        name,
        config={"env": env} if env else {},
        trial_id=f"{run}_{number:05d}",
        experiment_tag=str(number),
        evaluated_params=params,
        trial_dirname_creator=labels.folder_name,
        stub=True,
    )


@pytest.mark.parametrize(
    "value, shown",
    [(1e-5, "1e-05"), (3e-4, "0.0003"), (0.12345678, "0.12345678"), (0.0003417289102123, "0.000341729"), (2.0, "2.0"),
     (7, "7"), (True, "True"), (None, "None"), ("scratch", "scratch"), (["0-1", "2-3"], '["0-1";"2-3"]'),
     ("/a/weights/mine", "mine"), ("irl_ray/GridPinpad-v0", "GridPinpad-v0")],
)  # fmt: skip
def test_settings_keep_their_digits(value, shown):
    trial = made({"lr": value})
    assert labels.label(trial) == f"3 lr={shown}"
    assert labels.label_of_folder(trial.custom_dirname).startswith("3 lr=")


def test_folders_keep_them_too_and_tell_their_trainable():
    trial = made({"lr": 1e-5, "env_config/seed": 3, "seed": 1, "co_training": "from base/x"})
    folder = trial.custom_dirname
    assert "_3_lr=1e-05,env_config.seed=3,seed=1,co_training=x_20" in folder and trainable_of(folder) == "InternalRL"
    assert labels.label_of_folder(folder) == labels.label(trial) == "3 lr=1e-05 env_config.seed=3 seed=1 co_training=x"
    assert labels.label(made({})) == labels.label_of_folder(made({}).custom_dirname) == "3"
    assert len(made({f"setting_{i}": i for i in range(99)}).custom_dirname) < 200


def test_a_run_whose_id_has_no_letter_is_no_trial_number():
    """One in ten of Tune's ids, five hexadecimal digits, is a number."""
    trial = made({"seed": 0}, run="59418")
    assert labels.label_of_folder(trial.custom_dirname) == labels.label(trial) == "3 seed=0"
    assert labels.label(made({"metacontroller": f"/runs/{trial.custom_dirname}/workers"})) == "3 seed=0"


def test_what_starts_from_a_sweep_shows_its_settings():
    base = made({"model/mixer": "hawk", "seed": 2}, "PretrainTrainable", 1, None).custom_dirname
    settings = {"alpha": 0.17, "base": f"/runs/p_20260101-120000/{base}/checkpoint_000001/artefact"}
    codes = made(settings, "DiscoverTrainable", 4, None).custom_dirname
    rl = {"metacontroller": f"s3://bucket/d_20260101-120000/{codes}/checkpoint_000001/artefact", "seed": 0}
    assert labels.label(made(rl)) == "3 mixer=hawk metacontroller.seed=2 alpha=0.17 seed=0"
    alike = made({}, "DiscoverTrainable", 4, None).custom_dirname  # a repetition, in which nothing varies
    assert labels.label(made({"metacontroller": f"/runs/{alike}/workers"})) == "3 trial=4"
    assert shown_name(rl["metacontroller"]) == "d"


def test_what_tune_varies_is_what_is_shown():
    """Nested settings come with slashes, and drawn ones like those of a grid."""
    space = {"lr": tune.grid_search([1e-5]), "env_config": {"tasks": tune.choice(["post_two_pairs"])}}
    from ray.tune.search.variant_generator import _flatten_resolved_vars

    ((resolved, _),) = generate_variants({"config": space})
    assert labels.settings_of(_flatten_resolved_vars(resolved)) == {"tasks": "post_two_pairs", "lr": "1e-05"}


def test_a_table_is_as_wide_as_its_labels(capsys: pytest.CaptureFixture):
    trials = [made({"lr": 1e-5, "metacontroller": "/a/a_name_of_thirty_letters_or_so"}), made({"lr": 1e-3}, number=4)]
    for trial in trials:
        trial.run_metadata.last_result = {"training_iteration": 1, "env_runners": {"success_rate": 0.5}}
    progress.Progress("InternalRL", {}).report(trials, done=True)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and len({len(line) for line in lines}) == 1
    assert lines[1].startswith("3 lr=1e-05 metacontroller=a_name_of_thirty_letters_or_so ")


@pytest.mark.parametrize(
    "run, results, best",
    [
        (
            "InternalRL",
            [{"env_runners": {"success_rate": v}} for v in (0.1, 0.9, 0.5)],
            (1, "env_runners/success_rate"),
        ),
        (
            "PPO",
            [{"env_runners": {"episode_return_mean": v}} for v in (1, 3, 2)],
            (1, "env_runners/episode_return_mean"),
        ),
        ("Discover", [{"gate_score": 0.2, "loss": 1.0}, {"gate_score": 0.1, "loss": 0.5}, {}], (0, "gate_score")),
        ("Discover", [{"loss": 1.0}, {"loss": float("nan")}, {"loss": 0.5}], (2, "loss")),
        ("Pretrain", [{"action_nll": 1.0, "eval/action_nll": 2.0}, {"eval/action_nll": 1.0}], (1, "eval/action_nll")),
        ("CompILE", [{"action_nll": 1.0}, {"action_nll": 2.0}], (0, "action_nll")),
        ("PPO", [{}, {}], None),
        ("InternalRL", [{"env_runners": {"success_rate": 0.0}}] * 2, None),
    ],
)
def test_the_best_trial_is_told_by_what_a_run_is_about(run, results, best):
    found = progress.best_of(results, progress.main_metrics(run))
    assert (found and found[:2]) == best


def test_a_sweep_ends_with_its_best_trial(tmp_path: Path, capsys: pytest.CaptureFixture):
    results = ResultsOf([0.2, 0.8], tmp_path)
    tuner = SimpleNamespace(fit=lambda: results, _local_tuner=_told(scheduling.PausingScheduler()))
    assert runner._fit(tuner, str(tmp_path)) == 0
    last = capsys.readouterr().out.splitlines()[-2:]
    assert last[0] == "best of 2 trials: 1 lr=1e-05, env_runners/success_rate 0.8" and "_1_lr=1e-05_" in last[1]
    scheduler = scheduling.PausingASHA(metric="cost", mode="min", time_attr="step", max_t=9)
    tuner._local_tuner = _told(scheduler)  # what a search is for is what it is judged by
    runner._fit(tuner, str(tmp_path))
    assert "best of 2 trials: 0 lr=1e-05, cost 0.2" in capsys.readouterr().out


class ResultsOf(list):
    """What Tune returns, as far as the summary looks at it."""

    errors: list = []

    def __init__(self, successes: list[float], folder: Path):
        names = [made({"lr": 1e-5}, number=number).custom_dirname for number in range(len(successes))]
        told = [{"env_runners": {"success_rate": value}, "cost": value} for value in successes]
        super().__init__(
            SimpleNamespace(path=str(folder / name), metrics=metrics, error=None, checkpoint=None)
            for name, metrics in zip(names, told)
        )


def _told(scheduler) -> SimpleNamespace:
    return SimpleNamespace(_tune_config=SimpleNamespace(scheduler=scheduler))


def test_told_settings_are_those_that_someone_chose():
    default = InternalRL.get_default_config()
    given = {"lr": 3e-3, "env_config": {"preset": "tiny"}}
    assert told_settings({**given, "__trial_info__": 1}, default) == given and told_settings(None, default) == {}
    whole = InternalRLConfig().training(lr=1e-3).env_runners(num_env_runners=3)  # 1e-3 is RLlib's default, not ours
    for given in (whole, whole.to_dict(), whole.get_state()):  # as Python, Tune and a checkpoint have it
        told = told_settings(given, default)
        assert (told["lr"], told["num_env_runners"], told["metacontroller"]) == (1e-3, 3, "gridworld")
        assert len(told) < 30 < len(AlgorithmConfig().to_dict()) and json.dumps(told)


def test_tune_keeps_the_settings_of_a_result(tiny_weights: Path, tmp_path: Path, monkeypatch):
    """`tune.Tuner` over the algorithm by its name, as a user's own script has it."""
    monkeypatch.setenv("RAY_AIR_NEW_OUTPUT", "0")
    given = {
        "env": "irl_ray/GridPinpad-v0",
        "env_config": {"preset": "tiny", "tasks": "post_two_pairs"},
        "metacontroller": str(tiny_weights),
        "train_batch_episodes": 8,
    }
    settings = tune.RunConfig(storage_path=str(tmp_path), stop={"training_iteration": 1}, verbose=0)
    rates = [1e-5, 3e-3]
    ray.shutdown()
    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        irl_ray.register_everything()
        space = {**given, "lr": tune.grid_search(rates)}
        results = tune.Tuner("InternalRL", param_space=space, run_config=settings).fit()
    finally:
        ray.shutdown()
    assert not results.errors
    assert sorted((r.config for r in results), key=lambda c: c["lr"]) == [{**given, "lr": rate} for rate in rates]
    assert all((Path(r.path) / "result.json").stat().st_size < 5000 for r in results)
