"""Values at the edge of what a command takes: one sentence each, and no traceback."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cifar_cli.core.data.sources.shapes import draw_shapes
from cifar_cli.core.data.store import write_store
from tests.conftest import Cifar

TRAIN = ("train", "--dataset", "shapes", "--weights", "none")
EDGES = {
    ("--seed", "99999999999999999999"): "error: --seed 99999999999999999999 is too large for a seed",
    ("--seeds", "1,99999999999999999999"): "error: --seeds 1,99999999999999999999 is too large for a seed",
    ("--img-size", "20000"): "error: images of 20000 pixels a side are too large to train on",
    ("--set", "recipe.max_seconds=.inf"): "error: --max-time must be longer than 0 seconds, and end",
    ("--max-time", "²"): "error: --max-time ² is not a duration",
    ("--max-time", "9" * 5000): "is not a duration",
    ("--checkpoint-every", "2x"): "error: --checkpoint-every 2x is not a duration",
    ("--checkpoint-every", "0"): "error: --checkpoint-every must be longer than 0 seconds",
    ("--model", "timm:resnet18.nosuch"): "error: timm has no weights named nosuch for resnet18",
    ("--requeue", "--seeds", "1,2"): "error: --requeue and --seeds contradict each other",
    ("--requeue",): "error: --requeue continues the run in --run-dir, and none is given",
}


@pytest.mark.parametrize("words", EDGES, ids=lambda words: " ".join(words)[:40])
def test_a_value_at_the_edge_is_refused_in_one_sentence(
    cifar: Cifar, data_dir: Path, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = cifar(*TRAIN, "--data-dir", data_dir, *words)
    assert EDGES[words] in result.stderr
    assert result.stderr.count("error:") == result.stderr.count("  try:") == 1
    assert result.exit_code in (1, 2)
    assert not list(tmp_path.iterdir())


TOO_LONG = "x" * 300
PLACES = (
    "evaluate {}", "evaluate RUN --dataset {}", "evaluate RUN --data-dir {}", "evaluate RUN --out {}", "export {}",
    "report {}", "predict -c {} x.png", "predict -c RUN {}", "train --dataset {}", "train --dataset {}.safetensors",
    "train --data-dir {}", "train --run-dir {}",
    "train SHAPES --name {}", "train SHAPES --augment {}", "train --config {}",
    "train --resume {}", "train --weights {}", "download --dataset pets --from {}", "download --dataset {} --check",
    "summarize -m {}.py:f", "augment-preview --run {}", "augment-preview SHAPES --out {}.png",
)  # fmt: skip


@pytest.mark.parametrize("line", PLACES)
def test_a_path_that_no_file_system_takes_is_one_sentence(
    cifar: Cifar, data_dir: Path, trained_run: Path, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    known = {"{}": TOO_LONG, "RUN": trained_run, "SHAPES": f"--dataset shapes --data-dir {data_dir}"}
    for word, meaning in known.items():
        line = line.replace(word, str(meaning))
    result = cifar(*line.split())
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 1
    assert TOO_LONG in result.stderr
    assert result.stderr.count("error:") == result.stderr.count("  try:") == 1


def test_a_picture_must_be_a_png_file(cifar: Cifar, data_dir: Path) -> None:
    result = cifar("augment-preview", "--dataset", "shapes", "--data-dir", data_dir, "--out", "conf.xyz")
    assert result.stderr == "error: --out conf.xyz is not a PNG file's name\n  try: pass --out conf.png\n"


def test_a_picture_in_place_of_the_folder_of_an_evaluation_is_refused(cifar: Cifar, trained_run: Path) -> None:
    result = cifar("evaluate", trained_run, "--out", "conf.png")
    message = "error: --out conf.png names a picture, but takes the folder of all files\n  try: pass --out conf\n"
    assert result.stderr == message


@pytest.mark.slow
def test_a_dataset_of_one_class_is_trained_and_evaluated(cifar: Cifar, tmp_path: Path) -> None:
    images = draw_shapes(train_images=40, test_images=10)
    one = replace(
        images,
        classes=("only",),
        train_labels=np.zeros_like(images.train_labels),
        test_labels=np.zeros_like(images.test_labels),
    )
    write_store(tmp_path / "one.safetensors", name="one", images=one)
    words = ("--dataset", "one", "--data-dir", tmp_path)
    trained = cifar("train", *words, "--max-epochs", 1, "--batch", 8, "--run-dir", tmp_path / "run")
    assert trained.exit_code == 0, trained.output
    scored = cifar("evaluate", tmp_path / "run", "--json")
    assert scored.exit_code == 0, scored.output
