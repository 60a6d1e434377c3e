"""Ctrl-C, and going on from where a run was."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cifar_cli.core.data.config import DataConfig
from cifar_cli.core.evaluation.config import EvaluateConfig
from cifar_cli.core.evaluation.evaluate import evaluate
from cifar_cli.core.training.checkpoint import read_checkpoint, restore_step
from cifar_cli.core.training.config import ResumeConfig, StepConfig, TrainConfig
from cifar_cli.core.training.finished import finished_sentence
from cifar_cli.core.training.listeners import Listeners
from cifar_cli.core.training.loop import Seams
from cifar_cli.core.training.runs import list_runs
from cifar_cli.core.training.step import TrainingStep
from cifar_cli.core.training.train import resume, train
from cifar_cli.errors import CheckpointError, CifarError, ConfigError, Interrupted
from tests.core.training.fake_time import Machine
from tests.core.training.stopping import stopping_at

TIMES = ("elapsed_seconds", "images_per_second")
ConfigOf = Callable[..., TrainConfig]


@pytest.mark.slow
@pytest.mark.parametrize("step", [3, 6, 8])
def test_a_run_interrupted_anywhere_and_resumed_gives_the_weights_of_an_uninterrupted_one(
    config_of: ConfigOf, tmp_path: Path, step: int
) -> None:
    """360 images in batches of 64 are 6 steps an epoch: within the first, right after it, within the second."""
    whole = train(config_of(tmp_path / "whole", epochs=3))
    with pytest.raises(Interrupted, match="interrupted in epoch") as caught:
        train(config_of(tmp_path / "cut", epochs=3), seams=stopping_at(step))
    assert f"cifar train --resume {tmp_path / 'cut'}" in str(caught.value)
    continued = resume(tmp_path / "cut")
    assert continued.epochs == whole.epochs == 3
    theirs = read_checkpoint(tmp_path / "cut/checkpoints/last.ckpt")["state_dict"]
    for name, value in read_checkpoint(tmp_path / "whole/checkpoints/last.ckpt")["state_dict"].items():
        assert torch.equal(value, theirs[name]), name
    expected, rows = (list(csv.DictReader((tmp_path / name / "metrics.csv").open())) for name in ("whole", "cut"))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    for row, other in zip(rows, expected, strict=True):  # also of the epoch that was interrupted
        assert {name: row[name] for name in row if name not in TIMES} == {
            name: other[name] for name in row if name not in TIMES
        }


@pytest.mark.parametrize(("by", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_every_signal_saves_and_has_its_own_exit_status(
    config_of: ConfigOf, tmp_path: Path, by: int, status: int
) -> None:
    before = signal.getsignal(by)
    with pytest.raises(Interrupted, match="interrupted in epoch 1; saved in") as caught:
        train(config_of(tmp_path / "run"), seams=stopping_at(3, by=by))
    assert caught.value.exit_code == status
    assert read_checkpoint(tmp_path / "run/checkpoints/last.ckpt")["global_step"] == 3
    assert signal.getsignal(by) is before


@pytest.mark.slow
def test_a_signal_that_nohup_ignores_stays_ignored(config_of: ConfigOf, tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert train(config_of(tmp_path / "run"), seams=stopping_at(3, by=signal.SIGHUP)).epochs == 2
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_interrupted_in_its_first_epoch_has_told_tensorboard_what_it_is(
    config_of: ConfigOf, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        train(config_of(tmp_path / "run"), seams=stopping_at(2))
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    assert set(events.Tags()["tensors"]) == {f"{name}/text_summary" for name in ("dataset", "config", "command")}


@pytest.mark.slow
def test_draws_of_every_generator_are_repeated_after_an_interruption_whatever_validation_draws(
    config_of: ConfigOf, tmp_path: Path
) -> None:
    class Drawing(TrainingStep):
        """Draws as dropout, drop path and the like do, from each generator that a model may use."""

        def loss(self, images_BCHW: torch.Tensor, labels_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            noise = random.random() + np.random.random() + torch.rand(len(images_BCHW), 1, 1, 1)
            return super().loss(images_BCHW * noise, labels_B)

    class Stopping(Drawing):
        left = 8

        def __call__(self, images_BCHW: torch.Tensor, labels_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            Stopping.left -= 1
            if not Stopping.left:
                os.kill(os.getpid(), signal.SIGINT)
            return super().__call__(images_BCHW, labels_B)

    def draw(result: object) -> None:
        torch.rand(3), np.random.random(), random.random()

    whole = train(config_of(tmp_path / "whole", epochs=3), Listeners(on_epoch=draw), seams=Seams(make_step=Drawing))
    with pytest.raises(Interrupted):
        train(config_of(tmp_path / "cut", epochs=3), seams=Seams(make_step=Stopping))
    assert resume(tmp_path / "cut", seams=Seams(make_step=Drawing)).test_loss == whole.test_loss
    theirs = read_checkpoint(tmp_path / "cut/checkpoints/last.ckpt")["state_dict"]
    for name, value in read_checkpoint(tmp_path / "whole/checkpoints/last.ckpt")["state_dict"].items():
        assert torch.equal(value, theirs[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "muon", "muon-sgd"])
def test_a_schedule_and_averaged_weights_survive_an_interruption(
    config_of: ConfigOf, tmp_path: Path, optimizer: str
) -> None:
    def config(name: str) -> TrainConfig:
        plain = config_of(tmp_path / name, epochs=3)
        recipe = replace(
            plain.recipe, optimizer=optimizer, learning_rate=0.02, schedule="one-cycle", warmup=0.3, ema_decay=0.8
        )
        return replace(plain, recipe=recipe)

    train(config("whole"))
    with pytest.raises(Interrupted):
        train(config("cut"), seams=stopping_at(8))
    resume(tmp_path / "cut")
    theirs = read_checkpoint(tmp_path / "cut/checkpoints/last.ckpt")
    ours = read_checkpoint(tmp_path / "whole/checkpoints/last.ckpt")
    for kind in ("state_dict", "current_model_state"):
        for name, value in ours[kind].items():
            assert torch.equal(value, theirs[kind][name]), (kind, name)
    rates = [[float(row["learning_rate"]) for row in csv.DictReader((tmp_path / name / "metrics.csv").open())]
             for name in ("whole", "cut")]  # fmt: skip
    assert rates[0] == rates[1]
    assert rates[0][0] > rates[0][-1]


def test_resuming_nothing_or_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="contains no run to resume"):
        resume(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    torch.save({"state_dict": {}}, tmp_path / "checkpoints/last.ckpt")
    with pytest.raises(CheckpointError, match="was not written by `cifar train`"):
        resume(tmp_path)


@pytest.mark.slow
def test_a_run_of_an_earlier_version_is_refused_in_words(config_of: ConfigOf, tmp_path: Path) -> None:
    result = train(replace(config_of(tmp_path / "run"), fast_dev_run=True))
    last = result.run_dir / "checkpoints/last.ckpt"
    content = torch.load(last, weights_only=True)
    content["callbacks"] = content.pop("loop")
    del content["cifar"]["config"]["precision"]
    torch.save(content, last)
    with pytest.raises(CheckpointError, match="written by an earlier version") as caught:
        resume(result.run_dir)
    assert "cifar evaluate" in str(caught.value)


def contents(folder: Path) -> dict[Path, tuple[int, bytes]]:
    """Every file but the lock, with its time and its bytes."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "run.lock"]
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"max_epochs": 2}, {"max_seconds": 10_000.0}])
def test_resuming_a_run_that_is_finished_says_so_and_changes_no_file(
    config_of: ConfigOf, tmp_path: Path, more: dict[str, Any]
) -> None:
    whole = train(config_of(tmp_path / "run"))
    before, notes = contents(tmp_path), list[str]()
    again = resume(ResumeConfig(run_dir=whole.run_dir, **more), Listeners(on_note=notes.append))
    assert contents(tmp_path) == before
    assert again.already_finished
    assert replace(again, already_finished=False, config=whole.config) == whole
    (said,) = notes
    assert "run is already finished (2 epochs, stopped by --max-epochs); nothing was changed" in said
    assert f"cifar train --resume {whole.run_dir} --max-epochs 3" in said


