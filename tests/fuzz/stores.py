"""Stores for the fuzz tests: how to make, change and read them."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import numpy as np
import torch

from cifar_cli.core.data.config import DataConfig
from cifar_cli.core.data.dataset import check_dataset, open_dataset
from cifar_cli.core.data.results import Provenance
from cifar_cli.core.data.sources.images import SourceImages
from cifar_cli.core.data.splits import split_of
from cifar_cli.core.data.store import write_store
from cifar_cli.errors import CifarError
from tests.core.data.streams import photo_stream, pixels_stream
from tests.fuzz.mutators import mutated_bytes, mutated_document
from tests.fuzz.sources import (
    require_right,
)


def make_store(folder: Path) -> None:
    pixels = np.arange(6 * 4 * 4 * 3, dtype=np.uint8).reshape(6, 4, 4, 3)
    labels = np.arange(6) % 2
    provenance = Provenance(source="here", checksum="md5:0", imported_at="2026-01-01", tool_version="1")
    images = SourceImages(("cat", "dog"), pixels, labels, pixels[:2], labels[:2], provenance)
    write_store(folder / "pets.safetensors", name="pets", images=images)


def make_streamed_store(folder: Path, *, encoded: bool) -> None:
    images = (photo_stream if encoded else pixels_stream)(4, 2, 3)
    write_store(folder / "pets.safetensors", name="pets", images=images)


def change_store(folder: Path, random: Random) -> None:
    path = folder / "pets.safetensors"
    content = path.read_bytes()
    if random.random() < 0.3:
        path.write_bytes(mutated_bytes(content, random))
        return
    length = int.from_bytes(content[:8], "little")
    header, tensors = json.loads(content[8 : 8 + length]), content[8 + length :]
    metadata = header["__metadata__"]
    if len(header) > 5 and random.random() < 0.5:  # one number of a tensor of numbers
        start, end = random.choice([each["data_offsets"] for each in header.values() if each.get("dtype") == "I64"])
        at = random.randrange(start, end, 8)
        number = random.choice([-1, 0, 1, 2, 1 << 40, (1 << 63) - 1, random.randrange(5000)])
        tensors = tensors[:at] + number.to_bytes(8, "little", signed=True) + tensors[at + 8 :]
    for key in ("classes", "provenance"):  # JSON inside JSON
        if random.random() < 0.4:
            metadata[key] = json.dumps(mutated_document(json.loads(metadata[key]), random))
    if random.random() < 0.5:
        header = mutated_document(header, random)
    if random.random() < 0.3:
        tensors = mutated_bytes(tensors, random)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + tensors)


def read_store(folder: Path) -> None:
    """Opening and --check agree on whether the file can be used."""
    data = DataConfig(dataset=str(folder / "pets.safetensors"))
    usable, store = True, None
    try:
        store = open_dataset(data, fetch=False)
    except CifarError:
        usable = False
    check = check_dataset(data)
    assert usable or not check.intact
    if store is not None:
        require_right(store)
        for part, split in ((store.train, "train"), (store.test, "test")):
            images = part.images_NHWC[range(len(part))]
            assert images.dtype == torch.uint8
            assert len(store.names(split) or images) == len(part)
        assert len(split_of(store).val_indices) > 0
