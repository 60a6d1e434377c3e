"""Policies, settings and records of runs for the fuzz tests: how to make, change and read them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import yaml

from cifar_cli.core.augment.per_image import PerImagePipeline, load_policy  # here, because memory is limited below
from cifar_cli.core.data.sources.http_stream import Mirror, RemoteFile, Transport
from cifar_cli.core.data.sources.transfer import Transfer
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
from tests.core.evaluation.report import histories
from tests.core.evaluation.report.histories import write_run
from tests.fuzz.mutators import mutated_bytes, mutated_document

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
        judgement=judge(run.epochs, classes=len(run.classes), chance=0.1, better_than_chance=True,
                        train_accuracy=run.said("train_accuracy_plain")),
    )  # fmt: skip
    assert all(answer.sentence for answer in answers_of(facts))
    assert len(table(compare([facts, facts]))) > 10
