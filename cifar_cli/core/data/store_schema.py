"""What the header of a store must be: the one check before anything in the file is used.

There are two formats. A store of the first has square images as pixels, and their labels. One of the second also has
the images' names and can say which images are for validation; its images are pixels or image files. Both are
safetensors files, whose tensors lie one behind the other in the order given here.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Json, ValidationError

from cifar_cli.core.data.config import SPLITS
from cifar_cli.core.data.results import Provenance
from cifar_cli.core.data.sources.images import TENSORS
from cifar_cli.core.limits import MAX_CLASS_NAME, MAX_SIDE
from cifar_cli.printable import has_control

FORMAT = "cifar-store-1"
FORMAT_WITH_NAMES = "cifar-store-2"
FILES = "files"
"""The tensor with the bytes of all image files, of both splits."""


def _plain(text: str) -> str:
    if has_control(text):
        raise ValueError("control characters")
    return text


def _distinct(names: list[str]) -> list[str]:
    if len({unicodedata.normalize("NFC", name) for name in names}) < len(names):
        raise ValueError("two classes have the same name")
    return names


def _plain_provenance(provenance: Provenance) -> Provenance:
    for field in fields(provenance):
        _plain(str(getattr(provenance, field.name)))
    return provenance


Text = Annotated[str, AfterValidator(_plain)]
ClassName = Annotated[Text, Field(min_length=1, max_length=MAX_CLASS_NAME)]
Count = Annotated[int, Field(ge=0, lt=1 << 40)]
Offset = Annotated[int, Field(ge=0, lt=1 << 60)]
Channels = Annotated[list[Annotated[float, Field(ge=0.0, le=1.0)]], Field(min_length=3, max_length=3)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class Metadata(_Strict):
    """Keys beside the named ones are allowed: later versions may write more."""

    format: Literal["cifar-store-1"]
    name: Annotated[Text, Field(min_length=1, max_length=255)]
    classes: Json[Annotated[list[ClassName], Field(min_length=1), AfterValidator(_distinct)]]
    provenance: Json[Annotated[Provenance, AfterValidator(_plain_provenance)]]
    content: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
    mean: Json[Channels] | None = None
    """Per channel of the training images, with values scaled to 0..1; earlier versions left it out."""
    std: Json[Channels] | None = None


class MetadataWithNames(Metadata):
    """Of the second format."""

    format: Literal["cifar-store-2"]  # type: ignore[assignment]
    img_size: Json[Annotated[int, Field(ge=1, le=MAX_SIDE)]]
    encoded: Json[bool]
    """Whether the images are files instead of pixels."""
    given_val: Json[Count]
    """The last training images, which are for validation."""


class _Images(_Strict):
    dtype: Literal["U8"]
    shape: Annotated[list[Count], Field(min_length=4, max_length=4)]
    data_offsets: Annotated[list[Offset], Field(min_length=2, max_length=2)]


class _Labels(_Strict):
    dtype: Literal["I64"]
    shape: Annotated[list[Count], Field(min_length=1, max_length=1)]
    data_offsets: Annotated[list[Offset], Field(min_length=2, max_length=2)]


class StoreContent(_Strict):
    """The header of a store file: its metadata, and the tensors in the order of their bytes."""

    model_config = ConfigDict(extra="forbid")

    metadata: Metadata = Field(alias="__metadata__")
    train_images: _Images
    train_labels: _Labels
    test_images: _Images
    test_labels: _Labels

    @property
    def img_size(self) -> int:
        return self.train_images.shape[1]

    def require_consistent(self) -> None:
        """Raise ValueError unless the tensors fit together, and lie in the file one behind the other."""
        side, end = self.img_size, 0
        for split in SPLITS:
            images: _Images = getattr(self, f"{split}_images")
            labels: _Labels = getattr(self, f"{split}_labels")
            if images.shape[0] == 0:
                raise ValueError(f"it has no {split} images")
            if images.shape != [labels.shape[0], side, side, 3] or not 1 <= side <= MAX_SIDE:
                raise ValueError(f"the {split} images have the shape {images.shape} for {labels.shape[0]} labels")
            for key, tensor, size in ((f"{split}_images", images, 3 * side * side), (f"{split}_labels", labels, 8)):
                start, end = end, end + size * tensor.shape[0]
                if tensor.data_offsets != [start, end]:
                    raise ValueError(f"{key} lies at {tensor.data_offsets} instead of {[start, end]}")


class _Tensor(_Strict):
    model_config = ConfigDict(extra="forbid")

    dtype: Literal["U8", "I64"]
    shape: Annotated[list[Count], Field(min_length=1, max_length=4)]
    data_offsets: Annotated[list[Offset], Field(min_length=2, max_length=2)]


class _WithNames(_Strict):
    """The header of a store of the second format, before its tensors are compared with what they must be."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, _Tensor] = Field(init=False)

    metadata: MetadataWithNames = Field(alias="__metadata__")


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreLayout:
    """What a store's header says, whatever its format."""

    metadata: Metadata
    img_size: int
    encoded: bool
    given_val: int
    train_images: int
    """The given validation images included."""
    test_images: int
    spans: dict[str, tuple[int, int]]
    """First byte and one past the last byte of each tensor, counted from the end of the header."""

    @property
    def data_bytes(self) -> int:
        return max(end for _, end in self.spans.values())


