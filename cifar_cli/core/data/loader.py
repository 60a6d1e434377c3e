"""Deterministic batches: what a batch holds is a function of (seed, epoch, batch index) alone.

Not of the number of workers, nor of the number of devices, nor of where a run was stopped and resumed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

Transform = Callable[..., Tensor]
"""`transform(images_BHWC: uint8, *, seed: int) -> float [B, 3, H, W]`, its random draws a function of `seed`.

Across several devices each one gets a slice of the batch, and the transform is also given `first` (the
slice's first position in the batch) and `of` (the whole batch's length), so that the slices' draws add up
to those of the whole batch. A transform may have `most_together`, a number of images, and `together(images_BHWC,
places)`, which makes several batches at once: one (seed, first, count, of) for each.
"""
Batch = tuple[Tensor, Tensor]

_MASK = (1 << 64) - 1
_MOST_TOGETHER = 16  # batches: no longer than the windows that training takes its speed from
_ORDER, _AUGMENT = 0, 1  # what a derived seed is for, so that no two uses share one


def derive_seed(*words: int) -> int:
    """Mix integers into one seed of 63 bits; a change of any word changes all bits alike.

    Source: the finaliser of SplitMix64 (Steele, Lea & Flood 2014).
    """
    state = 0
    for word in words:
        state = (state + (word & _MASK) + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


class _Batches:
    """Makes any one batch from its (epoch, batch index)."""

    def __init__(
        self,
        images_NHWC: Tensor,
        labels_N: Tensor,
        indices: Tensor,
        *,
        batch: int,
        transform: Transform,
        seed: int,
        shuffle: bool,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        assert batch >= 1, batch
        assert 0 <= rank < world_size, (rank, world_size)
        self.images_NHWC = images_NHWC
        self.labels_N = labels_N.to(images_NHWC.device)
        self.indices = indices.to(images_NHWC.device)
        self.batch = batch
        self.transform = transform
        self.seed = seed
        self.shuffle = shuffle
        self.rank = rank
        self.world_size = world_size
        full, rest = divmod(len(indices), batch)
        self.count = full + int(rest > 0 and not drop_last)
        self._order: tuple[int, Tensor] | None = None

    def make(self, epoch: int, index: int) -> Batch:
        return self.make_group(epoch, range(index, index + 1))[0]

    def make_group(self, epoch: int, indices: range) -> list[Batch]:
        """Consecutive batches, each the same as made alone."""
        order = self._rows(epoch)
        rows, places = [], []
        for index in indices:
            whole = order[index * self.batch : (index + 1) * self.batch]
            of = len(whole)
            first, end = of * self.rank // self.world_size, of * (self.rank + 1) // self.world_size
            if first == end:  # the batch's first image in place of none, because many models refuse an empty batch
                first, end = 0, 1
            rows.append(whole[first:end])
            places.append((derive_seed(self.seed, _AUGMENT, epoch, index), first, end - first, of))
        chosen, counts = torch.cat(rows), [len(each) for each in rows]
        images = self._transformed(self.images_NHWC.index_select(0, chosen), places)
        labels = self.labels_N.index_select(0, chosen)
        return list(zip(torch.split(images, counts), torch.split(labels, counts), strict=True))

    def _transformed(self, images_BHWC: Tensor, places: list[tuple[int, int, int, int]]) -> Tensor:
        if len(places) > 1:
            made: Tensor = self.transform.together(images_BHWC, places)  # type: ignore[attr-defined]
            return made
        ((seed, first, _, of),) = places
        slice_of = {"first": first, "of": of} if self.world_size > 1 else {}
        return self.transform(images_BHWC, seed=seed, **slice_of)

    @property
    def most_together(self) -> int:
        """How many batches to make at once."""
        images: int = getattr(self.transform, "most_together", 1)
        return min(max(1, images * self.world_size // self.batch), _MOST_TOGETHER)

    def _rows(self, epoch: int) -> Tensor:
        """The epoch's order of the images; drawn on the CPU, so that every device sees the same."""
        if not self.shuffle:
            return self.indices
        if self._order is None or self._order[0] != epoch:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, _ORDER, epoch))
            order = torch.randperm(len(self.indices), generator=generator)
            self._order = epoch, self.indices[order.to(self.indices.device)]
        return self._order[1]


