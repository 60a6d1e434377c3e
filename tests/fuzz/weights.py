"""Checkpoints and weights files for the fuzz tests: how to make, change and read them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import load_file

from cifar_cli.core.models.build import build_model
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.models.weights import read_state, save_state
from cifar_cli.core.training.checkpoint import load_checkpoint, save_checkpoint
from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.step import TrainingStep
from tests.core.models.torch_files import damaged, restructured

MODEL = ModelConfig(name="null")
RIGHT = "right.safetensors"


def make_checkpoint(folder: Path) -> None:
    config = TrainConfig(model=MODEL, precision="32", memory_format="contiguous")
    step = TrainingStep(build_model(MODEL, seed=7), config.step_config(), device_type="cpu")
    description = {"config": config.to_dict(), "classes": [f"class {number}" for number in range(10)],
                   "synthetic": False, "content": "0" * 64}  # fmt: skip
    save_checkpoint(folder / "best.ckpt", step, description, weights=folder / RIGHT)


def read_checkpoint(folder: Path, *, changed_content: bool = False) -> None:
    """The model has the weights that were saved; with changed content any that fit."""
    state = load_checkpoint(folder / "best.ckpt").model.state_dict()
    right = load_file(folder / RIGHT)
    assert state.keys() == right.keys()
    assert changed_content or all(torch.equal(value, right[name]) for name, value in state.items())


def make_weights(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        state = build_model(MODEL, seed=7).state_dict()
        save_state(state, folder / RIGHT, metadata={"model": "null"})
        if name.endswith(".safetensors"):
            save_state(state, folder / name, metadata={"model": "null"})
        else:
            torch.save({"model": dict(state), "epoch": 1}, folder / name, **_options(name))

    return make


def read_weights(name: str, *, same_values: bool) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        state = read_state(folder / name)
        if same_values:
            right = load_file(folder / RIGHT)
            assert all(torch.equal(value, right[key]) for key, value in state.items() if key in right)
        build_model(ModelConfig(name="null", weights=str(folder / name)))

    return read


def change_bytes(name: str) -> Callable[[Path, Random], None]:
    def change(folder: Path, random: Random) -> None:
        (folder / name).write_bytes(damaged((folder / name).read_bytes(), random))

    return change


def change_content(name: str) -> Callable[[Path, Random], None]:
    def change(folder: Path, random: Random) -> None:
        content: Any = torch.load(folder / name, weights_only=True)
        torch.save(restructured(content, random), folder / name, **_options(name))

    return change


def _options(name: str) -> dict[str, Any]:
    return {"_use_new_zipfile_serialization": False} if "legacy" in name else {}
