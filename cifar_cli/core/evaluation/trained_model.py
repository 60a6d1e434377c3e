"""A trained model for other Python programs: its weights, its classes, and how its input is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from cifar_cli.core.augment.batched import EvalTransform
from cifar_cli.core.data.pictures import central_box
from cifar_cli.core.evaluation.predict import REMEDY, prepared, problem_of
from cifar_cli.core.evaluation.runs import checkpoint_of, lacking
from cifar_cli.core.limits import MAX_MEMBER_BYTES
from cifar_cli.core.regular import read_regular
from cifar_cli.core.training.checkpoint import Checkpoint, load_checkpoint
from cifar_cli.errors import ConfigError, DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedModel:
    """A model with the weights of a checkpoint, and what a program needs to call it."""

    model: nn.Module
    """In evaluation mode on the CPU: float32 images [N, 3, S, S], normalised, to logits [N, classes]."""
    classes: tuple[str, ...]
    """The name of each logit."""
    checkpoint: Checkpoint
    """Where the weights are from, with the config of the training."""
    unfinished: str | None
    """What the run lacks to be finished."""

    def read(self, files: Sequence[Path | str]) -> Tensor:
        """Image files as uint8 [N, S, S, 3]: decoded, cropped and resized as `cifar predict` does.

        Raises DataError for a file that can't be read.
        """
        images = []
        for file in files:
            try:
                images.append(prepared(read_regular(Path(file), MAX_MEMBER_BYTES), self.checkpoint)[0])
            except (DataError, OSError, ValueError) as error:
                raise DataError(problem_of(str(file), error), remedy=REMEDY) from error
        size = self.checkpoint.config.model.img_size
        return torch.stack(images) if images else torch.empty(0, size, size, 3, dtype=torch.uint8)

    def normalise(self, images_NHWC: Tensor) -> Tensor:
        """Images uint8 [N, H, W, 3] of any size as the model's input, float32 [N, 3, S, S].

        Of images that aren't square the model sees what it sees of image files: their centre. Raises ConfigError for
        another type or shape.
        """
        if images_NHWC.dtype != torch.uint8 or images_NHWC.ndim != 4 or images_NHWC.shape[-1] != 3:
            raise ConfigError(
                f"images of type {images_NHWC.dtype} and shape {list(images_NHWC.shape)} can't be normalised",
                remedy="pass a tensor of type torch.uint8 and shape [N, H, W, 3]",
            )
        by = self.checkpoint.config.normalised_by
        height, width = images_NHWC.shape[1:3]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        if self.checkpoint.config.encoded:
            top, left, side, _ = central_box(height, width)
        images_NHWC = images_NHWC[:, top : top + side, left : left + side]
        return EvalTransform(self.checkpoint.config.model.img_size, by.mean, by.std)(images_NHWC)


def trained_model(path: Path) -> TrainedModel:
    """The model of a checkpoint file, or of a run directory's best one. Raises CheckpointError or WeightsError."""
    found = checkpoint_of(path)
    checkpoint = load_checkpoint(found.path)
    return TrainedModel(
        model=checkpoint.model.eval().requires_grad_(False),
        classes=checkpoint.classes,
        checkpoint=checkpoint,
        unfinished=lacking(found, checkpoint.config),
    )
