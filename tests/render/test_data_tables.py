"""Tables of datasets: golden files at 80 and 120 columns, sums, and the link to the JSON document."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cifar_cli.core.data.config import CIFAR10_CLASSES, CIFAR100_CLASSES
from cifar_cli.core.data.results import ClassCount, DatasetCheck, DatasetSummary, DownloadResult, Provenance
from cifar_cli.render import data_tables
from tests.golden import rendered

CIFAR10 = DatasetSummary(
    name="cifar10",
    path=Path("data/cifar10.safetensors"),
    size_bytes=184_801_040,
    classes=CIFAR10_CLASSES,
    img_size=32,
    train_images=50_000,
    test_images=10_000,
    provenance=Provenance(
        source="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        checksum="md5:c58f30108f718f92721af3b95e74349a",
        imported_at="2026-01-01T12:00:00+00:00",
        tool_version="0.1.0",
    ),
    content=f"sha256:{'0123456789abcdef' * 4}",
)
CIFAR100 = replace(CIFAR10, name="cifar100", path=Path("data/cifar100.safetensors"), classes=CIFAR100_CLASSES)
PETS = DatasetSummary(
    name="pets",
    path=Path("/home/someone/projects/animals/data/pets.safetensors"),
    size_bytes=61_548,
    classes=("cat", "dog [small]", "an_unusually_long_class_name_that_somebody_chose"),
    img_size=32,
    train_images=12,
    test_images=8,
    provenance=replace(
        CIFAR10.provenance,
        source="/home/someone/projects/animals/photographs/pets",
        checksum=f"sha256:{'fedcba9876543210' * 4}",
        resized_images=1,
        skipped_images=3,
    ),
    content=f"sha256:{'fedcba9876543210' * 4}",
)
PETS_COUNTS = tuple(
    ClassCount(name=name, train_images=train, test_images=test)
    for name, train, test in zip(PETS.classes, (7, 3, 2), (4, 3, 1), strict=True)
)


def balanced(dataset: DatasetSummary) -> tuple[ClassCount, ...]:
    count = len(dataset.classes)
    return tuple(
        ClassCount(name=name, train_images=dataset.train_images // count, test_images=dataset.test_images // count)
        for name in dataset.classes
    )


@pytest.mark.parametrize("dataset", [CIFAR10, CIFAR100, PETS], ids=lambda dataset: dataset.name)
def test_the_table_of_a_download(golden, dataset):
    golden.tables(
        f"data/download-{dataset.name}", data_tables.downloaded(DownloadResult(dataset=dataset, already_there=False))
    )


def test_the_table_of_synthetic_images(golden):
    shapes = replace(
        CIFAR10,
        name="shapes",
        path=Path("data/shapes.safetensors"),
        classes=("circle", "square"),
        provenance=replace(CIFAR10.provenance, source="drawn by cifar", checksum=CIFAR10.content, synthetic=True),
    )
    golden.tables("data/download-shapes", data_tables.downloaded(DownloadResult(dataset=shapes, already_there=False)))


def test_the_tables_of_a_check_of_an_intact_dataset_with_its_archive(golden):
    archive = Path("data/cifar-10-python.tar.gz")
    check = DatasetCheck(dataset=CIFAR10, per_class=balanced(CIFAR10), archive=archive, problems=())
    golden.tables("data/check-intact", data_tables.checked(check))


def test_the_tables_of_a_check_of_a_damaged_dataset(golden):
    check = DatasetCheck(dataset=PETS, per_class=PETS_COUNTS, archive=None, problems=("images and labels differ",))
    golden.tables("data/check-damaged", data_tables.checked(check))


@pytest.mark.parametrize(("dataset", "counts"), [(CIFAR100, balanced(CIFAR100)), (PETS, PETS_COUNTS)])
def test_the_last_row_of_a_check_has_the_sums_of_the_rows_and_the_counts_of_the_dataset(dataset, counts):
    check = DatasetCheck(dataset=dataset, per_class=counts, archive=None, problems=())
    lines = rendered(data_tables.checked(check), width=120).splitlines()
    rows = [line.replace(",", "").rsplit(maxsplit=2) for line in lines[lines.index("Images per class") :]]
    counted = [(row[0].strip(), int(row[1]), int(row[2])) for row in rows if len(row) == 3 and row[2].isdigit()]
    *classes, (label, train, test) = counted
    assert [name for name, _, _ in classes] == list(dataset.classes)
    assert label == f"{len(dataset.classes)} classes"
    assert train == sum(count for _, count, _ in classes) == dataset.train_images
    assert test == sum(count for _, _, count in classes) == dataset.test_images


def test_the_json_document_of_a_check_has_every_number_of_its_tables():
    check = DatasetCheck(dataset=PETS, per_class=PETS_COUNTS, archive=None, problems=("damaged",))
    document = check.to_dict()
    assert (document["train_images"], document["test_images"]) == (12, 8)
    assert (document["img_size"], document["size_bytes"]) == (32, 61_548)
    assert (document["provenance"]["resized_images"], document["provenance"]["skipped_images"]) == (1, 3)
    assert document["intact"] is document["whole"] is False
    assert document["problems"] == ["damaged"]
    assert [tuple(row.values()) for row in document["per_class"]] == [
        (count.name, count.train_images, count.test_images) for count in PETS_COUNTS
    ]


def test_remarks_count_resized_and_skipped_images():
    assert data_tables.remarks(DownloadResult(dataset=PETS, already_there=False)) == [
        "1 image of another size scaled and cropped to 32×32 pixels",
        "3 images left out (--skip-bad)",
    ]
    assert data_tables.remarks(DownloadResult(dataset=CIFAR10, already_there=False)) == []
