"""A group of processes that train together, on torch.distributed: how it is joined, and how it is left.

Messages between hosts go over gloo, gradients over NCCL on CUDA. A store of keys and values, which rank 0 serves (or
torchrun, or the program's process group), is for waits of any length: gloo's operations fail after STEP_SECONDS.
"""

from __future__ import annotations

import gc
import itertools
import os
import pickle
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store, _get_default_store

from cifar_cli import errors
from cifar_cli.core.choices import DeviceChoice
from cifar_cli.core.data.loader import Batch, BatchLoader
from cifar_cli.core.out_of_memory import is_out_of_memory
from cifar_cli.core.training.failures import first_line
from cifar_cli.core.training.heartbeat import SILENT_SECONDS, Heartbeat, Watch
from cifar_cli.core.training.launch import (
    LEAVE_SECONDS,
    Helpers,
    Place,
    place_of,
    require_agreement,
    require_gpus,
    started_count,
)
from cifar_cli.core.training.machine import device_of
from cifar_cli.core.training.parallel import Parallel
from cifar_cli.core.training.ranks import ALONE, MEETING_SECONDS, Agreement, LostProcessError, Ranks
from cifar_cli.errors import CifarError, ResourceError

STEP_SECONDS = 20.0  # a process that doesn't answer for so long within a step is taken for dead
START_SECONDS = 300.0  # of rank 0's wait for the others, until they have imported torch from a slow disk
# Of a wait of rank 0 for the others at the end of an evaluation: they share it evenly, and not all are equally fast.
LATE_SECONDS = 600.0
# That rank 0 serves the store after its end, for others that have not read its last word. They may look for it only
# once gloo has given up.
READ_SECONDS = STEP_SECONDS + 5.0
POLL_SECONDS = 0.05
REASON_SECONDS = 2.0  # after a connection broke, to find the reason that its process left in the store
FAILURE = "failure"
_joins = itertools.count()  # each run needs keys of its own in a store that outlives it


