"""Classifies image files. They are prepared by the code that prepares validation images."""

from __future__ import annotations

import csv
import glob
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from cifar_cli.core.augment.batched import EvalTransform
from cifar_cli.core.data.loader import BatchLoader
from cifar_cli.core.data.pictures import decoded, require_complete
from cifar_cli.core.data.sources.entries import Entry, entries
from cifar_cli.core.data.sources.kinds import HEIF_REMEDY, SUFFIXES, is_image, suffix_of
from cifar_cli.core.data.sources.pixels import decode, opened, orientation_of
from cifar_cli.core.data.store import Part
from cifar_cli.core.evaluation.config import MOST_EXPLAINED, PredictConfig
from cifar_cli.core.evaluation.explain import heat_maps, overlay, place_of, require_captum
from cifar_cli.core.evaluation.figures import explanation_figure
from cifar_cli.core.evaluation.predictions import predict_batches
from cifar_cli.core.evaluation.results import FilePrediction, PredictResult
from cifar_cli.core.evaluation.runs import checkpoint_of, lacking
from cifar_cli.core.figures import save_figure
from cifar_cli.core.limits import MAX_MEMBER_BYTES
from cifar_cli.core.progress import OnProgress, Progress, silent
from cifar_cli.core.regular import read_regular
from cifar_cli.core.training.batches import eval_loader, resident
from cifar_cli.core.training.checkpoint import Checkpoint, load_checkpoint
from cifar_cli.core.training.machine import device_of
from cifar_cli.errors import DataError, ResourceError

STDIN = "-"
REPORT_EVERY = 500  # images
BATCHES_AT_ONCE = 8  # of images that are in memory, so that a folder may be larger than it
REMEDY = "pass image files, folders of them, or - for stdin"


def predict(config: PredictConfig, *, stdin: BinaryIO | None = None, on_progress: OnProgress = silent) -> PredictResult:
    """Classify image files. A file that can't be read is a problem in the result, and the others are classified.

    stdin: where the image "-" is read from.
    Raises CheckpointError when the checkpoint can't be read, DataError when no file can be read.
    """
    if config.explain:
        require_captum()
    device = device_of(config.device)
    found = checkpoint_of(config.checkpoint)
    checkpoint = load_checkpoint(found.path)
    classified = _Classified(checkpoint, device=device, batch=config.batch, on_progress=on_progress)
    names, remarks, problems = [], [], []
    for name, content in _contents(config.images, stdin):
        try:
            if isinstance(content, Exception):
                raise content
            image, said = prepared(content, checkpoint)
        except (DataError, OSError, ValueError) as error:
            problems.append(problem_of(name, error))
            continue
        names.append(name)
        classified.add(image)
        remarks.append(said)
        if len(names) % REPORT_EVERY == 0:
            on_progress(Progress(task="decode", done=len(names), unit="images"))
    if not names:
        raise DataError("; ".join(problems), remedy=REMEDY)
    logits_NK = classified.logits_NK()
    shares = logits_NK.double().softmax(dim=1).tolist()
    result = PredictResult(
        checkpoint=found.path,
        model=checkpoint.config.model.label,
        classes=checkpoint.classes,
        predictions=tuple(
            FilePrediction(file=name, probabilities=tuple(each), remarks=said)
            for name, each, said in zip(names, shares, remarks, strict=True)
        ),
        images_NHWC=torch.stack(classified.first),
        problems=tuple(problems),
        unfinished=lacking(found, checkpoint.config),
    )
    if not config.explain:
        return result
    targets_N = logits_NK[:MOST_EXPLAINED].argmax(dim=1)
    loader = classified.loader_of(classified.first)
    return _explained(result, heat_maps(checkpoint.model, loader, targets_N, device=device, on_progress=on_progress))


class _Classified:
    """Classifies images a few batches at a time, and keeps the first ones only."""

    def __init__(self, checkpoint: Checkpoint, *, device: torch.device, batch: int, on_progress: OnProgress) -> None:
        self._checkpoint, self._device, self._batch, self._on_progress = checkpoint, device, batch, on_progress
        self._images: list[Tensor] = []
        self._logits: list[Tensor] = []
        self.first: list[Tensor] = []
        """The first MOST_EXPLAINED images, uint8 [S, S, 3]."""

    def add(self, image_HWC: Tensor) -> None:
        self._images.append(image_HWC)
        if len(self.first) < MOST_EXPLAINED:
            self.first.append(image_HWC)
        if len(self._images) == BATCHES_AT_ONCE * self._batch:
            self._classify()

    def logits_NK(self) -> Tensor:
        """float32, of all images that were added."""
        if self._images:
            self._classify()
        return torch.cat(self._logits)

    def loader_of(self, images: list[Tensor]) -> BatchLoader:
        config = self._checkpoint.config
        part = Part(images_NHWC=torch.stack(images), labels_N=torch.zeros(len(images), dtype=torch.long))
        return eval_loader(
            resident(part, self._device),
            torch.arange(len(images)),
            img_size=config.model.img_size,
            normalisation=config.normalised_by,
            batch=self._batch,
        )

    def _classify(self) -> None:
        loader, classes = self.loader_of(self._images), len(self._checkpoint.classes)
        logits_NK, _ = predict_batches(
            self._checkpoint.model, loader, classes=classes, device=self._device, on_progress=self._on_progress
        )
        self._logits.append(logits_NK)
        self._images = []


def _explained(result: PredictResult, heat_NHW: Tensor) -> PredictResult:
    return replace(
        result,
        heat_NHW=heat_NHW,
        overlays_NHWC=torch.stack(list(map(overlay, result.images_NHWC, heat_NHW))),
        places=tuple(map(place_of, heat_NHW)),
    )


