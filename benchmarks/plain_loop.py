"""A plain PyTorch loop, as people write it for short training: one file, whole batches, no library around it.

    python benchmarks/plain_loop.py [--model airbench] [--dtype bfloat16] [--epochs 2] [--batch 1000] [--data-dir data]

It trains a registered model on CIFAR-10 with Nesterov SGD in channels last, augments complete batches by flip and
translation, validates after every epoch and tests once with mirrored images. `train_throughput.py` times it from start
to end.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cifar_cli.core.data.config import CIFAR10_MEAN, CIFAR10_STD, DataConfig
from cifar_cli.core.data.dataset import open_dataset
from cifar_cli.core.data.splits import split_of
from cifar_cli.core.models.build import build_model
from cifar_cli.core.models.config import ModelConfig

SHIFT = 2  # pixels, of the translation
RATE = 0.05


def normalised(images_NHWC: Tensor) -> Tensor:
    """uint8 [N, H, W, 3] to float32 [N, 3, H, W], channels last in memory."""
    scaled = (images_NHWC.float() / 255 - torch.tensor(CIFAR10_MEAN)) / torch.tensor(CIFAR10_STD)
    return scaled.permute(0, 3, 1, 2)


def augmented(images_BCHW: Tensor) -> Tensor:
    """Half of the images mirrored, each shifted by its own offsets over a mirrored border."""
    count, side = len(images_BCHW), images_BCHW.shape[-1]
    mirror = torch.rand(count, 1, 1, 1) < 0.5
    padded = F.pad(torch.where(mirror, images_BCHW.flip(3), images_BCHW), (SHIFT,) * 4, mode="reflect")
    top, left = (torch.randint(2 * SHIFT + 1, (count, 1)) + torch.arange(side) for _ in range(2))
    rows = torch.arange(count)[:, None, None]
    return padded.permute(0, 2, 3, 1)[rows, top[:, :, None], left[:, None, :]].permute(0, 3, 1, 2)


def batches(images_NHWC: Tensor, labels_N: Tensor, batch: int, *, train: bool) -> Iterator[tuple[Tensor, Tensor]]:
    order = torch.randperm(len(labels_N)) if train else torch.arange(len(labels_N))
    for rows in order.split(batch):
        images = normalised(images_NHWC[rows])
        yield augmented(images) if train else images, labels_N[rows]


@torch.inference_mode()
def accuracy(model: nn.Module, images_NHWC: Tensor, labels_N: Tensor, *, mirrored: bool = False) -> float:
    model.eval()
    right = 0
    for images, labels in batches(images_NHWC, labels_N, 500, train=False):
        logits = model(images)
        if mirrored:
            logits = logits.softmax(dim=1) + model(images.flip(3)).softmax(dim=1)
        right += int((logits.argmax(dim=1) == labels).sum())
    model.train()
    return right / len(labels_N)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="airbench")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    options = parser.parse_args()
    torch.manual_seed(0)
    store = open_dataset(DataConfig(dataset="cifar10", data_dir=options.data_dir))
    split, train = split_of(store), store.train
    pixels, labels = train.images_NHWC[:], train.labels_N.long()
    parts = [(pixels[rows], labels[rows]) for rows in (split.train_indices, split.val_indices)]
    model = build_model(ModelConfig(name=options.model, weights="none"), seed=0).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = options.epochs * -(-len(parts[0][1]) // options.batch)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1.0, end_factor=0.01, total_iters=steps)
    dtype = getattr(torch, options.dtype)
    for epoch in range(options.epochs):
        for images, labels in batches(*parts[0], options.batch, train=True):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
                loss = F.cross_entropy(model(images), labels, label_smoothing=0.2)
            loss.backward()
            optimizer.step()
            schedule.step()
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            print(f"epoch {epoch + 1}: val {accuracy(model, *parts[1]):.2%}", flush=True)
    print(f"test {accuracy(model, store.test.images_NHWC, store.test.labels_N.long(), mirrored=True):.2%}")


if __name__ == "__main__":
    main()
