"""What can be said about a dataset on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cifar_cli.core.data.config import BUILT_IN, Provenance


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetSummary:
    """A store as its header describes it.

    content: "sha256:…" of all images and labels. img_size: side of the square images, pixels.
    """

    name: str
    path: Path
    size_bytes: int
    classes: tuple[str, ...]
    img_size: int
    train_images: int
    test_images: int
    provenance: Provenance
    content: str

    @property
    def command_again(self) -> str:
        """The command that fetches, draws or imports it anew."""
        source = "" if self.name in BUILT_IN else f" --from {self.provenance.source}"
        return f"cifar download --dataset {self.name}{source} --force"

    def to_dict(self) -> dict[str, Any]:
        """Plain values with the keys of `cifar download --json`."""
        return {
            "dataset": self.name,
            "path": str(self.path),
            "size_bytes": self.size_bytes,
            "classes": list(self.classes),
            "img_size": self.img_size,
            "train_images": self.train_images,
            "test_images": self.test_images,
            "synthetic": self.provenance.synthetic,
            "provenance": self.provenance.to_dict(),
            "content": self.content,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class DownloadResult:
    """What `cifar download` did. already_there: the dataset was whole, nothing was fetched or imported."""

    dataset: DatasetSummary
    already_there: bool

    def to_dict(self) -> dict[str, Any]:
        return {**self.dataset.to_dict(), "already_there": self.already_there}


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassCount:
    """How many images one class has."""

    name: str
    train_images: int
    test_images: int


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetCheck:
    """A store read to its last byte.

    problems: one sentence each; empty when the dataset is whole. archive: the downloaded archive beside the
    store, None when there is none.
    """

    dataset: DatasetSummary
    per_class: tuple[ClassCount, ...]
    archive: Path | None
    problems: tuple[str, ...]

    @property
    def whole(self) -> bool:
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        return {
            **self.dataset.to_dict(),
            "whole": self.whole,
            "problems": list(self.problems),
            "archive": None if self.archive is None else str(self.archive),
            "per_class": [
                {"class": count.name, "train_images": count.train_images, "test_images": count.test_images}
                for count in self.per_class
            ],
        }