def prepared(content: bytes, checkpoint: Checkpoint) -> tuple[Tensor, tuple[str, ...]]:
    """An encoded image as uint8 [S, S, 3] of the model's size, and what was done to it.

    It is decoded as the run's own images: image files as evaluation sees them, anything else as an import does it. A
    run with --img-size resizes the imported images itself; then the image is first cropped to a square of its own size.
    Raises ValueError for anything but a complete image.
    """
    size = checkpoint.config.model.img_size
    if checkpoint.config.encoded:
        require_complete(content)
        return decoded(content, size), _inspected(content, size)[1]
    shorter, remarks = _inspected(content, size)
    side = size if checkpoint.config.img_size is None else shorter
    pixels, _ = decode(content, side)
    image_HWC = torch.from_numpy(pixels.copy())
    if side == size:  # a transform for each of many small images would take a fifth of the time
        return image_HWC, remarks
    by = checkpoint.config.normalised_by
    transform = EvalTransform(size, by.mean, by.std)
    return transform.resize(image_HWC[None])[0], remarks


def save_csv(result: PredictResult, path: Path) -> None:
    """Write a row for each image: file, prediction, its probability, and all probabilities.

    Raises ResourceError when the file can't be written.
    """
    try:
        with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            writer = csv.writer(file)
            writer.writerow(["file", "predicted", "confidence", *(f"p({name})" for name in result.classes)])
            for each in result.predictions:
                ((name, share),) = result.top(each, 1)
                writer.writerow([each.file, name, f"{share:.8g}", *(f"{p:.8g}" for p in each.probabilities)])
    except OSError as error:
        raise ResourceError(
            f"{path} can't be written ({error.strerror or error})",
            remedy="pass --csv FILE in a folder you may write to",
        ) from error


def save_explanation(result: PredictResult, path: Path) -> None:
    """Draw each explained image beside its heat map. Raises ResourceError when the file can't be written."""
    save_figure(explanation_figure(result), path)


def _contents(words: tuple[str, ...], stdin: BinaryIO | None) -> Iterator[tuple[str, bytes | Exception]]:
    """Name and content of every image that the words mean; an exception in place of a content that can't be had."""
    for word in words:
        if word == STDIN and stdin is not None:
            content = stdin.read(MAX_MEMBER_BYTES + 1)
            yield "stdin", content if content else ValueError("it is empty")
            continue
        if Path(word).is_dir():
            yield from _in_folder(Path(word))
            continue
        try:
            files = _files(word)
        except DataError as error:
            yield word, error
            continue
        for file in files:
            try:
                yield str(file), read_regular(file, MAX_MEMBER_BYTES)
            except OSError as error:
                yield str(file), error


def _in_folder(folder: Path) -> Iterator[tuple[str, bytes | Exception]]:
    """The images of a folder, found by the rules of an import, and what may be images and can't be read."""
    found = [entry for entry in entries(folder) if not entry.hidden and _may_be_images(entry)]
    if not found:
        yield str(folder), DataError(f"the folder {folder} contains no image file")
    for entry in sorted(found, key=lambda entry: Path(entry.name)):
        path = str(folder / entry.name)
        if entry.problem:
            yield path, DataError(f"{path} is left out: {entry.problem}")
        elif not is_image(entry.name):
            is_heif = SUFFIXES[suffix_of(entry.name)] == "HEIF"
            why = HEIF_REMEDY if is_heif else "the installed Pillow doesn't decode its format"
            yield path, DataError(f"{path} is left out: {why}")
        else:
            try:
                yield path, entry.read(None)
            except OSError as error:
                yield path, error


def _may_be_images(entry: Entry) -> bool:
    return suffix_of(entry.name) in SUFFIXES or (entry.problem is not None and not entry.harmless)


def _files(word: str) -> list[Path]:
    """The files that a word means, sorted by name. Raises DataError where there are none."""
    path = Path(word)
    if path.exists() or not glob.has_magic(word):
        return [path]
    every = map(Path, glob.glob(word, recursive=True))  # noqa: PTH207 - pathlib's has no absolute patterns
    files = sorted(file for file in every if not file.is_dir())
    if not files:
        raise DataError(f"no file matches {word}")
    return files


def problem_of(name: str, error: Exception) -> str:
    """Why an image file can't be classified, in words."""
    if isinstance(error, DataError):
        return error.what
    if isinstance(error, FileNotFoundError):
        return f"there is no file {name}"
    if isinstance(error, OSError):
        return f"{name} can't be read ({error.strerror or error})"
    return f"{name} is not a readable image ({error})"


def _inspected(content: bytes, size: int) -> tuple[int, tuple[str, ...]]:
    """The shorter side of an image in pixels, and what `decode` will do to it that a user may not expect."""
    try:
        with opened(content) as image:
            shorter, mode, transparent = min(image.size), image.mode, image.has_transparency_data
            turned = orientation_of(image) != 1
            width, height = image.size
    except Exception:  # `decode` says what is wrong
        return size, ()
    remarks = []
    if shorter < size:
        remarks.append(f"enlarged from {width}×{height} pixels to {size}×{size}")
    if transparent:
        remarks.append("transparent pixels became white")
    if mode not in ("RGB", "RGBA", "P", "L", "LA", "1") and not mode.startswith("I"):
        remarks.append(f"converted from {mode} to RGB")
    if turned:
        remarks.append("turned as its EXIF data says")
    return shorter, tuple(remarks)
