from __future__ import annotations

import csv
import json
import os
import signal
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cifar_cli.core.data.config import DataConfig
from cifar_cli.core.data.splits import stratified_split
from cifar_cli.core.data.store import open_store
from cifar_cli.core.evaluation.config import EvaluateConfig
from cifar_cli.core.evaluation.evaluate import evaluate
from cifar_cli.core.models.build import build_model
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.batches import make_loaders
from cifar_cli.core.training.callbacks.pictures import spread
from cifar_cli.core.training.checkpoint import load_checkpoint, read_checkpoint
from cifar_cli.core.training.config import EpochResult, TrainConfig
from cifar_cli.core.training.module import Classifier
from cifar_cli.core.training.recipe import RECIPES, recipe_of
from cifar_cli.core.training.run_dir import create_run_dir
from cifar_cli.core.training.session import Listeners
from cifar_cli.core.training.trainer import device_of, resume, train
from cifar_cli.errors import CheckpointError, CifarError, ConfigError, Interrupted, ResourceError

COURSE = RECIPES["course"]
CPU = torch.device("cpu")


def config_of(data_dir: Path, run_dir: Path | None = None, *, epochs: int = 2, seconds: float = 600) -> TrainConfig:
    return TrainConfig(
        model=ModelConfig(name="null"),
        data=DataConfig(dataset="shapes", data_dir=data_dir),
        recipe=replace(COURSE, batch=64, max_epochs=epochs, max_seconds=seconds),
        accelerator="cpu",
        run_dir=run_dir,
    )


def test_the_course_recipe_is_the_course_s() -> None:
    told = (COURSE.optimizer, COURSE.weight_decay, COURSE.clip_norm, COURSE.batch, COURSE.max_seconds, COURSE.policy)
    assert told == ("adam", 0.0, 1.0, 128, 1200, "course")