@pytest.mark.slow
def test_a_finished_run_needs_no_dataset_and_may_have_moved(config_of: ConfigOf, tmp_path: Path) -> None:
    config = config_of(tmp_path / "run", epochs=1)
    whole = train(config)
    (tmp_path / "run").rename(tmp_path / "moved")
    again = resume(tmp_path / "moved")
    assert (again.run_dir, again.checkpoint) == (tmp_path / "moved", tmp_path / "moved/checkpoints/best.ckpt")
    assert again.test_accuracy == whole.test_accuracy


@pytest.mark.slow
def test_a_run_that_was_killed_before_its_test_is_tested_by_a_resume(config_of: ConfigOf, tmp_path: Path) -> None:
    whole = train(config_of(tmp_path / "run", epochs=1))
    for content in ("", "{}", '{"epochs": 7}'):
        (tmp_path / "run/summary.json").write_text(content)
        again = resume(tmp_path / "run")
        assert (again.test_loss, again.already_finished) == (whole.test_loss, False)
        assert json.loads((tmp_path / "run/summary.json").read_text())["epochs"] == 1


@pytest.mark.slow
def test_a_run_that_is_extended_and_killed_before_its_test_is_tested_again(config_of: ConfigOf, tmp_path: Path) -> None:
    train(config_of(tmp_path / "run", epochs=1))
    old = (tmp_path / "run/summary.json").read_text()
    longer = resume(ResumeConfig(run_dir=tmp_path / "run", max_epochs=2))
    (tmp_path / "run/summary.json").write_text(old)
    again = resume(tmp_path / "run")
    assert (again.epochs, again.test_loss, again.already_finished) == (2, longer.test_loss, False)


