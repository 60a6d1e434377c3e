"""Tables of datasets on disk."""

from __future__ import annotations

from rich import box
from rich.console import Group
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from cifar_cli.core.data.results import DatasetCheck, DatasetSummary, DownloadResult, DuplicatesResult
from cifar_cli.render.tables import new_table

MAX_LISTED_FILES = 5
MAX_LISTED_CLASSES = 12  # more are counted, not listed


def downloaded(result: DownloadResult) -> Table:
    """The dataset after a download or import."""
    return _facts(result.dataset)


def remarks(result: DownloadResult) -> list[str]:
    """What the import decided, changed and left out, a sentence each."""
    provenance, size = result.dataset.provenance, result.dataset.img_size
    remarks = []
    if provenance.resized_images:
        remarks.append(
            f"{_images(provenance.resized_images)} of another size scaled and cropped to {size}×{size} pixels"
        )
    if provenance.reencoded_images:
        count = _images(provenance.reencoded_images)
        remarks.append(f"{count} encoded again, to be upright, in RGB, and not larger than needed")
    if provenance.animated_images:
        remarks.append(f"{_images(provenance.animated_images)} with several frames or pages: the first was taken")
    if provenance.hidden_files:
        what = (
            "1 hidden file or folder"
            if provenance.hidden_files == 1
            else f"{provenance.hidden_files:,} hidden files and folders"
        )
        remarks.append(f"{what} left out")
    if result.left_out:
        few = ", ".join(f"{each.name} ({each.reason})" for each in result.left_out[:MAX_LISTED_FILES])
        more = f", and {len(result.left_out) - MAX_LISTED_FILES:,} more" * (len(result.left_out) > MAX_LISTED_FILES)
        remarks.append(f"left out: {few}{more}; {result.left_out_csv} lists all")
    elif provenance.skipped_images:
        remarks.append(f"{_images(provenance.skipped_images)} left out (--skip-bad)")
    return [*provenance.notes, *remarks]


def checked(result: DatasetCheck) -> Group:
    """The dataset, whether it is intact, and the images of each class with their sums in the last row."""
    facts = _facts(result.dataset)
    if result.archive is not None:
        facts.add_row("archive", str(result.archive))
    intact = Text("yes, every byte was read", "green") if result.intact else Text("no", "bold red")
    facts.add_row("intact", intact)
    counts = new_table(box=box.SIMPLE_HEAD, show_footer=True, title="Images per class")
    counts.add_column("class", footer=f"{len(result.per_class)} classes", overflow="fold")
    counts.add_column("train", justify="right", footer=f"{sum(c.train_images for c in result.per_class):,}")
    counts.add_column("test", justify="right", footer=f"{sum(c.test_images for c in result.per_class):,}")
    for count in result.per_class:
        counts.add_row(count.name, f"{count.train_images:,}", f"{count.test_images:,}")
    return Group(facts, counts)


def duplicates(result: DuplicatesResult) -> Table:
    """How many pairs of identical and of nearly identical images there are, by where they are."""
    table = new_table(
        box=box.SIMPLE_HEAD,
        title=f"{result.dataset}: pairs of twins among {result.images:,} images",
        caption=f"pairs whose images have different labels: {result.differently_labelled:,}",
    )
    table.add_column("pairs")
    table.add_column("identical", justify="right")
    table.add_column("near", justify="right")
    for where, words in (("train", "inside train"), ("test", "inside test"), ("across", "across train and test")):
        table.add_row(words, *(f"{result.count(where, identical=each):,}" for each in (True, False)))
    return table


def _facts(dataset: DatasetSummary) -> Table:
    synthetic = " (synthetic)" if dataset.provenance.synthetic else ""
    title = f"{dataset.name}{synthetic}"
    table = new_table(box=box.SIMPLE, show_header=False, title=title, min_width=40)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    classes = str(len(dataset.classes))
    if len(dataset.classes) <= MAX_LISTED_CLASSES:
        classes += f": {', '.join(dataset.classes)}"
    size = f"{dataset.img_size}×{dataset.img_size}"
    of_train = f" ({dataset.val_images:,} for validation)" if dataset.val_images else ""
    table.add_row("images", f"{dataset.train_images:,} train{of_train}, {dataset.test_images:,} test, {size} RGB")
    table.add_row("classes", classes)
    table.add_row("source", dataset.provenance.source)
    algorithm, _, checksum = dataset.provenance.checksum.partition(":")
    table.add_row(algorithm.upper(), checksum)  # as the label, so that a SHA-256 fits into 80 columns
    table.add_row("imported", f"{dataset.provenance.imported_at} by cifar {dataset.provenance.tool_version}")
    if dataset.provenance.resized_images:
        table.add_row("resized", _images(dataset.provenance.resized_images))
    if dataset.provenance.skipped_images:
        table.add_row("left out", _images(dataset.provenance.skipped_images))
    table.add_row("store", f"{dataset.path} ({decimal(dataset.size_bytes)})")
    return table


def _images(count: int) -> str:
    return f"{count:,} image{'' if count == 1 else 's'}"
