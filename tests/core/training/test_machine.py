from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

from cifar_cli.core.training.machine import (
    device_of,
    exact_kernels,
    keep_freed_memory,
    matmul_flops_per_second,
    release_cached_memory,
)
from cifar_cli.errors import ResourceError

CPU = torch.device("cpu")

FAULTS = """
import resource, torch
from cifar_cli.core.models.null import Null
from cifar_cli.core.training.machine import keep_freed_memory
{call}
model = Null(classes=10)
images, labels = torch.randn(128, 3, 32, 32), torch.zeros(128, dtype=torch.long)
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for step in range(15):
    if step == 5:
        before = faults()
    torch.nn.functional.cross_entropy(model(images), labels).backward()
print((faults() - before) / 10)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_kept_memory_at_least_halves_the_page_faults_of_a_training_step() -> None:
    def faults(call: str) -> float:
        program = FAULTS.format(call=call)
        return float(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)

    assert faults("keep_freed_memory()") < 0.5 * faults("")


def test_other_c_libraries_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert keep_freed_memory() is False


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