class Group(Ranks):
    """One of several processes. Raises ResourceError where they can't connect."""

    def __init__(self, place: Place, *, store: Store, device_type: str, helpers: Helpers | None = None) -> None:
        self.rank, self.world_size, self.local_rank = place.rank, place.world_size, place.local_rank
        self._store, self._helpers, self._device_type = store, helpers, device_type
        self._counter, self._orders = itertools.count(), itertools.count()
        self._alive = Heartbeat(store, self.rank)
        try:
            self._connect(store)
        except BaseException:
            self._alive.stop()
            raise

    def _connect(self, store: Store) -> None:
        """Wait for the others, and make the groups for messages. Raises ResourceError where some don't come."""
        self._meet_first()
        limit = timedelta(seconds=STEP_SECONDS)
        options: dict[str, Any] = {"rank": self.rank, "world_size": self.world_size, "timeout": limit}
        self._owns_world = not dist.is_initialized()
        if self._owns_world:
            dist.init_process_group("gloo", store=PrefixStore("groups", store), **options)
        # Ray Train's group may use NCCL, which takes no tensors of the host, and waits for half an hour.
        self._host: Any = dist.group.WORLD if self._owns_world else dist.new_group(backend="gloo", timeout=limit)
        backend = "nccl" if self._device_type == "cuda" else "gloo"
        # Groups of their own, so that batch norm's messages and the gradients' can't be mistaken for each other.
        self._gradients, self._statistics = (dist.new_group(backend=backend, timeout=limit) for _ in range(2))

    def own_batches(self, loader: BatchLoader) -> Iterator[Batch]:
        return loader.batches_of(range(self.rank, len(loader), self.world_size))

    def parallel(self, model: nn.Module, *, shards: bool = False) -> Callable[[Tensor], Tensor]:
        return Parallel(
            model,
            gradients=self._gradients,
            statistics=self._statistics,
            device_type=self._device_type,
            shards=shards,
        )

    def agree(self, own: Agreement) -> Agreement:
        signal, *decided = astuple(own)
        message = torch.tensor([signal, *(decided if self.is_first else [0] * len(decided))], dtype=torch.float64)
        dist.all_reduce(message, op=dist.ReduceOp.MAX, group=self._host)
        signal, time_is_up, progress_is_due, checkpoint_is_due, planned_steps = message.tolist()
        return Agreement(
            signal=int(signal),
            time_is_up=bool(time_is_up),
            progress_is_due=bool(progress_is_due),
            checkpoint_is_due=bool(checkpoint_is_due),
            planned_steps=int(planned_steps),
        )

    def any(self, flag: bool) -> bool:
        return any(self.gather(flag))

    def gather(self, value: Any) -> list[Any]:
        self.meet(LATE_SECONDS if self.is_first else MEETING_SECONDS)  # some have more to score than others
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self._host)
        return values

    def broadcast(self, value: Any) -> Any:
        self.meet(MEETING_SECONDS)
        values = [value]
        dist.broadcast_object_list(values, src=0, device=torch.device("cpu"), group=self._host)
        return values[0]

    def sum_(self, tensor: Tensor) -> Tensor:
        on_host = tensor.cpu()
        dist.all_reduce(on_host, group=self._host)
        return tensor.copy_(on_host)

    def same_weights(self, model: nn.Module) -> None:
        state = self.broadcast(model.state_dict() if self.is_first else None)
        if not self.is_first:
            model.load_state_dict(state)

    def meet(self, limit_seconds: float | None = None) -> None:
        if limit_seconds is None:  # the others have nothing to do but to wait for rank 0
            limit_seconds = STEP_SECONDS if self.is_first else MEETING_SECONDS
        name = f"meeting-{next(self._counter)}"
        if self._store.add(name, 1) == self.world_size:
            self._store.set(f"{name}-complete", "")
        self._wait_for(f"{name}-complete", limit_seconds)

    def _meet_first(self) -> None:
        """Wait until all processes have started. Raises ResourceError on rank 0, with their number, if some don't."""
        try:
            self.meet(START_SECONDS if self.is_first else MEETING_SECONDS)
        except LostProcessError as error:
            came = self._store.add("meeting-0", 0) if self.is_first else self.world_size
            if came == self.world_size:
                raise
            raise ResourceError(
                f"{came} of the {self.world_size} processes of this run started within {START_SECONDS:g} seconds",
                remedy="start one process for each device, and look at the launcher's log for why others ended",
            ) from error

    def order(self, what: Any) -> None:
        self._store.set(f"order-{next(self._orders)}", pickle.dumps(what))  # type: ignore[arg-type]

    def next_order(self) -> Any:
        key = f"order-{next(self._orders)}"
        self._wait_for(key)
        return pickle.loads(self._store.get(key))

    def _wait_for(self, key: str, limit_seconds: float = MEETING_SECONDS) -> None:
        """Wait for a key of the store. Raises CifarError when a process fails in the meantime."""
        # Polled, because torch's own wait prints a warning whenever its time is up.
        end, pause = time.monotonic() + limit_seconds, 0.0005
        # The others look at rank 0 alone, so that the store isn't asked by each about each.
        watch = Watch(self._store, range(1, self.world_size) if self.is_first else range(1))
        try:
            while not self._store.check([key]):
                if self._store.check([FAILURE]) or self._dead():
                    raise self._failure()
                if (rank := watch.silent()) is not None:
                    raise self._lost(rank)
                if time.monotonic() > end:
                    raise LostProcessError(
                        "another process of this run ended or can't be reached: "
                        f"it did not answer within {limit_seconds:g} seconds"
                    )
                time.sleep(pause)
                pause = min(2 * pause, POLL_SECONDS)
        except dist.DistError:
            raise self._failure() from None

    def _lost(self, rank: int) -> CifarError:
        """The error for a process that gives no sign of life. Rank 0 tells it to the others."""
        lost = LostProcessError(
            f"process {rank} of {self.world_size} ended, hangs, or can't be reached: it gave no sign of life for "
            f"{SILENT_SECONDS:g} seconds"
        )
        if self.is_first and not self._store.check([FAILURE]):
            self._store.set(FAILURE, pickle.dumps(_in_words(lost)))  # type: ignore[arg-type]
        return lost

    def explained(self, error: Exception) -> Exception:
        if isinstance(error, CifarError) or is_out_of_memory(error) or not is_broken_connection(error):
            return error
        failure = self._failure()
        if isinstance(failure, LostProcessError) and self._dead() is None:
            failure.what += f" ({first_line(error)})"  # NCCL says what it lacks in the same class of errors
        return failure

    def leave(self, error: BaseException | None) -> None:
        """Leave the group. error: why, if this process fails; the others then raise it too."""
        if error is not None and not isinstance(error, LostProcessError):
            with suppress(RuntimeError):
                if not self._store.check([FAILURE]):
                    self._store.set(FAILURE, pickle.dumps(_in_words(error)))  # type: ignore[arg-type]
        elif error is None and self.is_first:
            with suppress(RuntimeError):  # the run is complete: that another process is gone changes nothing
                self.order(None)
        if dist.is_initialized():
            for group in [None] if self._owns_world else [self._host, self._gradients, self._statistics]:
                dist.destroy_process_group(group)
        # gloo closes its connections, which the others wait on, with the last reference to the group.
        del self._host, self._gradients, self._statistics
        gc.collect()
        lost = isinstance(error, LostProcessError)
        if not lost:
            self._wait_until_all_left()
        self._alive.stop()
        if self._helpers is not None:
            self._helpers.end(wait_seconds=0.0 if lost else LEAVE_SECONDS)

    def _wait_until_all_left(self) -> None:
        """Keep the store, which may be this process's, until the others have read its last order, or its failure."""
        end = time.monotonic() + (READ_SECONDS if self._helpers is None else LEAVE_SECONDS)
        with suppress(RuntimeError):
            self._store.add("left", 1)
            while self.is_first and self._store.add("left", 0) < self.world_size and not self._dead():
                if time.monotonic() > end:
                    break
                time.sleep(POLL_SECONDS)

    def _failure(self) -> CifarError:
        """The error that another process left behind, or that it left none."""
        end = time.monotonic() + REASON_SECONDS
        with suppress(RuntimeError):
            while time.monotonic() < end:
                if self._store.check([FAILURE]):
                    return _from_words(pickle.loads(self._store.get(FAILURE)))
                if self._dead():
                    break
                time.sleep(0.1)
        return LostProcessError(self._dead() or "another process of this run ended or can't be reached")

    def _dead(self) -> str | None:
        return None if self._helpers is None else self._helpers.dead()


