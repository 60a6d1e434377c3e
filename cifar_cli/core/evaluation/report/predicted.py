"""The test images as the best weights of a run see them: from the run's record, without running the model."""

from __future__ import annotations

import torch

from cifar_cli.core.data.store import Store
from cifar_cli.core.evaluation.predictions import Predictions, files_of
from cifar_cli.core.training.run_dir import RunDir


def tested_images(run: RunDir) -> int | None:
    """How many test images the run's predictions are of; None where there are none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(run.predictions, framework="pt") as file:
            return int(file.get_slice("test_logits").get_shape()[0])
    except (OSError, KeyError, IndexError, SafetensorError):
        return None


def read_predictions(run: RunDir, store: Store, *, loss: float) -> Predictions | None:
    """The predictions that training kept; None where there are none for this dataset. loss: that of the test."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        logits_NK = load_file(run.predictions)["test_logits"]
    except (OSError, KeyError, SafetensorError):
        return None
    if logits_NK.shape != (len(store.test), len(store.classes)):
        return None
    rows = torch.arange(len(store.test))
    return Predictions(
        dataset=store.name,
        content=store.content,
        split="test",
        classes=store.classes,
        index_N=rows,
        images_NHWC=store.test.images_NHWC,
        labels_N=store.test.labels_N,
        logits_NK=logits_NK,
        loss=loss,
        files=files_of(store, "test", rows),
    )