@pytest.mark.slow
def test_the_best_weights_of_a_run_of_an_earlier_version_can_still_be_evaluated(
    config_of: ConfigOf, tmp_path: Path
) -> None:
    result = train(config_of(tmp_path / "run", epochs=1))
    content = torch.load(result.checkpoint, weights_only=True)
    config = content["cifar"]["config"]
    config["accelerator"] = {"cpu": "cpu"}[config.pop("device")]
    content["callbacks"] = content.pop("loop")
    torch.save(content, result.checkpoint)
    assert evaluate(EvaluateConfig(checkpoint=result.run_dir)).accuracy == result.test_accuracy


@pytest.mark.slow
def test_a_finished_run_can_be_extended_and_then_equals_one_that_was_longer_from_the_start(
    config_of: ConfigOf, tmp_path: Path
) -> None:
    longer = train(config_of(tmp_path / "longer", epochs=3))
    train(config_of(tmp_path / "extended", epochs=2))
    extended = resume(ResumeConfig(run_dir=tmp_path / "extended", max_epochs=3))
    assert (extended.epochs, extended.test_loss) == (3, longer.test_loss)
    told = yaml.safe_load((tmp_path / "extended/config.yaml").read_text())
    assert told["config"]["recipe"]["max_epochs"] == 3
    assert told["trials"], "what the precision was chosen from is kept"


@pytest.mark.slow
def test_a_run_that_is_extended_and_interrupted_is_not_finished(config_of: ConfigOf, tmp_path: Path) -> None:
    train(config_of(tmp_path / "run", epochs=1))
    with pytest.raises(Interrupted):
        resume(ResumeConfig(run_dir=tmp_path / "run", max_epochs=3), seams=stopping_at(2))
    (listed,) = list_runs(tmp_path).runs
    assert (listed.state, listed.test_accuracy) == ("unfinished", None)
    assert resume(tmp_path / "run").epochs == 3


def test_the_way_to_train_longer_names_epochs_too_where_the_time_ended_the_last_one(
    config_of: ConfigOf, tmp_path: Path
) -> None:
    config = config_of(tmp_path / "run", epochs=1)
    result = replace(train(config), stopped_by="time")
    assert "--max-time 00:20:00 --max-epochs 2` trains it longer" in finished_sentence(result, config)
    assert "--max-time 00:20:00` trains it longer" in finished_sentence(replace(result, epochs=0), config)


def test_a_run_in_float16_is_not_continued_without_gradient_scaling(config_of: ConfigOf, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(config_of(tmp_path / "run"), seams=stopping_at(2))
    path = tmp_path / "run/checkpoints/last.ckpt"
    content = read_checkpoint(path)
    content["cifar"]["config"]["precision"] = "16"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="has --precision 16, which needs a CUDA GPU, and this is cpu"):
        resume(tmp_path / "run")


def test_the_kernels_of_an_optimizer_are_those_of_the_process_that_goes_on() -> None:
    def step(fused: bool) -> TrainingStep:
        made = TrainingStep(torch.nn.Linear(3, 2), StepConfig(optimizer="sgd"), device_type="cpu")
        made.optimizer.param_groups[0]["fused"] = fused
        return made

    saved = step(True)
    content = {
        "state_dict": {f"model.{name}": value for name, value in saved.model.state_dict().items()},
        "optimizer": saved.optimizer.state_dict(),
        "scaler": saved.scaler.state_dict(),
    }
    continued = step(False)
    restore_step(continued, content)
    assert continued.optimizer.param_groups[0]["fused"] is False


