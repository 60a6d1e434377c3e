"""What a run leaves for its report: comparable losses, learning rates by step, confusion matrices, TensorBoard."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter

from cifar_cli import __version__
from cifar_cli.core.data.config import Normalisation
from cifar_cli.core.data.store import open_store, read_header
from cifar_cli.core.training.batches import make_loaders
from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.listeners import SILENT, Listeners
from cifar_cli.core.training.pictures import augmented_samples
from cifar_cli.core.training.record import Record
from cifar_cli.core.training.results import EpochResult
from cifar_cli.core.training.run_dir import RunDir
from cifar_cli.core.training.train import train

ConfigOf = Callable[..., TrainConfig]


def epoch_of(number: int, *, rate: float, steps: int = 10) -> EpochResult:
    return EpochResult(
        epoch=number, step=number * steps, train_loss=1.0, train_optimized_loss=1.1, train_accuracy=0.5, val_loss=1.0,
        val_accuracy=0.5 + number / 100, learning_rate=rate, elapsed_seconds=1.0, images_per_second=1.0, best=True,
    )  # fmt: skip


def rates_of(run: RunDir) -> list[tuple[int, float]]:
    return [(int(row["step"]), float(row["learning_rate"])) for row in csv.DictReader(run.rates.open())]


@pytest.fixture
def smoothed(config_of: ConfigOf, tmp_path: Path) -> tuple[TrainConfig, list[EpochResult]]:
    """A run of two epochs with label smoothing and a schedule, and its epochs."""
    config = config_of(tmp_path / "run")
    recipe = replace(config.recipe, label_smoothing=0.5, schedule="one-cycle", warmup=0.3, learning_rate=1e-3)
    epochs: list[EpochResult] = []
    result = train(replace(config, recipe=recipe), Listeners(on_epoch=epochs.append))
    return result.config, epochs


@pytest.mark.slow
def test_a_run_records_all_that_its_report_needs(smoothed: tuple[TrainConfig, list[EpochResult]]) -> None:
    config, epochs = smoothed
    assert config.run_dir is not None
    run = RunDir(config.run_dir)
    for epoch in epochs:
        assert epoch.train_optimized_loss != epoch.train_loss
    rates = rates_of(run)
    assert rates[0][0] == 1
    assert rates[-1] == (12, epochs[-1].learning_rate)
    assert rates == sorted(set(rates))
    confusion = json.loads(run.confusion.read_text())
    best = max(epochs, key=lambda epoch: epoch.val_accuracy)
    assert confusion["epoch"] == best.epoch
    diagonal = sum(row[place] for place, row in enumerate(confusion["val"]))
    assert diagonal / sum(map(sum, confusion["val"])) == pytest.approx(best.val_accuracy)
    assert sum(map(sum, confusion["train"])) == 360
    told = yaml.safe_load(run.config.read_text())
    assert told["version"] == __version__
    assert told["data"]["content_checksum"] == read_header(config.data.store_path).summary.content
    assert told["command"].startswith("cifar train --model null")
    events = EventAccumulator(str(run.path), size_guidance={"scalars": 0})
    events.Reload()
    shown = {each.step: each.value for each in events.Scalars("learning_rate")}
    assert shown == pytest.approx(dict(rates))
    assert [each.step for each in events.Scalars("val/accuracy")] == [6, 12]
    texts = {tag.removesuffix("/text_summary") for tag in events.Tags()["tensors"]}
    assert {"dataset", "config", "command", "summary"} <= texts
    assert "final/test_accuracy" in events.Tags()["scalars"]
    assert "_hparams_/session_start_info" in events.summary_metadata


def test_the_cross_entropy_of_a_smoothed_step_is_that_without_smoothing(config_of: ConfigOf) -> None:
    from cifar_cli.core.training.config import StepConfig
    from cifar_cli.core.training.step import TrainingStep

    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5))
    images, labels = torch.randn(4, 3, 2, 2), torch.tensor([0, 1, 2, 3])
    for smoothing in (0.0, 0.3):
        step = TrainingStep(model, StepConfig(label_smoothing=smoothing), device_type="cpu")
        loss, logits = step(images, labels)
        torch.testing.assert_close(step.cross_entropy(loss, logits, labels), F.cross_entropy(logits, labels))


def test_a_constant_rate_takes_one_row_an_epoch_and_a_changing_one_few(tmp_path: Path) -> None:
    for name, rate_at in {"constant": lambda step: 0.1, "falling": lambda step: 0.1 * (1 - step / 10_000)}.items():
        run = RunDir(tmp_path / name)
        run.path.mkdir()
        with SummaryWriter(run.path) as writer:
            record = Record(run, SILENT, clock=itertools.count().__next__)
            record.write_to(writer, 0)
            for step in range(1, 10_001):
                record.add_step(step, rate_at(step))
            record.add_epoch(epoch_of(1, rate=rate_at(10_000), steps=10_000), {})
        rows = rates_of(run)
        assert rows[0][0] == 1
        assert rows[-1] == (10_000, rate_at(10_000))
        assert len(rows) <= (2 if name == "constant" else 105)


def test_steps_that_are_trained_again_appear_once(tmp_path: Path) -> None:
    """Interrupted within the second epoch, resumed from a checkpoint of its fourth step: nothing doubles or jumps."""
    run, rate_at = RunDir(tmp_path), lambda step: step / 1000
    with SummaryWriter(run.path) as writer:
        record = Record(run, SILENT, clock=itertools.count().__next__)
        record.write_to(writer, 0)
        for step in (*range(1, 6), *range(1, 11)):  # the first five are taken back
            record.add_step(step, rate_at(step))
        record.add_epoch(epoch_of(1, rate=rate_at(10)), {})
        for step in range(11, 15):
            record.add_step(step, rate_at(step))
        state = record.state_dict()
        for step in range(15, 21):
            record.add_step(step, rate_at(step))
        record.add_epoch(epoch_of(2, rate=rate_at(20)), {})
    resumed = Record(run, SILENT, clock=itertools.count().__next__)
    resumed.load_state_dict(json.loads(json.dumps(state)))
    assert resumed.unwritten_step(14) == 11
    with SummaryWriter(run.path, purge_step=resumed.unwritten_step(14)) as writer:
        resumed.write_to(writer, 14)
        for step in range(15, 21):
            resumed.add_step(step, rate_at(step))
        resumed.add_epoch(epoch_of(2, rate=rate_at(20)), {})
    assert [step for step, _ in rates_of(run)] == list(range(1, 21))
    events = EventAccumulator(str(run.path), size_guidance={"scalars": 0})
    events.Reload()
    assert [each.step for each in events.Scalars("learning_rate")] == list(range(1, 21))
    assert [each.step for each in events.Scalars("val/loss")] == [10, 20]


@pytest.mark.parametrize("pipeline", ["batched", "albumentations"])
def test_the_samples_are_what_the_model_is_trained_on(config_of: ConfigOf, data_dir: Path, pipeline: str) -> None:
    store = open_store(data_dir / "shapes.safetensors")
    by = Normalisation((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
    config = replace(config_of(), pipeline=pipeline, workers=0, normalisation=by)
    rows, shown_NHWC = augmented_samples(make_loaders(config, store, device=torch.device("cpu")), by, epoch=3, count=5)
    loader = make_loaders(config, store, device=torch.device("cpu")).train
    loader.set_epoch(3)
    trained_BCHW, labels = next(iter(loader))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (by.mean, by.std))
    torch.testing.assert_close(
        (shown_NHWC.permute(0, 3, 1, 2) / 255 - mean) / std, trained_BCHW[:5].contiguous(), atol=1e-4, rtol=1e-4
    )
    assert torch.equal(store.train.labels_N[rows], labels[:5])
    assert not torch.equal(store.train.images_NHWC[rows], shown_NHWC)


def test_a_metrics_file_of_an_earlier_version_keeps_its_columns(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.metrics.write_text("epoch,train_loss,val_accuracy\n1,2.0,0.3\n")
    run.append_metrics(epoch_of(2, rate=0.1))
    rows = list(csv.DictReader(run.metrics.open()))
    assert rows[1] == {"epoch": "2", "train_loss": "1.0", "val_accuracy": "0.52"}
