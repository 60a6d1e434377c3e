"""Files of a user: a model, a dataset, and an installed package with entry points for both."""

from __future__ import annotations

from pathlib import Path

MODEL = """
from torch import nn

def build(*, classes, img_size):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * img_size * img_size, classes))

def wrong_shape(*, classes, img_size):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * img_size * img_size, classes + 1))

def no_module(*, classes, img_size):
    return 3

def fails(*, classes, img_size):
    raise ValueError(7)

def other_signature(size):
    return nn.Identity()

def fails_on_images(*, classes, img_size):
    return nn.Linear(7, classes)
"""
DATASET = """
import numpy as np

def load():
    random = np.random.default_rng(0)
    def images(count):
        return random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return {
        "classes": ["cat", "dog"],
        "train_images": images(40), "train_labels": np.arange(40) % 2,
        "test_images": images(10), "test_labels": np.arange(10) % 2,
    }

def floats():
    return load() | {"train_images": load()["train_images"] / 255}

def other_labels():
    return load() | {"test_labels": np.arange(10)}

def too_few_labels():
    return load() | {"test_labels": np.arange(3) % 2}

def exchanged():
    images = np.random.default_rng(0).integers(0, 256, (50, 3, 8, 8), dtype=np.uint8).transpose(0, 2, 3, 1)
    return load() | {"train_images": images[:40], "test_images": images[40:]}

def two_classes_of_one_name():
    return load() | {"classes": ["cat", "cat"]}

def two_spellings_of_one_name():
    return load() | {"classes": ["caf\u00e9", "cafe\u0301"]}

def a_number_of_classes():
    return load() | {"classes": 2}

def ragged():
    return load() | {"train_images": [[1, 2], [3]]}

def nothing():
    return None

def fails():
    raise RuntimeError("no network")
"""


def write_own_code(folder: Path) -> None:
    """Write net.py and pets.py, and a distribution whose entry points are `mine` and `pets`."""
    (folder / "net.py").write_text(MODEL, encoding="utf-8")
    (folder / "pets.py").write_text(DATASET, encoding="utf-8")
    metadata = folder / "mine-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n", encoding="utf-8")
    points = "[cifar_cli.models]\nmine = net:build\nbroken = absent:build\n[cifar_cli.datasets]\npets = pets:load\n"
    (metadata / "entry_points.txt").write_text(points, encoding="utf-8")
