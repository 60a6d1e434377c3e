"""The batches of `loader.py`, made in worker processes: for image files, and for transforms that run image by image."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from cifar_cli.core.data.loader import Batch, BatchLoader
from cifar_cli.core.heap import return_freed_memory, return_large_blocks
from cifar_cli.core.transform import BatchSlice, Framer
from cifar_cli.errors import CifarError

CPU = torch.device("cpu")
# That a worker makes before it gives its freed memory back. Pictures of all sizes leave gaps between the blocks in use:
# in 25 batches of 64 photographs a worker grew by a third of its memory.
BATCHES_BETWEEN_TRIMS = 16


@dataclass(eq=False, repr=False)
class WorkerLoader(BatchLoader):
    """The batches of `BatchLoader`, made by `workers` processes: for transforms that run image by image.

    Each batch is made by one worker from its (epoch, batch index), so the number of workers changes no batch.
    """

    workers: int = field(kw_only=True)
    device: torch.device = field(kw_only=True, default=CPU)
    """Where the batches go; the workers make them on the CPU."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._made = _InWorkers(copy(self).make, self.workers, persistent=True)

    def _pass(self, epoch: int, indices: range) -> Iterator[Batch]:
        for ((images_BCHW, labels_B),) in self._made.of(epoch, indices):
            yield images_BCHW.to(self.device, non_blocking=True), labels_B.to(self.device, non_blocking=True)


@dataclass(eq=False, repr=False)
class PictureLoader(BatchLoader):
    """Batches of an encoded store: `workers` processes decode, and augment them too where the device is a CPU.

    Each batch is decoded by one worker from its (epoch, batch index), so the number of workers changes no batch.
    """

    workers: int = field(kw_only=True)
    framer: Framer | None = field(kw_only=True, default=None)
    """None for what evaluation sees."""
    persistent: bool = field(kw_only=True, default=False)
    """Keep the worker processes from one pass to the next."""

    def __post_init__(self) -> None:
        self._device = self.images_NHWC.device
        self.images_NHWC = self.images_NHWC.to(torch.device("cpu"))  # for the workers
        super().__post_init__()
        self._decoded = _InWorkers(copy(self).decoded, self.workers, persistent=self.persistent)

    def decoded(self, epoch: int, indices: range) -> Tensor:
        """The pictures of some batches, uint8 [B, S, S, 3] on the CPU. Raises DataError for a damaged one."""
        return self._decode(*self._rows(epoch, indices))

    def _decode(self, rows: Tensor, parts: list[BatchSlice]) -> Tensor:
        pictures = self.images_NHWC
        assert not isinstance(pictures, Tensor)
        if self.framer is None:
            return pictures[rows]
        found = [pictures.picture(row) for row in rows.tolist()]
        height_B, width_B = (torch.tensor([getattr(each, side) for each in found]) for side in ("height", "width"))
        boxes_B4 = self.framer.boxes(height_B, width_B, parts)
        boxes = [None] * len(found) if boxes_B4 is None else boxes_B4.tolist()
        images = torch.empty(len(found), *pictures.shape[1:], dtype=torch.uint8)
        for place, (row, picture, box) in enumerate(zip(rows.tolist(), found, boxes, strict=True)):
            images[place] = pictures.decoded(row, picture, box)
        return images if self._device.type != "cpu" else self.framer.augmented(images, parts)

    def _apply(self, images_BHWC: Tensor, parts: list[BatchSlice]) -> Tensor:
        if self.framer is None or self._device.type != "cpu":
            return super()._apply(images_BHWC, parts)
        return self.framer.normalise(images_BHWC)  # the workers have augmented them

    def _images(self, rows: Tensor, parts: list[BatchSlice]) -> Tensor:
        return self._decode(rows, parts).to(self._device)

    def _pass(self, epoch: int, indices: range) -> Iterator[Batch]:
        for index, images_BHWC in zip(indices, self._decoded.of(epoch, indices), strict=True):
            rows, parts = self._rows(epoch, range(index, index + 1))
            yield from self._transformed(images_BHWC.to(self._device, non_blocking=True), rows, parts)


class _InWorkers:
    """What a function makes of (epoch, range of one batch), made in worker processes and yielded in order."""

    def __init__(self, make: Callable[[int, range], Any], workers: int, *, persistent: bool) -> None:
        # The keys of the next pass. Replaced in place, because a DataLoader keeps its sampler.
        self._keys: list[tuple[int, int]] = []
        self._started = False
        self._loader = DataLoader(
            _KeyedBatches(make),  # of a copy of a loader, because the dataset must not refer to its DataLoader
            batch_size=None,
            sampler=self._keys,
            num_workers=workers,
            worker_init_fn=_begin,
            persistent_workers=workers > 0 and persistent,
            pin_memory=torch.cuda.is_available(),
        )

    def of(self, epoch: int, indices: range) -> Iterator[Any]:
        """Raises the CifarError that a worker met."""
        self._keys[:] = [(epoch, index) for index in indices]
        starts = self._loader.num_workers > 0 and not (self._loader.persistent_workers and self._started)
        self._started = True
        with _forking_cheaply() if starts else nullcontext():
            batches = iter(self._loader)
        for made in batches:
            if isinstance(made, _Failed):
                raise made.error
            yield made


class _KeyedBatches(Dataset[Any]):
    """A dataset whose items are batches, indexed by (epoch, batch index).

    An error that a user can correct is an item too: a DataLoader would turn it into one with a traceback for a message.
    """

    def __init__(self, make: Callable[[int, range], Any]) -> None:
        self.make = make
        self._made = 0

    def __getitem__(self, key: tuple[int, int]) -> Any:
        epoch, index = key
        self._made += 1
        if self._made % BATCHES_BETWEEN_TRIMS == 0 and get_worker_info() is not None:
            return_freed_memory()
        try:
            return self.make(epoch, range(index, index + 1))
        except CifarError as error:
            return _Failed(error)


@dataclass(frozen=True)
class _Failed:
    error: CifarError


@contextmanager
def _forking_cheaply() -> Iterator[None]:
    """Processes that are forked inside share more of this one's memory, of which they get no copies later.

    Training on a CPU keeps freed memory for its next step. A forked process would keep a copy of those pages, hundreds
    of megabytes, as soon as this one writes to them.
    Python's garbage collector writes to every object that it looks at, except to frozen ones (gc.freeze).
    """
    gc.collect()
    return_freed_memory()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _begin(worker: int) -> None:
    return_large_blocks()  # a forked worker would keep its freed memory, as training on a CPU does
    _leave_signals_to_the_run()
    _one_thread()


def _leave_signals_to_the_run() -> None:
    """Let a signal that reaches every process of a run, as those of a terminal, `timeout` and SLURM do, end no worker.

    The run finishes its step first, for which it needs the worker. Nor may the worker do what the run does at a signal.
    It ends by SIGTERM from the run, which sends it where a worker doesn't end otherwise.
    """
    run = multiprocessing.parent_process()
    if run is None or not hasattr(signal, "sigwaitinfo"):  # macOS, where workers don't inherit the run's handlers
        return
    signals = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)

    def wait() -> None:
        while (received := signal.sigwaitinfo(signals)).si_signo != signal.SIGTERM or received.si_pid != run.pid:
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def _one_thread() -> None:
    """Limit a worker to one core; OpenCV would start a thread pool in each."""
    torch.set_num_threads(1)
    try:
        import cv2
    except ImportError:
        return
    cv2.setNumThreads(0)
