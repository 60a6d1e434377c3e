"""Train, measure and evaluate CIFAR-10 image classifiers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cifar_cli.library import evaluate, load_model, open_dataset, predict, profile_memory, summarize, train

__version__ = "0.1.0"
__all__ = ["__version__", "evaluate", "load_model", "open_dataset", "predict", "profile_memory", "summarize", "train"]


def __getattr__(name: str) -> Any:
    """The functions of `cifar_cli.library`, which is imported with the first of them."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from cifar_cli import library

    return getattr(library, name)
