from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cifar_cli.core.data.config import Normalisation
from cifar_cli.core.data.store import Part
from cifar_cli.core.training.batches import eval_loader
from cifar_cli.core.training.scores import Scores, score


@pytest.mark.parametrize("read_every", [1, 2, 10])
def test_scores_are_those_of_all_images_together_however_often_they_are_read(read_every: int) -> None:
    generator = torch.Generator().manual_seed(0)
    scores, sizes = Scores(3), [4, 4, 4, 1]
    batches = [(torch.randn(n, 3, generator=generator), torch.randint(3, (n,), generator=generator)) for n in sizes]
    for turn in range(2):  # a second pass after a reset begins from nothing
        scores.reset()
        for place, (logits, labels) in enumerate(batches):
            scores.update(F.cross_entropy(logits, labels), logits, labels)
            if place % read_every == 0:
                assert scores.accuracy >= 0
        logits, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
        assert scores.loss == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-6), turn
        assert scores.accuracy == pytest.approx(float((logits.argmax(dim=1) == labels).double().mean()))
        assert int(scores.matrix_KK.sum()) == sum(sizes)
        assert scores.matrix_KK.sum(dim=1).tolist() == torch.bincount(labels, minlength=3).tolist()


def test_how_often_a_loss_is_read_changes_no_digit_of_it() -> None:
    losses = torch.rand(500, generator=torch.Generator().manual_seed(0))
    often, once = Scores(3), Scores(3)
    for loss in losses:
        for scores in (often, once):
            scores.update(loss, torch.eye(3), torch.arange(3))
        assert often.loss > 0
    assert often.loss == once.loss


def test_scores_kept_in_inference_mode_can_be_read_outside_of_it() -> None:
    with torch.inference_mode():
        scores, logits, labels = Scores(3), torch.eye(3), torch.arange(3)
        scores.update(F.cross_entropy(logits, labels), logits, labels)
    assert scores.accuracy == 1


def test_the_test_scores_are_computed_without_tf32() -> None:
    allowed: list[tuple[str, bool]] = []

    class Asking(nn.Linear):
        def forward(self, images: Tensor) -> Tensor:
            allowed.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
            return super().forward(images.flatten(1))

    part = Part(images_NHWC=torch.zeros(5, 4, 4, 3, dtype=torch.uint8), labels_N=torch.zeros(5, dtype=torch.long))
    loader = eval_loader(part, torch.arange(5), img_size=4, normalisation=Normalisation(), batch=5)
    score(Asking(48, 3), loader, classes=3, device=torch.device("cpu"), flip_average=True)
    assert allowed == [("highest", False)] * 2


@pytest.mark.parametrize(("side", "largest"), [(32, 512), (224, 32), (4096, 1)])
def test_a_batch_of_large_images_is_small_whatever_was_asked_for(side: int, largest: int) -> None:
    part = Part(images_NHWC=torch.zeros(600, 8, 8, 3, dtype=torch.uint8), labels_N=torch.zeros(600, dtype=torch.long))
    loader = eval_loader(part, torch.arange(600), img_size=side, normalisation=Normalisation(), batch=512)
    assert loader.batch == largest
