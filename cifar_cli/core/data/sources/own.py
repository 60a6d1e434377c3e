"""Datasets of the user's own: a function that returns the arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cifar_cli.core.data.config import ImportConfig
from cifar_cli.core.data.results import ENTRY_POINT, Provenance
from cifar_cli.core.data.sources.images import TENSORS, SourceImages
from cifar_cli.core.own_code import entry_point, file_and_function, function_in, function_of
from cifar_cli.errors import DataError

ENTRY_POINTS = "cifar_cli.datasets"
_REMEDY = "return a dict: classes; train_images, test_images (uint8 [N, S, S, 3]); train_labels, test_labels (0..K-1)"


def own_source(config: ImportConfig) -> str | None:
    """The file and function of `--from`, or the entry point with the dataset's name; None where it is neither."""
    if len(config.sources) == 1 and file_and_function(config.sources[0]):
        return config.sources[0]
    if not config.sources and entry_point(ENTRY_POINTS, config.data.dataset):
        return f"{ENTRY_POINT}{config.data.dataset}"
    return None


def call_own(source: str) -> SourceImages:
    """Call the user's function and check what it returns. Raises DataError."""
    import numpy as np

    from cifar_cli.core.data.sources.tables import require_class_names

    function = _function(source)
    try:
        answer = function()
    except Exception as error:
        what = f"{source} fails ({type(error).__name__}: {error})"
        raise DataError(what, remedy="run it alone to see why") from error
    if not isinstance(answer, Mapping) or not {"classes", *TENSORS} <= set(answer):
        raise DataError(f"{source} does not return a dataset", remedy=_REMEDY)
    try:
        classes = tuple(map(str, answer["classes"]))
        arrays: dict[str, Any] = {name: np.asarray(answer[name]) for name in TENSORS}
    except (TypeError, ValueError) as error:
        raise DataError(f"{source} does not return a dataset ({error})", remedy=_REMEDY) from error
    require_class_names(source, classes)
    for name, array in arrays.items():
        images = arrays[name.replace("labels", "images")]
        good = _are_images(array, arrays) if array is images else _are_labels(array, len(images), len(classes))
        if not good:
            what = f"{name} of {source} does not fit: {array.dtype} {list(array.shape)}"
            raise DataError(what, remedy=_REMEDY)
    kinds = {name: np.uint8 if name.endswith("images") else np.int64 for name in arrays}
    # In rows, as a store keeps them; an array with exchanged axes is not.
    typed: dict[str, Any] = {name: np.ascontiguousarray(array, dtype=kinds[name]) for name, array in arrays.items()}
    return SourceImages(classes=classes, provenance=Provenance.now(source=source, checksum=""), **typed)


def _are_images(array: Any, arrays: dict[str, Any]) -> bool:
    """Whether the array holds square RGB images, as large as those of the other split."""
    square = array.ndim == 4 and array.shape[1] == array.shape[2] and array.shape[3] == 3 and len(array) > 0
    return square and array.dtype == "uint8" and array.shape[1:] == arrays["train_images"].shape[1:]


def _are_labels(array: Any, images: int, classes: int) -> bool:
    return array.shape == (images,) and array.dtype.kind in "iu" and bool(((array >= 0) & (array < classes)).all())


def _function(source: str) -> Callable[..., Any]:
    if file_and_function(source):
        return function_in(source, DataError)
    point = entry_point(ENTRY_POINTS, source.removeprefix(ENTRY_POINT))
    assert point is not None, source
    return function_of(point, DataError)
