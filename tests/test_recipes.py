"""The recipes of CONTRIBUTING.md: their code is executed, and what it adds works."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import typer
from typer.testing import CliRunner

from cifar_cli.command import Command
from cifar_cli.core import models
from cifar_cli.core.augment import policy
from cifar_cli.core.augment.batched import BatchedPipeline
from cifar_cli.core.choices import OptimizerName
from cifar_cli.core.data.config import Normalisation
from cifar_cli.core.data.sources.own import call_own
from cifar_cli.core.models import registry
from cifar_cli.core.models.build import build_model
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.checkpoint import STATE_KEYS
from cifar_cli.core.training.config import StepConfig
from cifar_cli.core.training.numerics import TRIAL_RATES
from cifar_cli.core.training.step import OPTIMIZERS, make_optimizer
from cifar_cli.core.transform import BatchSlice

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
CODE = dict(re.findall(r"^```python\n# (\S+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))


def module(path: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> types.ModuleType:
    """The code of the recipe as the module that it becomes."""
    name = path.removesuffix(".py").replace("/", ".")
    file = tmp_path / Path(path).name
    file.write_text(CODE[path], encoding="utf-8")
    made = types.ModuleType(name)
    made.__file__ = str(file)
    monkeypatch.setitem(sys.modules, name, made)
    exec(compile(CODE[path], str(file), "exec"), made.__dict__)
    return made


def test_a_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module("cifar_cli/core/models/tiny.py", monkeypatch, tmp_path)
    spec = eval(CODE["cifar_cli/core/models/registry.py"], vars(registry))
    monkeypatch.setitem(registry.MODELS, spec.name, spec)
    monkeypatch.setattr(models, "tiny", sys.modules[spec.builder.split(":")[0]], raising=False)
    assert build_model(ModelConfig(name="tiny", classes=4))(torch.zeros(2, 3, 32, 32)).shape == (2, 4)


def test_a_dataset(tmp_path: Path) -> None:
    file = tmp_path / "stripes.py"
    file.write_text(CODE["cifar_cli/core/data/sources/stripes.py"], encoding="utf-8")
    images = call_own(f"{file}:load")
    assert images.classes == ("horizontal", "vertical")


def test_a_policy() -> None:
    added = eval(CODE["cifar_cli/core/augment/policy.py"], vars(policy))
    images_BHWC = torch.arange(2 * 32 * 32 * 3).reshape(2, 32, 32, 3).to(torch.uint8)
    augmented = BatchedPipeline(added, 32, Normalisation().mean, Normalisation().std)(
        images_BHWC, [BatchSlice.complete(seed=0, count=2)]
    )
    assert augmented.shape == (2, 3, 32, 32)


def test_an_optimizer() -> None:
    names = set(get_args(OptimizerName))
    assert names == set(OPTIMIZERS) == set(TRIAL_RATES)
    for name in names:
        optimizer = make_optimizer(torch.nn.Linear(2, 2), StepConfig(optimizer=name))
        assert type(optimizer).__name__ in STATE_KEYS
    for file in ("choices.py", "training/step.py", "training/numerics.py", "training/checkpoint.py"):
        assert f"`cifar_cli/core/{file}`: " in PAGE


def test_a_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made: Any = module("cifar_cli/commands/count.py", monkeypatch, tmp_path)
    app = typer.Typer()
    app.callback()(lambda: None)
    app.command("count", cls=Command, epilog=made.count.epilog)(made.count)
    assert CliRunner().invoke(app, ["count", "--upto", "4"]).output == "1, 2, 3, 4\n"
    page = CliRunner().invoke(app, ["count", "--help"]).output
    assert "Count up to this number. [default: 3]" in page
    assert "cifar count --upto 5" in page
