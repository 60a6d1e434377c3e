"""TensorBoard, started on a real run, shows its scalars, pictures, texts and hyperparameters."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from tensorboard import program

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tensorboard(trained_run: Path) -> httpx.Client:
    server = program.TensorBoard()
    server.configure(argv=[None, "--logdir", str(trained_run), "--port", "0", "--load_fast", "false"])
    return httpx.Client(base_url=server.launch(), timeout=60, trust_env=False)


def told(client: httpx.Client, path: str) -> Any:
    """The document at a path, once the run has been read."""
    for _ in range(120):
        found = client.get(path)
        if found.status_code == 200 and found.json():
            return found.json()
        time.sleep(0.5)
    raise AssertionError(f"{path} stays empty")


def test_tensorboard_shows_scalars_pictures_texts_and_hyperparameters(tensorboard: httpx.Client) -> None:
    scalars = told(tensorboard, "data/plugin/scalars/tags")["."]
    assert {"train/loss", "train/optimized_loss", "val/accuracy", "learning_rate", "final/test_accuracy"} <= set(
        scalars
    )
    points = tensorboard.get("data/plugin/scalars/scalars", params={"run": ".", "tag": "val/accuracy"}).json()
    assert [step for _, step, _ in points] == [6, 12]
    pictures = told(tensorboard, "data/plugin/images/tags")["."]
    assert {"samples/train", "samples/val", "confusion/train", "confusion/val"} <= set(pictures)
    texts = told(tensorboard, "data/plugin/text/tags")["."]
    assert {"config/text_summary", "command/text_summary", "summary/text_summary"} <= set(texts)
    asked = json.dumps({"experimentName": ""})
    experiment = tensorboard.post("data/plugin/hparams/experiment", content=asked).json()
    assert {"learning_rate", "optimizer", "batch", "model"} <= {each["name"] for each in experiment["hparamInfos"]}
    assert {"final/test_accuracy", "final/val_accuracy"} <= {each["name"]["tag"] for each in experiment["metricInfos"]}
