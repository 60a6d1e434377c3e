"""The dataset that a run was trained on: where it is now, and whether it is still the same."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from cifar_cli.core.data.config import BUILT_IN, DATA_DIR, STORE_SUFFIX, DataConfig
from cifar_cli.core.data.dataset import open_dataset
from cifar_cli.core.data.store import Store, open_store, read_header
from cifar_cli.core.progress import OnProgress, silent
from cifar_cli.errors import CheckpointError, DataError, shell_line

SHOWN_DIGITS = 12  # of a content hash, in a message
LEVELS = 3  # folders above a run in which its dataset is looked for: DATA beside runs/, with runs/NAME/seed-0


def open_trained(
    trained: DataConfig,
    *,
    at: Path,
    content: str | None,
    remedy: str,
    data_dir: Path | None = None,
    on_progress: OnProgress = silent,
) -> Store:
    """Open the dataset that a run was trained on.

    at: the run directory, or a checkpoint. content: the hash that the run noted; None for any content. remedy: for
    another content, beside the dataset's return. data_dir: the folder that the user names, where a missing dataset is
    downloaded; None looks where the run says and beside the run, and downloads nothing: what a file says is no reason
    to write into a folder.
    Raises CheckpointError for a dataset of another content, DataError where there is none.
    """
    if data_dir is not None:
        store = open_dataset(moved(trained, data_dir), on_progress=on_progress)
    else:
        store = open_store(_found(trained, at=at, content=content).store_path)
    if content not in (None, store.content):
        raise CheckpointError(
            f"{store.path} is not the dataset that {at} was trained on: it has the content {_short(store.content)}, "
            f"and the run noted {_short(content)}",
            remedy=f"put that dataset back, or pass --data-dir for its folder, {remedy}",
        )
    return store


def moved(data: DataConfig, data_dir: Path) -> DataConfig:
    """The same dataset in another folder; for one that was given as a path, the file of that name there."""
    if data.dataset.endswith(STORE_SUFFIX):
        return DataConfig(dataset=str(data_dir / Path(data.dataset).name), data_dir=data_dir)
    return replace(data, data_dir=data_dir)


def absolute(data: DataConfig) -> DataConfig:
    """The same with absolute paths, so that a run finds its dataset from every folder."""
    is_path = data.dataset.endswith(STORE_SUFFIX)
    dataset = str(Path(data.dataset).absolute()) if is_path else data.dataset
    return DataConfig(dataset=dataset, data_dir=data.data_dir.absolute())


def where(data: DataConfig, store: Store) -> DataConfig:
    """The dataset of a run where it was found now, with absolute paths."""
    return absolute(moved(data, store.path.parent))


def _found(trained: DataConfig, *, at: Path, content: str | None) -> DataConfig:
    """Where the dataset is, with this content if there are several. Raises DataError where there is none."""
    existing = [each for each in dict.fromkeys(_places(trained, at)) if each.store_path.is_file()]
    if existing:
        return next((each for each in existing if _content(each) == content), existing[0])
    folder = absolute(trained).store_path.parent
    name = Path(trained.dataset).stem if trained.dataset.endswith(STORE_SUFFIX) else trained.dataset
    source = () if name in BUILT_IN else ("--from", "PATH")
    whose = "" if content is None else f", which {at} was trained on,"
    raise DataError(
        f"the dataset {name}{whose} is neither in {folder} nor beside the run",
        remedy="pass --data-dir for the folder that it is in now, or get it again: "
        f"`{shell_line('cifar download --dataset', name, *source)}`",
    )


def _places(trained: DataConfig, at: Path) -> Iterator[DataConfig]:
    yield trained
    folder = trained.data_dir
    if trained.dataset.endswith(STORE_SUFFIX):
        folder = Path(trained.dataset).parent
    start = at.absolute() if at.is_dir() else at.absolute().parent
    for above in (start, *list(start.parents)[: LEVELS + 1]):  # of a checkpoint: checkpoints/ comes on top
        if not folder.is_absolute():
            yield moved(trained, above / folder)
        yield moved(trained, above / folder.name)
    yield moved(trained, Path(os.environ.get(DATA_DIR) or "data"))


def _content(data: DataConfig) -> str | None:
    try:
        return read_header(data.store_path).summary.content
    except DataError:
        return None


def _short(content: str | None) -> str:
    kind, _, digits = (content or "").partition(":")
    return f"{kind}:{digits[:SHOWN_DIGITS]}…"
