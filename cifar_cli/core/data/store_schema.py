"""What the header of a store must be: the one check before anything in the file is used."""

from __future__ import annotations

import unicodedata
from dataclasses import fields
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Json, ValidationError

from cifar_cli.core.data.config import SPLITS
from cifar_cli.core.data.results import Provenance
from cifar_cli.core.limits import MAX_CLASS_NAME, MAX_SIDE
from cifar_cli.printable import has_control


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


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class Metadata(_Strict):
    """Keys beside the named ones are allowed: later versions may write more."""

    format: Literal["cifar-store-1"]
    name: Annotated[Text, Field(min_length=1, max_length=255)]
    classes: Json[Annotated[list[ClassName], Field(min_length=1), AfterValidator(_distinct)]]
    provenance: Json[Annotated[Provenance, AfterValidator(_plain_provenance)]]
    content: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


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

    @property
    def data_bytes(self) -> int:
        return self.test_labels.data_offsets[1]

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


def parse_header(text: bytes) -> StoreContent:
    """Parse the JSON header of a store. Raises ValueError with the first thing that is wrong."""
    try:
        content = StoreContent.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{place}: {first['msg']}".removeprefix(": ")) from error
    content.require_consistent()
    return content
