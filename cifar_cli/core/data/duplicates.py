"""Images that a dataset holds twice: identical ones, and near twins, inside its splits and across them.

An image is described by the discrete cosine transform of its thumbnail, as a perceptual hash (pHash) is, but by numbers
instead of bits. Two images with similar descriptions are then compared pixel by pixel. docs/data.md says how many of
the known twins of CIFAR-10 are found.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from cifar_cli.core.data.config import SPLITS, DataConfig
from cifar_cli.core.data.dataset import open_dataset
from cifar_cli.core.data.results import DuplicatePair, DuplicatesResult, ImageReference
from cifar_cli.core.data.store import Part, Store
from cifar_cli.core.figures import pairs_figure, save_figure
from cifar_cli.core.progress import OnProgress, Progress, silent
from cifar_cli.errors import ResourceError

SIDE = 32  # of a thumbnail, in pixels
LEAST = 0.88  # similarity of a pair that is reported; see the table in docs/data.md
BLOCK = 1000  # thumbnails at a time
COMPARED = 250  # images compared with all later ones at a time: 60 MB of similarities where there are 60,000
MOST_EACH = 20  # candidates of one image, so that a dataset of one scene doesn't give all its pairs
SHOWN = 60  # pairs in the picture
_SHIFT = 1  # pixels by which a twin may be moved
_GRID, _LOWEST = 16, 8  # the transform's size, and the frequencies that are kept: those below
_CHROMA = 3.0  # the weight of colours: they vary less than brightness
_TO_YCBCR = ((0.299, 0.587, 0.114), (-0.169, -0.331, 0.5), (0.5, -0.419, -0.081))


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two images by their places in the sequence, the first one before the second."""

    first: int
    second: int
    similarity: float
    """At most 1."""
    identical: bool
    """All pixels of the thumbnails are equal."""


def find_duplicates(
    config: DataConfig, *, folder: Path | None = None, on_progress: OnProgress = silent
) -> DuplicatesResult:
    """Search a dataset and write what is found: a CSV file of all pairs, and a picture of the first ones.

    folder: of the files; None for beside the store, where their names begin with the dataset's.
    Raises DataError when there is no dataset, ResourceError when a file can't be written.
    """
    store = open_dataset(config, fetch=False)
    blocks = (block for split in SPLITS for block in thumbnails(getattr(store, split)))
    found = find_pairs(blocks, total=len(store.train) + len(store.test), on_progress=on_progress)
    named = _named(store, found)
    table, picture = (
        folder / f"duplicates.{suffix}" if folder else store.path.with_name(f"{store.name}-duplicates.{suffix}")
        for suffix in ("csv", "png")
    )
    try:
        table.parent.mkdir(parents=True, exist_ok=True)
        _write_csv(table, named)
    except OSError as error:
        raise ResourceError(
            f"{table} can't be written ({error.strerror or error})",
            remedy="pass --out DIR for a folder you may write to",
        ) from error
    if named:
        _draw(store, named, picture)
    return DuplicatesResult(
        dataset=store.name,
        images=len(store.train) + len(store.test),
        pairs=named,
        table=table,
        picture=picture if named else None,
    )


def thumbnails(part: Part) -> Iterator[Tensor]:
    """The images of a split in their order, in blocks: uint8 [B, SIDE, SIDE, 3]."""
    small = part.at_side(SIDE).images_NHWC
    for start in range(0, len(part), BLOCK):
        block = small[start : start + BLOCK]
        if block.shape[1] != SIDE:
            scaled = F.interpolate(
                block.permute(0, 3, 1, 2).float(), size=(SIDE, SIDE), mode="bilinear", antialias=True
            )
            block = scaled.round_().to(torch.uint8).permute(0, 2, 3, 1)
        yield block


def find_pairs(
    blocks: Iterable[Tensor], *, total: int, least: float = LEAST, on_progress: OnProgress = silent
) -> list[Pair]:
    """The pairs among a sequence of thumbnails with at least this similarity, the most similar first.

    blocks: uint8 [B, SIDE, SIDE, 3]; total: thumbnails in all of them. Of several identical ones, each is paired with
    the first, and only the first is compared with other images. Time grows with the square of `total`; memory is 4 KB
    each.
    """
    firsts: dict[bytes, int] = {}
    pairs, kept, rows, count = [], [], [], 0
    for block in blocks:
        for thumbnail in block.numpy():
            first = firsts.setdefault(hashlib.blake2b(thumbnail.tobytes(), digest_size=16).digest(), count)
            if first < count:
                pairs.append(Pair(first=first, second=count, similarity=1.0, identical=True))
            else:
                rows.append(count)
            count += 1
        new = torch.tensor([row - count + len(block) for row in rows[-len(block) :] if row >= count - len(block)])
        kept.append(block[new.long()])
        on_progress(Progress(task="read images", done=count, total=total, unit="images"))
    if not rows:
        return []
    images_NHWC = torch.cat(kept)
    first_P, second_P, coarse_P = _candidates(images_NHWC, 2 * least - 1, on_progress)
    similar_P = (coarse_P + _correlation(images_NHWC, first_P, second_P)) / 2
    for first, second, similarity in zip(first_P.tolist(), second_P.tolist(), similar_P.tolist(), strict=True):
        if similarity >= least:
            pairs.append(Pair(first=rows[first], second=rows[second], similarity=similarity, identical=False))
    return sorted(pairs, key=lambda pair: (-pair.similarity, pair.first, pair.second))


