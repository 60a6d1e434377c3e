"""Image files inside a store, and how they become square pixels.

A file is decoded at a half, a quarter or an eighth of its size where what is shown of it is at least twice, four or
eight times as large as the result: the JPEG decoder then leaves out the coefficients that scaling would average away.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cifar_cli.core.data.sources.pixels import EVAL_SHARE, opened, orientation_of, plain_jpeg_size, reason_of, upright
from cifar_cli.core.limits import MAX_PIXELS
from cifar_cli.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

DAMAGED_REMEDY = (
    "`cifar download --check --dataset {}` names every damaged image; "
    "import the dataset again with `cifar download --force`"
)
_FLAGS = {
    1: cv2.IMREAD_COLOR_RGB,  # for the others OpenCV offers no RGB
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}

Box = tuple[int, int, int, int]
"""Top, left, height and width of what is shown of a picture, in its pixels."""


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Picture:
    """An image file whose header has been read."""

    content: bytes
    width: int
    """As it is shown: after its orientation."""
    height: int
    plain: bool
    """A JPEG in RGB or grey that OpenCV decodes as it is to be shown."""

    @classmethod
    def of(cls, content: bytes) -> Picture:
        """Read the header. Raises ValueError, with the reason, for anything but an image within the limits."""
        size = plain_jpeg_size(content)
        if size is not None and size[0] * size[1] <= MAX_PIXELS:
            return cls(content=content, width=size[0], height=size[1], plain=True)
        try:
            with opened(content) as image:
                width, height = image.size
                turned = orientation_of(image)
                plain = image.format == "JPEG" and image.mode in ("RGB", "L") and turned == 1
                sides_turned = image.format == "TIFF"  # by Pillow, with the header
        except Exception as error:
            raise ValueError(reason_of(error)) from error
        if turned in (5, 6, 7, 8) and not sides_turned:
            width, height = height, width
        return cls(content=content, width=width, height=height, plain=plain)

    def decoded(self, side: int, box: Box) -> Tensor:
        """What is in the box, scaled to uint8 [side, side, 3], RGB. Raises ValueError for a damaged file."""
        top, left, height, width = box
        factor = _reduction(min(height, width) // side) if self.plain else 1
        pixels = _from_opencv(self.content, factor) if self.plain else None
        is_bgr = pixels is not None and factor > 1
        if pixels is None:  # OpenCV refuses some files that Pillow reads
            pixels, factor = _from_pillow(self.content), 1
        rows, columns = max(1, round(height / factor)), max(1, round(width / factor))
        # To whole pixels of the reduced picture, each of which is at most one of the result.
        first_row, first_column = round(top / factor), round(left / factor)
        # A whole array: of a part of one, torch would return planes, whose pixels lie apart.
        shown = np.ascontiguousarray(pixels[first_row : first_row + rows, first_column : first_column + columns])
        if not shown.size:
            raise ValueError("its header gives another size than its pixels")
        shown_1CHW = torch.from_numpy(shown)[None].permute(0, 3, 1, 2)
        scaled_1CHW = F.interpolate(shown_1CHW, size=(side, side), mode="bilinear", antialias=True, align_corners=False)
        scaled = scaled_1CHW[0].permute(1, 2, 0)
        return scaled.flip(2) if is_bgr else scaled


def decoded(content: bytes, side: int) -> Tensor:
    """A picture as evaluation sees it, uint8 [side, side, 3]. Raises ValueError for a damaged file."""
    picture = Picture.of(content)
    return picture.decoded(side, central_box(picture.height, picture.width))


def require_complete(content: bytes) -> None:
    """Decode a picture strictly. Raises ValueError for a damaged file, of which OpenCV would make up the missing part.

    Training leaves this to the import and to `cifar download --check`, because it takes as long as decoding.
    """
    _from_pillow(content)


def central_box(height: int, width: int) -> Box:
    """What evaluation sees of a picture: all of a square one, else the central square of EVAL_SHARE of its height.

    Scaled to S pixels this is a resize of the shorter side to S / EVAL_SHARE and a centre crop.
    """
    side = height if height == width else max(1, round(EVAL_SHARE * min(height, width)))
    return (height - side) // 2, (width - side) // 2, side, side


@dataclass(eq=False)
class Pictures:
    """The pictures of one split. `[rows]` decodes some of them: uint8 [n, S, S, 3] as evaluation sees them.

    It stands where a tensor of all images would be too large, and can be sent to other processes.
    """

    path: Path
    """The store file."""
    start: int
    """First byte of the files in it."""
    offsets_N: NDArray[np.int64]
    """Of each picture, its first byte, counted from `start`."""
    lengths_N: NDArray[np.int64]
    side: int
    """S."""
    split: str
    """`train` or `test`."""
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - immutable
    """Where batches of the pictures are wanted; decoding is done on the CPU."""
    _file: Any = field(default=None, init=False, repr=False)
    _identity: tuple[int, ...] = field(default=(), init=False, repr=False)

    def __post_init__(self) -> None:
        self._open()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def _open(self) -> None:
        """Open the file once, so that training goes on with it when the store is replaced under its name."""
        self._file = self.path.open("rb", buffering=0)
        found = os.fstat(self._file.fileno())
        identity = (found.st_size, found.st_mtime_ns)
        if self._identity not in ((), identity):
            raise DataError(f"{self.path} was replaced while it was in use", remedy="run the command again")
        self._identity = identity

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self), self.side, self.side, 3))

    def __len__(self) -> int:
        return len(self.offsets_N)

    def at_side(self, side: int) -> Pictures:
        """The same pictures in another size."""
        return self._with(side=side)

    def to(self, device: torch.device) -> Pictures:
        """The same pictures for batches on another device."""
        return self._with(device=device)

    def _with(self, **changed: Any) -> Pictures:
        other = object.__new__(Pictures)  # with the same open file
        other.__dict__.update(self.__dict__, **changed)
        return other

    def content(self, row: int) -> bytes:
        """The file of a picture. Raises DataError when it can't be read."""
        length, offset = int(self.lengths_N[row]), self.start + int(self.offsets_N[row])
        try:
            if hasattr(os, "pread"):  # processes share the descriptor, so its position may not be used
                content: bytes = os.pread(self._file.fileno(), length, offset)
            else:
                self._file.seek(offset)
                content = self._file.read(length)
        except OSError as error:
            raise DataError(f"{self.path} can't be read ({error.strerror})", remedy=self._remedy) from error
        return content

    def picture(self, row: int) -> Picture:
        """A picture with its header read. Raises DataError for a damaged one."""
        try:
            return Picture.of(self.content(row))
        except ValueError as error:
            raise self._damaged(row, error) from error

    def decoded(self, row: int, picture: Picture, box: Box | None = None) -> Tensor:
        """uint8 [S, S, 3] of a box of a picture, or of what evaluation sees. Raises DataError for a damaged one."""
        try:
            return picture.decoded(self.side, box or central_box(picture.height, picture.width))
        except ValueError as error:
            raise self._damaged(row, error) from error

    def problem(self, row: int) -> str | None:
        """Why a picture can't be decoded completely; None if it can."""
        try:
            require_complete(self.content(row))
        except ValueError as error:
            return str(error)
        return None

    def __getitem__(self, rows: int | slice | Sequence[int] | Tensor) -> Tensor:
        if isinstance(rows, int):
            return self.decoded(rows, self.picture(rows))
        if isinstance(rows, slice):
            rows = range(len(self))[rows]
        chosen = rows.tolist() if isinstance(rows, Tensor) else list(rows)
        if isinstance(chosen, int):
            return self[chosen]
        images = torch.empty(len(chosen), self.side, self.side, 3, dtype=torch.uint8)
        for place, row in enumerate(chosen):
            images[place] = self[row]
        return images

    def index_select(self, dim: int, rows: Tensor) -> Tensor:
        """As of a tensor."""
        assert dim == 0, dim
        return self[rows]

    def _damaged(self, row: int, error: ValueError) -> DataError:
        from cifar_cli.core.data.store import names_of, read_header

        which = f"{self.split} image {row}"
        with suppress(DataError, OSError):  # the error is about the picture
            names = names_of(read_header(self.path), self.split)
            found = self.path.stat()
            if names is not None and self._identity == (found.st_size, found.st_mtime_ns):  # not replaced since
                which = names[row]
        return DataError(f"{which} in {self.path} is damaged ({error})", remedy=self._remedy)

    @property
    def _remedy(self) -> str:
        return DAMAGED_REMEDY.format(shlex.quote(str(self.path)))


def _reduction(most: int) -> int:
    """By how much a JPEG's sides may be divided in decoding: the largest of 1, 2, 4 and 8 up to `most`."""
    return max((factor for factor in _FLAGS if factor <= most), default=1)


def _from_opencv(content: bytes, factor: int) -> NDArray[np.uint8] | None:
    """A JPEG with its sides divided by `factor`, rounded up: RGB, or BGR for a factor over 1.

    None if OpenCV can't decode it.
    """
    try:
        return cv2.imdecode(np.frombuffer(content, dtype=np.uint8), _FLAGS[factor])
    except cv2.error:
        return None


def _from_pillow(content: bytes) -> NDArray[np.uint8]:
    """Any image as uint8 [H, W, 3], RGB, as an import converts it."""
    try:
        with opened(content) as image:
            return np.array(upright(image, content))
    except Exception as error:
        raise ValueError(reason_of(error)) from error
