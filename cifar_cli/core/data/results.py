"""Results of a download, an import or a check: a dataset's origin and content."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cifar_cli import __version__
from cifar_cli.core.data.balance import imbalance
from cifar_cli.core.data.config import BUILT_IN
from cifar_cli.core.notebook import NotebookView
from cifar_cli.core.plain import plain
from cifar_cli.errors import shell_line
from cifar_cli.printable import printable

ENTRY_POINT = "entry point "  # begins the source of a dataset of an installed package


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Where a store's images come from."""

    source: str
    """URL, path, or "drawn by cifar" for synthetic images."""
    checksum: str
    """"md5:…" or "sha256:…" of the archive, or of all images and labels if there was no archive."""
    imported_at: str
    """ISO 8601, UTC."""
    tool_version: str
    """Version of cifar-cli that wrote the store."""
    synthetic: bool = False
    resized_images: int = 0
    """Images that were scaled to the store's image size."""
    skipped_images: int = 0
    """Unreadable images that were left out."""
    reencoded_images: int = 0
    """Images whose own file does not show upright 8-bit RGB, or is far larger than needed; they were encoded again."""
    animated_images: int = 0
    """Images with several frames or pages, of which the first was taken."""
    left_out_kinds: dict[str, int] = field(default_factory=dict)
    """Files of kinds that are not read, by suffix."""
    hidden_files: int = 0
    """Hidden files and folders, which are not read; a folder counts once."""
    test_share: float | None = None
    """The --test-share of the import, where it was passed."""
    val_share: float | None = None
    """Its --val-share."""
    split_seed: int | None = None
    """Its --seed."""
    columns: tuple[str, ...] = ()
    """Its --columns."""
    img_size: int | None = None
    """Its --img-size."""
    skip_bad: bool = False
    """Whether --skip-bad was passed."""
    notes: tuple[str, ...] = ()
    """What the import decided, and what to know before training: sentences."""

    @classmethod
    def now(cls, *, source: str, checksum: str, **counts: Any) -> Provenance:
        """The provenance of an import that happens now; `counts` are the fields with defaults."""
        counts["notes"] = tuple(printable(note) for note in counts.get("notes", ()))
        counts["columns"] = tuple(printable(column) for column in counts.get("columns", ()))
        counts["left_out_kinds"] = {printable(kind): n for kind, n in counts.get("left_out_kinds", {}).items()}
        imported_at = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(
            source=printable(source), checksum=checksum, imported_at=imported_at, tool_version=__version__, **counts
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetSummary(NotebookView):
    """The content of a store, as its header describes it."""

    name: str
    path: Path
    size_bytes: int
    """Size of the store file."""
    classes: tuple[str, ...]
    """Class names, in the order of the labels."""
    img_size: int
    """Side of the square images, in pixels."""
    train_images: int
    test_images: int
    provenance: Provenance
    content: str
    """"sha256:…" of all images and labels in their order, and of the images' names where the store has them."""
    val_images: int = 0
    """The training images that came as a validation split; 0 where a part of the training images is held out."""
    encoded: bool = False
    """Whether the images are kept as files, such as JPEG, of any shape; `img_size` is then the side for training."""
    mean: tuple[float, ...] | None = None
    """Per channel of the training images, with values scaled to 0..1; None for a store of an earlier version."""
    std: tuple[float, ...] | None = None

    @property
    def command_again(self) -> str:
        """The command that downloads, draws or imports the dataset again."""
        origin = self.provenance
        known = origin.source.startswith(ENTRY_POINT) or (
            self.name in BUILT_IN and not Path(origin.source).is_absolute()
        )
        source = () if known else ("--from", origin.source)
        shares = {"--test-share": origin.test_share, "--val-share": origin.val_share}
        words = [word for flag, share in shares.items() if share is not None for word in (flag, f"{100 * share:g}%")]
        if origin.split_seed is not None:
            words += ["--seed", str(origin.split_seed)]
        if origin.columns:
            words += ["--columns", ",".join(origin.columns)]
        if origin.img_size is not None:
            words += ["--img-size", str(origin.img_size)]
        if origin.skip_bad:
            words.append("--skip-bad")
        if self.path.parent != Path("data"):
            words += ["--data-dir", str(self.path.parent)]
        return shell_line("cifar download --dataset", self.name, *source, *words, "--force")

    def to_dict(self) -> dict[str, Any]:
        """Plain values with the keys of `cifar download --json`."""
        values = plain(asdict(self))
        return {"dataset": values.pop("name"), **values, "synthetic": self.provenance.synthetic}


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """A file or folder of the source that is not in the store."""

    name: str
    """Its path in the source, with `/`."""
    reason: str
    harmless: bool = False
    """No image is lost by it: it has no label, is read in another place, or is no image of the source."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DownloadResult(NotebookView):
    """The outcome of `cifar download`."""

    dataset: DatasetSummary
    already_there: bool
    """The dataset existed and was intact, so nothing was downloaded or imported."""
    left_out: tuple[LeftOut, ...] = ()
    """What this import left out, file by file."""
    left_out_csv: Path | None = None
    """The file beside the store that lists them all; None if nothing was left out."""

    def to_dict(self) -> dict[str, Any]:
        return {
            **self.dataset.to_dict(),
            "already_there": self.already_there,
            "left_out": [{"name": printable(each.name), "reason": printable(each.reason)} for each in self.left_out],
            "left_out_csv": plain(self.left_out_csv),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassCount(NotebookView):
    """How many images one class has."""

    name: str
    train_images: int
    test_images: int

    def to_dict(self) -> dict[str, Any]:
        return {"class": self.name, "train_images": self.train_images, "test_images": self.test_images}


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetCheck(NotebookView):
    """The outcome of reading a complete store."""

    dataset: DatasetSummary
    per_class: tuple[ClassCount, ...]
    archive: Path | None
    """The downloaded archive beside the store, if it is still there."""
    problems: tuple[str, ...]
    """One sentence for each problem; empty if the dataset is intact."""

    @property
    def intact(self) -> bool:
        return not self.problems

    @property
    def remarks(self) -> tuple[str, ...]:
        """What to know before training, a sentence each."""
        told = imbalance(self.dataset.classes, [count.train_images for count in self.per_class])
        return () if told is None else (told,)

    def to_dict(self) -> dict[str, Any]:
        return {
            **self.dataset.to_dict(),
            "intact": self.intact,
            "whole": self.intact,  # an earlier name of the key
            "problems": list(self.problems),
            "archive": plain(self.archive),
            "remarks": list(self.remarks),
            "per_class": [count.to_dict() for count in self.per_class],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageReference:
    """One image of a dataset."""

    split: str
    """train or test; the validation images are among those of train."""
    index: int
    """Its row in the split."""
    label: str
    """The name of its class."""
    file: str | None
    """Its path in the source; None where the store doesn't keep it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DuplicatePair:
    """Two images that show the same."""

    first: ImageReference
    second: ImageReference
    similarity: float
    """1 for identical images."""
    identical: bool

    @property
    def across_splits(self) -> bool:
        return self.first.split != self.second.split


@dataclass(frozen=True, kw_only=True, slots=True)
class DuplicatesResult(NotebookView):
    """The twins in a dataset, and the files that list and show them."""

    dataset: str
    images: int
    pairs: tuple[DuplicatePair, ...]
    """The most similar first."""
    table: Path
    picture: Path | None
    """None where there are no pairs."""

    @property
    def test_images_with_a_twin_in_train(self) -> int:
        """Each counts once, however many twins it has."""
        images = (each for pair in self.pairs if pair.across_splits for each in (pair.first, pair.second))
        return len({each.index for each in images if each.split == "test"})

    def count(self, where: str, *, identical: bool) -> int:
        """The pairs of a kind inside a split (train, test), or across the splits ("across")."""
        pairs = [pair for pair in self.pairs if pair.identical is identical]
        return sum(("across" if pair.across_splits else pair.first.split) == where for pair in pairs)

    @property
    def differently_labelled(self) -> int:
        """Pairs whose images have different labels."""
        return sum(pair.first.label != pair.second.label for pair in self.pairs)

    def to_dict(self) -> dict[str, Any]:
        values: dict[str, Any] = plain(asdict(self))
        counted = ("test_images_with_a_twin_in_train", "differently_labelled")
        return values | {name: getattr(self, name) for name in counted}
