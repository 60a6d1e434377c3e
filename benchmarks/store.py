"""Time to import an archive of images, to check and open the store, and to report that it exists.

    python benchmarks/store.py PATH/TO/cifar10-images.tar.gz

Prints one Markdown table. The last two rows are medians of several calls, with the file in the page cache.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from cifar_cli.core.data.config import DataConfig, ImportConfig
from cifar_cli.core.data.dataset import check_dataset, import_dataset, open_dataset

REPEATS = 9


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    source = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder:
        data = DataConfig(data_dir=Path(folder))
        importing = seconds(lambda: import_dataset(ImportConfig(data=data, sources=(source,))))
        peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        pixels_bytes = data.store_path.stat().st_size
        checking = seconds(lambda: check_dataset(data))
        open_dataset(data)  # the first call imports torch
        opening = statistics.median(seconds(lambda: open_dataset(data)) for _ in range(REPEATS))
        words = [sys.executable, "-m", "cifar_cli", "download", "--data-dir", folder]
        reporting = statistics.median(
            seconds(lambda: subprocess.run(words, check=True, capture_output=True)) for _ in range(REPEATS)
        )
    print("| operation | measured |\n| --- | ---: |")
    print(f"| import the archive | {importing:.1f} s |")
    print(f"| peak memory, per byte of the store | {peak_bytes / pixels_bytes:.2f} |")
    print(f"| read the complete store (`--check`) | {checking:.2f} s |")
    print(f"| open the store | {opening * 1e3:.1f} ms |")
    print(f"| `cifar download` of an existing dataset, complete process | {reporting:.2f} s |")


if __name__ == "__main__":
    main()
