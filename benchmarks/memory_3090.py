"""Predicted largest batch against timm's published training benchmark on an RTX 3090.

    python benchmarks/memory_3090.py rtx3090_train_batch.csv ROWS.csv [MODEL ...]

The table's columns: model, img_size, fits (a batch that ran), fails (the next size, out of memory). The prediction is
that of `--precision 16 --optimizer sgd --memory-format channels-last --classes 1000 --gpu "RTX 3090"` at the default
risk. That benchmark ran PyTorch 1.12 with CUDA 11.3 and another step (no clipping, gradients zeroed in place).

For each row the smallest memory that the allocator needs at `fits` and at `fails` gives the range of the allowance
(`NOT_DERIVED` in core/memory/gpus.py) that puts the prediction inside of the bracket. The allowance is then set
from all other families, to the middle of the range that puts most of their rows inside, and each family is judged with
it. Rows are appended as they come, and models that the file already has are left out.
"""

from __future__ import annotations

import csv
import re
import sys
from collections import defaultdict
from pathlib import Path

from cifar_cli.core.memory.allocator import OutOfDeviceMemory
from cifar_cli.core.memory.config import MIB, MemoryConfig
from cifar_cli.core.memory.estimate import Tracer, find_max_batch, replay
from cifar_cli.core.memory.gpus import CONTEXT_BYTES, NOT_DERIVED, gpu_of
from cifar_cli.core.memory.recorder import Trace
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.config import StepConfig

STEP = StepConfig(precision="16", optimizer="sgd", memory_format="channels-last")
GPU = gpu_of("RTX 3090")
SHARES = [thousandth / 1000 for thousandth in range(201)]


def row_of(model: str, side: int, fits: int, fails: int) -> dict[str, object]:
    """The prediction, and the shares of reserved memory at which the smaller and the larger batch just fit."""
    config = ModelConfig(name=f"timm:{model}", classes=1000, img_size=side, weights="none")
    tracer = Tracer(MemoryConfig(model=config, step=STEP))
    safe, even = (
        find_max_batch(tracer, gpu=GPU.name, memory_bytes=GPU.memory_bytes, risk=risk, even_batch=False).max_batch
        for risk in ("safe", "even")
    )
    available = GPU.memory_bytes - CONTEXT_BYTES
    above, most = (available / needed_bytes(tracer.scaled(batch) or tracer.at(batch)) - 1 for batch in (fails, fits))
    return {"model": model, "fits": fits, "fails": fails, "safe": safe, "even": even, "above": above, "most": most}


def needed_bytes(trace: Trace) -> int:
    """The smallest memory, to 4 MiB, with which the allocator serves a trace."""
    low, high = 0, 64 * 1024
    while high - low > 4:
        middle = (low + high) // 2
        try:
            replay(trace, capacity_bytes=middle * MIB)
            high = middle
        except OutOfDeviceMemory:
            low = middle
    return high * MIB


def family_of(model: str) -> str:
    """A model's name up to the first digit or underscore."""
    return re.split(r"[\d_]", model)[0]


def inside(row: dict[str, str], share: float) -> bool:
    return float(row["above"]) < share <= float(row["most"])


def best_share(rows: list[dict[str, str]]) -> float:
    """The middle of the shares that put the most rows inside."""
    counts = [sum(inside(row, share) for row in rows) for share in SHARES]
    best = [share for share, count in zip(SHARES, counts, strict=True) if count == max(counts)]
    return best[len(best) // 2]


def report(rows: list[dict[str, str]]) -> None:
    print(f"{'model':28} {'fits':>5} {'safe':>5} {'even':>5} {'fails':>5} {'off':>7}")
    worst = 0.0
    for row in rows:
        fits, fails, found = int(row["fits"]), int(row["fails"]), int(row["safe"])
        # Every batch from `fits` to below `fails` counts as right: the table has no figures between them.
        off = (found - fits) / fits if found < fits else max(0.0, (found - fails + 1) / fails)
        worst = max(worst, off)
        print(f"{row['model']:28} {fits:5} {found:5} {row['even']:>5} {fails:5} {off:+7.1%}")
    right = {
        risk: sum(int(row["fits"]) <= int(row[risk]) < int(row["fails"]) for row in rows) for risk in ("safe", "even")
    }
    print(f"inside [fits, fails): {right['safe']} of {len(rows)}; worst over {worst:.1%}; middle {right['even']}")
    families = defaultdict(list)
    for row in rows:
        families[family_of(row["model"])].append(row)
    left_out = 0
    shares = set()
    for family, own in families.items():
        share = best_share([row for row in rows if family_of(row["model"]) != family])
        shares.add(share)
        left_out += sum(inside(row, share) for row in own)
    print(f"each family with the allowance of the others ({min(shares):.1%} to {max(shares):.1%}): {left_out} inside")
    print(f"allowance in use: {NOT_DERIVED['safe']:.2%}; all rows suggest {best_share(rows):.1%}")


def main(published: Path, path: Path, only: set[str]) -> None:
    known = {row["model"] for row in csv.DictReader(path.open())} if path.exists() else set()
    columns = ["model", "fits", "fails", "safe", "even", "above", "most"]
    with published.open() as source, path.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns)
        if not known:
            writer.writeheader()
        for row in csv.DictReader(source):
            if row["model"] not in known and (not only or row["model"] in only):
                writer.writerow(row_of(row["model"], int(row["img_size"]), int(row["fits"]), int(row["fails"])))
                file.flush()
    report(list(csv.DictReader(path.open())))


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]), set(sys.argv[3:]))
