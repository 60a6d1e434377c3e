"""Pretended installations: a good one with a GPU, and ways in which one is bad."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cifar_cli.core.doctor.facts import Disk, Facts, Gpu, Package, TorchFacts

GIB = 2**30
LIGHTNING = Package(name="lightning", bound=">=2.6.6", installed="2.6.6", tested="2.6.6")
TORCH = Package(name="torch", bound=">=2.11", installed="2.15.0", tested="2.15.0")

GOOD = Facts(
    python=(3, 11, 7),
    platform="Linux x86_64",
    packages=(LIGHTNING, TORCH),
    torch=TorchFacts(version="2.15.0", cuda="13.2", cuda_available=True, gpus=("NVIDIA H100",), threads=8),
    gpus=(Gpu(name="NVIDIA H100", memory_bytes=80 * GIB, driver="580.95.05"),),
    cpu="Intel Xeon",
    cpu_flags=frozenset({"sse2", "avx2", "avx512f", "avx512_bf16", "amx_tile"}),
    cores=8,
    memory_bytes=64 * GIB,
    available_bytes=60 * GIB,
    shm=Disk(folder=Path("/dev/shm"), total_bytes=32 * GIB, free_bytes=32 * GIB),
    disks=(Disk(folder=Path("data"), total_bytes=500 * GIB, free_bytes=100 * GIB),),
    datasets=("cifar10 (60,000 images)",),
)
BAD = replace(
    GOOD,
    packages=(replace(LIGHTNING, installed="2.6.3"), replace(TORCH, installed="2.14.1")),
    torch=replace(GOOD.torch, cuda_available=False, gpus=()),
    gpus=(replace(GOOD.gpus[0], driver="535.104.05"),),
    disks=(Disk(folder=Path("data"), total_bytes=500 * GIB, free_bytes=20 * 2**20),),
    datasets=(),
    hub_failure="timed out",
)
