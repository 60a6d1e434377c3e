"""Kill a run again and again, and compare its weights with those of a run that was left alone.

    python benchmarks/soak.py [--kills 300] [--recipe best] [--model null] [--images 2000] [--epochs 30]

Each start is a process of its own (`cifar train`, then `cifar train --resume`), killed with SIGKILL at a random time.
A run that ends before it was killed often enough is compared, and the next one begins, with another seed. It is lost if
its command fails, or if its last weights differ in one bit. The seconds lost of a kill are those between the last
checkpoint and the kill: of training that is done again. The start-up of the next process comes on top, and is shown
beside them. The dataset is drawn (`shapes`).
"""

from __future__ import annotations

import argparse
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from cifar_cli.core.data.sources.shapes import draw_shapes
from cifar_cli.core.data.store import write_store
from cifar_cli.core.training.checkpoint import read_checkpoint
from cifar_cli.core.training.run_dir import RunDir

CIFAR = [sys.executable, "-m", "cifar_cli", "train"]


@dataclass
class Tally:
    """What happened so far."""

    kills: int = 0
    runs: int = 0
    lost: list[str] = field(default_factory=list)
    lost_seconds: list[float] = field(default_factory=list)
    start_seconds: list[float] = field(default_factory=list)


def killed_or_ended(words: list[str], run: RunDir, *, after: float, tally: Tally) -> int | None:
    """Start the command, and kill it some seconds after it has begun to train. Returns its exit status, None if killed.

    after: seconds; infinite to leave it alone.
    """
    start, began = time.monotonic(), float("inf")
    said = run.path.with_suffix(".log")
    with said.open("w") as output:
        process = subprocess.Popen(words, stdout=output, stderr=output)
    try:
        while process.poll() is None:
            now = time.monotonic()
            if began > now and "training " in said.read_text():
                began = now
                tally.start_seconds.append(began - start)
            if now - began >= after:
                process.send_signal(signal.SIGKILL)
                process.wait()
                saved = max((path.stat().st_mtime for path in run.saved), default=0.0)
                tally.lost_seconds.append(min(after, time.time() - saved))
                tally.kills += 1
                return None
            time.sleep(0.01)
    finally:
        process.kill()
    if process.returncode:
        print(said.read_text(), file=sys.stderr)
    return process.returncode


def same_weights(first: RunDir, second: RunDir) -> bool:
    ours, theirs = (read_checkpoint(run.last) for run in (first, second))
    kinds = [kind for kind in ("state_dict", "current_model_state") if kind in ours]
    return all(torch.equal(value, theirs[kind][name]) for kind in kinds for name, value in ours[kind].items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--recipe", default="best")
    parser.add_argument("--model", default="null")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--longest", type=float, default=6.0, help="seconds of training before a kill, at most")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    drawn, tally = random.Random(options.seed), Tally()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        images = draw_shapes(train_images=options.images, test_images=200)
        write_store(folder / "shapes.safetensors", name="shapes", images=images)
        while tally.kills < options.kills:
            _one_run(folder, options, drawn, tally)
            print(f"{tally.kills} kills, {tally.runs} runs, {len(tally.lost)} lost", file=sys.stderr)
    _show(tally, options)


def _one_run(folder: Path, options: argparse.Namespace, drawn: random.Random, tally: Tally) -> None:
    """A run that is left alone, and the same one killed until it ends, or until there were enough kills."""
    seed = tally.runs
    common = [*CIFAR, "--model", options.model, "--weights", "none", "--recipe", options.recipe, "--dataset", "shapes",
              "--data-dir", str(folder), "--max-epochs", str(options.epochs), "--seed", str(seed)]  # fmt: skip
    whole, cut = (RunDir(folder / f"{name}{seed}") for name in ("whole", "cut"))
    subprocess.run([*common, "--run-dir", str(whole.path)], check=True, capture_output=True)
    status: int | None = None
    while status is None:
        after = drawn.uniform(0, options.longest) if tally.kills < options.kills else float("inf")
        begin = [*common, "--run-dir", str(cut.path), "--checkpoint-every", "1"]
        words = [*CIFAR, "--resume", str(cut.path)] if cut.saved else begin
        status = killed_or_ended(words, cut, after=after, tally=tally)
    tally.runs += 1
    if status != 0:
        tally.lost.append(f"seed {seed}: exit status {status}")
    elif not same_weights(whole, cut):
        tally.lost.append(f"seed {seed}: other weights")


def _show(tally: Tally, options: argparse.Namespace) -> None:
    table = Table(title=f"{options.model}, recipe {options.recipe}, {options.images:,} images, {options.epochs} epochs")
    table.add_column("")
    table.add_column("", justify="right")
    table.add_row("kills", str(tally.kills))
    table.add_row("runs", str(tally.runs))
    table.add_row("runs lost", str(len(tally.lost)))
    table.add_row("seconds of training lost per kill, mean", f"{statistics.fmean(tally.lost_seconds):.2f}")
    table.add_row("seconds of training lost per kill, most", f"{max(tally.lost_seconds):.2f}")
    table.add_row("seconds of a start-up, mean", f"{statistics.fmean(tally.start_seconds):.2f}")
    Console(width=100).print(table)
    for reason in tally.lost:
        print(reason)
    raise SystemExit(bool(tally.lost))


if __name__ == "__main__":
    main()
