"""Small datasets in every form that an import reads: how to make one, change a file of it, and read it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from cifar_cli.core.data.config import DataConfig, ImportConfig
from cifar_cli.core.data.dataset import check_dataset, import_dataset, open_dataset
from tests.core.data.streams import jpeg, photo
from tests.fuzz.mutators import mutated_archive, mutated_bytes, tar_of


def make_images(folder: Path) -> None:
    noise = np.random.default_rng(0)
    for split in ("train", "test"):
        for name, suffix in (("cat", "png"), ("dog", "jpg")):
            (folder / "pets" / split / name).mkdir(parents=True)
            for number in range(2):
                image = Image.fromarray(noise.integers(0, 256, (8, 8, 3), dtype=np.uint8))
                image.save(folder / "pets" / split / name / f"{number}.{suffix}", progressive=True)


def make_archive(folder: Path) -> None:
    make_images(folder)
    (folder / "pets.tar").write_bytes(tar_of(folder / "pets"))
    shutil.rmtree(folder / "pets")


def make_zip(folder: Path) -> None:
    make_images(folder)
    shutil.make_archive(str(folder / "pets"), "zip", folder / "pets")
    shutil.rmtree(folder / "pets")


def make_labelled(folder: Path) -> None:
    make_images(folder)
    rows = []
    for number, file in enumerate(sorted((folder / "pets").rglob("*.*"))):
        file.rename(folder / "pets" / f"{number}{file.suffix}")
        rows.append(f"{number}{file.suffix},{'cat' if number % 2 else 'dog'}")
    for split in ("train", "test"):
        shutil.rmtree(folder / "pets" / split)
    (folder / "pets/labels.csv").write_text("\n".join(("image,label", *rows)), encoding="utf-8")


def make_arrays(folder: Path) -> None:
    pixels, labels = np.arange(12 * 4 * 4 * 3, dtype=np.uint8).reshape(12, 4, 4, 3), np.arange(12) % 2
    np.savez(folder / "pets.npz", x_train=pixels[:8], y_train=labels[:8], x_test=pixels[8:], y_test=labels[8:])


def make_parquet(folder: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    files = [jpeg(photo(number, width=8, height=8), kind="PNG") for number in range(12)]
    rows = [{"bytes": file, "path": f"{number}.png"} for number, file in enumerate(files)]
    parquet.write_table(
        pa.table({"image": rows, "label": [("cat", "dog")[number % 2] for number in range(12)]}),
        folder / "pets.parquet",
    )


def make_binary(folder: Path) -> None:
    place = folder / "cifar-10-batches-bin"
    place.mkdir()
    for name in ("data_batch_1.bin", "test_batch.bin"):
        records = [bytes([number % 2]) + bytes([number]) * 3072 for number in range(4)]
        (place / name).write_bytes(b"".join(records))
    (place / "batches.meta.txt").write_text("cat\ndog\n", encoding="ascii")


def change_one_of(pattern: str) -> Callable[[Path, Random], None]:
    def change(folder: Path, random: Random) -> None:
        path = random.choice(sorted(folder.glob(pattern)))
        path.write_bytes(mutated_bytes(path.read_bytes(), random))

    return change


def read_images(path: Path, data_dir: Path) -> None:
    data = DataConfig(dataset="pets", data_dir=data_dir)
    result = import_dataset(ImportConfig(data=data, sources=(str(path),)))
    assert check_dataset(data).intact
    require_right(open_dataset(data))
    assert 1 <= result.dataset.img_size <= 4096


def require_right(store: Any) -> None:
    """What training relies on."""
    assert len(store.train) > 0
    assert len(store.test) > 0
    for part in (store.train, store.test):
        assert part.images_NHWC.shape == (len(part), store.img_size, store.img_size, 3)
        assert 0 <= part.labels_N.min() <= part.labels_N.max() < len(store.classes)
    assert len(set(store.classes)) == len(store.classes)


def change_archive(folder: Path, random: Random) -> None:
    path = folder / "pets.tar"
    path.write_bytes(mutated_archive(path.read_bytes(), random))
