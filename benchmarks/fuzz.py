"""Read many changed files with every reader, and print the outcomes: read, refused in a sentence, or a fault.

    python benchmarks/fuzz.py --files 10000

The same seeds give the same files. The changes are those of `tests/fuzz/`, which tries 200 files of each kind. Linux
only, where the memory of a process can be limited.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.fuzz.targets import TARGETS, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=10_000, help="files of each kind")
    parser.add_argument("--first", type=int, default=0, help="seed of the first file")
    parser.add_argument("--kinds", nargs="+", choices=TARGETS, default=list(TARGETS))
    asked = parser.parse_args()
    print(f"{'kind':30} {'read':>7} {'refused':>8} {'faults':>7} {'slowest':>9}")
    faults = 0
    for kind in asked.kinds:
        outcomes, slowest = tried(kind, range(asked.first, asked.first + asked.files))
        faults += outcomes["fault"]
        print(
            f"{kind:30} {outcomes['read']:7,} {outcomes['refused']:8,} {outcomes['fault']:7,} {slowest:7.2f} s",
            flush=True,
        )
    sys.exit(int(faults > 0))


def tried(kind: str, seeds: range) -> tuple[Counter[str], float]:
    """How often each outcome was seen, and the seconds of the slowest file. Faults are printed with their seeds."""
    outcomes, slowest = Counter[str](), 0.0
    with tempfile.TemporaryDirectory() as name:
        good = Path(name) / "good"
        good.mkdir()
        TARGETS[kind].make(good)
        for seed in seeds:
            began = time.perf_counter()
            try:
                outcome = run(TARGETS[kind], good, Path(name) / "work", seed)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # what the package must not raise, and TooSlowError
                outcome = "fault"
                print(f"{kind}, seed {seed}: {type(error).__name__}: {error}", file=sys.stderr)
            outcomes[outcome] += 1
            slowest = max(slowest, time.perf_counter() - began)
    return outcomes, slowest


if __name__ == "__main__":
    main()
