"""The one file that a dataset becomes: images and their labels, and with some of them names.

Images are pixels, which are mapped into memory when the store is opened, or files such as JPEG, which are decoded where
they are used. The format is safetensors: eight bytes with the length of a JSON header, the header, then raw tensors.
Opening a store executes no code. Reading its header needs neither torch nor safetensors, so that `cifar download`
answers at once when the dataset exists.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cifar_cli.core.data.config import PHOTO_SIDE, SPLITS
from cifar_cli.core.data.results import DatasetSummary, Provenance
from cifar_cli.core.data.store_schema import FILES, FORMAT_WITH_NAMES, StoreLayout, parse_header
from cifar_cli.core.data.store_writer import summary_of, write_store
from cifar_cli.core.limits import MAX_MEMBER_BYTES, MAX_NAMES_BYTES, MAX_STORE_HEADER_BYTES
from cifar_cli.errors import DataError
from cifar_cli.printable import has_control

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from cifar_cli.core.data.pictures import Pictures

__all__ = ["Part", "Store", "StoreHeader", "open_store", "read_header", "write_store"]

FORCE_REMEDY = "download or import it again with `cifar download --force`"
MISSING_REMEDY = "download it with `cifar download`, or import images with `cifar download --from PATH`"


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Part:
    """The training or the test images of a dataset."""

    images_NHWC: Tensor | Pictures
    """uint8 [N, H, W, 3], RGB; `.permute(0, 3, 1, 2)` is a channels-last view without a copy. Of an encoded store,
    what decodes the rows that it is asked for."""
    labels_N: Tensor
    """int64 [N], values 0..K-1."""

    def __post_init__(self) -> None:
        import torch

        images, labels = self.images_NHWC, self.labels_N
        if isinstance(images, torch.Tensor):
            assert images.dtype == torch.uint8, images.dtype
            assert images.ndim == 4, images.shape
            assert images.shape[-1] == 3, images.shape
        assert labels.dtype == torch.int64, labels.dtype
        assert labels.shape == images.shape[:1], (labels.shape, images.shape)

    def __len__(self) -> int:
        return int(self.labels_N.shape[0])

    @property
    def pictures(self) -> Pictures | None:
        """The images of an encoded store; None for pixels."""
        import torch

        return None if isinstance(self.images_NHWC, torch.Tensor) else self.images_NHWC

    @property
    def pixels_NHWC(self) -> Tensor:
        """The images where they are pixels, uint8 [N, H, W, 3]."""
        import torch

        assert isinstance(self.images_NHWC, torch.Tensor), "an encoded store"
        return self.images_NHWC

    def at_side(self, side: int) -> Part:
        """The same images; those of an encoded store are decoded to this side, in pixels. Pixels stay as they are."""
        if self.pictures is None:
            return self
        return Part(images_NHWC=self.pictures.at_side(side), labels_N=self.labels_N)

    def taken(self, rows: Tensor) -> Part:
        """A few of the images, as pixels."""
        return Part(images_NHWC=self.images_NHWC[rows], labels_N=self.labels_N[rows])


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Store:
    """An opened dataset."""

    name: str
    classes: tuple[str, ...]
    train: Part
    """Includes the validation images; `split_of` selects them."""
    test: Part
    provenance: Provenance
    path: Path
    content: str
    """The content hash: "sha256:…"."""
    mean: tuple[float, ...] | None = None
    """Per channel of the training images, with values scaled to 0..1; None for a store of an earlier version."""
    std: tuple[float, ...] | None = None
    given_val: int = 0
    """So many of the last training images came as a validation split."""

    @property
    def img_size(self) -> int:
        """Side of the square images, in pixels; of an encoded store, the side that its images are decoded to."""
        return int(self.train.images_NHWC.shape[1])

    @property
    def default_side(self) -> int:
        """Side in pixels that training sees without --img-size."""
        return min(self.img_size, PHOTO_SIDE) if self.encoded else self.img_size

    @property
    def encoded(self) -> bool:
        """Whether images are files, such as JPEG, instead of pixels."""
        return self.train.pictures is not None

    def names(self, split: str) -> tuple[str, ...] | None:
        """The images' paths in the source, of the rows of `train` or `test`; None where the store has none.

        Raises DataError when they are damaged.
        """
        return names_of(read_header(self.path), split)

    @property
    def synthetic(self) -> bool:
        return self.provenance.synthetic


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreHeader:
    """The header of a store file."""

    summary: DatasetSummary
    offsets: dict[str, tuple[int, int]]
    """First byte and one past the last byte of each tensor in the file."""
    layout: StoreLayout


def open_store(path: Path) -> Store:
    """Map a store into memory; pixels are read from disk when they are first used.

    Raises DataError when there is no file at `path`, or it is not a store, or it is damaged.
    """
    header = read_header(path)
    summary = header.summary
    for problem in content_problems(header):
        raise DataError(f"{path} is damaged: {problem}", remedy=FORCE_REMEDY)
    train, test = (part_of(header, split) for split in SPLITS)
    return Store(
        name=summary.name,
        classes=summary.classes,
        train=train,
        test=test,
        provenance=summary.provenance,
        path=path,
        content=summary.content,
        mean=summary.mean,
        std=summary.std,
        given_val=summary.val_images,
    )


def part_of(header: StoreHeader, split: str) -> Part:
    import torch
    from safetensors import safe_open

    path, images = header.summary.path, f"{split}_images"
    labels_N = torch.from_numpy(read_integers(header, f"{split}_labels"))
    if not header.layout.encoded:
        with safe_open(path, framework="pt") as file:
            return Part(images_NHWC=file.get_tensor(images), labels_N=labels_N)
    from cifar_cli.core.data.pictures import Pictures

    offsets_N, lengths_N = (read_integers(header, f"{split}_{kind}") for kind in ("offsets", "lengths"))
    pictures = Pictures(path, header.offsets[FILES][0], offsets_N, lengths_N, header.summary.img_size, split)
    return Part(images_NHWC=pictures, labels_N=labels_N)


def read_header(path: Path) -> StoreHeader:
    """Read a store's header, and check it and the length of the file.

    Raises DataError when there is no file at `path`, or it is not a store, or it is truncated.
    """
    if not path.is_file():
        raise DataError(f"there is no dataset at {path}", remedy=MISSING_REMEDY)
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size - 8, MAX_STORE_HEADER_BYTES):
                raise ValueError("it has no header")
            content = parse_header(file.read(length))
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror})", remedy=FORCE_REMEDY) from error
    except ValueError as error:
        raise DataError(
            f"{path} is not a dataset that `cifar download` wrote: {error}", remedy=MISSING_REMEDY
        ) from error
    expected = 8 + length + content.data_bytes
    if size != expected:
        raise DataError(f"{path} is damaged: it has {size:,} bytes instead of {expected:,}", remedy=FORCE_REMEDY)
    first = 8 + length
    offsets = {name: (first + start, first + end) for name, (start, end) in content.spans.items()}
    return StoreHeader(summary=summary_of(path, content), offsets=offsets, layout=content)


def names_of(header: StoreHeader, split: str) -> tuple[str, ...] | None:
    """Raises DataError when there isn't one name for each image."""
    if header.layout.metadata.format != FORMAT_WITH_NAMES:
        return None
    start, end = header.offsets[f"{split}_names"]
    path, problem = header.summary.path, None
    try:
        if end - start > MAX_NAMES_BYTES:
            raise ValueError("longer than fits into memory")
        with path.open("rb") as file:
            file.seek(start)
            names = tuple(file.read(end - start).decode().split("\n"))
        if len(names) != (header.layout.train_images if split == "train" else header.layout.test_images):
            problem = f"there are {len(names):,}"
        elif any(map(has_control, names)):
            problem = "one has control characters"
    except (OSError, ValueError) as error:
        problem = str(error)
    if problem is not None:
        raise DataError(f"{path} is damaged: the names of its {split} images ({problem})", remedy=FORCE_REMEDY)
    return names


