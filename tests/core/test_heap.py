"""What the C library does with freed memory."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from cifar_cli.core.heap import keep_freed_memory, return_freed_memory, return_large_blocks

is_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")

FAULTS = """
import resource, torch
from cifar_cli.core.models.null import Null
from cifar_cli.core.heap import keep_freed_memory
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
@is_glibc
def test_kept_memory_at_least_halves_the_page_faults_of_a_training_step() -> None:
    def faults(call: str) -> float:
        program = FAULTS.format(call=call)
        return float(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)

    assert faults("keep_freed_memory()") < 0.5 * faults("")


def test_other_c_libraries_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert keep_freed_memory() is False
    assert return_large_blocks() is False
    return_freed_memory()


KEPT = """
import numpy as np
from cifar_cli.core.heap import keep_freed_memory, return_large_blocks
keep_freed_memory()
{call}
for size in (40, 9, 30, 5, 36):
    np.ones(size << 20, dtype=np.uint8)
print(next(int(line.split()[1]) >> 10 for line in open("/proc/self/status") if line.startswith("VmRSS")))
"""


@is_glibc
def test_large_blocks_are_returned_though_freed_memory_was_to_be_kept() -> None:
    def resident(call: str) -> int:
        program = KEPT.format(call=call)
        return int(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)

    assert resident("") - resident("return_large_blocks()") >= 36
