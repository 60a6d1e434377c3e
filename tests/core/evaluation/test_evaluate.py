from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cifar_cli.core.data.sources.shapes import draw_shapes
from cifar_cli.core.data.store import open_store, write_store
from cifar_cli.core.evaluation.config import EvaluateConfig
from cifar_cli.core.evaluation.evaluate import evaluate
from cifar_cli.core.training.checkpoint import load_checkpoint
from cifar_cli.errors import CheckpointError, ConfigError, ResourceError


def test_evaluation_agrees_with_a_plain_loop_over_the_test_images(trained_run: Path, data_dir: Path) -> None:
    result = evaluate(EvaluateConfig(checkpoint=trained_run, batch=33, device="cpu"))
    store = open_store(data_dir / "shapes.safetensors")
    model = load_checkpoint(trained_run).model.eval()
    mean, std = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2470, 0.2435, 0.2616])
    with torch.no_grad():
        logits = model(((store.test.images_NHWC / 255 - mean) / std).permute(0, 3, 1, 2))
    labels = store.test.labels_N
    assert result.accuracy == pytest.approx(float((logits.argmax(1) == labels).float().mean()))
    assert result.loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), rel=1e-4)
    assert result.images == 100
    assert sum(map(sum, result.confusion)) == 100
    assert result.synthetic
    assert result.figure == trained_run / "confusion-best.png"
    assert result.figure.read_bytes().startswith(b"\x89PNG")


def test_a_dataset_of_other_classes_is_refused(trained_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    classes = tuple(f"class{number}" for number in range(10))
    write_store(path, name="other", images=replace(draw_shapes(train_images=10, test_images=10), classes=classes))
    with pytest.raises(CheckpointError, match=r"was trained on 10 classes \(circle, …\), but other has 10 \(class0, …"):
        evaluate(EvaluateConfig(checkpoint=trained_run, dataset=str(path), device="cpu"))


def test_the_message_names_a_picture_that_can_not_be_written(trained_run: Path, tmp_path: Path) -> None:
    (tmp_path / "matrix.png").mkdir()
    config = EvaluateConfig(checkpoint=trained_run, out=tmp_path / "matrix.png", device="cpu")
    with pytest.raises(ResourceError, match=r"the picture .*matrix\.png can't be written \(Is a directory"):
        evaluate(config)


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("absent/matrix.png", "absent for --out does not exist"),
        ("x.jpg", "x.jpg is not a PNG file's name"),
    ],
)
def test_a_path_that_can_not_become_a_picture_is_refused_by_the_config(tmp_path: Path, out: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EvaluateConfig(checkpoint=Path("run"), out=tmp_path / out)


def test_a_batch_of_zero_images_is_refused() -> None:
    with pytest.raises(ConfigError, match="--batch must be at least 1, not 0"):
        EvaluateConfig(checkpoint=Path("run"), batch=0)


def test_an_unknown_device_is_refused_and_the_known_ones_named() -> None:
    with pytest.raises(ConfigError, match="--device tpu is not offered") as caught:
        EvaluateConfig(checkpoint=Path("run"), device="tpu")  # type: ignore[arg-type]
    assert "cpu" in str(caught.value.remedy)
