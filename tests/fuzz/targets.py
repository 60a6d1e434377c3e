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
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import yaml

from cifar_cli.core.augment.per_image import PerImagePipeline, load_policy  # here, because memory is limited below
from cifar_cli.core.data.config import DataConfig
from cifar_cli.core.data.dataset import check_dataset, open_dataset
from cifar_cli.core.data.results import Provenance
from cifar_cli.core.data.sources.http_stream import Mirror, RemoteFile, Transport
from cifar_cli.core.data.sources.images import SourceImages
from cifar_cli.core.data.sources.transfer import Transfer
from cifar_cli.core.data.splits import split_of
from cifar_cli.core.data.store import write_store
from cifar_cli.core.evaluation.report.answers import answers_of
from cifar_cli.core.evaluation.report.comparison import compare, table
from cifar_cli.core.evaluation.report.facts import Facts
from cifar_cli.core.evaluation.report.recorded import read_run
from cifar_cli.core.evaluation.report.rules import judge
from cifar_cli.core.progress import silent
from cifar_cli.core.training.numerics import CACHE, _as_trials
from cifar_cli.core.training.remembered import remember, remembered
from cifar_cli.core.training.results import NumericsTrial
from cifar_cli.core.training.run_dir import RunDir
from cifar_cli.core.training.settings import layered
from cifar_cli.errors import CifarError
from tests.core.data.streams import photo_stream, pixels_stream
from tests.core.evaluation.report import histories
from tests.core.evaluation.report.histories import write_run
from tests.fuzz import weights
from tests.fuzz.mutators import mutate_folder, mutated_archive, mutated_bytes, mutated_document
from tests.fuzz.sources import (
    change_one_of,
    make_archive,
    make_arrays,
    make_binary,
    make_images,
    make_labelled,
    make_parquet,
    make_zip,
    read_images,
    require_right,
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


def make_store(folder: Path) -> None:
    pixels = np.arange(6 * 4 * 4 * 3, dtype=np.uint8).reshape(6, 4, 4, 3)
    labels = np.arange(6) % 2
    provenance = Provenance(source="here", checksum="md5:0", imported_at="2026-01-01", tool_version="1")
    images = SourceImages(("cat", "dog"), pixels, labels, pixels[:2], labels[:2], provenance)
    write_store(folder / "pets.safetensors", name="pets", images=images)


def make_streamed_store(folder: Path, *, encoded: bool) -> None:
    images = (photo_stream if encoded else pixels_stream)(4, 2, 3)
    write_store(folder / "pets.safetensors", name="pets", images=images)


def change_store(folder: Path, random: Random) -> None:
    path = folder / "pets.safetensors"
    content = path.read_bytes()
    if random.random() < 0.3:
        path.write_bytes(mutated_bytes(content, random))
        return
    length = int.from_bytes(content[:8], "little")
    header, tensors = json.loads(content[8 : 8 + length]), content[8 + length :]
    metadata = header["__metadata__"]
    if len(header) > 5 and random.random() < 0.5:  # one number of a tensor of numbers
        start, end = random.choice([each["data_offsets"] for each in header.values() if each.get("dtype") == "I64"])
        at = random.randrange(start, end, 8)
        number = random.choice([-1, 0, 1, 2, 1 << 40, (1 << 63) - 1, random.randrange(5000)])
        tensors = tensors[:at] + number.to_bytes(8, "little", signed=True) + tensors[at + 8 :]
    for key in ("classes", "provenance"):  # JSON inside JSON
        if random.random() < 0.4:
            metadata[key] = json.dumps(mutated_document(json.loads(metadata[key]), random))
    if random.random() < 0.5:
        header = mutated_document(header, random)
    if random.random() < 0.3:
        tensors = mutated_bytes(tensors, random)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + tensors)


def read_store(folder: Path) -> None:
    """Opening and --check agree on whether the file can be used."""
    data = DataConfig(dataset=str(folder / "pets.safetensors"))
    usable, store = True, None
    try:
        store = open_dataset(data, fetch=False)
    except CifarError:
        usable = False
    check = check_dataset(data)
    assert usable or not check.intact
    if store is not None:
        require_right(store)
        for part, split in ((store.train, "train"), (store.test, "test")):
            images = part.images_NHWC[range(len(part))]
            assert images.dtype == torch.uint8
            assert len(store.names(split) or images) == len(part)
        assert len(split_of(store).val_indices) > 0


