"""Weights files of other programs: their forms, their heads, and files that are none."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cifar_cli.core.models.build import build_model, build_untrained
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.models.weights import BUNDLED_BACKBONE, load_state, read_state
from cifar_cli.errors import CheckpointError
from tests.core.models import torch_files

State = dict[str, Tensor]

FORMS: dict[str, Callable[[State], Any]] = {
    "plain": lambda state: state,
    "data parallel": lambda state: {f"module.{key}": value for key, value in state.items()},
    "compiled": lambda state: {f"_orig_mod.{key}": value for key, value in state.items()},
    "compiled and data parallel": lambda state: {f"module._orig_mod.{key}": value for key, value in state.items()},
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model": lambda state: {"model": state, "optimizer": {"state": {}}},
    "model_state_dict": lambda state: {"model_state_dict": state, "loss": 0.5},
    "Lightning": lambda state: {"state_dict": {"loss.weight": torch.ones(10)} | _of_model(state)},
    "with the program's options": lambda state: {"model": state, "args": argparse.Namespace(lr=0.1, name="x")},
}


def _of_model(state: State) -> State:
    return {f"model.{key}": value for key, value in state.items()}


@pytest.fixture(scope="module")
def donor() -> nn.Module:
    return build_model(ModelConfig(name="null"), seed=7)


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_read_in_the_forms_that_programs_save(donor: nn.Module, tmp_path: Path, form: str) -> None:
    torch.save(FORMS[form](donor.state_dict()), tmp_path / "weights.pt")
    model = build_model(ModelConfig(name="null", weights=str(tmp_path / "weights.pt")))
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in donor.state_dict().items())


def test_a_safetensors_file_of_a_lightning_module_is_read(donor: nn.Module, tmp_path: Path) -> None:
    save_file(_of_model(donor.state_dict()), tmp_path / "weights.safetensors")
    assert read_state(tmp_path / "weights.safetensors").keys() == donor.state_dict().keys()


@pytest.mark.parametrize(
    "name",
    [
        "resnetv2_50", "dla34", "deit_tiny_distilled_patch16_224", "levit_128s", "volo_d1_224", "efficientformer_l1",
        "crossvit_9_240", "resnet18", "vit_tiny_patch16_224", "convnext_atto", "mobilenetv3_small_050", "densenet121",
        "swin_tiny_patch4_window7_224", "vgg11", "regnetx_002", "mixer_s32_224",
    ],
)  # fmt: skip
def test_weights_of_1000_classes_start_a_model_of_ten(name: str) -> None:
    """All tensors but those of the head fit. Shapes alone decide, so no memory is needed."""
    with torch.device("meta"):
        donor = timm.create_model(name)
        model = build_untrained(ModelConfig(name=f"timm:{name}", img_size=donor.pretrained_cfg["input_size"][-1]))
        load_state(model, donor.state_dict(), origin=name, keep_head=True)


@pytest.mark.parametrize("name", torch_files.odd_tensors())
def test_tensors_that_are_no_weights_are_refused(tmp_path: Path, name: str) -> None:
    torch.save({"a": torch_files.odd_tensors()[name]}, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match=r"odd\.pt holds"):
        read_state(tmp_path / "odd.pt")


@pytest.mark.parametrize("content", [(1, 2), [torch.ones(2)], {1: torch.ones(2)}, {"a": 1}, torch.ones(2), None, {}])
def test_a_file_of_anything_else_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="holds no weights"):
        read_state(tmp_path / "other.pt")


def test_a_length_of_gigabytes_in_a_file_of_torch_before_1_6_claims_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(b"\x80\x02X" + (0xF000_0000).to_bytes(4, "little") + b"abc")
    with torch_files.limited(), pytest.raises(CheckpointError, match="is not a file that can be read safely"):
        read_state(path)


def test_a_new_head_on_pretrained_weights_begins_with_the_loss_of_guessing() -> None:
    config = ModelConfig(name="cnn", backbone=BUNDLED_BACKBONE, weights="bundled", classes=3)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(build_model(config, seed=0).eval()(images), torch.zeros(2, 3))
    whole = build_model(replace(config, classes=1000), seed=0).eval()
    assert float(whole(images).std().detach()) > 0.1  # ImageNet's own head


@pytest.mark.parametrize("prefix", ["", "model.", "module.model.", "_orig_mod."])
def test_a_layer_called_model_keeps_its_name(tmp_path: Path, prefix: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.head = nn.Linear(4, 3), nn.Linear(3, 2)

    donor = Net()
    save_file({f"{prefix}{name}": value for name, value in donor.state_dict().items()}, tmp_path / "net.safetensors")
    found = read_state(tmp_path / "net.safetensors", donor.state_dict().keys())
    assert found.keys() == donor.state_dict().keys()
    only = {f"model.{name}": value for name, value in nn.ModuleDict({"model": nn.Linear(4, 3)}).state_dict().items()}
    save_file(only, tmp_path / "only.safetensors")
    assert read_state(tmp_path / "only.safetensors", {"model.weight", "model.bias"}).keys() == {
        "model.weight", "model.bias",
    }  # fmt: skip
