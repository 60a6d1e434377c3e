from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cifar_cli.core.data.splits import stratified_split
from cifar_cli.core.data.store import open_store
from cifar_cli.core.evaluation.config import EvaluateConfig
from cifar_cli.core.evaluation.evaluate import evaluate
from cifar_cli.core.models.build import build_model
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.batches import make_loaders
from cifar_cli.core.training.checkpoint import load_checkpoint, read_checkpoint
from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.listeners import Listeners
from cifar_cli.core.training.loop import Seams
from cifar_cli.core.training.machine import processor_name
from cifar_cli.core.training.pictures import spread
from cifar_cli.core.training.recipe import RECIPES, recipe_of
from cifar_cli.core.training.results import EpochResult
from cifar_cli.core.training.run_dir import create_run_dir
from cifar_cli.core.training.step import TrainingStep
from cifar_cli.core.training.train import train
from cifar_cli.errors import CheckpointError, ConfigError, ResourceError

COURSE = RECIPES["course"]
CPU = torch.device("cpu")
ConfigOf = Callable[..., TrainConfig]


def test_the_course_recipe_is_the_course_s() -> None:
    told = (COURSE.optimizer, COURSE.weight_decay, COURSE.clip_norm, COURSE.batch, COURSE.max_seconds, COURSE.policy)
    assert told == ("adam", 0.0, 1.0, 128, 1200, "course")


