from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from cifar_cli.core.data.config import Normalisation
from cifar_cli.core.data.store import Part
from cifar_cli.core.evaluation import corruptions
from cifar_cli.core.evaluation.corruptions import CORRUPTIONS, accuracy_under_corruptions, corrupted


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Smooth colours with black and white pixels among them, uint8 [12, 32, 32, 3]."""
    random = np.random.default_rng(0)
    smooth = gaussian_filter(random.random((12, 32, 32, 3)), (0, 2, 2, 0)) * 1.5 - 0.25
    smooth[:, 0, 0], smooth[:, 1, 1] = 0, 1
    return torch.from_numpy((smooth.clip(0, 1) * 255).astype(np.uint8))


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_corruption_grows_with_its_severity_and_repeats(images: torch.Tensor, kind: str) -> None:
    distances = []
    for severity in range(1, 6):
        changed = corrupted(images, kind, severity)
        assert (changed.dtype, changed.shape) == (torch.uint8, images.shape)
        assert torch.equal(changed, corrupted(images, kind, severity))
        distances.append(float((changed.int() - images.int()).abs().double().mean()))
    assert distances == sorted(distances)
    assert distances[0] > 0


def test_noise_has_the_published_deviation() -> None:
    grey = torch.full((50, 32, 32, 3), 128, dtype=torch.uint8)
    changed = corrupted(grey, "Gaussian noise", 5).double() / 255
    assert float(changed.std()) == pytest.approx(0.10, abs=0.002)
    assert float(changed.mean()) == pytest.approx(128 / 255 - 0.5 / 255, abs=0.002)


def test_blur_is_that_of_a_second_implementation(images: torch.Tensor) -> None:
    expected = gaussian_filter(images.numpy() / 255.0, (0, 0.7, 0.7, 0), mode="nearest", truncate=4.0)
    found = corrupted(images, "Gaussian blur", 3).numpy()
    np.testing.assert_allclose(found, np.floor(expected * 255 + 1e-9), atol=1)


def test_brightness_adds_to_the_value_and_keeps_hue_and_saturation(images: torch.Tensor) -> None:
    found = corrupted(images, "brightness", 4).numpy()
    for position in np.ndindex(3, 8, 8):
        hue, saturation, value = colorsys.rgb_to_hsv(*(images.numpy()[position] / 255.0))
        expected = colorsys.hsv_to_rgb(hue, saturation, min(value + 0.2, 1))
        np.testing.assert_allclose(found[position], np.floor(np.array(expected) * 255 + 1e-9), atol=1)


def test_contrast_keeps_the_mean_of_each_channel(images: torch.Tensor) -> None:
    found = corrupted(images, "contrast", 5).double()
    before = images.double().mean(dim=(1, 2))
    torch.testing.assert_close(found.mean(dim=(1, 2)), before, atol=1.0, rtol=0)
    torch.testing.assert_close(found.std(dim=(1, 2)), images.double().std(dim=(1, 2)) * 0.15, atol=0.5, rtol=0.05)


def test_every_kind_is_scored_at_five_severities(images: torch.Tensor) -> None:
    class Brightest(torch.nn.Module):
        """Predicts class 1 for a bright image."""

        def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
            brightness_B = images_BCHW.mean(dim=(1, 2, 3))
            return torch.stack([-brightness_B, brightness_B - 0.1], dim=1)

    white, black = torch.full((4, 8, 8, 3), 200, dtype=torch.uint8), torch.zeros(4, 8, 8, 3, dtype=torch.uint8)
    part = Part(images_NHWC=torch.cat([white, black]), labels_N=torch.tensor(4 * [1] + 4 * [0]))
    scores = accuracy_under_corruptions(
        Brightest(),
        part,
        torch.arange(8),
        classes=2,
        img_size=8,
        normalisation=Normalisation(),
        device=torch.device("cpu"),
    )
    assert [score.kind for score in scores] == list(CORRUPTIONS)
    assert all(score.accuracies == (1.0,) * 5 for score in scores)
    assert scores[0].mean == 1


def test_every_image_is_scored_whatever_the_number_decoded_at_once(
    images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []

    class Recorder(torch.nn.Module):
        def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
            seen.append(images_BCHW)
            return images_BCHW.mean(dim=(2, 3))

    part = Part(images_NHWC=images, labels_N=torch.arange(12) % 3)
    monkeypatch.setattr(corruptions, "CHUNK", 4)
    found = []
    for at_once in (4, 8, 12):
        monkeypatch.setattr(corruptions, "DECODED_AT_ONCE", at_once)
        scores = accuracy_under_corruptions(
            Recorder(),
            part,
            torch.arange(12),
            classes=3,
            img_size=32,
            normalisation=Normalisation(),
            device=torch.device("cpu"),
        )
        passes = -(-12 // at_once)
        assert len(seen) == 25 * passes
        of_noise = torch.cat([seen[25 * each] for each in range(passes)])
        found.append((scores, of_noise))
        seen.clear()
    assert all(scores == found[0][0] and torch.equal(noise, found[0][1]) for scores, noise in found)
