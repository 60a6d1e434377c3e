"""A file of a newer version that can't be read is said to be that; one that can be read is read."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from cifar_cli import __version__
from cifar_cli.core.evaluation.config import EvaluateConfig, ExportConfig, PredictConfig
from cifar_cli.core.evaluation.evaluate import evaluate
from cifar_cli.core.evaluation.export import export
from cifar_cli.core.evaluation.predict import predict
from cifar_cli.core.evaluation.report.config import ReportConfig
from cifar_cli.core.evaluation.report.report import report
from cifar_cli.core.training.checkpoint import load_checkpoint
from cifar_cli.core.training.newer import named_if_newer
from cifar_cli.core.training.train import resume
from cifar_cli.errors import CheckpointError

READERS: dict[str, Callable[[Path], Any]] = {
    "evaluate": lambda run: evaluate(EvaluateConfig(checkpoint=run, device="cpu")),
    "export": lambda run: export(ExportConfig(checkpoint=run, format="safetensors")),
    "predict": lambda run: predict(PredictConfig(images=("x.png",), checkpoint=run, device="cpu")),
    "report": lambda run: report(ReportConfig(runs=(run,))),
    "resume": resume,
}


def changed(run: Path, folder: Path, *, version: str, **settings: Any) -> Path:
    """A copy of a run that another version has written, with more settings."""
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("evaluation", "events*", "*.html"))
    for name in ("best", "last"):
        path = folder / f"checkpoints/{name}.ckpt"
        content = torch.load(path, weights_only=True)
        content["cifar"]["version"] = version
        content["cifar"]["config"] |= settings
        torch.save(content, path)
    told = yaml.safe_load((folder / "config.yaml").read_text())
    told |= {"version": version, "config": told["config"] | settings}
    (folder / "config.yaml").write_text(yaml.safe_dump(told))
    return folder


def test_a_checkpoint_names_the_version_that_wrote_it(trained_run: Path) -> None:
    for path in (trained_run / "checkpoints").glob("*.ckpt"):
        assert torch.load(path, weights_only=True)["cifar"]["version"] == __version__


@pytest.mark.parametrize("reader", READERS)
def test_what_a_newer_version_has_written_otherwise_is_named_as_that(
    trained_run: Path, tmp_path: Path, reader: str
) -> None:
    run = changed(trained_run, tmp_path / "run", version="99.1.2", invented_later=1)
    with pytest.raises(
        CheckpointError, match=f"was written by cifar 99.1.2, and this is cifar {__version__}"
    ) as caught:
        READERS[reader](run)
    assert caught.value.remedy == 'install that version: pip install "cifar-cli>=99.1.2"'


def test_a_newer_checkpoint_that_can_be_read_is_read(trained_run: Path, tmp_path: Path) -> None:
    run = changed(trained_run, tmp_path / "run", version="99.1.2")
    assert load_checkpoint(run).config.model.name == "null"


@pytest.mark.parametrize("described", [{"version": "0.0.1"}, {"version": "x"}, {"version": "9" * 41}, {}, None, [1]])
def test_other_files_keep_their_own_message(described: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="damaged"), named_if_newer(described, tmp_path):
        raise CheckpointError("damaged", remedy="start a new run")
