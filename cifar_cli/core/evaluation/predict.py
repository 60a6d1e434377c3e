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
from cifar_cli.core.data.pictures import decoded, require_complete
from cifar_cli.core.data.sources.kinds import is_image
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
    names, images, remarks, problems = [], [], [], []
    for name, content in _contents(config.images, stdin):
        try:
            if isinstance(content, Exception):
                raise content
            image, said = prepared(content, checkpoint)
        except (DataError, OSError, ValueError) as error:
            problems.append(_problem(name, error))
            continue
        names.append(name)
        images.append(image)
        remarks.append(said)
        if len(names) % REPORT_EVERY == 0:
            on_progress(Progress(task="decode", done=len(names), unit="images"))
    if not images:
        raise DataError("; ".join(problems), remedy=REMEDY)
    part = Part(images_NHWC=torch.stack(images), labels_N=torch.zeros(len(images), dtype=torch.long))
    loader = eval_loader(
        resident(part, device),
        torch.arange(len(images)),
        img_size=checkpoint.config.model.img_size,
        normalisation=checkpoint.config.normalised_by,
        batch=config.batch,
    )
    logits_NK, _ = predict_batches(
        checkpoint.model, loader, classes=len(checkpoint.classes), device=device, on_progress=on_progress
    )
    shares = logits_NK.double().softmax(dim=1).tolist()
    result = PredictResult(
        checkpoint=found.path,
        model=checkpoint.config.model.label,
        classes=checkpoint.classes,
        predictions=tuple(
            FilePrediction(file=name, probabilities=tuple(each), remarks=said)
            for name, each, said in zip(names, shares, remarks, strict=True)
        ),
        images_NHWC=part.pixels_NHWC,
        problems=tuple(problems),
        unfinished=lacking(found, checkpoint.config),
    )
    if not config.explain:
        return result
    targets_N = logits_NK[:MOST_EXPLAINED].argmax(dim=1)
    return _explained(result, heat_maps(checkpoint.model, loader, targets_N, device=device, on_progress=on_progress))


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


def _files(word: str) -> list[Path]:
    """The files that a word means, sorted by name. Raises DataError where there are none."""
    path = Path(word)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file() and is_image(file.name))
        if not files:
            raise DataError(f"the folder {word} contains no image file")
        return files
    if path.exists() or not glob.has_magic(word):
        return [path]
    every = map(Path, glob.glob(word, recursive=True))  # noqa: PTH207 - pathlib's has no absolute patterns
    files = sorted(file for file in every if not file.is_dir())
    if not files:
        raise DataError(f"no file matches {word}")
    return files


def _problem(name: str, error: Exception) -> str:
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