def read_labels(header: StoreHeader, split: str) -> NDArray[np.int64]:
    """The labels of one split (train, test), int64 [N]."""
    return read_integers(header, f"{split}_labels")


def read_integers(header: StoreHeader, name: str) -> NDArray[np.int64]:
    """A tensor of integers, int64 [N]."""
    import numpy as np

    start, end = header.offsets[name]
    return np.fromfile(header.summary.path, dtype="<i8", count=(end - start) // 8, offset=start)


def content_problems(header: StoreHeader) -> list[str]:
    """What makes a store unusable although its header is right, a sentence each. Reads no images."""
    from safetensors import SafetensorError, safe_open

    last = len(header.summary.classes) - 1
    try:
        with safe_open(header.summary.path, framework="np"):
            labels = {split: read_labels(header, split) for split in SPLITS}
    except (SafetensorError, OSError) as error:
        return [f"safetensors can't read it ({error})"]
    wrong = [split for split in SPLITS if not 0 <= labels[split].min() <= labels[split].max() <= last]
    problems = [f"a {split} label lies outside 0..{last}" for split in wrong]
    return problems + (_misplaced_files(header) if header.layout.encoded else [])


def _misplaced_files(header: StoreHeader) -> list[str]:
    start, end = header.offsets[FILES]
    problems, total = [], 0
    for split in SPLITS:
        offsets, lengths = (read_integers(header, f"{split}_{kind}") for kind in ("offsets", "lengths"))
        if not (lengths.min() >= 1 and lengths.max() <= min(MAX_MEMBER_BYTES, end - start)):
            problems.append(f"a {split} image has a length outside 1..{min(MAX_MEMBER_BYTES, end - start)}")
        elif not (offsets.min() >= 0 and (offsets <= end - start - lengths).all()):
            problems.append(f"a {split} image lies outside the files")
        else:
            total += int(lengths.sum())
    if not problems and total != end - start:
        problems.append(f"its images have {total:,} bytes instead of {end - start:,}")
    return problems
