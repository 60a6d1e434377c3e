"""Do the layer tables of timm models add up to the totals? Each at depth 1, 3 and 9.

    python benchmarks/summarize_layers.py ROWS.csv

Rows are appended as they come, and models that the file already has are left out.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from timm_zoo import zoo

from cifar_cli.core.counting.config import SummaryConfig
from cifar_cli.core.counting.summary import summarize
from cifar_cli.core.models.config import ModelConfig

DEPTHS = (1, 3, 9)


def check(name: str, side: int) -> str:
    """Empty if all sums are right, otherwise what is wrong."""
    wrong = []
    for depth in DEPTHS:
        model = ModelConfig(name=f"timm:{name}", img_size=side, weights="none")
        summary = summarize(SummaryConfig(model=model, batch=2, depth=depth))
        params = sum(row.params or 0 for row in summary.layers)
        macs = sum(row.macs or 0 for row in summary.layers)
        if params != summary.total_params:
            wrong.append(f"depth {depth}: {params} of {summary.total_params} parameters")
        if macs != summary.macs_per_batch:
            wrong.append(f"depth {depth}: {macs} of {summary.macs_per_batch} multiply-adds")
    return "; ".join(wrong)


def main(path: Path) -> None:
    known = {row["model"] for row in csv.DictReader(path.open())} if path.exists() else set()
    with path.open("a", newline="") as file:
        rows = csv.writer(file)
        if not known:
            rows.writerow(["model", "wrong"])
        for name, side in zoo().items():
            if name not in known:
                try:
                    rows.writerow([name, check(name, side)])
                except Exception as error:  # a row says why a model was not counted
                    rows.writerow([name, f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"])
                file.flush()
    found = list(csv.DictReader(path.open()))
    print(f"{sum(not row['wrong'] for row in found)} of {len(found)} models: all sums right at depth 1, 3 and 9")
    for row in found:
        if row["wrong"]:
            print(f"{row['model']}: {row['wrong']}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
