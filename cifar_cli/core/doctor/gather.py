"""Find out about this machine. Nothing here fails: what can't be found out is left open."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cifar_cli.core.container import used_bytes
from cifar_cli.core.data.config import STORE_SUFFIX
from cifar_cli.core.doctor.config import DoctorConfig
from cifar_cli.core.doctor.facts import Disk, Facts, Gpu, Package, TorchFacts
from cifar_cli.errors import DataError

DISTRIBUTION = "cifar-cli"
PINS = "constraints.txt"
TORCH_SECONDS = 120  # the first import after an installation reads gigabytes
DRIVER_SECONDS = 20
_ASK_TORCH = """
import json, torch
available = torch.cuda.is_available()
print(json.dumps({
    "version": str(torch.__version__), "cuda": torch.version.cuda, "cuda_available": available,
    "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if available else [],
    "threads": torch.get_num_threads(),
}))
"""

Run = Callable[[Sequence[str], float], "subprocess.CompletedProcess[str]"]


def run_program(words: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
    """Run a program and keep its output. Raises OSError and subprocess.TimeoutExpired."""
    return subprocess.run(words, capture_output=True, text=True, timeout=seconds, check=False)


def gather(config: DoctorConfig) -> Facts:
    """Everything that the checks need to know of this machine."""
    container = Path("/sys/fs/cgroup")
    memory, available = memory_of(Path("/proc/meminfo"), container)
    cpu, flags = cpu_of(Path("/proc/cpuinfo"))
    datasets, damaged = datasets_in(config.data_dir)
    gpus, driver_failure = driver_gpus()
    return Facts(
        python=(sys.version_info.major, sys.version_info.minor, sys.version_info.micro),
        platform=f"{platform.system()} {platform.machine()}",
        packages=packages_of(DISTRIBUTION),
        torch=torch_facts(),
        gpus=gpus,
        driver_failure=driver_failure,
        cpu=cpu or platform.processor(),
        cpu_flags=flags,
        cores=usable_cores(container),
        omp_num_threads=os.environ.get("OMP_NUM_THREADS"),
        memory_bytes=memory,
        available_bytes=available,
        shm=disk_of(Path("/dev/shm")) if Path("/dev/shm").is_dir() else None,
        disks=tuple(filter(None, map(disk_of, dict.fromkeys((config.data_dir, config.runs_dir))))),
        data_dir=config.data_dir,
        datasets=datasets,
        damaged_datasets=damaged,
        hub_failure=hub_failure(config.hub, config.hub_seconds),
    )


def packages_of(distribution: str) -> tuple[Package, ...]:
    """The direct dependencies of an installed distribution; none where it is not installed."""
    try:
        lines = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        return ()
    required = [Requirement(line) for line in lines]
    pins = pinned_versions(distribution)
    return tuple(
        Package(
            name=each.name,
            bound=str(each.specifier),
            installed=_installed(each.name),
            tested=pins.get(canonicalize_name(each.name)),
        )
        for each in required
        if each.marker is None or each.marker.evaluate({"extra": ""})
    )


def pinned_versions(distribution: str) -> dict[str, str]:
    """The pins of constraints.txt by normalised name: the checkout's, or those that the wheel carries as metadata."""
    beside = Path(__file__).parents[3] / PINS
    text = None
    with suppress(metadata.PackageNotFoundError, OSError):
        text = metadata.distribution(distribution).read_text(f"extra_metadata/{PINS}")
    if beside.is_file():
        text = beside.read_text(encoding="utf-8")
    pins = (line.split("==") for line in (text or "").splitlines() if "==" in line and not line.startswith("#"))
    return {canonicalize_name(name): version.strip() for name, version in pins}


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def torch_facts(run: Run = run_program, python: str = sys.executable) -> TorchFacts:
    """Import torch in a process of its own, which may crash or hang."""
    try:
        done = run((python, "-c", _ASK_TORCH), TORCH_SECONDS)
    except subprocess.TimeoutExpired:
        return TorchFacts(failure=f"no answer within {TORCH_SECONDS} s")
    except OSError as error:
        return TorchFacts(failure=str(error))
    with suppress(ValueError, TypeError, IndexError):
        answer = json.loads(done.stdout.splitlines()[-1])
        return TorchFacts(**answer | {"gpus": tuple(answer["gpus"])})
    said = done.stderr.strip().splitlines()
    return TorchFacts(failure=said[-1] if said else f"the process ended with status {done.returncode}")