POLICY = {
    "__version__": "2.0.8",
    "transform": {
        "__class_fullname__": "Compose",
        "p": 1.0,
        "transforms": [
            {"__class_fullname__": "HorizontalFlip", "p": 0.5},
            {"__class_fullname__": "Affine", "p": 1.0, "scale": [0.9, 1.1], "rotate": [-15, 15]},
            {"__class_fullname__": "OneOf", "p": 0.5, "transforms": [{"__class_fullname__": "MotionBlur", "p": 1.0}]},
            {"__class_fullname__": "CoarseDropout", "p": 0.3, "hole_height_range": [4, 8], "hole_width_range": [4, 8]},
        ],
        "bbox_params": None,
        "additional_targets": {},
        "is_check_shapes": False,
    },
}


OLD_POLICY = {
    "__version__": "1.3.1",
    "transform": {
        "__class_fullname__": "Compose",
        "p": 1.0,
        "transforms": [
            {"__class_fullname__": "Flip", "always_apply": True, "p": 0.5},
            {"__class_fullname__": "Affine", "p": 1.0, "shear": {"x": [-5, 5], "y": [0, 3]}, "cval": 0, "mode": 0},
            {"__class_fullname__": "GaussNoise", "p": 1.0, "var_limit": [10.0, 50.0], "mean": 0},
            {"__class_fullname__": "SomeOf", "p": 1.0, "n": 1, "replace": False, "transforms": [
                {"__class_fullname__": "Solarize", "p": 0.5, "threshold": [128, 128]},
                {"__class_fullname__": "Downscale", "p": 0.5, "scale_min": 0.3, "scale_max": 0.6, "interpolation": 0},
            ]},
            {"__class_fullname__": "CoarseDropout", "p": 0.3, "max_holes": 2, "min_holes": 1, "max_height": 8,
             "min_height": 4, "max_width": 8, "min_width": 4, "fill_value": 0, "mask_fill_value": None},
        ],
        "is_check_shapes": True,
    },
}  # fmt: skip


def change_policy(folder: Path, random: Random) -> None:
    document = mutated_document(random.choice((POLICY, OLD_POLICY)), random)
    text = json.dumps(document)
    if random.random() < 0.5:
        with suppress(Exception):  # YAML can't write every odd value
            text = yaml.safe_dump(document)
    content = text.encode("utf-8", "surrogatepass")
    (folder / "policy.yaml").write_bytes(mutated_bytes(content, random) if random.random() < 0.2 else content)


def read_policy(folder: Path) -> None:
    PerImagePipeline(load_policy(folder / "policy.yaml"), 32, (0.0,) * 3, (1.0,) * 3)


MARK = {"url": "http://host/pets.tar", "validator": '"v1"', "size_bytes": 100}


def make_mark(folder: Path) -> None:
    (folder / "pets.tar.part").write_bytes(b"x" * 50)
    (folder / "pets.tar.part.json").write_text(json.dumps(MARK))


def change_document(name: str, document: Any, dump: Callable[[Any], str]) -> Callable[[Path, Random], None]:
    def change(folder: Path, random: Random) -> None:
        text = ""
        with suppress(Exception):
            text = dump(mutated_document(document, random))
        content = text.encode("utf-8", "surrogatepass")
        (folder / name).write_bytes(mutated_bytes(content, random) if random.random() < 0.5 else content)

    return change


def read_mark(folder: Path) -> None:
    """A partial file is continued with a version and a size that can be true, or begun anew."""
    transfer = Transfer(
        name="pets",
        target=folder / "pets.tar",
        mirrors=[Mirror(url=MARK["url"])],
        remote=RemoteFile(),
        transport=Transport(),
        on_progress=silent,
    )
    transfer._restore_mark()
    if transfer.offset():
        assert transfer.remote.validator
        assert transfer.remote.validator.isascii()
        assert transfer.remote.validator.isprintable()
        assert transfer.remote.size_bytes is None or transfer.remote.size_bytes >= 50
    else:
        assert transfer.remote.validator is None


CONFIG = {"model": {"name": "null", "img_size": 32}, "recipe": {"lr": 0.001, "betas": [0.9, 0.999]}, "seed": 0}


