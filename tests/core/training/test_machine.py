from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

from cifar_cli.core.training.machine import keep_freed_memory, matmul_flops_per_second

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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_a_training_step_faults_its_memory_in_again_unless_freed_memory_is_kept() -> None:
    def faults(call: str) -> float:
        program = FAULTS.format(call=call)
        return float(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)

    assert faults("keep_freed_memory()") < 0.5 * faults("")


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert keep_freed_memory() is False


def test_the_matrix_product_s_rate_is_one() -> None:
    assert 1e8 < matmul_flops_per_second(torch.float32, torch.device("cpu")) < 1e15
