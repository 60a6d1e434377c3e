"""Everything that reads a file from outside: how to make a good one, how to change it, and what must hold then.

`Target.read` raises CifarError, or returns after it has checked that the data are right. Anything else is a fault.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

import yaml

from cifar_cli.errors import CifarError
from tests.fuzz import documents, stores, weights
from tests.fuzz.mutators import mutate_folder
from tests.fuzz.sources import (
    change_archive,
    change_one_of,
    make_archive,
    make_arrays,
    make_binary,
    make_images,
    make_labelled,
    make_parquet,
    make_zip,
    read_images,
)
from tests.fuzz.weights import change_bytes, change_content

SECONDS = 20  # for one file
MEMORY_BYTES = 1 << 30  # on top of what the process has


class TooSlowError(BaseException):
    """No Exception, so that no handler of the package takes it for its own."""


@dataclass(frozen=True)
class Target:
    """A kind of file."""

    make: Callable[[Path], None]
    """Write a good one into an empty folder."""
    change: Callable[[Path, Random], None]
    read: Callable[[Path], None]
    checksummed: bool = False
    """Every change is seen, so that none of the changed files is read."""


def run(target: Target, good: Path, work: Path, seed: int) -> str:
    """Change a copy of the good file and read it: "read" or "refused". Raises what the package should not.

    good: a folder that `target.make` has filled. work: a path for the copy, removed at the end.
    """
    shutil.copytree(good, work)
    try:
        target.change(work, Random(seed))
        with _bounded():
            target.read(work)
    except CifarError as error:
        text = f"{error.what}{error.remedy or ''}"
        assert text.isprintable(), ascii(text)
        assert "Traceback" not in text
        return "refused"
    finally:
        shutil.rmtree(work)
    return "read"


@contextmanager
def _bounded() -> Iterator[None]:
    """Raise MemoryError or TooSlowError within the block where it needs more than MEMORY_BYTES or SECONDS."""

    def too_slow(*_: object) -> None:
        raise TooSlowError(f"more than {SECONDS} s")

    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    before = signal.signal(signal.SIGALRM, too_slow)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, limits[1]))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGALRM, before)


def _weights(
    name: str, change: Callable[[str], Callable[[Path, Random], None]], *, checksummed: bool = False
) -> Target:
    read = weights.read_weights(name, same_values=checksummed)
    return Target(weights.make_weights(name), change(name), read, checksummed=checksummed)


TARGETS = {
    "archive": Target(make_archive, change_archive, lambda folder: read_images(folder / "pets.tar", folder / "data")),
    "folder": Target(
        make_images,
        lambda folder, random: mutate_folder(folder / "pets", random),
        lambda folder: read_images(folder / "pets", folder / "data"),
    ),
    "zip archive": Target(
        make_zip, change_one_of("pets.zip"), lambda folder: read_images(folder / "pets.zip", folder / "data")
    ),
    "table of labels": Target(
        make_labelled, change_one_of("pets/labels.csv"), lambda folder: read_images(folder / "pets", folder / "data")
    ),
    "arrays (.npz)": Target(
        make_arrays, change_one_of("pets.npz"), lambda folder: read_images(folder / "pets.npz", folder / "data")
    ),
    "parquet": Target(
        make_parquet,
        change_one_of("pets.parquet"),
        lambda folder: read_images(folder / "pets.parquet", folder / "data"),
    ),
    "binary version of CIFAR": Target(
        make_binary,
        change_one_of("cifar-10-batches-bin/*"),
        lambda folder: read_images(folder / "cifar-10-batches-bin", folder / "data"),
    ),
    "store": Target(stores.make_store, stores.change_store, stores.read_store),
    "store with names": Target(
        lambda folder: stores.make_streamed_store(folder, encoded=False), stores.change_store, stores.read_store
    ),
    "store of files": Target(
        lambda folder: stores.make_streamed_store(folder, encoded=True), stores.change_store, stores.read_store
    ),
    "checkpoint, changed bytes": Target(
        weights.make_checkpoint, change_bytes("best.ckpt"), weights.read_checkpoint, checksummed=True
    ),
    "checkpoint, changed content": Target(
        weights.make_checkpoint, change_content("best.ckpt"), partial(weights.read_checkpoint, changed_content=True)
    ),
    "weights, changed content": _weights("a.pt", change_content),
    "weights (.pt)": _weights("a.pt", change_bytes, checksummed=True),
    "weights (.safetensors)": _weights("a.safetensors", change_bytes, checksummed=True),
    "weights of torch before 1.6": _weights("legacy.pt", change_bytes),
    "policy": Target(documents.make_nothing, documents.change_policy, documents.read_policy),
    "mark of a partial download": Target(
        documents.make_mark,
        documents.change_document("pets.tar.part.json", documents.MARK, json.dumps),
        documents.read_mark,
    ),
    "config.yaml": Target(
        documents.make_nothing,
        documents.change_document("config.yaml", documents.CONFIG, yaml.safe_dump),
        documents.read_config,
    ),
    "settings (--config)": Target(documents.make_nothing, documents.change_settings, documents.read_settings),
    "record of a run": Target(documents.make_record, documents.change_record, documents.read_record),
    "remembered trials": Target(
        documents.make_trials,
        documents.change_document("cifar/numerics.json", {"key": [documents.TRIAL]}, json.dumps),
        documents.read_trials,
    ),
}
