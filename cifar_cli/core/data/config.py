"""Which data, as data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
# Per-channel mean and standard deviation of CIFAR-10's training images, of values scaled to 0..1.
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)
STORE_SUFFIX = ".safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """A dataset by name (cifar10, cifar100, shapes, one that was imported) or the path of a store file.

    data_dir: folder of the store files.
    """

    dataset: str = "cifar10"
    data_dir: Path = Path("data")

    @property
    def store_path(self) -> Path:
        """Where the dataset's store file is, or will be once it was fetched."""
        if self.dataset.endswith(STORE_SUFFIX):
            return Path(self.dataset)
        return self.data_dir / f"{self.dataset}{STORE_SUFFIX}"


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
