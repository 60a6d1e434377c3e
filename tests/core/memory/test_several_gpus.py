"""DDP's buckets and FSDP's parts in a trace, against torch's own on real tensors and their arithmetic by hand."""

import copy
import gc
import math
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore

from cifar_cli.core.memory.config import MIB, MemoryConfig
from cifar_cli.core.memory.estimate import Tracer, tensor_peak_bytes
from cifar_cli.core.memory.host import watched_allocations
from cifar_cli.core.memory.real_steps import built
from cifar_cli.core.memory.several_gpus import Bucketed, bucket_bytes
from cifar_cli.core.models.build import build_untrained
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.config import StepConfig
from cifar_cli.core.training.sharded import shard
from cifar_cli.core.training.step import TrainingStep

GPUS = 4
RESNET = ModelConfig(name="timm:resnet18", img_size=64, weights="none")
BLOCKS = """
from torch import nn


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.wide, self.act, self.narrow = nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width)

    def forward(self, features):
        return features + self.narrow(self.act(self.wide(features)))


class Net(nn.Module):
    def __init__(self, classes, side, width=257):
        super().__init__()
        self.stem = nn.Linear(3 * side * side, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(6))
        self.head = nn.Linear(width, classes)

    def forward(self, images):
        features = self.stem(images.flatten(1))
        for block in self.blocks:
            features = block(features)
        return self.head(features)


def build(*, classes, img_size):
    return Net(classes, img_size)
"""


@pytest.fixture
def blocks(tmp_path: Path) -> ModelConfig:
    """A model of six equal blocks whose sizes no number of GPUs divides."""
    path = tmp_path / "blocks.py"
    path.write_text(BLOCKS)
    return ModelConfig(name=f"{path}:build", img_size=16, weights="none")


@pytest.fixture
def group() -> Iterator[Any]:
    """A process group of four whose other processes don't exist."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=GPUS)
    yield dist.group.WORLD
    dist.destroy_process_group()


def test_buckets_are_those_of_ddp() -> None:
    model = build_untrained(RESNET)
    made: list[list[int]] = []
    traced = Bucketed(copy.deepcopy(model), lambda tensors, _: made.append([tensor.nbytes for tensor in tensors]))
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        real = DistributedDataParallel(model)
        for call, _ in product((real, traced), range(3)):
            call(torch.rand(2, 3, 64, 64)).sum().backward()
        told = real._get_ddp_logging_data()
    finally:
        dist.destroy_process_group()
    assert sorted(made[0]) == sorted(map(int, told["bucket_sizes"].split(",")))
    assert sorted(made[1]) == sorted(map(int, told["rebuilt_bucket_sizes"].split(",")))


def test_buckets_hold_every_gradient_once_and_end_at_their_limits() -> None:
    weights = [torch.empty(size * MIB // 4, device="meta") for size in (1, 10, 10, 10, 30, 1)]
    assert bucket_bytes(weights) == [MIB, 30 * MIB, 30 * MIB, MIB]


def test_ddp_takes_a_copy_of_the_trained_weights_and_shares_the_batch() -> None:
    trained = sum(parameter.nbytes for parameter in build_untrained(RESNET).parameters())
    alone, shared = (Tracer(MemoryConfig(model=RESNET, devices=count)) for count in (1, GPUS))
    one, four = alone.peak(8).terms, shared.peak(8 * GPUS).terms
    assert one is not None
    assert four is not None
    assert four.gradient_buckets_bytes == trained
    assert one.gradient_buckets_bytes == 0
    assert (four.weights_bytes, four.optimizer_bytes, four.input_bytes) == (
        one.weights_bytes, one.optimizer_bytes, one.input_bytes,
    )  # fmt: skip


@pytest.mark.parametrize("gpus", [2, 3, 8])
def test_fsdp_keeps_the_largest_part_of_each_weight_and_of_its_states(blocks: ModelConfig, gpus: int) -> None:
    parts = [math.ceil(p.shape[0] / gpus) * p[0].numel() for p in build_untrained(blocks).parameters()]
    found = Tracer(MemoryConfig(model=blocks, devices=gpus, strategy="fsdp")).peak(64 * gpus).terms
    assert found is not None
    assert found.weights_bytes == 4 * sum(parts)
    # Adam keeps two values for each weight, and a step count for each tensor.
    assert found.optimizer_bytes == 4 * (2 * sum(parts) + len(parts))
    assert found.gathered_weights_bytes > 0


@pytest.mark.parametrize("step", [{}, {"optimizer": "sgd"}, {"ema_decay": 0.9}, {"freeze": "backbone"}])
def test_the_peak_of_fsdp_is_that_of_real_tensors(blocks: ModelConfig, group: Any, step: dict[str, Any]) -> None:
    config = StepConfig(**step)
    model = built(blocks)
    gc.collect()
    with watched_allocations() as watched:
        real = TrainingStep(
            copy.deepcopy(model),
            config,
            device_type="cpu",
            parallel=lambda model: shard(model, group, device_type="cpu"),
        )
        real.train()
        images_BCHW, labels_B = torch.rand(64, 16, 16, 3).permute(0, 3, 1, 2), torch.zeros(64, dtype=torch.long)
        for _ in range(2):
            real(images_BCHW, labels_B)
    dist.destroy_process_group()
    predicted = Tracer(MemoryConfig(model=blocks, step=config, devices=GPUS, strategy="fsdp")).at(64 * GPUS)
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=GPUS)  # which the fixture ends
    assert tensor_peak_bytes(predicted) == pytest.approx(watched.peak_bytes(), rel=0.001)


def test_a_trace_leaves_no_process_group_behind(blocks: ModelConfig) -> None:
    Tracer(MemoryConfig(model=blocks, devices=2, strategy="fsdp")).at(8)
    assert not dist.is_initialized()
    storage = nn.Linear(2, 2).weight.untyped_storage()
    storage.resize_(0)
    assert storage.nbytes() == 0
