"""The timm models that benchmarks walk: two of every module of timm, with the image size each is built for."""

from __future__ import annotations

import timm

LARGEST_SIDE = 384  # larger default sizes take long on a CPU


def zoo(models_a_module: int = 2) -> dict[str, int]:
    """Side of the images in pixels by model: of each module the models with the shortest names."""
    found: dict[str, int] = {}
    for module in timm.list_modules():
        names = sorted(timm.list_models(module=module), key=lambda name: (len(name), name))
        usable = [name for name in names if (side := side_of(name)) is not None and side <= LARGEST_SIDE]
        found.update({name: side_of(name) or 0 for name in usable[:models_a_module]})
    return found


def side_of(name: str) -> int | None:
    """Side of the square images that a model was trained on; None if they were not square."""
    config = timm.get_pretrained_cfg(name)
    _, height, width = (3, 224, 224) if config is None else config.input_size
    return int(height) if height == width else None