def driver_gpus(run: Run = run_program) -> tuple[tuple[Gpu, ...], str | None]:
    """The GPUs that NVIDIA's driver reports, none where there is no driver; and why it fails, None if it doesn't."""
    query = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits")
    try:
        done = run(query, DRIVER_SECONDS)
    except OSError:
        return (), None
    except subprocess.TimeoutExpired:
        return (), f"no answer within {DRIVER_SECONDS} s"
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]
    gpus = tuple(
        Gpu(name=row[0], memory_bytes=int(row[1]) * 2**20, driver=row[2])
        for row in rows
        if len(row) == 3 and row[1].isdecimal()
    )
    said = (done.stdout.strip() or done.stderr.strip()).splitlines()
    failed = done.returncode != 0 and not gpus
    return gpus, (said[0] if said else f"status {done.returncode}") if failed else None


def cpu_of(cpuinfo: Path) -> tuple[str, frozenset[str]]:
    """The name of the processor and its instruction sets, as Linux lists them; empty elsewhere."""
    fields: dict[str, str] = {}
    with suppress(OSError):
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
    return fields.get("model name", ""), frozenset(fields.get("flags", fields.get("Features", "")).split())


def usable_cores(cgroup: Path) -> int:
    """The cores that this process may run on, and at least one of as many as its container may keep busy."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # "max" where there is no limit
        quota, period = map(int, (cgroup / "cpu.max").read_text(encoding="ascii").split())
        cores = min(cores, max(1, quota // period))
    return cores


def memory_of(meminfo: Path, cgroup: Path) -> tuple[int | None, int | None]:
    """Total and available memory in bytes, within the limit of the container; None where they are unknown."""
    fields: dict[str, int] = {}
    with suppress(OSError, ValueError):
        for line in meminfo.read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(":")
            fields[name] = int(value.split()[0]) * 1024
    total, available = fields.get("MemTotal"), fields.get("MemAvailable")
    with suppress(OSError, ValueError):  # "max" where there is no limit
        limit = int((cgroup / "memory.max").read_text(encoding="ascii"))
        used = used_bytes(cgroup)
        if total is None or limit < total:
            total = limit
            available = min(limit - used, limit if available is None else available)
    return total, available


def disk_of(folder: Path) -> Disk | None:
    """The space where the folder is, or would be created; None where that can't be asked."""
    try:
        existing = next((each for each in (folder.absolute(), *folder.absolute().parents) if each.is_dir()), None)
        usage = shutil.disk_usage(existing or Path("/"))
    except OSError:
        return None
    return Disk(folder=folder, total_bytes=usage.total, free_bytes=usage.free)


def datasets_in(folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The datasets in a folder, and the files that look like one and can't be read."""
    from cifar_cli.core.data.store import read_header

    good: list[str] = []
    bad: list[str] = []
    with suppress(OSError):
        for path in sorted(folder.glob(f"*{STORE_SUFFIX}")):
            try:
                summary = read_header(path).summary
            except DataError:
                bad.append(path.stem)
            else:
                good.append(f"{path.stem} ({summary.train_images + summary.test_images:,} images)")
    return tuple(good), tuple(bad)


def hub_failure(url: str | None, seconds: float) -> str | None:
    """Why the model hub does not answer; None where it does. Any HTTP status is an answer.

    url: None for the one that the hub's client is set to.
    """
    try:
        import httpx
        from huggingface_hub import constants

        if constants.HF_HUB_OFFLINE:
            return "HF_HUB_OFFLINE is set"
        httpx.head(url or constants.ENDPOINT, timeout=seconds)
    except Exception as error:  # httpx raises its own types, and others for a bad proxy; either package may be broken
        return re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__
    return None
