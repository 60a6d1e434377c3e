"""Deterministic batches: the content of a batch is a function of (seed, epoch, batch index) alone.

It does not depend on the number of workers, the number of devices, or where a run was stopped and resumed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cifar_cli.core.transform import BatchSlice, Mixer, Transform
from cifar_cli.core.upload import uploaded

if TYPE_CHECKING:
    from cifar_cli.core.data.pictures import Pictures

__all__ = ["MODEL_DRAWS", "Batch", "BatchLoader", "Transform", "derive_seed"]

Batch = tuple[Tensor, Tensor]

_MASK = (1 << 64) - 1
_MAX_GROUP = 16  # batches; training measures its throughput over windows that are at least as long
_ORDER, _AUGMENT, MODEL_DRAWS = range(3)  # purposes of a derived seed, so that no two uses share one
_IMAGE, _MIX = 10, 11


def derive_seed(*words: int) -> int:
    """Mix integers into one seed of 63 bits; changing any word changes each bit with probability 1/2.

    Source: the finaliser of SplitMix64 (Steele, Lea & Flood 2014).
    """
    state = 0
    for word in words:
        state = (state + (word & _MASK) + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


@dataclass(eq=False, repr=False)
class BatchLoader:
    """Batches of a uint8 store in host or device memory, transformed on the device that holds the images.

    Yields (float images [B, 3, S, S], int64 labels [B]). One pass is one epoch; `set_epoch` chooses which.
    `state_dict` and `load_state_dict` save and restore the position within an epoch.
    """

    images_NHWC: Tensor | Pictures
    """uint8 [N, H, W, 3], or what decodes them."""
    labels_N: Tensor
    """int64 [N]."""
    indices: Tensor
    """int64: the rows to use."""
    _: KW_ONLY
    batch: int
    """Images per step over all devices together; this process (`rank` of `world_size`) gets its slice."""
    transform: Transform
    seed: int
    shuffle: bool
    drop_last: bool = False
    """Leave out a last batch that has fewer images."""
    mixer: Mixer | None = None
    """Mixes the images of a batch in pairs. Labels are then float32 [B, K] shares of the classes."""
    classes: int = 0
    """Number of classes K; needed with a mixer."""
    rank: int = 0
    world_size: int = 1
    epoch: int = field(default=0, init=False)
    """The epoch of the next pass."""
    _start: int = field(default=0, init=False)
    """First batch of the next pass: not 0 only after load_state_dict."""
    _next: int = field(default=0, init=False)
    """The batch after the one that was yielded last."""
    _order: tuple[int, Tensor, Tensor] | None = field(default=None, init=False)
    """An epoch and its order, as positions in `indices` on the CPU, and as rows where `indices` is."""

    def __post_init__(self) -> None:
        assert self.batch >= 1, self.batch
        assert 0 <= self.rank < self.world_size, (self.rank, self.world_size)
        self.labels_N = self.labels_N.to(self.images_NHWC.device)
        self.indices = self.indices.to(self.images_NHWC.device)

    def __len__(self) -> int:
        """Batches in a complete epoch, also after a restart in the middle of one."""
        full, rest = divmod(len(self.indices), self.batch)
        return full + int(rest > int(full > 0) and not self.drop_last)

    def images_of(self, index: int) -> int:
        """Images of a batch, over all devices together.

        A last batch of a single image joins the one before: batch normalisation can't train on it.
        """
        is_last = index == len(self) - 1 and not self.drop_last
        return len(self.indices) - index * self.batch if is_last else self.batch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass; a restored position is kept if it belongs to this epoch."""
        if epoch != self.epoch:
            self.epoch, self._start, self._next = epoch, 0, 0

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "next_batch": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self._start = int(state["epoch"]), int(state["next_batch"])
        if self._start >= len(self):
            self.epoch, self._start = self.epoch + 1, 0
        self._next = self._start

    def __iter__(self) -> Iterator[Batch]:
        epoch, start, self._start = self.epoch, self._start, 0
        batches = self._pass(epoch, range(start, len(self)))
        for index in range(start, len(self)):
            made = next(batches)
            self._next = index + 1
            yield made
        self.set_epoch(epoch + 1)

    def batches_of(self, indices: range) -> Iterator[Batch]:
        """These batches of the present epoch, made as in a complete pass; the position stays."""
        return self._pass(self.epoch, indices)

    def first_rows(self, epoch: int, count: int) -> Tensor:
        """The rows of the first images of an epoch, in the order of `make`."""
        return self._ordered(epoch)[1][: min(count, self.batch)]

    def make(self, epoch: int, indices: range) -> list[Batch]:
        """Consecutive batches of an epoch, each with the same bits as if it were made by itself."""
        rows, parts = self._rows(epoch, indices)
        return self._transformed(self._images(rows, parts), rows, parts)

    def _rows(self, epoch: int, indices: range) -> tuple[Tensor, list[BatchSlice]]:
        """The rows of the images of some batches, and the slices that they are taken for."""
        positions_N, rows_N = self._ordered(epoch)
        parts: list[BatchSlice] = []
        rows: list[Tensor] = []
        for index in indices:
            for part in self._slices(epoch, index, positions_N):
                first = index * self.batch + part.first
                parts.append(part)
                rows.append(rows_N[first : first + part.count])
        return torch.cat(rows), parts

    def _images(self, rows: Tensor, parts: list[BatchSlice]) -> Tensor:
        return self.images_NHWC.index_select(0, rows)

    def _transformed(self, images_BHWC: Tensor, rows: Tensor, parts: list[BatchSlice]) -> list[Batch]:
        counts = [part.count for part in parts]
        images = torch.split(self._apply(images_BHWC, parts), counts)
        (labels_B,) = uploaded([self.labels_N.index_select(0, rows)], images_BHWC.device)
        labels = torch.split(labels_B, counts)
        if self.mixer is None:
            return list(zip(images, labels, strict=True))
        pairs = zip(images[::2], images[1::2], labels[::2], labels[1::2], parts[::2], strict=True)
        return [self._mixed(*pair) for pair in pairs]

    def _apply(self, images_BHWC: Tensor, parts: list[BatchSlice]) -> Tensor:
        return self.transform(images_BHWC, parts)

    def _slices(self, epoch: int, index: int, positions: Tensor) -> list[BatchSlice]:
        """This process's slice of a batch, and with a mixer the image before it (that of the first is the last)."""
        total = self.images_of(index)
        order = positions[index * self.batch : index * self.batch + total]
        first, end = total * self.rank // self.world_size, total * (self.rank + 1) // self.world_size
        if first == end:
            # Fewer images than devices. Many models can't process none, so this one gets the batch's first image,
            # which training gives the weight 0.
            first, end = 0, 1
        ranges = [range(first, end)]
        if self.mixer is not None:
            before = (first - 1) % total
            ranges.append(range(before, before + 1))
        return [
            BatchSlice(
                seed=derive_seed(self.seed, _AUGMENT, epoch, index),
                first=places.start,
                count=len(places),
                total=total,
                epoch=epoch,
                run_seed=derive_seed(self.seed, _IMAGE),
                images_B=order[places.start : places.stop],
            )
            for places in ranges
        ]

    def _mixed(self, images: Tensor, before: Tensor, labels: Tensor, label_before: Tensor, part: BatchSlice) -> Batch:
        """The slice with each image mixed with the one before it. `before`: the image before the first."""
        assert self.mixer is not None
        others = torch.cat([before, images[:-1]])
        mixed, kept = self.mixer(images, others, seed=derive_seed(part.seed, _MIX))
        others_labels = torch.cat([label_before, labels[:-1]])
        shares_BK = torch.zeros(len(labels), self.classes, device=labels.device)
        for each, share in ((labels, kept), (others_labels, 1 - kept)):
            shares_BK.scatter_add_(1, each[:, None], torch.full_like(shares_BK[:, :1], share))
        return mixed, shares_BK

    def _pass(self, epoch: int, indices: range) -> Iterator[Batch]:
        """Make one batch, then two, then four, …, so that the first one is ready soon."""
        size, limit = 1, min(max(1, self.transform.images_per_call * self.world_size // self.batch), _MAX_GROUP)
        while indices:
            yield from self.make(epoch, indices[:size])
            indices, size = indices[size:], min(2 * size, limit)

    def _ordered(self, epoch: int) -> tuple[Tensor, Tensor]:
        """The epoch's order as positions in `indices`, and as rows where `indices` is.

        It is drawn on the CPU, so that it is the same for every device, and uploaded once.
        """
        if self._order is None or self._order[0] != epoch:
            positions_N, rows_N = torch.arange(len(self.indices)), self.indices
            if self.shuffle:
                generator = torch.Generator().manual_seed(derive_seed(self.seed, _ORDER, epoch))
                positions_N = torch.randperm(len(self.indices), generator=generator)
                (there,) = uploaded([positions_N], self.indices.device)
                rows_N = self.indices.index_select(0, there)
            self._order = epoch, positions_N, rows_N
        return self._order[1:]
