"""Small image folders, and the real CIFAR-10 images where they are available."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cifar_cli.core.data.config import DataConfig, ImportConfig
from cifar_cli.core.data.dataset import import_dataset

REAL_ARCHIVE = Path(__file__).parents[4] / "shared/data/cifar10-images.tar.gz"

MakeTree = Callable[..., Path]


@pytest.fixture
def make_tree(tmp_path: Path) -> MakeTree:
    """Write train/CLASS/N.png and test/CLASS/N.png, each image of one colour that no other image has."""

    def make(
        classes: Iterable[str] = ("cat", "dog"),
        *,
        images: int = 3,
        size: tuple[int, int] = (32, 32),
        suffix: str = "png",
        name: str = "pets",
    ) -> Path:
        top = tmp_path / name
        for side_number, side in enumerate(("train", "test")):
            for class_number, class_name in enumerate(classes):
                folder = top / side / class_name
                folder.mkdir(parents=True)
                for number in range(images):
                    colour = (class_number * 20, number * 10, side_number * 100)
                    Image.new("RGB", size, colour).save(folder / f"{number}.{suffix}")
        return top

    return make


@pytest.fixture(scope="session")
def real_cifar10(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """All 60,000 CIFAR-10 images, imported from the archive of JPEGs beside the repository."""
    if not REAL_ARCHIVE.is_file():
        pytest.skip(f"needs the CIFAR-10 images at {REAL_ARCHIVE}, which are not part of the repository")
    data = DataConfig(data_dir=tmp_path_factory.mktemp("real"))
    import_dataset(ImportConfig(data=data, sources=(str(REAL_ARCHIVE),)))
    return data


@pytest.fixture
def pixels() -> np.ndarray:
    """Noise: uint8 [40, 30, 3]."""
    return np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
