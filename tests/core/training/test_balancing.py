from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cifar_cli.core.data.config import DataConfig
from cifar_cli.core.data.sources.shapes import draw_shapes
from cifar_cli.core.data.store import open_store, write_store
from cifar_cli.core.models.build import build_model
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.balancing import class_weights_of, training_counts
from cifar_cli.core.training.batches import make_loaders
from cifar_cli.core.training.config import StepConfig, TrainConfig
from cifar_cli.core.training.listeners import Listeners
from cifar_cli.core.training.step import TrainingStep
from cifar_cli.core.training.train import train

ConfigOf = Callable[..., TrainConfig]
WEIGHTS = (0.5, 2.0, 1.0, *7 * [1.5])


@pytest.fixture
def unbalanced(tmp_path: Path) -> DataConfig:
    """Shapes with 10 classes: 220 training images of the first, 10 of each other one."""
    images = draw_shapes(train_images=400, test_images=50)
    images.train_labels[:] = np.arange(400) % 10
    rows = np.concatenate([np.flatnonzero(images.train_labels == label)[:10] for label in range(1, 10)])
    first = np.resize(np.flatnonzero(images.train_labels == 0), 220)
    chosen = np.concatenate([first, rows])
    few = replace(images, train_images=images.train_images[chosen], train_labels=images.train_labels[chosen])
    write_store(tmp_path / "few.safetensors", name="few", images=few)
    return DataConfig(dataset="few", data_dir=tmp_path)


def test_a_class_weighs_the_inverse_of_its_share_and_images_one_on_average(
    config_of: ConfigOf, unbalanced: DataConfig
) -> None:
    store = open_store(unbalanced.store_path)
    config = replace(config_of(), data=unbalanced)
    loaders = make_loaders(config, store, device=torch.device("cpu"))
    assert class_weights_of(config, store, loaders) is None
    config = replace(config, recipe=replace(config.recipe, class_weights="auto"))
    counts, weights = training_counts(store, loaders), class_weights_of(config, store, loaders)
    assert counts == [198, *9 * [9]]
    assert weights is not None
    assert weights[1] / weights[0] == pytest.approx(198 / 9)
    shares = torch.tensor(counts) / sum(counts)
    assert float((shares * torch.tensor(weights)).sum()) == pytest.approx(1)


def logits_and_loss(labels: torch.Tensor, *, smoothing: float) -> tuple[torch.Tensor, float]:
    config = StepConfig(label_smoothing=smoothing, class_weights=WEIGHTS)
    step = TrainingStep(build_model(ModelConfig(name="null"), seed=0), config, device_type="cpu")
    images = torch.randn(len(labels), 3, 32, 32, generator=torch.Generator().manual_seed(1))
    loss, logits_BK = step.loss(images, labels)
    assert step.cross_entropy(loss, logits_BK, labels).item() == pytest.approx(
        F.cross_entropy(logits_BK, labels).item()
    )
    return logits_BK.detach(), loss.item()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_weights_every_term_by_its_class_for_labels_and_for_shares(smoothing: float) -> None:
    labels_B = torch.arange(12) % 10
    shares_BK = F.one_hot(labels_B, 10).float()
    mixed_BK = 0.7 * shares_BK + 0.3 * shares_BK.flip(0)
    for labels, targets_BK in ((labels_B, shares_BK), (shares_BK, shares_BK), (mixed_BK, mixed_BK)):
        logits_BK, loss = logits_and_loss(labels, smoothing=smoothing)
        smooth_BK = (1 - smoothing) * targets_BK + smoothing / 10
        terms_BK = -torch.tensor(WEIGHTS) * smooth_BK * logits_BK.log_softmax(dim=1)
        assert loss == pytest.approx(float(terms_BK.sum(dim=1).mean()), rel=1e-5)


def test_two_processes_with_parts_of_a_batch_have_the_gradient_of_the_whole_batch() -> None:
    labels_B = torch.tensor([0, 0, 0, 0, 1, 2, 3])
    images_BCHW = torch.randn(7, 3, 32, 32, generator=torch.Generator().manual_seed(1))

    def gradient(rows: slice) -> torch.Tensor:
        model: nn.Module = build_model(ModelConfig(name="null"), seed=0)
        step = TrainingStep(model, StepConfig(class_weights=WEIGHTS, label_smoothing=0.1), device_type="cpu")
        step.loss(images_BCHW[rows], labels_B[rows])[0].backward()
        return torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None])

    first, second, whole = gradient(slice(0, 4)), gradient(slice(4, 7)), gradient(slice(0, 7))
    torch.testing.assert_close((4 * first + 3 * second) / 7, whole, atol=1e-6, rtol=1e-4)


def test_a_run_says_its_counts_and_an_imbalance_until_it_is_weighted(
    config_of: ConfigOf, unbalanced: DataConfig, tmp_path: Path
) -> None:
    said: list[str] = []
    config = replace(config_of(tmp_path / "run", epochs=1), data=unbalanced)
    train(config, Listeners(on_note=said.append))
    assert "on 279 images (9 to 198 a class) of few" in said[0]
    assert sum("22 times fewer" in each and "--class-weights auto" in each for each in said) == 1
    said.clear()
    weighted = replace(config, run_dir=tmp_path / "two", recipe=replace(config.recipe, class_weights="auto"))
    result = train(weighted, Listeners(on_note=said.append))
    assert not any("times fewer" in each for each in said)
    assert result.config.recipe.class_weights == "auto"


def test_a_training_set_of_one_class_says_what_its_accuracy_means(config_of: ConfigOf, tmp_path: Path) -> None:
    images = draw_shapes(train_images=60, test_images=20)
    images.train_labels[:] = images.test_labels[:] = 3
    name = images.classes[3]
    write_store(tmp_path / "one.safetensors", name="one", images=images)
    said: list[str] = []
    config = replace(config_of(tmp_path / "run", epochs=1), data=DataConfig(dataset="one", data_dir=tmp_path))
    train(config, Listeners(on_note=said.append))
    assert any(
        f"all training images are of the class {name}: a model that always answers {name} scores 100 %" in each
        for each in said
    )