class BatchLoader:
    """Batches from a uint8 store that lies in memory or on the device, made where it lies.

    images_NHWC: uint8 [N, H, W, 3]; labels_N: int64 [N]; indices: int64, the rows to use.
    batch: images per step over all devices together; this one (`rank` of `world_size`) gets its slice.
    Further options, by keyword: transform, seed, shuffle, and drop_last (False), rank (0), world_size (1).
    Yields (float images [B, 3, H, W], int64 labels [B]). Every full pass is one epoch; `set_epoch` chooses
    which. `state_dict` and `load_state_dict` save and restore the place within an epoch: Lightning calls
    all three.
    """

    def __init__(
        self,
        images_NHWC: Tensor,
        labels_N: Tensor,
        indices: Tensor,
        **options: Any,
    ) -> None:
        self._batches = _Batches(images_NHWC, labels_N, indices, **options)
        self.epoch = 0
        self.seconds = 0.0  # waited for batches, over all passes
        self._start = 0  # where the next pass begins: not 0 only after load_state_dict
        self._next = 0  # the batch that would come next

    batch_sampler = None  # Lightning asks every loader for one

    @property
    def sampler(self) -> BatchLoader:
        """Itself: Lightning looks for `set_epoch` on a loader's sampler."""
        return self

    def __len__(self) -> int:
        """Batches of a whole epoch, also after a restart in its middle."""
        return self._batches.count

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass; a restored place stays if it lies in this epoch."""
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
        batches = self._make(epoch, range(start, len(self)))
        for index in range(start, len(self)):
            began = time.perf_counter()
            made = next(batches)
            self.seconds += time.perf_counter() - began
            self._next = index + 1
            yield made
        self.set_epoch(epoch + 1)

    def make(self, epoch: int, indices: range) -> list[Batch]:
        """Consecutive batches of an epoch, each the same as made alone."""
        return self._batches.make_group(epoch, indices)

    def _make(self, epoch: int, wanted: range) -> Iterator[Batch]:
        """Makes one batch, then two, then four…: the first is not to be waited for."""
        size = 1
        while wanted:
            yield from self._batches.make_group(epoch, wanted[:size])
            wanted, size = wanted[size:], min(2 * size, self._batches.most_together)


class _KeyedBatches(Dataset[Batch]):
    """A dataset whose items are whole batches, asked for by (epoch, batch index)."""

    def __init__(self, batches: _Batches) -> None:
        self.batches = batches

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        return self.batches.make(*key)


class _Keys:
    """The keys of the pass to come; the loader rewrites them, because a DataLoader keeps its sampler."""

    def __init__(self) -> None:
        self.keys: list[tuple[int, int]] = []

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)


def _one_thread(worker: int) -> None:
    """Keep a worker to its own core: OpenCV would start a pool of threads in each."""
    torch.set_num_threads(1)
    try:
        import cv2
    except ImportError:
        return
    cv2.setNumThreads(0)


class WorkerLoader(BatchLoader):
    """The same batches as `BatchLoader`, made by `workers` processes: for transforms that run per image.

    A batch is made whole by one worker from its (epoch, batch index), so that their number changes nothing.
    """

    def __init__(self, *args: Any, workers: int, **options: Any) -> None:
        super().__init__(*args, **options)
        self._keys = _Keys()
        self._loader = DataLoader(
            _KeyedBatches(self._batches),
            batch_size=None,
            sampler=self._keys,
            num_workers=workers,
            worker_init_fn=_one_thread,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def _make(self, epoch: int, wanted: range) -> Iterator[Batch]:
        self._keys.keys = [(epoch, index) for index in wanted]
        return iter(self._loader)
