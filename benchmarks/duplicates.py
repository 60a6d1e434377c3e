"""Which of the known twins of CIFAR-10 `cifar download --duplicates` finds, and what other descriptions would find.

    python benchmarks/duplicates.py PATH/TO/cifar10-images.tar.gz PATH/TO/cifar10_duplicates.json [SHEET.png]

The list is ciFAIR's (Barz & Denzler 2020): test images that have a twin in train, and pairs inside test, by file name
in the archive. Prints two Markdown tables: the descriptions alone, by the rank of each test image's best match in
train; and the complete search, by the least similarity of a reported pair. SHEET.png shows the reported pairs that the
list lacks, for a person to judge.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from cifar_cli.core.data.config import DataConfig, ImportConfig
from cifar_cli.core.data.dataset import import_dataset, open_dataset
from cifar_cli.core.data.duplicates import LEAST, described, find_pairs, thumbnails
from cifar_cli.core.data.store import Store
from cifar_cli.core.figures import pairs_figure, save_figure

GREY = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
THRESHOLDS = (0.95, 0.91, LEAST, 0.85, 0.8)


def centred(values: Tensor) -> Tensor:
    """As vectors of length 1 with mean 0: brightness and contrast are taken out."""
    flat = values.flatten(1)
    return F.normalize(flat - flat.mean(dim=1, keepdim=True))


def thumbnail(images_NCHW: Tensor, *, side: int, colour: bool) -> Tensor:
    """A small picture."""
    small = F.adaptive_avg_pool2d(images_NCHW, side)
    return centred(small if colour else (small * GREY).sum(dim=1, keepdim=True))


def dct_hash(images_NCHW: Tensor) -> Tensor:
    """pHash: whether each of 63 low frequencies of the grey picture is above their median."""
    place = torch.arange(32, dtype=torch.float32)
    cosines = torch.cos(torch.pi * (place + 0.5) * place[:, None] / 32)
    grey = (images_NCHW * GREY).sum(dim=1)
    low = (cosines @ grey @ cosines.T)[:, :8, :8].flatten(1)[:, 1:]
    return F.normalize((low > low.median(dim=1, keepdim=True).values).float() * 2 - 1)


def gradients(images_NCHW: Tensor) -> Tensor:
    """Differences of neighbours in an 8×8 thumbnail in colour."""
    small = F.adaptive_avg_pool2d(images_NCHW, 8)
    down, right = small[:, :, 1:] - small[:, :, :-1], small[..., 1:] - small[..., :-1]
    return F.normalize(torch.cat([down.flatten(1), right.flatten(1)], dim=1))


DESCRIPTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "DCT hash, 63 bits": dct_hash,
    "16×16 thumbnail, grey": lambda images: thumbnail(images, side=16, colour=False),
    "8×8 thumbnail, grey": lambda images: thumbnail(images, side=8, colour=False),
    "8×8 thumbnail, colour": lambda images: thumbnail(images, side=8, colour=True),
    "gradients of an 8×8 thumbnail, colour": gradients,
    "DCT weighted by frequency, colour (used)": lambda images: described(images.permute(0, 2, 3, 1)),
}


def best_matches(vectors_ND: Tensor, train: int) -> Tensor:
    """The highest similarity of each test image to a training image."""
    return torch.cat([(block @ vectors_ND[:train].T).amax(dim=1) for block in torch.split(vectors_ND[train:], 500)])


def listed(store: Store, path: Path) -> tuple[Tensor, set[tuple[int, int]]]:
    """The test images of the list, bool [N], and its pairs inside test, by row: rows are sorted by class, then name."""
    per_class = len(store.test) // len(store.classes)

    def row(file: str) -> int:
        _, name, number = file.split("/")
        return store.classes.index(name) * per_class + int(number.removesuffix(".jpg"))

    document = json.loads(path.read_text(encoding="utf-8"))
    known_N = torch.zeros(len(store.test), dtype=torch.bool)
    known_N[[row(each["file"]) for each in document["test_images_with_a_twin_in_train"]]] = True
    pairs = document["pairs_within_test"]
    return known_N, {(min(rows), max(rows)) for rows in ((row(each["a"]), row(each["b"])) for each in pairs)}


def compare_descriptions(store: Store, known_N: Tensor) -> None:
    """Print the first table."""
    images_NHWC = torch.cat([block for part in (store.train, store.test) for block in thumbnails(part)])
    count = int(known_N.sum())
    print(f"| description | of the first {count} | recall at precision 0.5 | s |\n| --- | ---: | ---: | ---: |")
    for name, describe in DESCRIPTIONS.items():
        began = time.perf_counter()
        blocks = torch.split(images_NHWC, 2000)
        vectors_ND = torch.cat([describe(block.permute(0, 3, 1, 2).float()) for block in blocks])
        hits = known_N[best_matches(vectors_ND, len(store.train)).argsort(descending=True)].cumsum(dim=0)
        enough = (hits / torch.arange(1, len(hits) + 1) >= 0.5).nonzero()
        recall = float(hits[enough[-1]]) / count
        seconds = time.perf_counter() - began
        print(f"| {name} | {int(hits[count - 1])} | {recall:.1%} | {seconds:.0f} |", flush=True)


def main() -> None:
    """Measure and print."""
    archive, path = sys.argv[1], Path(sys.argv[2])
    with tempfile.TemporaryDirectory() as folder:
        data = DataConfig(data_dir=Path(folder))
        import_dataset(ImportConfig(data=data, sources=(archive,)))
        store = open_dataset(data)
        train, known_N, inside = len(store.train), *listed(store, path)
        began, computed = time.perf_counter(), time.process_time()
        blocks = (block for part in (store.train, store.test) for block in thumbnails(part))
        pairs = find_pairs(blocks, total=train + len(store.test), least=min(THRESHOLDS))
        elapsed, computed = time.perf_counter() - began, time.process_time() - computed
        peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        compare_descriptions(store, known_N)
        print("\n| similarity | test images with a twin in train | on the list | precision | recall |", end="")
        print(" pairs in test | on the list | all pairs |\n|" + " ---: |" * 8)
        for least in THRESHOLDS:
            kept = [pair for pair in pairs if pair.similarity >= least]
            found = sorted({pair.second - train for pair in kept if pair.first < train <= pair.second})
            hits = int(known_N[found].sum())
            tests = {(pair.first - train, pair.second - train) for pair in kept if pair.first >= train}
            print(
                f"| {least} | {len(found)} | {hits} | {hits / len(found):.1%} | {hits / int(known_N.sum()):.1%} "
                f"| {len(tests)} | {len(tests & inside)} of {len(inside)} | {len(kept):,} |"
            )
        print(
            f"\nThe search took {elapsed:.0f} s ({computed:.0f} s of CPU time); peak memory {peak_bytes / 1e9:.2f} GB."
        )
        if len(sys.argv) > 3:
            unlisted = [
                pair
                for pair in pairs
                if pair.similarity >= LEAST and pair.first < train <= pair.second and not known_N[pair.second - train]
            ]
            print(f"{len(unlisted)} pairs with {len({pair.second for pair in unlisted})} test images are not listed.")
            firsts = store.train.images_NHWC[[pair.first for pair in unlisted]]
            seconds = store.test.images_NHWC[[pair.second - train for pair in unlisted]]
            captions = [(f"{pair.similarity:.3f}", f"{pair.first}", f"{pair.second - train}") for pair in unlisted]
            figure = pairs_figure(firsts, seconds, captions, title="pairs that the list lacks", columns=10)
            save_figure(figure, Path(sys.argv[3]))


if __name__ == "__main__":
    main()