def test_fewer_epochs_than_are_done_are_refused(config_of: ConfigOf, tmp_path: Path) -> None:
    train(config_of(tmp_path / "run", epochs=2))
    with pytest.raises(ConfigError, match="--max-epochs 1 is less than the 2 epochs that are done") as caught:
        resume(ResumeConfig(run_dir=tmp_path / "run", max_epochs=1))
    assert "pass more than 2" in str(caught.value)


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
def test_a_run_that_ended_by_its_time_cap_grows_only_when_it_gets_more_time(
    config_of: ConfigOf, tmp_path: Path
) -> None:
    run, slow = tmp_path / "run", Machine(60.0)
    capped = train(config_of(run, epochs=3), slow.listeners, seams=slow.seams)
    assert (capped.epochs, capped.stopped_by) == (1, "time")
    again = resume(run)
    assert (again.epochs, again.stopped_by, again.test_loss) == (1, "time", capped.test_loss)
    extended = resume(ResumeConfig(run_dir=run, max_seconds=10_000))
    assert (extended.epochs, extended.stopped_by) == (3, "epochs")
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]


@pytest.mark.slow
def test_a_dataset_that_moved_is_found_where_the_user_says(config_of: ConfigOf, data_dir: Path, tmp_path: Path) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    shutil.copy(data_dir / "shapes.safetensors", here / "mine.safetensors")
    train(replace(config_of(tmp_path / "run", epochs=1), data=DataConfig(dataset="mine", data_dir=here)))
    here.rename(elsewhere)
    with pytest.raises(CifarError, match="mine"):
        resume(ResumeConfig(run_dir=tmp_path / "run", max_epochs=2))
    again = resume(ResumeConfig(run_dir=tmp_path / "run", max_epochs=2, data_dir=elsewhere))
    assert again.epochs == 2


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
def test_more_epochs_alone_are_refused_for_a_run_that_its_time_cap_ended(config_of: ConfigOf, tmp_path: Path) -> None:
    slow = Machine(60.0)
    train(config_of(tmp_path / "run", epochs=3), slow.listeners, seams=slow.seams)
    with pytest.raises(ConfigError, match="has used up its --max-time of 600 s") as caught:
        resume(ResumeConfig(run_dir=tmp_path / "run", max_epochs=9))
    assert "pass a longer --max-time too" in str(caught.value)


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
def test_a_time_cap_below_the_elapsed_time_is_refused(config_of: ConfigOf, tmp_path: Path) -> None:
    slow = Machine(20.0)
    train(config_of(tmp_path / "run", epochs=1), slow.listeners, seams=slow.seams)
    with pytest.raises(ConfigError, match="--max-time is not longer than the 120 s that the run has trained"):
        resume(ResumeConfig(run_dir=tmp_path / "run", max_epochs=2, max_seconds=60))


@pytest.mark.slow
def test_a_dataset_given_as_a_path_is_found_in_the_folder_it_moved_to(
    config_of: ConfigOf, data_dir: Path, tmp_path: Path
) -> None:
    here, elsewhere = tmp_path / "mine.safetensors", tmp_path / "elsewhere"
    shutil.copy(data_dir / "shapes.safetensors", here)
    train(replace(config_of(tmp_path / "run", epochs=1), data=DataConfig(dataset=str(here))))
    elsewhere.mkdir()
    here.rename(elsewhere / here.name)
    assert resume(ResumeConfig(run_dir=tmp_path / "run", max_epochs=2, data_dir=elsewhere)).epochs == 2


@pytest.mark.slow
def test_a_refused_checkpoint_leaves_the_run_unchanged(config_of: ConfigOf, tmp_path: Path) -> None:
    run = train(config_of(tmp_path / "run", epochs=1)).run_dir
    content = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    del content["optimizer"]
    torch.save(content, run / "checkpoints/last.ckpt")
    before = {path.name: path.stat().st_mtime_ns for path in run.iterdir()}
    with pytest.raises(CheckpointError, match=r"was not written by `cifar train`: optimizer: field required"):
        resume(ResumeConfig(run_dir=run, max_epochs=2))
    assert {path.name: path.stat().st_mtime_ns for path in run.iterdir()} == before


@pytest.mark.slow
def test_a_run_without_its_best_weights_is_refused_before_it_trains(config_of: ConfigOf, tmp_path: Path) -> None:
    run = train(config_of(tmp_path / "run", epochs=1)).run_dir
    (run / "checkpoints/best.ckpt").unlink()
    with pytest.raises(CheckpointError, match=r"the best weights .*best\.ckpt are missing"):
        resume(ResumeConfig(run_dir=run, max_epochs=2))
