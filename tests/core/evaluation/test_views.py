"""The mean over several views of an image."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cifar_cli.core.data.config import Normalisation
from cifar_cli.core.data.store import Part
from cifar_cli.core.evaluation.views import score_views, shifted
from cifar_cli.core.training.batches import eval_loader
from cifar_cli.core.training.scores import score

CPU = torch.device("cpu")


@pytest.mark.parametrize(("right", "down"), [(1, 1), (-1, -1), (2, -1), (0, 0)])
def test_shifted_images_move_by_whole_pixels_over_a_mirrored_border(right: int, down: int) -> None:
    images = torch.arange(2 * 3 * 5 * 6.0).view(2, 3, 5, 6)
    moved = shifted(images, right, down)
    for row in range(5):
        for column in range(6):
            y, x = abs(row - down), abs(column - right)  # mirrored at the first pixel
            y, x = 4 - abs(4 - y), 5 - abs(5 - x)  # and at the last one
            assert torch.equal(moved[:, :, row, column], images[:, :, y, x]), (row, column)


def test_an_image_of_one_pixel_has_nothing_to_mirror() -> None:
    images = torch.ones(1, 3, 1, 1)
    assert shifted(images, 1, 1) is images


def test_the_scores_are_those_of_the_mean_probabilities() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (301, 8, 8, 3), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 4, (301,), generator=generator)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    nn.init.normal_(model[1].weight, generator=generator)
    loader = eval_loader(
        Part(images_NHWC=pixels, labels_N=labels),
        torch.arange(301),
        img_size=8,
        normalisation=Normalisation(),
        batch=64,
    )
    found = score_views(model, loader, device=CPU)
    images = torch.cat([batch for batch, _ in loader])

    def probabilities(images: Tensor) -> Tensor:
        return (model(images).softmax(dim=1) + model(images.flip(3)).softmax(dim=1)) / 2

    with torch.inference_mode():
        moved = (probabilities(shifted(images, 1, 1)) + probabilities(shifted(images, -1, -1))) / 2
        answers = (probabilities(images) + moved).argmax(dim=1)
    assert found.views_averaged == float((answers == labels).double().mean())
    assert (
        found.mirror_averaged == score(model, loader, classes=4, device=CPU, flip_average=True).accuracy_flip_averaged
    )
    assert found.views_averaged != found.mirror_averaged
