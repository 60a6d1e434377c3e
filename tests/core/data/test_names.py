from __future__ import annotations

import pytest

from cifar_cli.core.data.config import DataConfig


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("CIFAR10", "cifar10"),
        ("cifar-10", "cifar10"),
        ("CIFAR_100", "cifar100"),
        ("Shapes", "shapes"),
        ("Pets", "Pets"),
        ("cifar-10-mine", "cifar-10-mine"),
        ("CIFAR10.safetensors", "CIFAR10.safetensors"),
    ],
)
def test_built_in_datasets_have_one_name_however_they_are_spelled(typed: str, name: str) -> None:
    assert DataConfig(dataset=typed).dataset == name
