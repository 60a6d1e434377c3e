from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cifar_cli.core.evaluation.config import EvaluateConfig
from cifar_cli.core.evaluation.evaluate import evaluate_only


@pytest.fixture(scope="module")
def module() -> Iterator[Any]:
    """The script as a module."""
    path = Path(__file__).parents[2] / "benchmarks/label_errors.py"
    spec = importlib.util.spec_from_file_location("label_errors", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["label_errors"] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["label_errors"]


@pytest.fixture
def checked(tmp_path: Path) -> Path:
    """Five checked images of 100; the raters did not uphold the labels of images 3 and 9."""
    votes = {3: 1, 9: 2, 20: 3, 40: 5, 41: 4}
    images = [{"index": index, "given": "cat", "votes": {"given": given}} for index, given in votes.items()]
    path = tmp_path / "checked.json"
    path.write_text(json.dumps({"images": images}))
    return path


def test_suspects_are_counted_among_the_candidates_and_those_not_upheld(module: Any, checked: Path) -> None:
    candidates, not_upheld = module.checked_images(checked)
    assert (candidates, not_upheld) == ({3, 9, 20, 40, 41}, {3, 9})
    labels = torch.zeros(100, dtype=torch.long)
    probabilities = torch.tensor([[0.9, 0.1]], dtype=torch.float64).repeat(100, 1)
    doubted = [3, 20, 50, 60, 70]
    probabilities[doubted] = torch.tensor([0.2, 0.8], dtype=torch.float64)
    found = module.check("null", probabilities, labels, candidates, not_upheld)
    assert (found.suspects, found.candidates, found.not_upheld) == (5, 2, 1)
    assert found.accuracy == pytest.approx(0.95)
    assert (found.candidates_by_chance, found.not_upheld_by_chance) == (0.25, 0.1)


def test_images_are_found_by_their_files_where_the_dataset_keeps_them(module: Any, tmp_path: Path) -> None:
    images = [{"index": 0, "file": "test/cat/1.jpg", "votes": {"given": 0}},
              {"index": 1, "file": "test/cat/0.jpg", "votes": {"given": 5}}]  # fmt: skip
    path = tmp_path / "checked.json"
    path.write_text(json.dumps({"images": images}))
    files = ["test/bird/0.jpg", "test/cat/0.jpg", "test/cat/1.jpg"]
    assert module.checked_images(path, files) == ({1, 2}, {2})
    assert module.checked_images(path) == ({0, 1}, {0})


@pytest.mark.slow
def test_an_ensemble_averages_the_runs(module: Any, checked: Path, trained_run: Path, data_dir: Path) -> None:
    last = trained_run / "checkpoints/last.ckpt"
    words = [str(checked), str(trained_run), str(last), "--data-dir", str(data_dir)]
    apart = module.main(words)
    (together,) = module.main([*words, "--ensemble"])
    assert [each.model for each in apart] == [str(trained_run), str(last)]
    assert together.model == "ensemble of 2"
    assert together.suspects == 5


@pytest.mark.slow
def test_views_are_those_of_an_evaluation(module: Any, checked: Path, trained_run: Path, data_dir: Path) -> None:
    config = EvaluateConfig(checkpoint=trained_run, data_dir=data_dir, views=True)
    (found,) = module.main([str(checked), str(trained_run), "--data-dir", str(data_dir), "--views"])
    views = evaluate_only(config).result.views
    assert views is not None
    assert found.accuracy == views.views_averaged