def read_config(folder: Path) -> None:
    RunDir(folder).write_config({"seed": 1})
    written = yaml.safe_load((folder / "config.yaml").read_text())
    assert written["seed"] == 1


SETTINGS: dict[str, Any] = {"model.name": "null", "data.dataset": "cifar10", "seed": 42, "img_size": None}


def change_settings(folder: Path, random: Random) -> None:
    change_document("config.yaml", layered(SETTINGS, {}, recipe="fast").config().to_dict(), yaml.safe_dump)(
        folder, random
    )


def read_settings(folder: Path) -> None:
    layered(SETTINGS, {}, recipe="course", file=folder / "config.yaml").config()


TRIAL = {
    "precision": "32",
    "memory_format": "channels-last",
    "batch": 8,
    "images_per_second": 9.5,
    "loss": 2.3,
    "agrees": True,
}


def read_trials(folder: Path) -> None:
    """Remembered trials are those that were asked for, or None; then new ones can be kept."""
    os.environ["XDG_CACHE_HOME"] = str(folder)
    trial, asked = NumericsTrial(**TRIAL), (("32", "channels-last"),)  # type: ignore[arg-type]
    for found in _as_trials(remembered(CACHE, "key"), asked) or ():
        assert isinstance(found.images_per_second, float)
        assert (found.precision, found.memory_format) == asked[0]
    remember(CACHE, "key", [TRIAL], replace=True)
    assert _as_trials(remembered(CACHE, "key"), asked) == (trial,)


def make_trials(folder: Path) -> None:
    (folder / "cifar").mkdir()


def make_nothing(folder: Path) -> None:
    """The change writes the file."""


def change_archive(folder: Path, random: Random) -> None:
    path = folder / "pets.tar"
    path.write_bytes(mutated_archive(path.read_bytes(), random))


def make_record(folder: Path) -> None:
    write_run(folder / "run", histories.healthy(), data_dir=folder)


def change_record(folder: Path, random: Random) -> None:
    """Change one of the files in which a run records itself."""
    path = random.choice([path for path in sorted((folder / "run").iterdir()) if path.suffix in _DOCUMENTS])
    load, dump = _DOCUMENTS[path.suffix]
    content = path.read_bytes()
    if load is None or random.random() < 0.3:
        path.write_bytes(mutated_bytes(content, random))
    else:
        change_document(path.name, load(content), dump)(folder / "run", random)


_DOCUMENTS: dict[str, tuple[Any, Any]] = {
    ".yaml": (yaml.safe_load, yaml.safe_dump), ".json": (json.loads, json.dumps), ".csv": (None, None)
}  # fmt: skip


def read_record(folder: Path) -> None:
    """Every question gets an answer, however odd the figures are."""
    run = read_run(folder / "run")
    fraction = [epoch.val_accuracy for epoch in run.epochs]
    assert all(0 <= each <= 1 for each in fraction)
    facts = Facts(
        run=run, store=None, predicted=None, score=None, chance=0.1, matrices=dict(run.confusion), samples=None,
        counted=None, memory=None, earlier=(), heat={},
        judgement=judge(run.epochs, classes=len(run.classes), better_than_chance=True,
                        train_accuracy=run.said("train_accuracy_plain")),
    )  # fmt: skip
    assert all(answer.sentence for answer in answers_of(facts))
    assert len(table(compare([facts, facts]))) > 10


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
    "store": Target(make_store, change_store, read_store),
    "store with names": Target(lambda folder: make_streamed_store(folder, encoded=False), change_store, read_store),
    "store of files": Target(lambda folder: make_streamed_store(folder, encoded=True), change_store, read_store),
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
    "policy": Target(make_nothing, change_policy, read_policy),
    "mark of a partial download": Target(make_mark, change_document("pets.tar.part.json", MARK, json.dumps), read_mark),
    "config.yaml": Target(make_nothing, change_document("config.yaml", CONFIG, yaml.safe_dump), read_config),
    "settings (--config)": Target(make_nothing, change_settings, read_settings),
    "record of a run": Target(make_record, change_record, read_record),
    "remembered trials": Target(
        make_trials, change_document("cifar/numerics.json", {"key": [TRIAL]}, json.dumps), read_trials
    ),
}
