"""Compare the suspects of trained models with labels that people have checked.

    python benchmarks/label_errors.py cifar10_label_check.json RUN_DIR [RUN_DIR ...] [--views] [--ensemble]

The file holds CIFAR-10 test images whose label five raters each have checked: {"images": [{"index": 20, "given":
"horse", "votes": {"given": 3, …}}, …]} (Northcutt, Athalye & Mueller 2021, Pervasive label errors in test sets
destabilize machine learning benchmarks). A label is upheld if at least three raters chose it. As many suspects as the
file has images are taken from each run, by `cifar_cli.core.evaluation.ranking.most_doubtful`; with --views
the probabilities are means over the mirror image and translations, as in `cifar evaluate --views`; with --ensemble the
runs are one model, whose probabilities are their mean.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from cifar_cli.core.evaluation.config import EvaluateConfig
from cifar_cli.core.evaluation.evaluate import Evaluated, evaluate_only
from cifar_cli.core.evaluation.ranking import most_doubtful
from cifar_cli.core.evaluation.views import probabilities_over_views
from cifar_cli.core.training.batches import loader_of_test

MAJORITY = 3  # of five raters


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelCheck:
    """The suspects of one model against the checked images."""

    model: str
    accuracy: float
    suspects: int
    """The most doubtful labels that were looked up: as many as there are checked images."""
    candidates: int
    """Suspects among the checked images."""
    candidates_by_chance: float
    not_upheld: int
    """Suspects among the images whose label the raters did not uphold."""
    not_upheld_by_chance: float
    not_upheld_in_all: int


def checked_images(path: Path, files: Sequence[str] | None = None) -> tuple[set[int], set[int]]:
    """The rows of all checked images, and of those whose label was not upheld.

    files: of the test images, where the dataset keeps them; without them the rows are those of the official archive.
    Images that were imported from class folders have another order.
    """
    images = json.loads(path.read_text(encoding="utf-8"))["images"]
    place = {file: row for row, file in enumerate(files or ())}
    rows = [place[image["file"]] if place and "file" in image else image["index"] for image in images]
    rejected = {row for row, image in zip(rows, images, strict=True) if image["votes"]["given"] < MAJORITY}
    return set(rows), rejected


def check(
    model: str, probabilities_NK: Tensor, labels_N: Tensor, candidates: set[int], not_upheld: set[int]
) -> LabelCheck:
    """Compare the first suspects with the checked images. Row n of the tensors is test image n."""
    images, taken = len(labels_N), len(candidates)
    suspects = set(most_doubtful(probabilities_NK, labels_N)[:taken].tolist())
    return LabelCheck(
        model=model,
        accuracy=float((probabilities_NK.argmax(dim=1) == labels_N).double().mean()),
        suspects=taken,
        candidates=len(suspects & candidates),
        candidates_by_chance=taken * len(candidates) / images,
        not_upheld=len(suspects & not_upheld),
        not_upheld_by_chance=taken * len(not_upheld) / images,
        not_upheld_in_all=len(not_upheld),
    )


def over_views(evaluated: Evaluated) -> Tensor:
    """The probabilities of the test images, float64 [N, K], each the mean over its views."""
    trained, device = evaluated.checkpoint.config, torch.device("cpu")
    loader = loader_of_test(
        evaluated.store, img_size=trained.model.img_size, normalisation=trained.normalised_by, device=device
    )
    return probabilities_over_views(evaluated.checkpoint.model, loader, device=device)[1].double()


def main(words: Sequence[str] | None = None) -> list[LabelCheck]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checked", type=Path, help="the JSON file of checked images")
    parser.add_argument("runs", type=Path, nargs="+", help="run directories or checkpoints")
    parser.add_argument("--views", action="store_true", help="average the probabilities over views of each image")
    parser.add_argument("--ensemble", action="store_true", help="average the probabilities of all runs")
    parser.add_argument("--data-dir", type=Path, help="folder of the dataset, if it has moved")
    asked = parser.parse_args(words)
    made = {}
    for run in asked.runs:
        evaluated = evaluate_only(EvaluateConfig(checkpoint=run, data_dir=asked.data_dir))
        predictions, labels_N = evaluated.predictions, evaluated.predictions.labels_N
        made[str(run)] = over_views(evaluated) if asked.views else predictions.probabilities_NK
        candidates, not_upheld = checked_images(asked.checked, predictions.files)
    if asked.ensemble:
        made = {f"ensemble of {len(made)}": torch.stack(list(made.values())).mean(dim=0)}
    checks = [check(name, each, labels_N, candidates, not_upheld) for name, each in made.items()]
    for each in checks:
        print(json.dumps(asdict(each)))
    return checks


if __name__ == "__main__":
    main()
