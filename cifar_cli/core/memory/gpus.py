"""Common cards and their memory."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cifar_cli.core.choices import Precision
from cifar_cli.core.memory.config import GIB, MIB, Risk
from cifar_cli.core.suggest import nearest
from cifar_cli.errors import ConfigError

# CUDA reports less memory than nvidia-smi: by 1.3 % on an L40S, 1.5 % on an A100 40GB, 1.6 % on a T4 (from the figures
# below). Cards of which only nvidia-smi's figure is known are assumed to lose as much as the T4.
DRIVER_SHARE = 0.016
# It reports less than the nominal size by 0.19 GiB (GTX 1660 Ti) to 1 GiB (H100 NVL) in the figures below, never by
# more than this: a fixed part and a share. Cards of which only the nominal size is known are assumed to lose all of it.
NOMINAL_BYTES, NOMINAL_SHARE = GIB // 5, 0.0125
# The CUDA context with the loaded kernels of cuBLAS and cuDNN: an assumption, not measured.
CONTEXT_BYTES = 500 * MIB
# Memory beyond the context, the traced tensors and the assumed workspaces, as a share of what the allocator reserves:
# larger workspaces of cuDNN's fastest algorithms, fragmentation, larger contexts. With timm's 40 published rows of an
# RTX 3090 (PyTorch 1.12, CUDA 11.3), any share from 6.7 % to 8.2 % puts 39 of 40 into their brackets
# (`benchmarks/memory_3090.py`). How much of it is left with current versions was not measured: 0 is possible.
NOT_DERIVED: dict[Risk, float] = {"even": 0.0375, "safe": 0.075}


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One card."""

    name: str
    memory_bytes: int
    """The total that CUDA reports, the context included."""
    source: str
    """Where that figure is from."""
    precision: Precision = "bf16"
    """The 16-bit precision that the card computes in faster than in float32; "32" if there is none."""


