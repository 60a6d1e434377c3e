"""Count many timm models at 224 pixels and 1000 classes, and compare the counts with timm's published GMACs.

Usage: python benchmarks/summarize_timm.py [--write docs/summarize.md]

The published numbers are the column `infer_gmacs` of
results/benchmark-infer-amp-nchw-pt240-cu124-rtx3090.csv in huggingface/pytorch-image-models (rounded to 0.01 there).
They are compared with half the counted forward FLOPs. The exit status is 1 if a parameter count is wrong,
or if a model differs by more than 2 % and EXPLAINED has no reason.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from rich.console import Console
from rich.table import Table

from cifar_cli.core.counting.config import SummaryConfig
from cifar_cli.core.counting.summary import summarize
from cifar_cli.core.models.config import ModelConfig

REFERENCE = Path(__file__).with_name("summarize_timm_gmacs.csv")
TOLERANCE = 0.02
ROUNDING = 0.005  # the published numbers have two decimals

_NORM = "the published number was made with fvcore, which adds two operations for each batch-normalised value: {} G"
EXPLAINED = {
    "efficientnet_b0": _NORM.format("0.0135"),
    "efficientnet_lite0": _NORM.format("0.0135"),
    "mobilenetv2_100": _NORM.format("0.0134"),
    "mobilenetv3_large_100": _NORM.format("0.0088"),
    "mnasnet_100": _NORM.format("0.0109"),
    "ghostnet_100": _NORM.format("0.0071"),
    "nfnet_l0": "it normalises its weights with batch_norm, which fvcore counts: 0.1089 G",
    "sequencer2d_s": "fvcore has no formula for LSTMs, which are 40 % of this model, and leaves them out",
}
TABLE_BEGINS, TABLE_ENDS = "<!-- sweep begins -->", "<!-- sweep ends -->"


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One model."""

    model: str
    params: int
    expected_params: int
    """sum(p.numel()) of the model as timm builds it."""
    gmacs: float
    published: float
    """GMACs published by timm."""
    seconds: float
    unknown: str
    """Operators of unknown cost."""

    @property
    def difference(self) -> float:
        return self.gmacs / self.published - 1

    @property
    def agrees(self) -> bool:
        return abs(self.gmacs - self.published) <= max(TOLERANCE * self.published, ROUNDING)


def count(model: str, published: float) -> Row:
    """Count one model with `summarize`, and its parameters with timm alone."""
    started = time.perf_counter()
    config = ModelConfig(name=f"timm:{model}", classes=1000, img_size=timm_side(model), weights="none")
    summary = summarize(SummaryConfig(model=config, batch=1, depth=0))
    seconds = time.perf_counter() - started
    with torch.device("meta"):
        own = timm.create_model(model, pretrained=False, num_classes=1000)
    return Row(
        model=model,
        params=summary.total_params,
        expected_params=sum(p.numel() for p in own.parameters()),
        gmacs=summary.forward_flops_per_image / 2e9,
        published=published,
        seconds=seconds,
        unknown=" ".join(op.name for op in summary.uncounted_operators if op.group == "unknown"),
    )


def timm_side(model: str) -> int:
    """Side of the images in pixels: 240 if the model's name ends so, else 224."""
    return 240 if model.endswith("_240") else 224


def markdown(rows: list[Row]) -> str:
    """The table in docs/summarize.md."""
    lines = ["| model | parameters | GMACs here | published | difference |", "| --- | ---: | ---: | ---: | ---: |"]
    lines += [
        f"| {row.model} | {row.params:,} | {row.gmacs:.3f} | {row.published:.2f} | {row.difference:+.1%} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--write", type=Path, metavar="PATH", help="also write the table between the marks in this page"
    )
    options = parser.parse_args()
    with REFERENCE.open() as file:
        references = [(line["model"], float(line["gmacs"])) for line in csv.DictReader(file)]
    rows = [count(*reference) for reference in references]

    table = Table(title=f"{len(rows)} timm models, 1000 classes")
    for heading in ("model", "parameters", "equal", "GMACs", "published", "difference", "s", "unknown operators"):
        table.add_column(heading, justify="left" if heading in ("model", "unknown operators") else "right")
    for row in rows:
        table.add_row(
            row.model,
            f"{row.params:,}",
            "yes" if row.params == row.expected_params else "NO",
            f"{row.gmacs:.3f}",
            f"{row.published:.2f}",
            f"{row.difference:+.1%}" + ("" if row.agrees else " !"),
            f"{row.seconds:.2f}",
            row.unknown,
        )
    Console().print(table)
    if options.write:
        before, rest = options.write.read_text().split(TABLE_BEGINS)
        after = rest.split(TABLE_ENDS)[1]
        options.write.write_text(f"{before}{TABLE_BEGINS}\n{markdown(rows)}{TABLE_ENDS}{after}")
    off = [row for row in rows if not row.agrees]
    print(f"{len(rows) - len(off)} of {len(rows)} within {TOLERANCE:.0%} of the published GMACs (or its rounding)")
    for row in off:
        print(f"{row.model}: {row.difference:+.1%}: {EXPLAINED.get(row.model, 'NOT EXPLAINED')}")
    wrong = [row for row in rows if row.params != row.expected_params]
    return 1 if wrong or any(row.model not in EXPLAINED for row in off) else 0


if __name__ == "__main__":
    sys.exit(main())
