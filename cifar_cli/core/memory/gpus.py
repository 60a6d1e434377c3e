"""Common cards and their memory."""

from __future__ import annotations

from dataclasses import dataclass

from cifar_cli.core.memory.config import GIB, MIB
from cifar_cli.core.suggest import nearest
from cifar_cli.errors import ConfigError

# CUDA reports less memory than nvidia-smi: by 1.3 % on an L40S, 1.5 % on an A100 40GB, 1.6 % on a T4 (from the figures
# below). Cards without a published figure of CUDA's own are assumed to lose 1.25 %.
DRIVER_SHARE = 0.0125
# The CUDA context with the loaded kernels of cuBLAS and cuDNN: an assumption, not measured.
CONTEXT_BYTES = 500 * MIB


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One card."""

    name: str
    memory_bytes: int
    """The total that CUDA reports, the context included."""
    source: str
    """Where that figure is from."""


# Totals as CUDA reports them, by source and name.
_REPORTED_BYTES = {
    "deviceQuery, https://chiemon.github.io/2024/12/25/": {"T4": 15_843_721_216},
    "deviceQuery, https://github.com/bottlerocket-os/bottlerocket/pull/3873": {"A100 40GB": 42_298_834_944},
    "an out-of-memory error, https://github.com/GaoLii/DSP/issues/10": {"RTX 3090": int(23.70 * GIB)},
    "an out-of-memory error, https://github.com/zai-org/CogVideo/issues/34": {"RTX 3080": int(9.78 * GIB)},
    "an out-of-memory error, https://github.com/3DTopia/Phidias-Diffusion/issues/8": {"RTX 4090": int(23.64 * GIB)},
    "an L40's error, https://github.com/QwenLM/Qwen3-VL/issues/2097": {"L40S": int(44.40 * GIB)},
}
# Figures from the driver (nvidia-smi's "Memory-Usage") or from the data sheet, by source and name.
# With error correction on, the L4, A10, A40, L40S and T4 use up to 6 % of their memory for check bits.
_DRIVER_MIB = {
    "nvidia-smi, https://github.com/modal-labs/modal-client/pull/2797": {
        "L4": 23_034, "A10": 23_028, "A100 80GB": 81_920, "H100 80GB": 81_559,
    },
    "nvidia-smi 410.48, https://blog.cachecha.com/csdn/kunhe0512/126265050.html": {"V100 32GB": 32_480},
    "NVIDIA's product pages, nominal size": {
        "RTX 2080 Ti": 11_264, "RTX 3060": 12_288, "RTX 3070": 8_192, "RTX 4060 Ti": 8_192, "RTX 4070": 12_288,
        "RTX 4080": 16_384, "RTX 5090": 32_768, "V100 16GB": 16_384, "H200": 141 * 1024,
    },
    "NVIDIA's product page, 48 GB, less 1/16 for error correction as on the L40S": {"A40": 46_080},
}  # fmt: skip
_BYTES = _REPORTED_BYTES | {
    source: {name: int(mib * MIB * (1 - DRIVER_SHARE)) for name, mib in cards.items()}
    for source, cards in _DRIVER_MIB.items()
}
GPUS = {
    name: Gpu(name=name, memory_bytes=size, source=source)
    for source, cards in _BYTES.items()
    for name, size in cards.items()
}
TABLE_GPUS = ("RTX 3070", "RTX 3060", "T4", "RTX 3090", "A100 40GB", "H100 80GB")


def gpu_of(name: str) -> Gpu:
    """Look a card up, with or without spaces in its name. Raises ConfigError that names the nearest cards."""
    plain = {known.lower().replace(" ", ""): gpu for known, gpu in GPUS.items()}
    wanted = name.lower().replace(" ", "").replace("-", "").replace("_", "")
    if wanted not in plain:
        raise ConfigError(
            f"--gpu {name} is not in the list of cards", remedy=f"{nearest(name, GPUS)} or pass --memory 24GiB"
        )
    return plain[wanted]
