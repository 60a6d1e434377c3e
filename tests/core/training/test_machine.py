from __future__ import annotations

import pytest
import torch

from cifar_cli.core.training.machine import (
    device_of,
    exact_kernels,
    matmul_flops_per_second,
    release_cached_memory,
)
from cifar_cli.errors import ResourceError

CPU = torch.device("cpu")


def test_the_matrix_product_rate_is_plausible() -> None:
    assert 1e8 < matmul_flops_per_second(torch.float32, CPU) < 1e15


@pytest.mark.parametrize("choice", ["cuda", "mps"])
def test_a_missing_gpu_is_named_with_the_remedy(choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ResourceError, match=f"there is no {choice.upper()} device that PyTorch can use") as caught:
        device_of(choice)  # type: ignore[arg-type]
    assert "--device cpu" in str(caught.value)
    assert device_of("auto") == device_of("cpu") == CPU


def test_exact_kernels_compute_in_float32_and_leave_torch_s_settings() -> None:
    def settings() -> tuple[str, bool]:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    before = settings()
    with exact_kernels():
        assert settings() == ("highest", False)
    assert settings() == before


@pytest.mark.parametrize(("device", "emptied"), [("cpu", 0), ("cuda", 1)])
def test_memory_that_torch_keeps_on_a_gpu_is_released(
    device: str, emptied: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[None] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append(None))
    release_cached_memory(torch.device(device))
    assert len(calls) == emptied