# Totals as CUDA reports them, by source and name.
_REPORTED_BYTES = {
    "deviceQuery, https://chiemon.github.io/2024/12/25/": {"T4": 15_843_721_216},
    "deviceQuery, https://github.com/bottlerocket-os/bottlerocket/pull/3873": {"A100 40GB": 42_298_834_944},
    "an out-of-memory error, https://github.com/GaoLii/DSP/issues/10": {"RTX 3090": int(23.70 * GIB)},
    "an out-of-memory error, https://github.com/zai-org/CogVideo/issues/34": {"RTX 3080": int(9.78 * GIB)},
    "an out-of-memory error, https://github.com/3DTopia/Phidias-Diffusion/issues/8": {"RTX 4090": int(23.64 * GIB)},
    "an L40's error, https://github.com/QwenLM/Qwen3-VL/issues/2097": {"L40S": int(44.40 * GIB)},
    "an out-of-memory error, https://github.com/sshan-zhao/GASDA/issues/19": {"RTX 3070": int(7.76 * GIB)},
    "an out-of-memory error, https://github.com/facebookresearch/meshrcnn/issues/92": {"RTX 2060": int(5.79 * GIB)},
    "an out-of-memory error, https://github.com/Kunhao-Liu/StyleGaussian/issues/12": {"RTX 3060": int(11.75 * GIB)},
    "an out-of-memory error, https://github.com/zhou13/lcnn/issues/23": {"GTX 1660 Ti": int(5.81 * GIB)},
    "an out-of-memory error, https://github.com/ispc-lab/TMA/issues/5": {"RTX 2080 Ti": int(10.76 * GIB)},
    "an out-of-memory error, https://github.com/kchengiva/Shift-GCN/issues/34": {"V100 16GB": int(15.78 * GIB)},
    "an out-of-memory error, https://github.com/liucongg/ChatGLM-Finetuning/issues/73": {"V100 32GB": int(31.74 * GIB)},
    "an out-of-memory error, https://github.com/ali-vilab/VACE/issues/56": {"H100 NVL": 93 * GIB},
    "an out-of-memory error, https://github.com/DINGYANB/MTVCrafter/issues/21": {"RTX 6000 Ada": int(44.43 * GIB)},
}
# Figures from the driver (nvidia-smi's "Memory-Usage"), by source and name.
# With error correction on, the L4, A10, A40, L40S and T4 use up to 6 % of their memory for check bits.
_ECC = "NVIDIA's product page, 48 GB, less 1/16 for error correction as on the L40S"
_DRIVER_MIB = {
    "nvidia-smi, https://github.com/modal-labs/modal-client/pull/2797": {
        "L4": 23_034, "A10": 23_028, "A100 80GB": 81_920, "H100 80GB": 81_559,
    },
    "NVIDIA's product page, 24 GB, less 1/16 for error correction as on the A10": {"A10G": 23_028},
    _ECC: {"A40": 46_080, "L40": 46_080, "RTX A6000": 46_080},
}  # fmt: skip
_NOMINAL_MIB = {
    "NVIDIA's product pages, nominal size": {
        "GTX 1050": 2_048, "GTX 1050 Ti": 4_096, "GTX 1060 3GB": 3_072, "GTX 1060 6GB": 6_144, "GTX 1070": 8_192,
        "GTX 1070 Ti": 8_192, "GTX 1650 Super": 4_096, "GTX 1660": 6_144, "GTX 1660 Super": 6_144,
        "RTX 2060 Super": 8_192, "RTX 2070 Super": 8_192, "RTX 2080 Super": 8_192, "RTX 3050 6GB": 6_144,
        "RTX 3080 12GB": 12_288, "RTX 5050": 8_192, "RTX 3050 Laptop": 4_096, "RTX 3070 Ti Laptop": 8_192,
        "RTX 3080 Ti Laptop": 16_384, "RTX 5060 Laptop": 8_192, "GTX 1650 Ti": 4_096, "RTX 3050 Ti Laptop": 4_096,
        "RTX 3050 Laptop 6GB": 6_144, "RTX 5070 Ti Laptop": 12_288, "RTX A4000": 16_384, "RTX A5000": 24_576,
        "H200 NVL": 141 * 1024,
        "GTX 1080": 8_192, "GTX 1080 Ti": 11_264,
        "GTX 1650": 4_096, "Titan V": 12_288, "Titan RTX": 24_576, "P100 16GB": 16_384,
        "RTX 2070": 8_192, "RTX 2080": 8_192,
        "RTX 3050 8GB": 8_192, "RTX 3060 Ti": 8_192, "RTX 3070 Ti": 8_192,
        "RTX 3080 Ti": 12_288, "RTX 3090 Ti": 24_576,
        "RTX 4060": 8_192, "RTX 4060 Ti": 8_192, "RTX 4060 Ti 16GB": 16_384, "RTX 4070": 12_288,
        "RTX 4070 Super": 12_288, "RTX 4070 Ti": 12_288, "RTX 4070 Ti Super": 16_384, "RTX 4080": 16_384,
        "RTX 4080 Super": 16_384, "RTX 5060": 8_192, "RTX 5060 Ti 8GB": 8_192, "RTX 5060 Ti 16GB": 16_384,
        "RTX 5070": 12_288, "RTX 5070 Ti": 16_384, "RTX 5080": 16_384, "RTX 5090": 32_768,
        "RTX 3060 Laptop": 6_144, "RTX 3070 Laptop": 8_192, "RTX 3080 Laptop 8GB": 8_192,
        "RTX 3080 Laptop 16GB": 16_384, "RTX 4050 Laptop": 6_144, "RTX 4060 Laptop": 8_192, "RTX 4070 Laptop": 8_192,
        "RTX 4080 Laptop": 12_288, "RTX 4090 Laptop": 16_384, "RTX 5070 Laptop": 8_192, "RTX 5080 Laptop": 16_384,
        "RTX 5090 Laptop": 24_576, "H200": 141 * 1024,
        "B200": 180 * 1024, "RTX Pro 6000": 96 * 1024,
    },
    "AMD's product page, nominal size; ROCm was not compared": {"MI300X": 192 * 1024},
    "AMD's product page, nominal size of one of its two dies, which are two GPUs to PyTorch; ROCm was not compared": {
        "MI250X": 64 * 1024,
    },
}  # fmt: skip
_BYTES = (
    _REPORTED_BYTES
    | {
        f"{source}; less {DRIVER_SHARE:.1%}": {name: int(mib * MIB * (1 - DRIVER_SHARE)) for name, mib in cards.items()}
        for source, cards in _DRIVER_MIB.items()
    }
    | {
        f"{source}; less 0.2 GiB and {NOMINAL_SHARE:.2%}": {
            name: int(mib * MIB * (1 - NOMINAL_SHARE)) - NOMINAL_BYTES for name, mib in cards.items()
        }
        for source, cards in _NOMINAL_MIB.items()
    }
)
# bfloat16 begins with compute capability 8.0, matrix units for float16 with 7.0 (of Turing, not in the GTX 16 series).
_FLOAT16 = re.compile(
    r"\b(T4|V100\S*|Titan (V|RTX)|(Quadro )?RTX (20[5-8]0|[34568]000)|Quadro T\d+)\b(?! Ada)", re.IGNORECASE
)
_FLOAT32 = re.compile(r"\b(GTX|P100|P40|P4|Titan Xp?|K80|M\d0)\b", re.IGNORECASE)