def tensors_with_names(
    images: dict[str, int], names_bytes: dict[str, int], *, img_size: int, files_bytes: int | None
) -> dict[str, dict[str, Any]]:
    """The tensors of a store of the second format, as they stand in its header.

    images, names_bytes: by split. files_bytes: of all files of an encoded store; None for pixels.
    """
    tensors: dict[str, dict[str, Any]] = {}
    end = 0

    def add(name: str, dtype: str, *shape: int) -> None:
        nonlocal end
        start, end = end, end + math.prod(shape) * (8 if dtype == "I64" else 1)
        tensors[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}

    if files_bytes is not None:
        add(FILES, "U8", files_bytes)
    for split in SPLITS:
        if files_bytes is None:
            add(f"{split}_images", "U8", images[split], img_size, img_size, 3)
    for split in SPLITS:
        for kind in ("labels",) if files_bytes is None else ("labels", "offsets", "lengths"):
            add(f"{split}_{kind}", "I64", images[split])
        add(f"{split}_names", "U8", names_bytes[split])
    return tensors


def parse_header(text: bytes) -> StoreLayout:
    """Parse the JSON header of a store. Raises ValueError with the first thing that is wrong."""
    try:
        written = json.loads(text)["__metadata__"]["format"]
    except (ValueError, KeyError, TypeError, RecursionError):
        written = None  # the models say what is wrong
    a_format = isinstance(written, str) and re.fullmatch(r"cifar-store-\d{1,4}", written)
    if a_format and written not in (FORMAT, FORMAT_WITH_NAMES):
        raise ValueError(f"it has the format {written}, which only a newer version of this program reads")
    try:
        if written == FORMAT_WITH_NAMES:
            return _layout_with_names(_WithNames.model_validate_json(text))
        content = StoreContent.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{place}: {first['msg']}".removeprefix(": ")) from error
    content.require_consistent()
    return StoreLayout(
        metadata=content.metadata,
        img_size=content.img_size,
        encoded=False,
        given_val=0,
        train_images=content.train_images.shape[0],
        test_images=content.test_images.shape[0],
        spans={key: (span[0], span[1]) for key in TENSORS for span in (getattr(content, key).data_offsets,)},
    )


def _layout_with_names(content: _WithNames) -> StoreLayout:
    """Raises ValueError unless the tensors are exactly those that the metadata and the number of labels ask for."""
    metadata, tensors = content.metadata, content.__pydantic_extra__
    for name in (*(f"{split}_{kind}" for split in SPLITS for kind in ("labels", "names")), FILES):
        if name not in tensors and (name != FILES or metadata.encoded):
            raise ValueError(f"it has no tensor {name}")
    images = {split: tensors[f"{split}_labels"].shape[0] for split in SPLITS}
    for split, count in images.items():
        if count == 0:
            raise ValueError(f"it has no {split} images")
    if metadata.given_val >= images["train"]:
        raise ValueError(f"{metadata.given_val} of {images['train']} training images are for validation")
    expected = tensors_with_names(
        images,
        {split: tensors[f"{split}_names"].shape[0] for split in SPLITS},
        img_size=metadata.img_size,
        files_bytes=tensors[FILES].shape[0] if metadata.encoded else None,
    )
    for name in expected.keys() | tensors.keys():
        found = tensors[name].model_dump() if name in tensors else None
        if found != expected.get(name):
            raise ValueError(f"the tensor {name} is {found} instead of {expected.get(name)}")
    return StoreLayout(
        metadata=metadata,
        img_size=metadata.img_size,
        encoded=metadata.encoded,
        given_val=metadata.given_val,
        train_images=images["train"],
        test_images=images["test"],
        spans={name: (span[0], span[1]) for name, tensor in expected.items() for span in (tensor["data_offsets"],)},
    )