def described(images_NHWC: Tensor) -> Tensor:
    """Thumbnails as vectors of length 1, [N, 165]: their dot product is the similarity of two images.

    The cosine transform of brightness and two colours, without the mean, so that a change of brightness or contrast
    changes little. Each coefficient is weighted by its frequency, because in photographs they fall off with it.
    """
    grid = F.adaptive_avg_pool2d(images_NHWC.permute(0, 3, 1, 2).float(), _GRID)
    place = torch.arange(_GRID, dtype=torch.float32)
    cosines = torch.cos(torch.pi * (place + 0.5) * place[:, None] / _GRID)
    cosines[0] /= 2**0.5
    planes = torch.einsum("ck,nkhw->nchw", torch.tensor(_TO_YCBCR), grid)
    transformed = cosines @ planes @ cosines.T
    frequency = (place[:, None].square() + place.square()).sqrt()
    weight = frequency * torch.tensor([1, _CHROMA, _CHROMA]).view(3, 1, 1)
    vectors = (transformed * weight)[:, :, (frequency > 0) & (frequency < _LOWEST)].flatten(1)
    return F.normalize(vectors)


def _candidates(images_NHWC: Tensor, least: float, on_progress: OnProgress) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs with similar descriptions: rows [P] of the first and the second images, and the similarities [P]."""
    described_ND = torch.cat([described(block) for block in torch.split(images_NHWC, BLOCK)])
    found = []
    for start in range(0, len(described_ND), COMPARED):
        later = described_ND[start : start + COMPARED] @ described_ND[start:].T
        later[:, :COMPARED].triu_(diagonal=1)  # each pair once
        values, columns = later.topk(min(MOST_EACH, later.shape[1]))
        row, rank = (values >= max(least, 1e-6)).nonzero(as_tuple=True)
        found.append((row + start, columns[row, rank] + start, values[row, rank]))
        done = min(start + COMPARED, len(described_ND))
        on_progress(Progress(task="compare images", done=done, total=len(described_ND), unit="images"))
    first, second, value = (torch.cat(each) for each in zip(*found, strict=True))
    return first, second, value


def _correlation(images_NHWC: Tensor, first_P: Tensor, second_P: Tensor) -> Tensor:
    """The correlation of the pixels of each pair [P], at the best of all shifts by up to _SHIFT pixels."""
    inner = slice(_SHIFT, SIDE - _SHIFT)
    results = [torch.zeros(0)]
    for first, second in zip(torch.split(first_P, BLOCK), torch.split(second_P, BLOCK), strict=True):
        one, other = _centred(images_NHWC[first][:, inner, inner]), images_NHWC[second]
        shifts = [slice(shift, SIDE - 2 * _SHIFT + shift) for shift in range(2 * _SHIFT + 1)]
        moved = [(one * _centred(other[:, down, right])).sum(dim=1) for down in shifts for right in shifts]
        results.append(torch.stack(moved).amax(dim=0))
    return torch.cat(results)


def _centred(images_NHWC: Tensor) -> Tensor:
    """The pixels as vectors of length 1, [N, ...], from which each channel's mean is subtracted."""
    pixels = images_NHWC.float()
    return F.normalize((pixels - pixels.mean(dim=(1, 2), keepdim=True)).flatten(1))


def _named(store: Store, pairs: Sequence[Pair]) -> tuple[DuplicatePair, ...]:
    names = {split: store.names(split) for split in SPLITS} if pairs else {}

    def reference(place: int) -> ImageReference:
        split, index = ("train", place) if place < len(store.train) else ("test", place - len(store.train))
        known = names[split]
        return ImageReference(
            split=split,
            index=index,
            label=store.classes[int(getattr(store, split).labels_N[index])],
            file=known[index] if known else None,
        )

    return tuple(
        DuplicatePair(
            first=reference(pair.first),
            second=reference(pair.second),
            similarity=pair.similarity,
            identical=pair.identical,
        )
        for pair in pairs
    )


def _write_csv(path: Path, pairs: Sequence[DuplicatePair]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        of_image = ("split", "index", "class", "file")
        writer.writerow([*(f"{name}_{which}" for which in "ab" for name in of_image), "similarity", "kind"])
        for pair in pairs:
            both = [
                value
                for each in (pair.first, pair.second)
                for value in (each.split, each.index, each.label, each.file or "")
            ]
            writer.writerow([*both, f"{pair.similarity:.4f}", "identical" if pair.identical else "near"])


def _draw(store: Store, pairs: Sequence[DuplicatePair], path: Path) -> None:
    """The pairs across the splits first: they are what makes a test too easy."""
    shown = sorted(pairs, key=lambda pair: not pair.across_splits)[:SHOWN]
    firsts = torch.stack([_large(store, pair.first) for pair in shown])
    seconds = torch.stack([_large(store, pair.second) for pair in shown])
    captions = [
        (
            "identical" if pair.identical else f"similarity {pair.similarity:.2f}",
            f"{pair.first.split} {pair.first.index} {pair.first.label}",
            f"{pair.second.split} {pair.second.index} {pair.second.label}",
        )
        for pair in shown
    ]
    title = f"{store.name}: {len(pairs):,} pairs of twins"
    if len(shown) < len(pairs):
        title += f", {len(shown)} of them"
    save_figure(pairs_figure(firsts, seconds, captions, title=title), path)


def _large(store: Store, image: ImageReference) -> Tensor:
    """An image in the size for the picture."""
    part: Part = getattr(store, image.split)
    return part.at_side(96).taken(torch.tensor([image.index])).pixels_NHWC[0]
