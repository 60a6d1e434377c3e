"""Runs that fail: the message, and what is left on disk."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cifar_cli.core.data.config import DataConfig
from cifar_cli.core.models.build import build_model
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.models.onednn import computes
from cifar_cli.core.training.checkpoint import read_checkpoint
from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.failures import explained, memory_named, require_converging
from cifar_cli.core.training.loop import Seams
from cifar_cli.core.training.results import EpochResult
from cifar_cli.core.training.run_dir import RunDir
from cifar_cli.core.training.step import TrainingStep
from cifar_cli.core.training.train import resume, train
from cifar_cli.errors import CifarError, ConfigError, ResourceError

ConfigOf = Callable[..., TrainConfig]


def failing_from(step: int, spoil: Callable[[TrainingStep], None] | None = None) -> Seams:
    """A training step that from its `step`-th call on returns NaN, or spoils the weights."""
    calls = 0

    class Failing(TrainingStep):
        def loss(self, images_BCHW: torch.Tensor, labels_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            nonlocal calls
            calls += 1
            if calls >= step and spoil is not None:
                spoil(self)
            loss, logits_BK = super().loss(images_BCHW, labels_B)
            return loss * (float("nan") if calls >= step and spoil is None else 1.0), logits_BK

    return Seams(make_step=Failing)


@pytest.mark.slow
def test_a_nan_loss_ends_the_run_with_a_remedy(config_of: ConfigOf, tmp_path: Path) -> None:
    with pytest.raises(CifarError, match="the training loss became nan in epoch 1") as caught:
        train(config_of(tmp_path / "run"), seams=failing_from(1))
    assert "lower --lr" in str(caught.value)


@pytest.mark.slow
def test_a_loss_that_becomes_nan_leaves_the_weights_of_the_epochs_before(config_of: ConfigOf, tmp_path: Path) -> None:
    with pytest.raises(CifarError, match="the training loss became nan in epoch 2") as caught:
        train(config_of(tmp_path / "run"), seams=failing_from(7))
    assert "the best weights so far are in" in str(caught.value)
    for name in ("best", "last"):
        content = read_checkpoint(tmp_path / f"run/checkpoints/{name}.ckpt")
        assert content["epoch"] == 0
        assert all(bool(value.isfinite().all()) for value in content["state_dict"].values())


def epoch_of(**figures: float) -> EpochResult:
    good = {"train_loss": 1.0, "train_accuracy": 0.5, "val_loss": 1.0, "val_accuracy": 0.5, "learning_rate": 0.1}
    good |= {"train_optimized_loss": 1.0, "elapsed_seconds": 1.0, "images_per_second": 1.0}
    return EpochResult(epoch=3, step=30, best=False, **good | figures)


@pytest.mark.parametrize(
    ("figures", "weights_are_finite", "lost"),
    [
        ({"train_loss": math.nan}, True, "the training loss became nan"),
        ({"train_loss": math.inf}, True, "the training loss became inf"),
        ({"val_loss": math.nan}, True, "the validation loss became nan"),
        ({"val_loss": math.inf}, True, "the validation loss became inf"),
        ({}, False, "a weight became NaN or infinite"),
        ({"train_loss": 1e19}, True, "the training loss rose to 1e+19, while guessing has 2.3,"),
        ({"train_loss": 231.0}, True, "the training loss rose to 231, while guessing has 2.3,"),
    ],
)
def test_a_diverged_run_is_called_that_and_told_how(
    tmp_path: Path, figures: dict[str, float], weights_are_finite: bool, lost: str
) -> None:
    with pytest.raises(CifarError) as caught:
        require_converging(epoch_of(**figures), RunDir(tmp_path), classes=10, weights_are_finite=weights_are_finite)
    assert caught.value.what == f"the training diverged: {lost} in epoch 3"
    assert caught.value.remedy == "lower --lr (it was 0.1)"


@pytest.mark.parametrize("figures", [{}, {"train_loss": 229.0}, {"val_loss": 1e30}])
def test_a_bad_epoch_is_no_divergence(tmp_path: Path, figures: dict[str, float]) -> None:
    require_converging(epoch_of(**figures), RunDir(tmp_path), classes=10, weights_are_finite=True)


@pytest.mark.slow
@pytest.mark.parametrize("rate", [1e3, 1e30])
def test_a_learning_rate_far_too_high_ends_with_an_error_and_leaves_no_weights(
    config_of: ConfigOf, tmp_path: Path, rate: float
) -> None:
    plain = config_of(tmp_path / "run", epochs=1)
    recipe = replace(plain.recipe, optimizer="sgd", learning_rate=rate, clip_norm=None)
    with pytest.raises(CifarError, match="the training diverged: ") as caught:
        train(replace(plain, recipe=recipe))
    assert "lower --lr" in str(caught.value)
    assert not list((tmp_path / "run/checkpoints").iterdir())


def test_an_epoch_whose_validation_is_nan_is_not_kept_as_the_best(config_of: ConfigOf, tmp_path: Path) -> None:
    class Overflowing(TrainingStep):
        """Its logits are NaN outside of training from the second epoch on, as from a layer's statistics."""

        steps = 0

        def __call__(self, images_BCHW: torch.Tensor, labels_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            Overflowing.steps += 1
            if Overflowing.steps == 7:
                self.model.register_forward_hook(
                    lambda model, inputs, logits: logits if model.training else logits * float("nan")
                )
            return super().__call__(images_BCHW, labels_B)

    with pytest.raises(CifarError, match="the training diverged: the validation loss became nan in epoch 2"):
        train(config_of(tmp_path / "run"), seams=Seams(make_step=Overflowing))
    assert read_checkpoint(tmp_path / "run/checkpoints/best.ckpt")["epoch"] == 0


@pytest.mark.slow
def test_batch_norm_is_trained_though_one_of_360_images_is_left_over(config_of: ConfigOf, tmp_path: Path) -> None:
    plain = config_of(tmp_path / "run", epochs=1)
    model = ModelConfig(name="timm:test_resnet", weights="none")
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        build_model(replace(model, classes=10)).train()(torch.zeros(1, 3, 32, 32))
    result = train(replace(plain, model=model, recipe=replace(plain.recipe, batch=359)))
    assert read_checkpoint(result.checkpoint)["global_step"] == 1


def test_a_batch_of_one_image_is_refused_for_batch_norm_before_anything_is_written(
    config_of: ConfigOf, tmp_path: Path
) -> None:
    plain = config_of(tmp_path / "run")
    recipe = replace(plain.recipe, batch=1)
    with pytest.raises(CifarError, match="--batch 1 can't train this model: its batch normalisation") as caught:
        train(replace(plain, model=ModelConfig(name="timm:test_resnet", weights="none"), recipe=recipe))
    assert "pass --batch 2 or more" in str(caught.value)
    assert not (tmp_path / "run").exists()
    assert train(replace(plain, recipe=recipe, fast_dev_run=True)).epochs == 1, "null has no batch norm"


@pytest.mark.slow
def test_a_deterministic_run_gives_the_same_weights_twice_and_leaves_torch_s_settings(
    config_of: ConfigOf, tmp_path: Path
) -> None:
    runs = [train(replace(config_of(tmp_path / name, epochs=1), deterministic=True)) for name in "ab"]
    assert runs[0].test_loss == runs[1].test_loss
    assert (runs[0].precision, runs[0].memory_format) == ("32", "channels-last")
    first, second = (read_checkpoint(run.checkpoint)["state_dict"] for run in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.are_deterministic_algorithms_enabled()


def test_an_operation_without_a_deterministic_kernel_is_an_error_with_a_remedy(
    config_of: ConfigOf, tmp_path: Path
) -> None:
    class Scattering(TrainingStep):
        def loss(self, images_BCHW: torch.Tensor, labels_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            torch.use_deterministic_algorithms(torch.are_deterministic_algorithms_enabled())
            torch.zeros(3).put_(torch.tensor([0]), torch.tensor([1.0]), accumulate=False)
            return super().loss(images_BCHW, labels_B)

    config = replace(config_of(tmp_path / "run"), deterministic=True)
    with pytest.raises(ConfigError, match="--deterministic isn't possible for this model on this device") as caught:
        train(config, seams=Seams(make_step=Scattering))
    assert "leave out --deterministic" in str(caught.value)


@pytest.mark.slow
@pytest.mark.skipif(not computes(torch.float32), reason="this torch was built without oneDNN")
def test_a_weight_that_becomes_nan_ends_the_run_even_if_the_loss_does_not_show_it(
    config_of: ConfigOf, tmp_path: Path
) -> None:
    def spoil(step: TrainingStep) -> None:
        step.model.get_parameter("features.0.weight").data[0] = float("nan")

    with pytest.raises(CifarError, match="a weight became NaN or infinite in epoch 2") as caught:
        train(replace(config_of(tmp_path / "run"), memory_format="onednn"), seams=failing_from(7, spoil))
    assert "lower --lr" in str(caught.value)
    assert read_checkpoint(tmp_path / "run/checkpoints/last.ckpt")["epoch"] == 0


@pytest.mark.slow
@pytest.mark.parametrize(("full_from", "go_on"), [(1, "start again"), (2, "continue with `cifar train --resume")])
def test_a_full_disk_is_named_with_the_way_to_continue_and_damages_nothing(
    config_of: ConfigOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_from: int, go_on: str
) -> None:
    original, run = torch.save, tmp_path / "run"

    def save(content: dict[str, object], path: Path) -> None:
        if int(str(content["epoch"])) + 1 >= full_from:
            path.write_bytes(b"half a checkpoint")
            raise OSError(28, "No space left on device")
        original(content, path)

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(ResourceError, match="there is no space left to write to") as caught:
        train(config_of(run, epochs=2))
    assert f"free disk space, then {go_on}" in str(caught.value)
    left = {path.name for path in (run / "checkpoints").iterdir()}
    assert left == ({"best.ckpt", "model.safetensors", "last.ckpt"} if full_from == 2 else set())
    if left:
        monkeypatch.undo()
        assert read_checkpoint(run / "checkpoints/last.ckpt")["epoch"] == 0
        assert resume(run).epochs == 2
        with (run / "metrics.csv").open(newline="") as file:
            assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), OSError(30, "Read-only file system"),
              RuntimeError("File x.part cannot be opened: Permission denied")],
    ids=["denied", "read-only", "torch"],
)  # fmt: skip
def test_a_run_directory_that_becomes_read_only_is_named(
    config_of: ConfigOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def save(content: object, path: Path) -> None:
        raise error

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(ResourceError, match="run can't be written to") as caught:
        train(config_of(tmp_path / "run", epochs=1))
    assert "make it writable" in str(caught.value)


def test_a_bad_policy_file_is_refused_before_a_dataset_is_opened(tmp_path: Path) -> None:
    config = TrainConfig(
        model=ModelConfig(name="null"),
        data=DataConfig(dataset="absent", data_dir=tmp_path / "data"),
        pipeline="albumentations",
        augment_file=tmp_path / "absent.yaml",
    )
    with pytest.raises(CifarError, match=r"absent\.yaml"):
        train(config)
    assert not (tmp_path / "data").exists()


OUT_OF_MEMORY = [
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "the GPU"),
    (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "the GPU"),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "the GPU"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "this machine"),
    (MemoryError(), "this machine"),
]


@pytest.mark.parametrize(("error", "what"), OUT_OF_MEMORY, ids=lambda value: str(value)[:30])
def test_memory_that_runs_out_is_named_wherever_it_does(tmp_path: Path, error: Exception, what: str) -> None:
    named = explained(error, RunDir(tmp_path), compiled=False)
    with pytest.raises(ResourceError) as caught, memory_named():
        raise error
    assert str(caught.value) == str(named)
    assert caught.value.what == f"{what} ran out of memory"
    assert "pass a smaller --batch" in str(named)


def test_memory_that_runs_out_in_the_trial_of_a_precision_is_named(
    config_of: ConfigOf, tmp_path: Path, own_cache: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short_of_memory(*_: object, **__: object) -> None:
        raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", short_of_memory)
    with pytest.raises(ResourceError, match="ran out of memory"):
        train(config_of(tmp_path / "run"))


def test_another_error_before_training_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match=r"^shapes$"), memory_named():
        raise RuntimeError("shapes")