def precision_on(card: str) -> Precision:
    """The 16-bit precision of a card by its name, as the list or its driver has it; "32" if it has none."""
    return "32" if _FLOAT32.search(card) else "16" if _FLOAT16.search(card) else "bf16"


GPUS = {
    name: Gpu(name=name, memory_bytes=size, source=source, precision=precision_on(name))
    for source, cards in _BYTES.items()
    for name, size in cards.items()
}
TABLE_GPUS = ("RTX 3070", "RTX 3060", "T4", "RTX 3090", "A100 40GB", "H100 80GB")
# Words that drivers, shops and people add to a card's name, or leave out.
_ADDED = re.compile(
    r"nvidia|geforce|tesla|quadro|amd|instinct|radeon|generation|gpu|pcie|sxm\d?|hbm\d?e?|with|design|max-q|blackwell|workstation|server|edition|-|_|,|\(|\)|\s"
)
_SIZE = re.compile(r"(?<![a-z0-9])(\d+) ?g(?:i?b)?(?![a-z0-9])")
_SOLD_GB = (2, 3, 4, 6, 8, 10, 11, 12, 16, 20, 24, 32, 40, 48, 64, 80, 94, 96, 141, 180, 192)
_LEFT_OUT = re.compile(r"^(rtx|gtx)")
_APPLE = re.compile(r"^(apple)?m[1-9](pro|max|ultra)?(?!i)$")


def gpu_of(name: str) -> Gpu:
    """Look a card up, by a name as people and drivers write it. Raises ConfigError that names the nearest cards."""
    sized = _SIZE.search(name.lower())
    wanted = _plain(_SIZE.sub(" ", name.lower()))
    if _APPLE.match(wanted):
        raise ConfigError(
            f"--gpu {name} shares its memory with the system, and the allocator of MPS is not modelled",
            remedy="pass --memory with the memory you can spare, for a CUDA card of that size",
        )
    known = [gpu for gpu in GPUS.values() if wanted and wanted in _spellings_of(gpu)]
    named = [gpu for gpu in known if sized is None or int(sized[1]) == _nominal_gb(gpu)]
    if sized is None and len(named) > 1:  # the driver calls a card that has a larger sister by their common name
        named = [gpu for gpu in named if not _SIZE.search(gpu.name.lower())] or named
    if len(named) == 1:
        return named[0]
    if known:
        sizes = " or ".join(sorted(gpu.name for gpu in known))
        what = "exists with several sizes of memory" if named else "does not exist with that memory"
        raise ConfigError(f"--gpu {name} {what}", remedy=f"pass {sizes}")
    raise ConfigError(
        f"--gpu {name} is not in the list of cards",
        remedy=f"{nearest(name, GPUS)} `cifar gpus` lists them; or pass --memory 24GiB",
    )


def _spellings_of(gpu: Gpu) -> tuple[str, str]:
    """A card's name without its size: whole, and as people shorten it."""
    plain = _plain(_SIZE.sub(" ", gpu.name.lower()))
    return plain, _LEFT_OUT.sub("", plain)


def _nominal_gb(gpu: Gpu) -> int:
    """The size that a card is sold with."""
    sized = _SIZE.search(gpu.name.lower())
    return int(sized[1]) if sized else next(size for size in _SOLD_GB if size * GIB >= gpu.memory_bytes)


def _plain(name: str) -> str:
    return _ADDED.sub("", name.lower())