def test_a_config_survives_the_way_through_plain_values(tmp_path: Path) -> None:
    config = config_of(tmp_path, tmp_path / "run")
    assert TrainConfig.from_dict(yaml.safe_load(yaml.safe_dump(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.0}, "--lr 0 can't train"),
        ({"learning_rate": float("nan")}, "--lr nan can't train"),
        ({"batch": 0}, "--batch 0 holds no image"),
        ({"max_epochs": 0}, "--max-epochs 0 trains nothing"),
        ({"max_seconds": 0.0}, "--max-time leaves no time to train"),
    ],
)
def test_recipes_refuse_values_that_can_t_train(change: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(COURSE, **change)  # type: ignore[arg-type]


def test_an_unknown_recipe_is_refused() -> None:
    with pytest.raises(ConfigError, match="no recipe named 'curse'") as caught:
        recipe_of("curse")
    assert "course" in str(caught.value)


def test_validation_is_a_tenth_of_every_class_and_never_trained_on(data_dir: Path) -> None:
    store = open_store(data_dir / "shapes.safetensors")
    loaders = make_loaders(config_of(data_dir), store, device=CPU)
    assert set(loaders.train_indices.tolist()).isdisjoint(loaders.val_indices.tolist())
    assert torch.bincount(store.train.labels_N[loaders.val_indices]).tolist() == [4] * 10
    assert torch.equal(loaders.val_indices, stratified_split(store.train.labels_N).val_indices)


def test_validation_and_test_images_are_normalised_and_nothing_else(data_dir: Path) -> None:
    store = open_store(data_dir / "shapes.safetensors")
    loaders = make_loaders(config_of(data_dir), store, device=CPU)
    mean = torch.tensor([0.4914, 0.4822, 0.4465])
    std = torch.tensor([0.2470, 0.2435, 0.2616])
    for loader, images in (
        (loaders.val, store.train.images_NHWC[loaders.val_indices]),
        (loaders.test, store.test.images_NHWC),
    ):
        seen = torch.cat([batch for batch, _ in loader]).permute(0, 2, 3, 1)
        torch.testing.assert_close(seen, (images / 255 - mean) / std, atol=1e-5, rtol=1e-5)


def test_a_run_directory_holds_everything_about_the_run(trained_run: Path) -> None:
    told = yaml.safe_load((trained_run / "config.yaml").read_text())
    assert told["config"]["recipe"]["name"] == "course"
    assert told["synthetic"] is True
    rows = list(csv.DictReader((trained_run / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    summary = json.loads((trained_run / "summary.json").read_text())
    assert summary["epochs"] == 2
    assert summary["synthetic"] is True
    assert summary["val_accuracy"] == max(float(row["val_accuracy"]) for row in rows)
    assert {path.name for path in (trained_run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}


def test_a_synthetic_dataset_is_announced(data_dir: Path, tmp_path: Path) -> None:
    said: list[str] = []
    train(replace(config_of(data_dir, tmp_path / "run"), fast_dev_run=True), Listeners(on_note=said.append))
    assert "synthetic, drawn by cifar: not real images" in said[0]
    assert "545,098 parameters" in said[0]


def test_tensorboard_shows_scalars_confusion_matrices_and_samples_of_every_epoch(trained_run: Path) -> None:
    events = EventAccumulator(str(trained_run), size_guidance={"images": 0})
    events.Reload()
    tags = events.Tags()
    assert {
        "train/loss", "train/accuracy", "val/loss", "val/accuracy",
        "learning_rate", "epoch", "elapsed_seconds", "images_per_second",
    } <= set(tags["scalars"])  # fmt: skip
    assert {"confusion/train", "confusion/val", "samples/train", "samples/val"} == set(tags["images"])
    assert [image.step for image in events.Images("samples/val")] == [1, 2]
    text = events.Tensors("dataset/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "synthetic" in text


def test_the_best_checkpoint_is_the_one_that_validated_best(data_dir: Path, tmp_path: Path) -> None:
    seen: list[EpochResult] = []
    result = train(config_of(data_dir, tmp_path / "run", epochs=4), Listeners(on_epoch=seen.append))
    best = max(seen, key=lambda epoch: epoch.val_accuracy)
    assert read_checkpoint(result.checkpoint)["epoch"] + 1 == best.epoch
    assert result.val_accuracy == best.val_accuracy
    assert [epoch.best for epoch in seen][best.epoch - 1]
    assert read_checkpoint(result.run_dir / "checkpoints/last.ckpt")["global_step"] == 4 * 6


def test_equal_seeds_give_equal_runs(data_dir: Path, tmp_path: Path) -> None:
    first, second = (train(config_of(data_dir, tmp_path / name, epochs=1)) for name in "ab")
    assert first.test_loss == second.test_loss


def test_the_time_cap_ends_a_run_whole(data_dir: Path, tmp_path: Path) -> None:
    start = time.monotonic()
    result = train(config_of(data_dir, tmp_path / "run", epochs=10_000, seconds=6))
    assert time.monotonic() - start < 12  # of slack for a busy machine
    assert result.stopped_by == "time"
    assert result.epochs < 10_000
    assert result.checkpoint.is_file()
    assert 0 <= result.test_accuracy <= 1


def test_fast_dev_run_sees_one_batch_of_each_kind(data_dir: Path, tmp_path: Path) -> None:
    seen: list[EpochResult] = []
    config = replace(config_of(data_dir, tmp_path / "run", epochs=5), fast_dev_run=True)
    result = train(config, Listeners(on_epoch=seen.append))
    assert len(seen) == 1
    assert read_checkpoint(result.checkpoint)["global_step"] == 1


class StopAt:
    """Stands for a user who presses Ctrl-C in the middle of an epoch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
        self.left = step
        original = Classifier.training_step

        def training_step(module: Classifier, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGINT)
            return original(module, batch, batch_idx)

        monkeypatch.setattr(Classifier, "training_step", training_step)


@pytest.mark.parametrize("step", [3, 6, 8])
def test_a_run_interrupted_anywhere_and_resumed_gives_the_weights_of_an_uninterrupted_one(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """360 images in batches of 64 are 6 steps an epoch: within the first, right after it, within the second."""
    whole = train(config_of(data_dir, tmp_path / "whole", epochs=3))
    StopAt(monkeypatch, step)
    with pytest.raises(Interrupted, match="interrupted in epoch") as caught:
        train(config_of(data_dir, tmp_path / "cut", epochs=3))
    assert f"cifar train --resume {tmp_path / 'cut'}" in str(caught.value)
    continued = resume(tmp_path / "cut")
    assert continued.epochs == whole.epochs == 3
    theirs = read_checkpoint(tmp_path / "cut/checkpoints/last.ckpt")["state_dict"]
    for name, value in read_checkpoint(tmp_path / "whole/checkpoints/last.ckpt")["state_dict"].items():
        assert torch.equal(value, theirs[name]), name
    rows = list(csv.DictReader((tmp_path / "cut/metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]


@pytest.mark.parametrize("optimizer", ["sgd", "muon"])
def test_a_schedule_and_averaged_weights_survive_an_interruption(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    def config(name: str) -> TrainConfig:
        plain = config_of(data_dir, tmp_path / name, epochs=3)
        recipe = replace(
            plain.recipe, optimizer=optimizer, learning_rate=0.02, schedule="one-cycle", warmup=0.3, ema_decay=0.8
        )
        return replace(plain, recipe=recipe)

    train(config("whole"))
    StopAt(monkeypatch, 8)
    with pytest.raises(Interrupted):
        train(config("cut"))
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


def test_averaged_weights_are_what_is_validated_and_kept(data_dir: Path, tmp_path: Path) -> None:
    plain = config_of(data_dir, tmp_path / "run", epochs=1)
    result = train(replace(plain, recipe=replace(plain.recipe, ema_decay=0.9)))
    content = read_checkpoint(result.checkpoint)
    kept, current = content["state_dict"], content["current_model_state"]
    assert not torch.equal(kept["model.head.1.weight"], current["model.head.1.weight"])
    assert torch.equal(load_checkpoint(result.run_dir).model.state_dict()["head.1.weight"], kept["model.head.1.weight"])


def test_a_schedule_ends_when_the_time_does(data_dir: Path, tmp_path: Path) -> None:
    plain = config_of(data_dir, tmp_path / "run", epochs=10_000, seconds=4)
    recipe = replace(plain.recipe, schedule="triangular", warmup=0.3)
    result = train(replace(plain, recipe=recipe))
    assert result.stopped_by == "time"
    rates = [float(row["learning_rate"]) for row in csv.DictReader((result.run_dir / "metrics.csv").open())]
    assert rates[-1] < 0.2 * max(rates)


def test_a_run_s_seconds_are_accounted_for(data_dir: Path, tmp_path: Path) -> None:
    result = train(config_of(data_dir, tmp_path / "run"))
    spent = result.time
    assert min(asdict(spent).values()) >= 0
    assert spent.step_seconds > spent.metrics_seconds > 0
    assert spent.total_seconds >= result.train_seconds
    assert json.loads((result.run_dir / "summary.json").read_text())["time"] == asdict(spent)


def test_the_test_split_is_scored_in_float32_as_evaluate_scores_it(data_dir: Path, tmp_path: Path) -> None:
    result = train(replace(config_of(data_dir, tmp_path / "run"), precision="bf16", memory_format="contiguous"))
    again = evaluate(EvaluateConfig(checkpoint=result.run_dir))
    assert (again.accuracy, again.loss) == (result.test_accuracy, pytest.approx(result.test_loss))


def test_a_loss_that_is_no_number_ends_the_run_with_a_remedy(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Classifier.forward
    monkeypatch.setattr(Classifier, "forward", lambda self, images: original(self, images) * float("nan"))
    with pytest.raises(CifarError, match="the training loss became nan in epoch 1") as caught:
        train(config_of(data_dir, tmp_path / "run"))
    assert "lower --lr" in str(caught.value)


def test_a_full_disk_is_named_with_the_way_to_go_on(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning.pytorch import Trainer

    def no_space(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Trainer, "save_checkpoint", no_space)
    with pytest.raises(ResourceError, match="there is no space left to write to") as caught:
        train(config_of(data_dir, tmp_path / "run", epochs=1))
    assert "free some" in str(caught.value)


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
    with pytest.raises(ResourceError, match="can't be made"):
        create_run_dir(tmp_path / "file" / "run", model="null")


def test_resuming_nothing_or_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no run that can be continued"):
        resume(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    torch.save({"state_dict": {}}, tmp_path / "checkpoints/last.ckpt")
    with pytest.raises(CheckpointError, match="was not written by `cifar train`"):
        resume(tmp_path)


def test_a_run_of_an_earlier_version_is_refused_in_words(data_dir: Path, tmp_path: Path) -> None:
    result = train(replace(config_of(data_dir, tmp_path / "run"), fast_dev_run=True))
    last = result.run_dir / "checkpoints/last.ckpt"
    content = torch.load(last, weights_only=True)
    content["callbacks"]["EpochLog"] = {"best_val_accuracy": 0.5}
    del content["cifar"]["config"]["precision"]
    torch.save(content, last)
    with pytest.raises(CheckpointError, match="written by an earlier version") as caught:
        resume(result.run_dir)
    assert "cifar evaluate" in str(caught.value)


def test_resuming_a_run_that_is_done_keeps_its_result(data_dir: Path, tmp_path: Path) -> None:
    whole = train(config_of(data_dir, tmp_path / "run"))
    again = resume(whole.run_dir)
    assert (again.test_accuracy, again.epochs) == (whole.test_accuracy, whole.epochs)
    assert again.images_per_second == pytest.approx(whole.images_per_second, rel=0.5)
    assert again.images_per_second > 0


def test_a_checkpoint_tells_what_it_was_trained_as(trained_run: Path) -> None:
    checkpoint = load_checkpoint(trained_run)
    assert checkpoint.config.model.name == "null"
    assert checkpoint.synthetic
    assert len(checkpoint.classes) == 10


def test_a_checkpoint_is_read_though_the_file_its_weights_began_with_is_gone(data_dir: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    torch.save(build_model(ModelConfig(name="null")).state_dict(), weights)
    config = config_of(data_dir, tmp_path / "run")
    result = train(replace(config, model=ModelConfig(name="null", weights=str(weights)), fast_dev_run=True))
    weights.unlink()
    assert load_checkpoint(result.run_dir).config.model.name == "null"


def test_a_gpu_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ResourceError, match="there is no GPU that PyTorch can use"):
        device_of("gpu")
    assert device_of("auto") == CPU


def test_samples_are_spread_over_a_dataset_sorted_by_class() -> None:
    rows = torch.arange(1000)
    assert spread(rows, 5).tolist() == [0, 250, 500, 749, 999]
    assert len(spread(rows[:3])) == 3
