"""Predict how training scales to 8, 64 and 512 GPUs. Nothing is measured.

Usage: python benchmarks/scaling_model.py [--share 0.05] [--images 512] [--write docs/scaling.md]

The time of a training step on an H100 comes from the counted FLOPs and an assumed share of the card's peak, the time of
messages from formulas. docs/scaling.md lists the assumptions.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from torch.nn.modules.batchnorm import _BatchNorm

from cifar_cli.core.counting.config import SummaryConfig
from cifar_cli.core.counting.image_size import build_for_counting
from cifar_cli.core.counting.summary import summarize
from cifar_cli.core.models.config import ModelConfig

PEAK_FLOPS_PER_SECOND = 494.7e12  # H100 SXM, TF32 without sparsity (NVIDIA H100 datasheet: 989.4e12 with it)
PEAK_SHARE = 0.05  # assumed
GPUS_PER_NODE = 8
IMAGES_PER_GPU = 512
TRAINING_IMAGES = 45_000  # of CIFAR-10: 50,000 without those held out for validation
HOST_HOP_SECONDS = {"node": 10e-6, "network": 25e-6}  # one TCP message between two processes; assumed
FLOAT32_BYTES = 4

# The constants and formulas below are those of torch 2.15, torch/_inductor/comm_analysis.py, for H100 (adapted there
# from NCCL's src/graph/tuning.cc). It assumes one 400 Gbit/s adapter per ring.
NVLINK_BYTES_PER_SECOND, NETWORK_BYTES_PER_SECOND = 370e9, 50e9
NETWORK_OVERHEAD_SECONDS = 1e-6  # the least latency of a hop inside a node when there are several


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """One of NCCL's ways to send a message. Latencies in seconds."""

    name: str
    base: float
    nvlink: float
    network: float
    node_bytes_per_second: float
    """Inside one node."""
    nodes_bytes_per_second: float
    """Between more than two nodes."""
    overhead: float
    """The least latency of a hop inside a node when there are several nodes."""

    def hop(self, nodes: int) -> float:
        """Latency of a hop over NVLink."""
        return self.nvlink if nodes == 1 else max(self.nvlink, self.overhead)

    def bytes_per_second(self, nodes: int) -> float:
        return self.node_bytes_per_second if nodes == 1 else self.nodes_bytes_per_second


RINGS = (
    Protocol(
        name="ring, LL", base=6.6e-6, nvlink=0.6e-6, network=2.7e-6, overhead=NETWORK_OVERHEAD_SECONDS,
        node_bytes_per_second=141e9, nodes_bytes_per_second=20.4e9,
    ),
    Protocol(
        name="ring", base=8.4e-6, nvlink=3.4e-6, network=14e-6, overhead=3 * NETWORK_OVERHEAD_SECONDS,
        node_bytes_per_second=NVLINK_BYTES_PER_SECOND, nodes_bytes_per_second=NETWORK_BYTES_PER_SECOND,
    ),
)  # fmt: skip
TREES = (
    Protocol(
        name="tree, LL", base=6.8e-6, nvlink=0.6e-6, network=5e-6, overhead=NETWORK_OVERHEAD_SECONDS,
        node_bytes_per_second=NVLINK_BYTES_PER_SECOND / 3.8, nodes_bytes_per_second=NETWORK_BYTES_PER_SECOND / 3.8,
    ),
    Protocol(
        name="tree", base=8.4e-6, nvlink=4e-6, network=14e-6, overhead=3 * NETWORK_OVERHEAD_SECONDS,
        node_bytes_per_second=0.92 * NVLINK_BYTES_PER_SECOND, nodes_bytes_per_second=0.92 * NETWORK_BYTES_PER_SECOND,
    ),
)  # fmt: skip


def nodes_of(gpus: int) -> int:
    return math.ceil(gpus / GPUS_PER_NODE)


def ring_seconds(size: float, gpus: int, protocol: Protocol, *, rounds: int = 2) -> float:
    """Latency of every hop, and the data at the bandwidth of the slowest link.

    size: bytes of the result. rounds: 2 for an all-reduce, 1 for an all-gather.
    """
    nodes = nodes_of(gpus)
    network_hops = 0 if nodes == 1 else rounds * (nodes - 1)
    hops = rounds * (gpus - 1)
    latency = protocol.base + (hops - network_hops) * protocol.hop(nodes) + network_hops * protocol.network
    return latency + rounds * (gpus - 1) / gpus * size / protocol.bytes_per_second(nodes)


