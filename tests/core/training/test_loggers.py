"""The loggers of other programs get what metrics.csv and summary.json hold; none of them can end a training."""

from __future__ import annotations

import csv
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
import yaml

from cifar_cli.core.training.config import ResumeConfig, TrainConfig
from cifar_cli.core.training.listeners import Listeners
from cifar_cli.core.training.loggers import FOLDERS, Loggers, require_loggers
from cifar_cli.core.training.run_dir import require_free
from cifar_cli.core.training.train import resume, train
from cifar_cli.errors import ConfigError, ResourceError

ConfigOf = Callable[..., TrainConfig]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def values(rows: list[dict[str, str]], name: str) -> dict[int, float]:
    return {int(row["step"]): float(row[name]) for row in rows if row.get(name)}


@pytest.mark.slow
def test_a_csv_logger_gets_metrics_rates_settings_and_scores_also_after_a_resume(
    config_of: ConfigOf, tmp_path: Path
) -> None:
    run, listeners = tmp_path / "run", Listeners(loggers=("csv",))
    train(config_of(run, epochs=1), listeners)
    result = resume(ResumeConfig(run_dir=run, max_epochs=2), listeners)
    first, second = (rows_of(run / f"csv/version_{number}/metrics.csv") for number in (0, 1))
    own = rows_of(run / "metrics.csv")
    for name, column in (("val/accuracy", "val_accuracy"), ("train/loss", "train_loss")):
        logged = values(first, name) | values(second, name)
        assert logged == {int(row["step"]): pytest.approx(float(row[column])) for row in own}
    assert len(own) == 2
    rates = {int(row["step"]): float(row["learning_rate"]) for row in rows_of(run / "learning_rate.csv")}
    assert (values(first, "learning_rate") | values(second, "learning_rate")).items() >= rates.items()
    assert list(values(second, "final/test_accuracy").values()) == [pytest.approx(result.test_accuracy)]
    settings = yaml.safe_load((run / "csv/version_0/hparams.yaml").read_text())
    assert settings["recipe"]["batch"] == 64


def test_a_logger_that_fails_is_left_out_with_a_note(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "run").touch()  # no folder can be made below a file
    loggers = Loggers(("csv",), tmp_path / "run", said.append)
    loggers.add_config({"seed": 1})
    loggers.add_metrics({"val/loss": 1.0}, 1)
    loggers.flush()
    loggers.close(finished=True)
    (note,) = said
    assert note.startswith("--logger csv failed and is left out: NotADirectoryError: ")


@pytest.mark.parametrize("spec", [None, ModuleSpec("wandb", None)], ids=["absent", "a folder of that name"])
@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_named_with_its_extra(name: str, spec: ModuleSpec | None) -> None:
    with pytest.raises(ResourceError, match=f"--logger {name} needs the package {name}") as caught:
        require_loggers(["csv", name], find=lambda module: spec)
    assert caught.value.remedy == f'pip install "cifar-cli[{name}]"'


def test_an_unknown_logger_is_refused_before_anything_is_done(cifar, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match="--logger wanb is not offered"):
        require_loggers(["wanb"])
    result = cifar("train", "--logger", "cvs", "--run-dir", tmp_path / "run")
    assert result.exit_code != 0
    assert "--logger cvs is not offered" in result.stderr
    assert "csv" in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_start_of_which_only_a_logger_wrote_something_can_be_begun_again(tmp_path: Path) -> None:
    for name in FOLDERS:
        (tmp_path / name).mkdir()
    require_free(tmp_path)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")


def log_with(name: Any, folder: Path) -> list[str]:
    """What was said while three values were logged."""
    folder.mkdir()
    said: list[str] = []
    loggers = Loggers((name,), folder, said.append)
    loggers.add_config({"model": {"name": "null"}, "seed": 1})
    for step in (1, 2, 3):
        loggers.add_metrics({"val/loss": 1 / step}, step)
    loggers.flush()
    loggers.close(finished=True)
    return said


@pytest.mark.slow
def test_mlflow_writes_into_the_run_directory(offline: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mlflow", reason='needs pip install "cifar-cli[mlflow]"')
    from mlflow.tracking import MlflowClient

    assert log_with("mlflow", tmp_path / "null-1") == []
    client = MlflowClient((tmp_path / "null-1/mlruns").as_uri())
    experiment = client.get_experiment_by_name("cifar")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("null-1", "FINISHED")
    assert run.data.params["model/name"] == "null"
    history = client.get_metric_history(run.info.run_id, "val/loss")
    assert [(each.step, each.value) for each in history] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]


@pytest.mark.slow
def test_weights_and_biases_writes_offline_into_the_run_directory(
    offline: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("wandb", reason='needs pip install "cifar-cli[wandb]"')
    assert log_with("wandb", tmp_path / "null-1") == []
    (record,) = (tmp_path / "null-1").rglob("run-*.wandb")
    assert b"val/loss" in record.read_bytes()
    assert capfd.readouterr().out == ""
