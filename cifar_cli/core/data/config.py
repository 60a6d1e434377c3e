"""Which data, as data."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cifar_cli.errors import ConfigError

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
# Per-channel mean and standard deviation of CIFAR-10's training images, of values scaled to 0..1.
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)
BUILT_IN = ("cifar10", "cifar100", "shapes")  # what needs no --from
STORE_SUFFIX = ".safetensors"


DATASET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """A dataset by name (cifar10, cifar100, shapes, one that was imported) or the path of a store file.

    data_dir: folder of the store files.
    Raises ConfigError for a name that is neither.
    """

    dataset: str = "cifar10"
    data_dir: Path = Path("data")

    def __post_init__(self) -> None:
        if not self.dataset.endswith(STORE_SUFFIX) and not DATASET_NAME.fullmatch(self.dataset):
            raise ConfigError(
                f"--dataset {self.dataset!r} is neither a name nor the path of a {STORE_SUFFIX} file",
                remedy="import images under a name first: `cifar download --dataset NAME --from PATH`",
            )

    @property
    def store_path(self) -> Path:
        """Where the dataset's store file is, or will be once it was fetched."""
        if self.dataset.endswith(STORE_SUFFIX):
            return Path(self.dataset)
        return self.data_dir / f"{self.dataset}{STORE_SUFFIX}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportConfig:
    """What to fetch or import, and how.

    sources: URLs (mirrors of the official archive, or of an archive of images) or one path; empty means the
    known mirrors. img_size: side of the stored images in pixels, None for the size most images have.
    skip_bad: leave unreadable images out. force: import even though the dataset is there.
    """

    data: DataConfig = DataConfig()
    sources: tuple[str, ...] = ()
    img_size: int | None = None
    skip_bad: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        if self.img_size is not None and self.img_size < 1:
            raise ConfigError(f"--img-size {self.img_size} is not a picture", remedy="pass 1 or more, usually 32")
        if len(self.paths) > 1 or (self.paths and self.urls):
            raise ConfigError(
                "--from can name several mirrors of one archive, or one path, not a mixture",
                remedy="pass one path, or URLs only",
            )

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(source for source in self.sources if _is_url(source))

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(Path(source) for source in self.sources if not _is_url(source))


def _is_url(source: str) -> bool:
    return source.startswith(("http://", "https://"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Where a store's images come from.

    source: URL, path, or "drawn by cifar" for synthetic images. checksum: "md5:…" or "sha256:…" of the
    archive, or of the images where there was none. imported_at: ISO 8601, UTC. tool_version: cifar-cli's.
    resized_images, skipped_images: how many were changed to the store's size, and left out as unreadable.
    """

    source: str
    checksum: str
    imported_at: str
    tool_version: str
    synthetic: bool = False
    resized_images: int = 0
    skipped_images: int = 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