def tree_seconds(size: float, gpus: int, protocol: Protocol) -> float:
    """An all-reduce along a chain inside each node, and up and down a binary tree of nodes."""
    nodes = nodes_of(gpus)
    hops = (gpus // nodes - 1) * protocol.hop(nodes) + math.floor(math.log2(nodes)) * protocol.network
    return protocol.base + 2 * hops + 2 * size / protocol.bytes_per_second(nodes)


def all_reduce(size: float, gpus: int) -> tuple[float, str]:
    """Seconds of the fastest algorithm, which NCCL is assumed to choose, and its name."""
    rings = [(ring_seconds(size, gpus, protocol), protocol.name) for protocol in RINGS]
    return min(rings + [(tree_seconds(size, gpus, protocol), protocol.name) for protocol in TREES])


def all_gather_seconds(size: float, gpus: int) -> float:
    """size: bytes of the result. NCCL has no tree for it."""
    return min(ring_seconds(size, gpus, protocol, rounds=1) for protocol in RINGS)


def batch_norm_seconds(channels: tuple[int, ...], gpus: int) -> float:
    """Two messages for each layer of torch's SyncBatchNorm, for which the device waits.

    Forward, every process gets the mean, the variance and the count of all; backward, two sums are all-reduced.
    """
    return sum(
        all_gather_seconds((2 * count + 1) * FLOAT32_BYTES * gpus, gpus)
        + all_reduce(2 * count * FLOAT32_BYTES, gpus)[0]
        for count in channels
    )


def host_message_seconds(gpus: int) -> float:
    """The message that all processes exchange after a step: 40 bytes, twice around gloo's ring."""
    network_hops = 2 * (nodes_of(gpus) - 1)
    node_hops = 2 * (gpus - 1) - network_hops
    return node_hops * HOST_HOP_SECONDS["node"] + network_hops * HOST_HOP_SECONDS["network"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """What is counted about a model."""

    name: str
    gradient_bytes: int
    flops_per_image: float
    """Of a training step."""
    batch_norm_channels: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """The prediction for a model, a number of GPUs, and images on each."""

    model: Model
    gpus: int
    images: int
    """Of a step, on each GPU."""
    share: float
    """Of the card's peak that the computation reaches."""

    @property
    def compute(self) -> float:
        return self.model.flops_per_image * self.images / (self.share * PEAK_FLOPS_PER_SECOND)

    @property
    def step(self) -> float:
        """The device computes and communicates in turn; meanwhile the host exchanges its message."""
        gradients, _ = all_reduce(self.model.gradient_bytes, self.gpus)
        device = self.compute + gradients + batch_norm_seconds(self.model.batch_norm_channels, self.gpus)
        return max(device, host_message_seconds(self.gpus))

    @property
    def efficiency(self) -> float:
        """Images per second of one GPU among many, as a share of those of one alone."""
        return self.compute / self.step


def counted(config: ModelConfig, label: str) -> Model:
    """Count a model with `summarize`."""
    batch = 64
    summary = summarize(SummaryConfig(model=config, batch=batch, depth=0))
    layers = [module for module in build_for_counting(config).modules() if isinstance(module, _BatchNorm)]
    return Model(
        name=label,
        gradient_bytes=summary.memory.gradient_bytes,
        flops_per_image=summary.train_step_flops_per_batch / batch,
        batch_norm_channels=tuple(layer.num_features for layer in layers),
    )


def models() -> list[Model]:
    return [
        counted(ModelConfig(name="null"), "null"),
        counted(ModelConfig(name="hybrid", weights="none", trim_backbone=True), "hybrid, trimmed"),
        counted(ModelConfig(name="cnn", weights="none"), "cnn"),
        counted(ModelConfig(name="airbench"), "airbench"),
    ]


def predictions(*, share: float = PEAK_SHARE, images: int = IMAGES_PER_GPU) -> list[Row]:
    """For each number of GPUs: with this many images on each, and with the global batch of 8 GPUs shared out."""
    per_gpu = [(8, images), (64, images), (64, images // 8), (512, images), (512, images // 64)]
    return [
        Row(model=model, gpus=gpus, images=count, share=share) for model in models() for gpus, count in per_gpu if count
    ]


def markdown(rows: list[Row]) -> str:
    """The table in docs/scaling.md. Times in milliseconds."""
    lines = [
        "| model | GPUs | images per GPU | `--batch` | gradients, MB | compute, ms | all-reduce, ms | by "
        "| batch norm, ms | host message, ms | step, ms | efficiency |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        seconds, algorithm = all_reduce(row.model.gradient_bytes, row.gpus)
        batch = row.images * row.gpus
        times = [
            row.compute,
            seconds,
            batch_norm_seconds(row.model.batch_norm_channels, row.gpus),
            host_message_seconds(row.gpus),
            row.step,
        ]
        compute, reduced, *others = (f"{1e3 * time:.2f}" for time in times)
        cells = [
            row.model.name,
            str(row.gpus),
            str(row.images),
            f"{batch:,}" + (" *" if batch > TRAINING_IMAGES else ""),
            f"{row.model.gradient_bytes / 1e6:.2f}",
            *(compute, reduced, algorithm, *others),
            f"{100 * row.efficiency:.2g}%",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


TABLE_BEGINS, TABLE_ENDS = "<!-- predictions begin -->", "<!-- predictions end -->"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=cast(str, __doc__).splitlines()[0])
    parser.add_argument("--share", type=float, default=PEAK_SHARE, help="of the card's peak that is reached")
    parser.add_argument("--images", type=int, default=IMAGES_PER_GPU, help="on each of 8 GPUs")
    parser.add_argument(
        "--write", type=Path, metavar="PATH", help="also write the table between the marks in this page"
    )
    options = parser.parse_args(arguments)
    table = markdown(predictions(share=options.share, images=options.images))
    print(table, end="")
    if options.write:
        before, rest = options.write.read_text(encoding="utf-8").split(TABLE_BEGINS)
        after = rest.split(TABLE_ENDS)[1]
        options.write.write_text(f"{before}{TABLE_BEGINS}\n{table}{TABLE_ENDS}{after}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
