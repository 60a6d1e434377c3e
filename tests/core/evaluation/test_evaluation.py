from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torchmetrics.functional.classification import (
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)

from cifar_cli.core.data.sources.shapes import draw_shapes
from cifar_cli.core.data.store import open_store, write_store
from cifar_cli.core.evaluation.config import EvaluateConfig
from cifar_cli.core.evaluation.evaluate import evaluate
from cifar_cli.core.evaluation.metrics import class_scores
from cifar_cli.core.figures import confusion_figure, samples_figure
from cifar_cli.core.training.checkpoint import load_checkpoint
from cifar_cli.errors import CheckpointError, ConfigError, ResourceError


def test_class_scores_are_those_of_torchmetrics() -> None:
    generator = torch.Generator().manual_seed(0)
    true, predicted = torch.randint(0, 5, (2, 300), generator=generator)
    predicted[predicted == 4] = 0  # a class that is never called: its precision is 0, not an error
    scores = class_scores(multiclass_confusion_matrix(predicted, true, 5), "abcde")
    for name, function in (
        ("precision", multiclass_precision),
        ("recall", multiclass_recall),
        ("f1", multiclass_f1_score),
    ):
        expected = function(predicted, true, 5, average="none")
        torch.testing.assert_close(torch.tensor([getattr(score, name) for score in scores]), expected)
    assert sum(score.images for score in scores) == 300


def test_evaluation_agrees_with_a_plain_loop_over_the_test_images(trained_run: Path, data_dir: Path) -> None:
    result = evaluate(EvaluateConfig(checkpoint=trained_run, batch=33, accelerator="cpu"))
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
    with pytest.raises(CheckpointError, match="but other has 10"):
        evaluate(EvaluateConfig(checkpoint=trained_run, dataset=str(path), accelerator="cpu"))


def test_a_picture_that_can_t_be_written_is_named(trained_run: Path, tmp_path: Path) -> None:
    config = EvaluateConfig(checkpoint=trained_run, out=tmp_path / "absent/matrix.png", accelerator="cpu")
    with pytest.raises(ResourceError, match=r"matrix\.png can't be written"):
        evaluate(config)


def test_a_batch_of_no_images_is_refused() -> None:
    with pytest.raises(ConfigError, match="--batch 0 holds no image"):
        EvaluateConfig(checkpoint=Path("run"), batch=0)


def test_the_confusion_figure_labels_classes_and_counts() -> None:
    figure = confusion_figure(torch.tensor([[3, 1], [0, 4]]), ("cat", "dog"), title="test")
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog"]
    assert [text.get_text() for text in axes.texts] == ["3", "1", "4"]
    assert axes.get_title() == "test: 87.50% of 8 images right"


def test_samples_tell_wrong_predictions_by_colour() -> None:
    images = torch.zeros(3, 4, 4, 3, dtype=torch.uint8)
    figure = samples_figure(images, torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), ("cat", "dog"), title="val")
    labels = figure.axes[0].texts
    assert [label.get_color() for label in labels] == ["black", "firebrick", "black"]
    assert labels[1].get_text() == "true dog\npred. cat"
