"""What JPEG compression costs a classifier: accuracy after recompressing the test images, the training images, or both.

    python benchmarks/jpeg_share.py [--run RUN] [--train] [--data-dir data] [--qualities 75,50,30] [--epochs 4]

Published accuracies on CIFAR-10 are of the original pixels. Where the images at hand have gone through JPEG, the cost
of a further compression tells how much of a lower accuracy that explains. Colour has half the resolution, as in most
files.

--run scores this run on test images that were compressed once more. --train also trains `airbench` with recipe `fast`
for --epochs on training images of each quality, on all of them and on half of them (as an augmentation would), and
scores each model on the test images as they are and compressed. The made datasets lie in the data folder, as
cifar10-jpeg…. Everything runs one after the other.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor

from cifar_cli.core.data.config import DataConfig, ImportConfig
from cifar_cli.core.data.dataset import import_dataset, open_dataset
from cifar_cli.core.data.store import Store
from cifar_cli.core.evaluation.config import EvaluateConfig
from cifar_cli.core.evaluation.evaluate import evaluate_only
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.recipe import recipe_of
from cifar_cli.core.training.train import train

HALF_RESOLUTION = 2  # of colour, in Pillow's numbering
SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """A dataset whose images were compressed once more."""

    quality: int
    train_share: float
    """Of the training images that were compressed."""
    test: bool
    """Whether the test images were."""

    @property
    def name(self) -> str:
        return f"cifar10-jpeg{self.quality}-train{self.train_share:g}{'-test' * self.test}"


def compressed(images_NHWC: Tensor, quality: int, *, share: float = 1.0) -> np.ndarray:
    """uint8 [N, H, W, 3] after JPEG compression; of a share of them drawn at random, the others as they were."""
    images = images_NHWC.numpy().copy()
    chosen = np.random.default_rng(SEED).random(len(images)) < share
    for index in np.flatnonzero(chosen):
        buffer = io.BytesIO()
        Image.fromarray(images[index]).save(buffer, "JPEG", quality=quality, subsampling=HALF_RESOLUTION)
        images[index] = np.asarray(Image.open(buffer))
    return images


def dataset_of(variant: Variant, store: Store, data_dir: Path) -> DataConfig:
    """Make the variant's dataset, unless it is there."""
    made = DataConfig(dataset=variant.name, data_dir=data_dir)
    if made.store_path.exists():
        return made
    names = np.array(store.classes)
    train, test = store.train, store.test
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "images.npz"
        np.savez(
            file,
            x_train=compressed(train.images_NHWC, variant.quality, share=variant.train_share),
            y_train=names[train.labels_N.numpy()],
            x_test=compressed(test.images_NHWC, variant.quality, share=float(variant.test)),
            y_test=names[test.labels_N.numpy()],
        )
        import_dataset(ImportConfig(data=made, sources=(str(file),)))
    return made


def accuracy(run: Path, dataset: str, data_dir: Path) -> float:
    """Of a run on the test images of a dataset, plain."""
    return evaluate_only(EvaluateConfig(checkpoint=run, dataset=dataset, data_dir=data_dir)).result.accuracy


def trained(data: DataConfig, epochs: int, folder: Path) -> Path:
    """A run of `airbench` on a dataset."""
    recipe = replace(recipe_of("fast", model="airbench"), max_epochs=epochs, max_seconds=24 * 3600.0)
    config = TrainConfig(model=ModelConfig(name="airbench"), data=data, recipe=recipe, seed=SEED, run_dir=folder)
    return train(config).run_dir


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--qualities", default="75,50,30")
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()
    data_dir, qualities = options.data_dir, [int(quality) for quality in options.qualities.split(",")]
    store = open_dataset(DataConfig(dataset="cifar10", data_dir=data_dir))
    table = Table(title=f"test accuracy after a further JPEG compression, torch {torch.__version__}")
    for heading in ("model", "trained on", "tested on", "accuracy"):
        table.add_column(heading, justify="right" if heading == "accuracy" else "left")

    def row(model: str, trained_on: str, tested_on: str, found: float) -> None:
        table.add_row(model, trained_on, tested_on, f"{found:.2%}")
        print(f"{model}, trained on {trained_on}, tested on {tested_on}: {found:.2%}", flush=True)

    as_they_are = "images as they are"
    if options.run is not None:
        row(options.run.name, as_they_are, as_they_are, accuracy(options.run, "cifar10", data_dir))
        for quality in qualities:
            tested = dataset_of(Variant(quality=quality, train_share=0.0, test=True), store, data_dir)
            row(options.run.name, as_they_are, f"quality {quality}", accuracy(options.run, tested.dataset, data_dir))
    if options.train:
        with tempfile.TemporaryDirectory() as temporary:
            name = f"airbench, {options.epochs} epochs"
            plain = trained(DataConfig(dataset="cifar10", data_dir=data_dir), options.epochs, Path(temporary) / "plain")
            row(name, as_they_are, as_they_are, accuracy(plain, "cifar10", data_dir))
            for quality in qualities:
                for share, called in ((1.0, f"quality {quality}"), (0.5, f"quality {quality}, half of them")):
                    both = dataset_of(Variant(quality=quality, train_share=share, test=True), store, data_dir)
                    run = trained(both, options.epochs, Path(temporary) / both.dataset)
                    row(name, called, as_they_are, accuracy(run, "cifar10", data_dir))
                    row(name, called, f"quality {quality}", accuracy(run, both.dataset, data_dir))
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
