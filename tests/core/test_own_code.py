"""Models and datasets of the user's own, by file and by entry point."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from cifar_cli.core.data.config import DataConfig, ImportConfig
from cifar_cli.core.data.dataset import import_dataset, open_dataset
from cifar_cli.core.models.build import build_model
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.own_code import require_trusted
from cifar_cli.errors import DataError, ModelError
from tests.conftest import Cifar
from tests.own_code import write_own_code


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a user's files, which is installed: Python finds the modules and the entry points in it."""
    write_own_code(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in ("net", "pets"):
        sys.modules.pop(name, None)


def test_a_model_in_a_file_is_built_for_the_classes_and_the_size(folder: Path) -> None:
    model = build_model(ModelConfig(name=f"{folder}/net.py:build", classes=7, img_size=16))
    assert model(torch.zeros(2, 3, 16, 16)).shape == (2, 7)
    assert ModelConfig(name=f"{folder}/net.py:build").label == "net"


def test_a_file_is_executed_as_python_imports_a_module(tmp_path: Path) -> None:
    """Dataclasses look their module up; a function may import its neighbours when it is called."""
    (tmp_path / "layers.py").write_text("from torch import nn\nhead = nn.Linear\n")
    (tmp_path / "net.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom torch import nn\n"
        "@dataclass\nclass Config:\n    width: int = 48\n"
        "def build(*, classes, img_size):\n    from layers import head\n"
        "    return nn.Sequential(nn.Flatten(), head(Config().width, classes))\n"
    )
    before = list(sys.path)
    assert build_model(ModelConfig(name=f"{tmp_path}/net.py:build", img_size=4))(torch.zeros(1, 3, 4, 4)).shape == (
        1,
        10,
    )
    assert sys.path == before
    sys.modules.pop("layers")


def test_a_model_of_an_installed_package_is_built_by_its_name(folder: Path) -> None:
    assert build_model(ModelConfig(name="mine", classes=3))(torch.zeros(2, 3, 32, 32)).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("FOLDER/absent.py:build", "there is no file"),
        ("FOLDER/net.py:bild", "has no function bild"),
        ("FOLDER/net.py:wrong_shape", r"returns \[2, 11\] for 2 images, not logits \[2, 10\]"),
        ("FOLDER/net.py:no_module", "returns a int"),
        ("FOLDER/net.py:other_signature", "can't be called with classes and img_size"),
        ("FOLDER/net.py:fails", r"fails \(ValueError: 7\)"),
        ("FOLDER/net.py:fails_on_images", r"fails on images \[2, 3, 32, 32\]"),
        ("FOLDER/bad.py:build", "can't be imported \\(SyntaxError"),
        ("broken", "broken = absent:build can't be loaded"),
        ("FOLDER/net.py", "names no function of the file"),
        ("FOLDER/net:build", "there is no model named"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_with_a_remedy(folder: Path, name: str, message: str) -> None:
    (folder / "bad.py").write_text("def build(:\n")
    with pytest.raises(ModelError, match=message) as caught:
        build_model(ModelConfig(name=name.replace("FOLDER", str(folder))))
    assert caught.value.remedy


@pytest.mark.parametrize("source", [("FOLDER/pets.py:load",), ()])
def test_a_dataset_of_a_function_is_imported_once_and_read_without_it(folder: Path, source: tuple[str, ...]) -> None:
    config = DataConfig(dataset="pets", data_dir=folder / "data")
    sources = tuple(each.replace("FOLDER", str(folder)) for each in source)
    summary = import_dataset(ImportConfig(data=config, sources=sources)).dataset
    assert (summary.classes, summary.train_images, summary.test_images) == (("cat", "dog"), 40, 10)
    assert ("--from" in summary.command_again) == bool(source)
    (folder / "pets.py").unlink()
    assert len(open_dataset(config).train) == 40


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("floats", "train_images of .* does not fit: float64"),
        ("other_labels", "test_labels of .* does not fit"),
        ("too_few_labels", "test_labels of .* does not fit"),
        ("nothing", "does not return a dataset"),
        ("fails", "no network"),
        ("two_classes_of_one_name", "has two classes named cat"),
        ("two_spellings_of_one_name", "has two classes named"),
        ("a_number_of_classes", "does not return a dataset"),
        ("ragged", "does not return a dataset"),
        ("absent", "has no function absent"),
    ],
)
def test_a_function_that_returns_no_dataset_is_refused_with_a_remedy(folder: Path, function: str, message: str) -> None:
    config = DataConfig(dataset="pets", data_dir=folder / "data")
    with pytest.raises(DataError, match=message) as caught:
        import_dataset(ImportConfig(data=config, sources=(f"{folder}/pets.py:{function}",)))
    assert caught.value.remedy


def test_arrays_whose_axes_were_exchanged_are_imported(folder: Path) -> None:
    config = DataConfig(dataset="pets", data_dir=folder / "data")
    import_dataset(ImportConfig(data=config, sources=(f"{folder}/pets.py:exchanged",)))
    images_NCHW = np.random.default_rng(0).integers(0, 256, (50, 3, 8, 8), dtype=np.uint8)
    expected_NHWC = torch.from_numpy(images_NCHW).permute(0, 2, 3, 1)
    assert torch.equal(open_dataset(config).train.pixels_NHWC, expected_NHWC[:40])


@pytest.mark.slow
def test_a_checkpoint_of_an_own_model_executes_its_file_only_if_the_user_trusts_it(
    folder: Path, cifar: Cifar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    model, run = "net.py:build", folder / "run"
    words = ("--dataset", "pets", "--data-dir", folder / "data", "--fast-dev-run", "--batch", 8)
    trained = cifar("train", "--model", model, *words, "--run-dir", run)
    assert trained.exit_code == 0, trained.stderr
    asked = subprocess.run(
        [sys.executable, "-m", "cifar_cli", "report", run, "--json"], capture_output=True, text=True, check=True
    )
    sizes = [each["sentence"] for each in json.loads(asked.stdout)["runs"][0]["answers"] if each["key"] == "size"]
    assert "parameters" not in sizes[0]  # counting them would execute the file
    assert f"name: {folder}/net.py:build" in (run / "config.yaml").read_text()
    for command in (["evaluate", run], ["train", "--resume", run]):
        program = [sys.executable, "-m", "cifar_cli", *map(str, command)]
        refused = subprocess.run(program, capture_output=True, text=True, check=False)
        assert refused.returncode == 1
        assert f"export CIFAR_TRUSTED_FILES={folder}/net.py" in refused.stderr
    assert cifar("evaluate", run).exit_code == 0  # this process has executed the file already


def test_a_file_is_trusted_once_the_user_names_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="reading it executes that file"):
        require_trusted(f"{folder}/net.py:build", ModelError, wanted_by="this checkpoint")
    monkeypatch.setenv("CIFAR_TRUSTED_FILES", f"elsewhere.py{os.pathsep}{folder}/net.py")
    require_trusted(f"{folder}/net.py:build", ModelError, wanted_by="this checkpoint")
    require_trusted("null", ModelError, wanted_by="this checkpoint")
