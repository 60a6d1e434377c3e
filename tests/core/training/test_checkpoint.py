"""Checkpoints on the disk: damaged, crafted, replaced, and kept."""

from __future__ import annotations

import json
import resource
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from cifar_cli.core.evaluation.config import EvaluateConfig
from cifar_cli.core.evaluation.evaluate import evaluate
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.checkpoint import load_checkpoint, read_checkpoint
from cifar_cli.core.training.checkpoint_schema import require_types
from cifar_cli.core.training.config import ResumeConfig, TrainConfig
from cifar_cli.core.training.listeners import Listeners
from cifar_cli.core.training.run_dir import RunDir
from cifar_cli.core.training.train import resume
from cifar_cli.core.write import write_whole
from cifar_cli.errors import CheckpointError, CifarError
from tests.core.models import torch_files


@pytest.fixture
def run(trained_run: Path, tmp_path: Path) -> RunDir:
    """A run of two epochs, to be damaged."""
    return RunDir(Path(shutil.copytree(trained_run, tmp_path / "run")))


def flip(path: Path, *, count: int = 40_000) -> None:
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    part = slice(max(0, middle - count // 2), middle + count // 2)
    content[part] = bytes(byte ^ 0xFF for byte in content[part])
    path.write_bytes(content)


def test_flipped_bytes_in_the_best_checkpoint_are_refused_by_every_reader(run: RunDir) -> None:
    flip(run.best)
    readers: list[Callable[[], object]] = [
        lambda: evaluate(EvaluateConfig(checkpoint=run.path)),
        lambda: load_checkpoint(run.best),
        lambda: resume(ResumeConfig(run_dir=run.path, max_epochs=3)),
    ]
    for read in readers:
        with pytest.raises(CheckpointError, match=r"best\.ckpt.* is damaged: the checksum of its member") as caught:
            read()
        assert caught.value.remedy


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["empty", "cut short", "flipped", "missing"])
def test_a_damaged_last_checkpoint_is_replaced_by_the_one_before(run: RunDir, damage: str) -> None:
    content = run.last.read_bytes()
    if damage == "missing":
        run.last.unlink()
    elif damage == "flipped":
        flip(run.last)
    else:
        run.last.write_bytes(b"" if damage == "empty" else content[: len(content) // 2])
    said: list[str] = []
    before = json.loads(run.summary.read_text())
    result = resume(run.path, Listeners(on_note=said.append))
    assert "the run continues from previous.ckpt, the one before it" in said[0]
    assert (result.epochs, result.test_loss) == (2, before["test_loss"])


def test_a_run_without_any_readable_checkpoint_is_refused_in_one_sentence(run: RunDir) -> None:
    for path in run.saved:
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"last\.ckpt is empty; .*previous\.ckpt is empty; .*best\.ckpt is empty"):
        resume(run.path)


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write_whole(path, bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_the_best_weights_are_a_safetensors_file_too(run: RunDir) -> None:
    weights = load_file(run.best_weights)
    model = load_checkpoint(run.path).model
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    with safe_open(run.best_weights, framework="pt") as file:
        metadata = file.metadata()
    assert len(json.loads(metadata["classes"])) == 10
    assert json.loads(metadata["model"])["name"] == "null"
    assert len(json.loads(metadata["mean"])) == len(json.loads(metadata["std"])) == 3


@pytest.mark.parametrize(
    "pickle",
    [torch_files.NESTED_TUPLES_AS_KEY, torch_files.COLLIDING_INTEGERS, torch_files.TEN_GIGABYTES],
    ids=["nested-tuples", "colliding-integers", "ten-gigabytes"],
)
def test_a_checkpoint_that_would_take_hours_or_gigabytes_is_refused(tmp_path: Path, pickle: bytes) -> None:
    path = torch_files.with_pickle(tmp_path / "bomb.ckpt", pickle)
    with torch_files.limited(), pytest.raises(CheckpointError, match=r"bomb\.ckpt (holds|builds)"):
        read_checkpoint(path)


def test_a_checkpoint_that_inflates_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {"model.a": torch.zeros(10**7)}}, tmp_path / "zeros.ckpt")
    path = torch_files.compressed(tmp_path / "zeros.ckpt")
    assert path.stat().st_size < 100_000
    with torch_files.limited(), pytest.raises(CheckpointError, match="would become more than 2 times as many"):
        read_checkpoint(path)


@pytest.mark.parametrize("name", ["a model of a trillion classes", "images of a million pixels", "another model"])
def test_a_checkpoint_whose_config_asks_for_another_size_claims_no_memory(run: RunDir, name: str) -> None:
    content = torch.load(run.best, weights_only=True)
    model = content["cifar"]["config"]["model"]
    if name == "another model":
        model["name"] = "timm:vit_giant_patch14_224"
    else:
        model |= {"classes": 10**12} if "classes" in name else {"img_size": 10**6}
    torch.save(content, run.best)
    with torch_files.limited(), pytest.raises(CifarError):
        load_checkpoint(run.best)


@pytest.mark.slow
def test_restructured_checkpoints_are_refused_in_words_or_continued(run: RunDir) -> None:
    content = torch.load(run.last, weights_only=True)
    kept = run.best.read_bytes()
    random = Random(1)
    for _ in range(40):
        run.best.write_bytes(kept)
        torch.save(torch_files.restructured(content, random), run.last)
        with suppress(CifarError):
            resume(ResumeConfig(run_dir=run.path, max_epochs=3))


@pytest.mark.parametrize("place", [("img_size",), ("model", "img_size"), ("recipe", "batch"), ("seed",)], ids=".".join)
def test_a_whole_number_that_is_a_fraction_is_refused(place: tuple[str, ...]) -> None:
    config = TrainConfig(model=ModelConfig(name="null"), img_size=32)
    require_types(config)
    values = config.to_dict()
    part = values
    for name in place[:-1]:
        part = part[name]
    part[place[-1]] = float(part[place[-1]])
    with pytest.raises(ValueError, match=place[-1]):
        require_types(TrainConfig.from_dict(values))
