from __future__ import annotations

import platform
import resource
import subprocess
import sys

import pytest
import torch

from cifar_cli.core.training.machine import keep_freed_memory, matmul_flops_per_second

FAULTS = """
import resource, torch
from cifar_cli.core.training.machine import keep_freed_memory
{call}
def use():
    [torch.ones(4_000_000) for _ in range(4)]  # 64 MB, more than glibc keeps
for _ in range(10):
    use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    use()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_memory_that_is_kept_is_not_faulted_in_again() -> None:
    def faults(call: str) -> float:
        program = FAULTS.format(call=call)
        return float(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)

    pages = 64_000_000 / resource.getpagesize()
    assert faults("keep_freed_memory()") < 0.1 * pages
    assert faults("torch.set_num_threads(1)") > 0.5 * pages


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert keep_freed_memory() is False


def test_the_matrix_product_s_rate_is_one() -> None:
    assert 1e8 < matmul_flops_per_second(torch.float32, torch.device("cpu")) < 1e15
