"""Configs of a dataset and of its download or import."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from cifar_cli.core.choices import require_at_least
from cifar_cli.core.limits import MAX_SIDE
from cifar_cli.errors import ConfigError
from cifar_cli.printable import has_control

CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
CIFAR100_CLASSES = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle",
    "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle",
    "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur",
    "dolphin", "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard",
    "lamp", "lawn_mower", "leopard", "lion", "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain",
    "mouse", "mushroom", "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree",
    "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road", "rocket",
    "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake", "spider",
    "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone", "television", "tiger",
    "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf", "woman", "worm",
)  # fmt: skip
# Per-channel mean and standard deviation of CIFAR-10's training images, with values scaled to 0..1.
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)
LOWEST_STD = 1 / 255  # of a channel: images of one colour have a deviation of 0
SPLITS = ("train", "test")  # as published; the validation images are taken from "train"
BUILT_IN = ("cifar10", "cifar100", "shapes")  # datasets that need no --from
STORE_SUFFIX = ".safetensors"
DATA_DIR = "CIFAR_DATA_DIR"  # the variable that names the folder of the datasets
MAX_PIXELS_SIDE = 128
"""Larger images are stored as files and decoded in training; up to this side, in pixels, they are stored as pixels."""
PHOTO_SIDE = 224
"""Side in pixels that photographs of many sizes are stored at, and trained at by default."""
DATASET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def _spelled(dataset: str) -> str:
    """A built-in dataset as it is spelled here, whatever its case and hyphens; any other name as it is."""
    plain = re.sub(r"[\s_-]", "", dataset).lower()
    return plain if plain in BUILT_IN else dataset


@dataclass(frozen=True, slots=True)
class Normalisation:
    """Per channel, what is subtracted from the pixels and what they are divided by, with values scaled to 0..1.

    Without arguments that of CIFAR-10, which every checkpoint of an earlier version was trained with.
    Raises ConfigError for anything but three finite numbers each, with deviations above 0.
    """

    mean: tuple[float, float, float] = CIFAR10_MEAN
    std: tuple[float, float, float] = CIFAR10_STD

    def __post_init__(self) -> None:
        for name, values in (("mean", self.mean), ("std", self.std)):
            object.__setattr__(self, name, tuple(values))
            if len(values) != 3 or not all(math.isfinite(value) for value in values):
                raise ConfigError(f"{name} {list(values)} is not three finite numbers", remedy="one for each channel")
        if min(self.std) < LOWEST_STD:
            raise ConfigError(f"std {list(self.std)} has a number below 1/255", remedy="pass deviations of 0..1 values")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """A dataset and its folder. Raises ConfigError for a value that is neither a name nor the path of a store file."""

    dataset: str = "cifar10"
    """cifar10, cifar100, shapes, the name of an imported dataset, or the path of a store file. Other spellings of the
    first three, such as CIFAR-10, become these."""
    data_dir: Path = Path("data")
    """Folder of the store files."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "dataset", _spelled(self.dataset))
        if not self.dataset.endswith(STORE_SUFFIX) and not DATASET_NAME.fullmatch(self.dataset):
            raise ConfigError(
                f"--dataset {self.dataset!r} is neither a name nor the path of a {STORE_SUFFIX} file",
                remedy="import images under a name first: `cifar download --dataset NAME --from PATH`",
            )

    @property
    def store_path(self) -> Path:
        """Path of the dataset's store file, whether it exists or not."""
        if self.dataset.endswith(STORE_SUFFIX):
            return Path(self.dataset)
        return self.data_dir / f"{self.dataset}{STORE_SUFFIX}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportConfig:
    """A download or an import. Raises ConfigError for values that contradict each other."""

    data: DataConfig = DataConfig()
    sources: tuple[str, ...] = ()
    """One path, or URLs of mirrors of one archive; empty for the known mirrors of the official archive."""
    img_size: int | None = None
    """Side of the stored images in pixels; None takes the most common size."""
    skip_bad: bool = False
    """Leave unreadable images out instead of failing."""
    force: bool = False
    """Import even if the dataset exists."""
    test_share: float | None = None
    """Of each class, the share that becomes the test split of a source without one; None takes a fifth."""
    val_share: float | None = None
    """Of each class's training images, the share that becomes the validation split; None leaves it to training."""
    seed: int | None = None
    """Draws other images for these splits; None draws by the images' names alone."""
    columns: tuple[str, str] | None = None
    """Titles or numbers, from 1, of the columns of images and labels in CSV and parquet files; None finds them."""

    def __post_init__(self) -> None:
        if self.img_size is not None:
            require_at_least("--img-size", self.img_size, 1, example=32)
            if self.img_size > MAX_SIDE:
                raise ConfigError(f"--img-size {self.img_size} is more than {MAX_SIDE}", remedy="pass --img-size 224")
        for flag, share in (("--test-share", self.test_share), ("--val-share", self.val_share)):
            if share is not None and not 0 < share < 1:
                raise ConfigError(
                    f"{flag} {share:g} is not a share of the images", remedy=f"pass for example {flag} 20%"
                )
        for url in self.urls:
            _require_url(url)
        if len(self.paths) > 1 or (self.paths and self.urls):
            raise ConfigError(
                "--from takes one path, or several URLs of the same archive, but not both",
                remedy="pass one path, or URLs only",
            )

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(source for source in self.sources if _is_url(source))

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(Path(source) for source in self.sources if not _is_url(source))


def _require_url(url: str) -> None:
    """Raise ConfigError for a URL whose host or port can't be."""
    try:
        parts = urlsplit(url)
        valid = parts.hostname is not None and (parts.port is None or parts.port > 0) and not has_control(url)
    except ValueError:  # unbalanced brackets, a port that is no number or above 65,535
        valid = False
    if not valid:
        raise ConfigError(f"--from {url} is not a valid URL", remedy="check its host and port")


def _is_url(source: str) -> bool:
    return source.startswith(("http://", "https://"))