def test_a_config_survives_the_way_through_plain_values(config_of: ConfigOf, tmp_path: Path) -> None:
    config = config_of(tmp_path / "run")
    assert TrainConfig.from_dict(yaml.safe_load(yaml.safe_dump(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.0}, "--lr 0 is not a positive number"),
        ({"learning_rate": float("nan")}, "--lr nan is not a positive number"),
        ({"batch": 0}, "--batch must be at least 1, not 0"),
        ({"max_epochs": 0}, "--max-epochs must be at least 1, not 0"),
        ({"max_seconds": 0.0}, "--max-time must be longer than 0 seconds"),
    ],
)
def test_recipes_refuse_values_that_can_t_train(change: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(COURSE, **change)  # type: ignore[arg-type]


def test_an_unknown_recipe_is_refused() -> None:
    with pytest.raises(ConfigError, match="no recipe named 'curse'") as caught:
        recipe_of("curse")
    assert "course" in str(caught.value)


def test_validation_is_a_tenth_of_every_class_and_never_trained_on(config_of: ConfigOf, data_dir: Path) -> None:
    store = open_store(data_dir / "shapes.safetensors")
    loaders = make_loaders(config_of(), store, device=CPU)
    assert set(loaders.train_indices.tolist()).isdisjoint(loaders.val_indices.tolist())
    assert torch.bincount(store.train.labels_N[loaders.val_indices]).tolist() == [4] * 10
    assert torch.equal(loaders.val_indices, stratified_split(store.train.labels_N).val_indices)


def test_validation_and_test_images_are_normalised_and_nothing_else(config_of: ConfigOf, data_dir: Path) -> None:
    store = open_store(data_dir / "shapes.safetensors")
    loaders = make_loaders(config_of(), store, device=CPU)
    mean = torch.tensor([0.4914, 0.4822, 0.4465])
    std = torch.tensor([0.2470, 0.2435, 0.2616])
    for loader, images in (
        (loaders.val, store.train.images_NHWC[loaders.val_indices]),
        (loaders.test, store.test.images_NHWC),
    ):
        seen = torch.cat([batch for batch, _ in loader]).permute(0, 2, 3, 1)
        torch.testing.assert_close(seen, (images / 255 - mean) / std, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_a_run_directory_holds_everything_about_the_run(trained_run: Path) -> None:
    told = yaml.safe_load((trained_run / "config.yaml").read_text())
    assert told["config"]["recipe"]["name"] == "course"
    assert told["synthetic"] is True
    assert (told["device_name"], told["threads"]) == (processor_name(), torch.get_num_threads())
    rows = list(csv.DictReader((trained_run / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    summary = json.loads((trained_run / "summary.json").read_text())
    assert summary["epochs"] == 2
    assert summary["synthetic"] is True
    assert summary["val_accuracy"] == max(float(row["val_accuracy"]) for row in rows)
    kept = {path.name for path in (trained_run / "checkpoints").iterdir()}
    assert kept == {"best.ckpt", "model.safetensors", "last.ckpt", "previous.ckpt"}


@pytest.mark.slow
def test_a_run_leaves_its_files_and_no_others(
    config_of: ConfigOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = train(config_of(tmp_path / "run", epochs=1))
    names = sorted(path.name for path in result.run_dir.iterdir())
    assert names[:3] == ["checkpoints", "config.yaml", "confusion.json"]
    assert names[3].startswith("events.out.tfevents.")
    assert names[4:] == ["learning_rate.csv", "metrics.csv", "predictions.safetensors", "run.lock", "summary.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_synthetic_dataset_is_announced(config_of: ConfigOf, tmp_path: Path) -> None:
    said: list[str] = []
    train(replace(config_of(tmp_path / "run"), fast_dev_run=True), Listeners(on_note=said.append))
    assert "synthetic, drawn by cifar: not real images" in said[0]
    assert "545,098 parameters" in said[0]


def test_tensorboard_shows_scalars_of_every_epoch_and_pictures_of_the_best_and_the_last(trained_run: Path) -> None:
    events = EventAccumulator(str(trained_run), size_guidance={"images": 0})
    events.Reload()
    tags = events.Tags()
    assert {
        "train/loss", "train/accuracy", "val/loss", "val/accuracy",
        "learning_rate", "epoch", "elapsed_seconds", "images_per_second",
    } <= set(tags["scalars"])  # fmt: skip
    assert {"confusion/train", "confusion/val", "samples/train", "samples/val"} == set(tags["images"])
    best = json.loads((trained_run / "confusion.json").read_text())["epoch"]
    assert [image.step for image in events.Images("samples/val")] == sorted({6 * best, 12})
    text = events.Tensors("dataset/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "synthetic" in text


@pytest.mark.slow
def test_the_best_checkpoint_is_the_one_that_validated_best(config_of: ConfigOf, tmp_path: Path) -> None:
    seen: list[EpochResult] = []
    result = train(config_of(tmp_path / "run", epochs=4), Listeners(on_epoch=seen.append))
    best = max(seen, key=lambda epoch: epoch.val_accuracy)
    assert read_checkpoint(result.checkpoint)["epoch"] + 1 == best.epoch
    assert result.val_accuracy == best.val_accuracy
    assert [epoch.best for epoch in seen][best.epoch - 1]
    assert read_checkpoint(result.run_dir / "checkpoints/last.ckpt")["global_step"] == 4 * 6


@pytest.mark.slow
def test_equal_seeds_give_equal_runs(config_of: ConfigOf, tmp_path: Path) -> None:
    first, second = (train(config_of(tmp_path / name, epochs=1)) for name in "ab")
    assert first.test_loss == second.test_loss


@pytest.mark.slow
def test_the_time_cap_ends_a_run_whole(config_of: ConfigOf, tmp_path: Path) -> None:
    start = time.monotonic()
    result = train(config_of(tmp_path / "run", epochs=10_000, seconds=6))
    assert time.monotonic() - start < 12  # of slack for a busy machine
    assert result.stopped_by == "time"
    assert result.epochs < 10_000
    assert result.checkpoint.is_file()
    assert 0 <= result.test_accuracy <= 1


def test_a_fast_dev_run_on_sorted_images_says_nothing_about_classes(config_of: ConfigOf, tmp_path: Path) -> None:
    """Its one batch may hold a single class."""
    said: list[str] = []
    plain = config_of(tmp_path / "run")
    small = replace(plain, fast_dev_run=True, recipe=replace(plain.recipe, batch=8))
    train(small, Listeners(on_note=said.append))
    assert "on one batch of 8 images (--fast-dev-run) of shapes" in said[0]
    assert not any("class" in each for each in said)


def test_fast_dev_run_sees_one_batch_of_each_kind(config_of: ConfigOf, tmp_path: Path) -> None:
    seen: list[EpochResult] = []
    config = replace(config_of(tmp_path / "run", epochs=5), fast_dev_run=True)
    result = train(config, Listeners(on_epoch=seen.append))
    assert len(seen) == 1
    assert read_checkpoint(result.checkpoint)["global_step"] == 1


@pytest.mark.slow
def test_averaged_weights_are_what_is_validated_and_kept(config_of: ConfigOf, tmp_path: Path) -> None:
    plain = config_of(tmp_path / "run", epochs=1)
    result = train(replace(plain, recipe=replace(plain.recipe, ema_decay=0.9)))
    content = read_checkpoint(result.checkpoint)
    kept, current = content["state_dict"], content["current_model_state"]
    assert not torch.equal(kept["model.head.1.weight"], current["model.head.1.weight"])
    assert torch.equal(load_checkpoint(result.run_dir).model.state_dict()["head.1.weight"], kept["model.head.1.weight"])


@pytest.mark.slow
def test_a_run_s_seconds_are_accounted_for(config_of: ConfigOf, tmp_path: Path) -> None:
    result = train(config_of(tmp_path / "run"))
    spent = result.time
    assert min(asdict(spent).values()) >= 0
    assert spent.step_seconds > spent.metrics_seconds > 0
    assert spent.total_seconds >= result.train_seconds
    assert json.loads((result.run_dir / "summary.json").read_text())["time"] == asdict(spent)


@pytest.mark.slow
def test_the_test_split_is_scored_in_float32_as_evaluate_scores_it(config_of: ConfigOf, tmp_path: Path) -> None:
    result = train(replace(config_of(tmp_path / "run"), precision="bf16", memory_format="contiguous"))
    again = evaluate(EvaluateConfig(checkpoint=result.run_dir))
    assert (again.accuracy, again.loss) == (result.test_accuracy, pytest.approx(result.test_loss))


@pytest.mark.slow
def test_the_first_of_equally_good_epochs_is_kept_as_the_best(config_of: ConfigOf, tmp_path: Path) -> None:
    class Still(TrainingStep):
        """Trains nothing, so that all epochs validate equally."""

        def update(self) -> None:
            self.optimizer.state = {}

    seen: list[EpochResult] = []
    result = train(config_of(tmp_path / "run", epochs=3), Listeners(on_epoch=seen.append), seams=Seams(make_step=Still))
    assert len({epoch.val_accuracy for epoch in seen}) == 1
    assert [epoch.best for epoch in seen] == [True, False, False]
    assert read_checkpoint(result.checkpoint)["epoch"] + 1 == 1
    assert read_checkpoint(result.run_dir / "checkpoints/last.ckpt")["epoch"] + 1 == 3


def test_a_run_directory_in_use_is_never_written_into(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="is not empty"):
        create_run_dir(tmp_path, model="null")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_two_runs_in_one_second_get_two_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datetime import datetime

    monkeypatch.chdir(tmp_path)
    now = datetime(2026, 1, 2, 3, 4, 5)
    paths = [create_run_dir(None, model="null", now=now).path.name for _ in range(2)]
    assert paths == ["20260102-030405-null", "20260102-030405-null-2"]


def test_a_run_directory_that_can_t_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="can't be created"):
        create_run_dir(tmp_path / "file" / "run", model="null")


def test_a_checkpoint_tells_what_it_was_trained_as(trained_run: Path) -> None:
    checkpoint = load_checkpoint(trained_run)
    assert checkpoint.config.model.name == "null"
    assert checkpoint.synthetic
    assert len(checkpoint.classes) == 10


def test_a_checkpoint_is_read_though_the_file_its_weights_began_with_is_gone(
    config_of: ConfigOf, tmp_path: Path
) -> None:
    weights = tmp_path / "weights.pt"
    torch.save(build_model(ModelConfig(name="null")).state_dict(), weights)
    config = config_of(tmp_path / "run")
    result = train(replace(config, model=ModelConfig(name="null", weights=str(weights)), fast_dev_run=True))
    weights.unlink()
    assert load_checkpoint(result.run_dir).config.model.name == "null"


def test_samples_are_spread_over_a_dataset_sorted_by_class() -> None:
    rows = torch.arange(1000)
    assert spread(rows, 5).tolist() == [0, 250, 500, 749, 999]
    assert len(spread(rows[:3])) == 3