def this_place() -> Place:
    """The place of this process. Where a program such as Ray Train has initialised torch.distributed, it decides."""
    place = place_of(os.environ)
    if dist.is_initialized():
        return replace(place, rank=dist.get_rank(), world_size=dist.get_world_size())
    return place


@contextmanager
def joined(*, devices: int | str = 1, num_nodes: int = 1, device: DeviceChoice = "auto") -> Iterator[Ranks]:
    """The ranks of this process for a block. Without a launcher, the other processes are started, and ended with it.

    Raises ConfigError when the launcher and the config disagree, ResourceError for more devices than there are.
    """
    place = this_place()
    require_agreement(place, devices=devices, num_nodes=num_nodes)
    kind = device_of(device).type
    gpus = torch.cuda.device_count() if kind == "cuda" else 0
    if place.world_size == 1:
        count = started_count(devices, gpus=gpus)
        if count == 1:
            yield ALONE
            return
        place = Place(world_size=count, local_size=count)
    if kind == "mps":
        raise ResourceError("several processes can't share an MPS device", remedy="pass --device cpu, or --devices 1")
    if gpus and not dist.is_initialized():  # a program that has initialised it has chosen the GPU too
        require_gpus(place, gpus=gpus)
        torch.cuda.set_device(place.local_rank)
    with _threads_shared(place.local_size):
        group = _connected(place, device_type=kind)
        try:
            yield group
        except BaseException as error:
            explained = group.explained(error) if isinstance(error, Exception) else error
            if isinstance(explained, CifarError | KeyboardInterrupt):  # the frames of a bug are kept for a debugger
                traceback.clear_frames(error.__traceback__)
            group.leave(explained)
            if explained is error:
                raise
            raise explained from error
        else:
            group.leave(None)


def _connected(place: Place, *, device_type: str) -> Group:
    """The group, with its helpers where this process is to start them."""
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store_outlives_run = place.agent_store or dist.is_initialized()
    prefix = f"cifar-{attempt}-{next(_joins) if store_outlives_run else 0}"
    if dist.is_initialized():
        return Group(place, store=PrefixStore(prefix, _get_default_store()), device_type=device_type)
    starts_helpers = place.port == 0
    listens = place.rank == 0 and not place.agent_store
    try:
        store = dist.TCPStore(  # type: ignore[attr-defined]
            place.host,
            place.port,
            place.world_size,
            listens,
            timedelta(seconds=MEETING_SECONDS),
            wait_for_workers=False,
        )
        store.set_timeout(timedelta(seconds=STEP_SECONDS))
    except RuntimeError as error:
        raise ResourceError(
            f"process {place.rank} of {place.world_size} can't reach {place.host}:{place.port}",
            remedy="check that all processes of the run were started, and MASTER_ADDR and MASTER_PORT",
        ) from error
    helpers = Helpers(place.world_size, port=store.port, device=device_type) if starts_helpers else None
    try:
        return Group(place, store=PrefixStore(prefix, store), device_type=device_type, helpers=helpers)
    except BaseException:
        if helpers is not None:
            helpers.end()
        raise


@contextmanager
def _threads_shared(processes: int) -> Iterator[None]:
    """Give each process of this machine its share of the threads, unless OMP_NUM_THREADS says how many.

    A launcher that has bound each process to its share of the cores has done that.
    """
    before = torch.get_num_threads()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if "OMP_NUM_THREADS" not in os.environ and usable * processes > (os.cpu_count() or 1):
        torch.set_num_threads(max(1, before // processes))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def is_broken_connection(error: Exception) -> bool:
    """Whether an error comes from the connection to another process."""
    if isinstance(error, dist.DistError):
        return True
    said = str(error)
    return isinstance(error, RuntimeError) and any(word in said for word in ("gloo", "Connection", "NCCL", "Timed out"))


def _in_words(error: BaseException) -> tuple[str, str, str | None, int]:
    """An error as (its class, what, remedy, exit status)."""
    if isinstance(error, CifarError):
        return type(error).__name__, error.what, error.remedy, error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return "Interrupted", "interrupted", None, errors.Interrupted.exit_code
    return "CifarError", f"another process of this run failed: {type(error).__name__}: {error}", None, 1


def _from_words(words: tuple[str, str, str | None, int]) -> CifarError:
    name, what, remedy, exit_code = words
    error: CifarError = getattr(errors, name, CifarError)(what, remedy=remedy)
    error.exit_code = exit_code
    return error
