"""`shapes`: ten classes of synthetic 32x32 images, drawn by formula, for use without a download.

The shape alone decides the class. Size, rotation, position, colours, texture, background and noise are random.
An image is a function of (seed, split, index) and does not depend on how many images are drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cifar_cli.core.data.results import Provenance
from cifar_cli.core.data.sources.images import SourceImages
from cifar_cli.core.progress import OnProgress, Progress, silent
from cifar_cli.errors import ConfigError

IMG_SIZE = 32
TRAIN_IMAGES, TEST_IMAGES = 50_000, 10_000
SHAPES_SEED = 42
CHUNK = 500  # images drawn from one random stream; changing it changes every image
EDGE_PIXELS = 0.8  # width of a shape's antialiased edge

Floats = NDArray[np.float32]
Outline = Callable[[Floats, Floats], Any]  # returns an array; numpy's type of abs() is imprecise


def _distance(u: Floats, v: Floats) -> Floats:
    return np.sqrt(u * u + v * v)


def _circle(u: Floats, v: Floats) -> Any:
    return _distance(u, v) - np.float32(0.78)


def _square(u: Floats, v: Floats) -> Any:
    return np.maximum(abs(u), abs(v)) - np.float32(0.7)


def _triangle(u: Floats, v: Floats) -> Any:
    return np.maximum(v, abs(u) * np.float32(0.866) - v * np.float32(0.5)) - np.float32(0.5)


def _star(u: Floats, v: Floats) -> Any:
    """Five tips at distance 1. Symmetry reduces it to one straight edge, from a tip to the next notch."""
    fifth, notch = 2 * np.pi / 5, 0.42
    angle = abs((np.arctan2(v, u) + fifth / 2) % fifth - fifth / 2)
    notch_x, notch_y = notch * np.cos(fifth / 2), notch * np.sin(fifth / 2)
    length = np.hypot(1 - notch_x, notch_y)
    normal_x, normal_y = notch_y / length, (1 - notch_x) / length
    radius = _distance(u, v)
    return (radius * (np.cos(angle) * normal_x + np.sin(angle) * normal_y) - normal_x).astype(np.float32)


def _cross(u: Floats, v: Floats) -> Any:
    across, along = np.minimum(abs(u), abs(v)), np.maximum(abs(u), abs(v))
    return np.maximum(across - np.float32(0.25), along - np.float32(0.88))


def _ring(u: Floats, v: Floats) -> Any:
    return abs(_distance(u, v) - np.float32(0.66)) - np.float32(0.2)


def _crescent(u: Floats, v: Floats) -> Any:
    return np.maximum(_distance(u, v) - np.float32(0.85), np.float32(0.68) - _distance(u - np.float32(0.42), v))


def _heart(u: Floats, v: Floats) -> Any:
    lobes = _distance(abs(u) - np.float32(0.38), v + np.float32(0.25)) - np.float32(0.46)
    wedge = np.maximum((abs(u) + v - np.float32(0.78)) * np.float32(0.707), -v - np.float32(0.2))
    return np.minimum(lobes, wedge)


def _arrow(u: Floats, v: Floats) -> Any:
    head = np.maximum((abs(u) - v - np.float32(0.9)) * np.float32(0.707), v)
    shaft = np.maximum(abs(u) - np.float32(0.24), abs(v - np.float32(0.45)) - np.float32(0.5))
    return np.minimum(head, shaft)


def _hourglass(u: Floats, v: Floats) -> Any:
    return np.maximum((abs(u) - abs(v) * np.float32(0.9)) * np.float32(0.74), abs(v) - np.float32(0.8))


# Each returns the approximate signed distance to the shape's edge: negative inside, in units of its radius.
OUTLINES: dict[str, Outline] = {
    outline.__name__.strip("_"): outline
    for outline in (_circle, _square, _triangle, _star, _cross, _ring, _crescent, _heart, _arrow, _hourglass)
}
SHAPE_CLASSES = tuple(OUTLINES)


def draw_shapes(
    *,
    train_images: int = TRAIN_IMAGES,
    test_images: int = TEST_IMAGES,
    seed: int = SHAPES_SEED,
    on_progress: OnProgress = silent,
) -> SourceImages:
    """Draw the training and the test images; image i is of class i modulo 10.

    Raises ConfigError when either number of images is less than 1, or the seed is negative.
    """
    for count, what in ((train_images, "training"), (test_images, "test")):
        if count < 1:
            raise ConfigError(f"{count} {what} images can't be drawn", remedy="ask for 1 or more")
    if seed < 0:
        raise ConfigError(f"seed {seed} is negative", remedy="pass 0 or more")
    jobs = [(split, chunk) for split, n in enumerate((train_images, test_images)) for chunk in range(-(-n // CHUNK))]
    drawn: list[NDArray[np.uint8]] = []
    total = len(jobs) * CHUNK
    with ThreadPoolExecutor(max_workers=2) as pool:  # numpy releases the GIL in its loops
        for images in pool.map(lambda job: _chunk(seed, *job), jobs):
            drawn.append(images)
            on_progress(Progress(task="drawing shapes", done=len(drawn) * CHUNK, total=total, unit="images"))
    train_chunks = -(-train_images // CHUNK)
    return SourceImages(
        classes=SHAPE_CLASSES,
        train_images=np.concatenate(drawn[:train_chunks])[:train_images],
        train_labels=np.arange(train_images) % len(SHAPE_CLASSES),
        test_images=np.concatenate(drawn[train_chunks:])[:test_images],
        test_labels=np.arange(test_images) % len(SHAPE_CLASSES),
        provenance=Provenance.now(source="drawn by cifar", checksum="", synthetic=True),
    )


def _chunk(seed: int, split: int, chunk: int) -> NDArray[np.uint8]:
    """Draw images chunk * CHUNK onwards of a split (0 train, 1 test): uint8 [CHUNK, H, W, 3]."""
    random = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, split, chunk])))

    def uniform(low: float, high: float, *shape: int) -> Floats:
        return (low + (high - low) * random.random((CHUNK, *(shape or (1, 1))), dtype=np.float32)).astype(np.float32)

    rows, columns = np.mgrid[0:IMG_SIZE, 0:IMG_SIZE].astype(np.float32) - np.float32((IMG_SIZE - 1) / 2)
    radius, turn = uniform(8.5, 13.5), uniform(-0.35, 0.35)
    reach = (IMG_SIZE / 2) - radius  # largest distance of the shape's centre from the image's centre
    x = columns - uniform(-1, 1) * reach
    y = rows - uniform(-1, 1) * reach
    cos, sin = np.cos(turn) / radius, np.sin(turn) / radius
    u, v = x * cos + y * sin, y * cos - x * sin

    cover = np.empty((CHUNK, IMG_SIZE, IMG_SIZE), np.float32)
    for label, outline in enumerate(OUTLINES.values()):
        mine = slice(label, None, len(OUTLINES))
        cover[mine] = outline(u[mine], v[mine])
    cover *= -radius / np.float32(EDGE_PIXELS)
    cover += np.float32(0.5)
    np.clip(cover, 0, 1, out=cover)

    ground_B113, shape_B113 = _colours(uniform)
    ground = _texture(uniform, rows, columns)
    shape = _texture(uniform, rows, columns)
    pixels = ground_B113 + (shape_B113 - ground_B113) * cover[..., None]
    pixels += (ground + (shape - ground) * cover)[..., None]
    pixels += random.standard_normal(pixels.shape, dtype=np.float32) * uniform(0.01, 0.06, 1, 1, 1)
    pixels *= 255
    np.clip(np.rint(pixels, out=pixels), 0, 255, out=pixels)
    return pixels.astype(np.uint8)


def _colours(uniform: Callable[..., Floats]) -> tuple[Floats, Floats]:
    """A background colour, and a shape colour at a random distance and in a random direction from it."""
    ground = uniform(0.05, 0.95, 1, 1, 3)
    direction = uniform(-1, 1, 1, 1, 3)
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True) + np.float32(1e-6)
    difference = direction * uniform(0.35, 0.6, 1, 1, 1)
    outside = abs(ground + difference - np.float32(0.5)) > 0.5
    return ground, np.where(outside, ground - difference, ground + difference)


def _texture(uniform: Callable[..., Floats], rows: Floats, columns: Floats) -> Floats:
    """None, a gradient, stripes or checks with a random direction and period: [CHUNK, H, W], centred at 0."""
    kind, turn = uniform(0, 4), uniform(0, np.pi)
    frequency, phase = 2 * np.pi / uniform(4, 12), uniform(0, 2 * np.pi)
    along = rows * np.sin(turn) + columns * np.cos(turn)
    across = rows * np.cos(turn) - columns * np.sin(turn)
    stripes = np.sin(along * frequency + phase)
    pattern = np.where(kind < 3, stripes, stripes * np.sin(across * frequency))
    pattern = np.where(kind < 2, along / np.float32(IMG_SIZE / 2), pattern)
    return np.where(kind < 1, np.float32(0), pattern * uniform(0.02, 0.08)).astype(np.float32)
