"""What tests of several rooms share: small datasets, a run trained on one, an archive like CIFAR-10's."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import resource
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cifar_cli.core.data.sources.mirrors import Archive
from tests.golden import Golden

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # no test may reach for the network
# Tests are small and run beside each other: threads that wait for one another would only slow them down.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["COLUMNS"] = "100"

# What tests find out about this machine's speed is forgotten with them.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="cifar-tests-")

LIMITS = (resource.RLIMIT_AS, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC)
TRAIN_IMAGES, TEST_IMAGES = 400, 100


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="Rewrite the golden files instead of comparing.")


@pytest.fixture(autouse=True)
def _limits_of_this_process_stay() -> Iterator[None]:
    """No call leaves a lower limit of memory or files behind: later work of the same process would fail of it."""
    before = [resource.getrlimit(limit) for limit in LIMITS]
    yield
    assert [resource.getrlimit(limit) for limit in LIMITS] == before


@pytest.fixture(scope="session")
def golden(request: pytest.FixtureRequest) -> Golden:
    """Compares outputs with golden files."""
    return Golden(update=bool(request.config.getoption("--update-golden")))


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small `shapes` store: 400 training and 100 test images."""
    from cifar_cli.core.data.sources.shapes import draw_shapes
    from cifar_cli.core.data.store import write_store

    folder = tmp_path_factory.mktemp("data")
    images = draw_shapes(train_images=TRAIN_IMAGES, test_images=TEST_IMAGES)
    write_store(folder / "shapes.safetensors", name="shapes", images=images)
    return folder


class Cifar:
    """Calls the command line in this process."""

    def __call__(self, *words: object) -> Result:
        from cifar_cli.app import app

        return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="session")
def cifar() -> Cifar:
    return Cifar()


@pytest.fixture(scope="session")
def trained_run(data_dir: Path, tmp_path_factory: pytest.TempPathFactory, cifar: Cifar) -> Path:
    """A run directory of `null`, two epochs on the small shapes."""
    run_dir = tmp_path_factory.mktemp("runs") / "null"
    words = ("--dataset", "shapes", "--data-dir", data_dir, "--max-epochs", 2, "--batch", 64, "--run-dir", run_dir)
    result = cifar("train", "--model", "null", "--lr", "1e-3", *words)
    assert result.exit_code == 0, result.output
    return run_dir


@dataclass(frozen=True)
class TinyArchive:
    """An archive in the format of CIFAR-10's official one, with its description and what is in it."""

    path: Path
    archive: Archive
    train_images: Any  # uint8 [N, 32, 32, 3]
    train_labels: list[int]


@pytest.fixture(scope="session")
def tiny_cifar10(tmp_path_factory: pytest.TempPathFactory) -> TinyArchive:
    """100 training and 20 test images of noise, about 370 kB, which no mirror in the world has."""
    import numpy as np

    from cifar_cli.core.data.sources.mirrors import ARCHIVES

    official = ARCHIVES["cifar10"]
    random = np.random.default_rng(0)
    rows = {name: random.integers(0, 256, (20, 3072), dtype=np.uint8) for name in (*official.train, *official.test)}
    labels = {name: [int(label) for label in random.permutation(20) % 10] for name in rows}
    contents = {name: pickle.dumps({"data": rows[name], "labels": labels[name]}, protocol=2) for name in rows}
    contents["batches.meta"] = pickle.dumps({"label_names": list(official.classes)}, protocol=2)
    path = tmp_path_factory.mktemp("official") / official.filename
    with tarfile.open(path, "w:gz") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"{official.folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in contents.items()}
    archive = replace(
        official,
        size_bytes=path.stat().st_size,
        md5=hashlib.md5(path.read_bytes()).hexdigest(),
        mirrors=(),
        train={name: md5[name] for name in official.train},
        test={name: md5[name] for name in official.test},
        meta={name: md5[name] for name in official.meta},
    )
    train = np.concatenate([rows[name] for name in official.train])
    return TinyArchive(
        path=path,
        archive=archive,
        train_images=train.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1),
        train_labels=[label for name in official.train for label in labels[name]],
    )
