"""Judge what was found: a list of checks, each ok, a warning or an error with its remedy."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from cifar_cli.core.data.config import BUILT_IN, DATA_DIR
from cifar_cli.core.doctor.facts import Disk, Facts, Package
from cifar_cli.core.doctor.results import Check, DoctorReport, State
from cifar_cli.errors import shell_line

GIB, MIB = 2**30, 2**20
OLDEST_PYTHON = (3, 11)
DISK_NEEDED_BYTES, DISK_ADVISED_BYTES = GIB // 2, 2 * GIB
"""CIFAR-10's archive and its dataset file take 0.36 GB; a run of `cnn` with its checkpoints about 0.1 GB."""
MEMORY_ADVISED_BYTES = 2 * GIB
SHM_ADVISED_BYTES = 256 * MIB
UNSET_THREADS = "unset OMP_NUM_THREADS to use all cores, unless other programs keep them busy"

MALICIOUS = {"lightning": ("2.6.2", "2.6.3")}
"""Uploads that steal credentials when they are imported (GHSA-w37p-236h-pfx3)."""
VULNERABLE = {
    "lightning": ("<2.6.6", "loading a checkpoint can execute code (CVE-2026-58659)"),
    "pillow": ("<13", "a crafted JPEG overflows a buffer (GHSA-8g5g-8vmr-9782)"),
    "filelock": ("<4.2.1", "two processes can hold one lock (CVE-2026-112935)"),
    "torch": ("<2.11", "loading a .pt2 file can execute code (CVE-2026-4538)"),
}
OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
"""The oldest driver for each major version of CUDA. Source: NVIDIA, CUDA Compatibility, table 1."""


def diagnose(facts: Facts) -> DoctorReport:
    """Every check of the installation, in the order of the table."""
    checks = (
        _python(facts), *_packages(facts), _torch(facts), _gpu(facts), _cpu(facts), _threads(facts), _memory(facts),
        _shared_memory(facts), *map(_disk, facts.disks), _datasets(facts), _hub(facts),
    )  # fmt: skip
    return DoctorReport(checks=checks)


def _python(facts: Facts) -> Check:
    found = f"{'.'.join(map(str, facts.python))} on {facts.platform}"
    if facts.python < OLDEST_PYTHON:
        return Check(name="Python", state="error", found=found, remedy="install Python 3.11 or newer")
    return Check(name="Python", state="ok", found=found)


def _packages(facts: Facts) -> Iterator[Check]:
    """A check for each package that must be replaced, and one for all others."""
    others: list[Package] = []
    for package in facts.packages:
        if check := _bad_package(package):
            yield check
        else:
            others.append(package)
    different = [package for package in others if package.tested and not _is_tested(package)]
    known = [package for package in others if package.tested]
    if not different:
        found = f"{len(known)} of {len(others)} direct dependencies are those tested" if known else "unknown"
        yield Check(name="package versions", state="ok", found=found)
        return
    names = ", ".join(f"{each.name} {each.installed} (tested: {each.tested})" for each in different)
    yield Check(
        name="package versions",
        state="warning",
        found=f"{len(different)} of {len(others)} differ from those tested: {names}",
        remedy="install the tested versions in case of trouble: pip install "
        + " ".join(f"{each.name}=={each.tested}" for each in different),
    )


def _is_tested(package: Package) -> bool:
    """Whether the version is the tested one; a build of its own, such as 2.15.0+cpu, has that version too."""
    try:
        return Version(package.installed or "").public == package.tested
    except InvalidVersion:
        return False


def _bad_package(package: Package) -> Check | None:
    """The error about a package that is missing, malicious, vulnerable or outside its bound; else None."""
    name, installed = package.name, package.installed
    wanted = f"pip install '{name}{package.bound}'"
    if installed is None:
        return Check(name=name, state="error", found="not installed", remedy=wanted)
    try:
        version = Version(installed)
    except InvalidVersion:
        return Check(name=name, state="warning", found=f"{installed} is not a version number", remedy=wanted)
    if installed in MALICIOUS.get(name, ()):
        return Check(
            name=name,
            state="error",
            found=f"{installed} is malicious: it steals credentials",
            remedy=f"pip uninstall {name}; replace every password and token that this machine could read; {wanted}",
        )
    old, danger = VULNERABLE.get(name, ("<0", ""))
    if SpecifierSet(old).contains(version, prereleases=True):
        return Check(name=name, state="error", found=f"{installed}: {danger}", remedy=wanted)
    if not SpecifierSet(package.bound).contains(version, prereleases=True):
        return Check(name=name, state="error", found=f"{installed}, which cifar does not accept", remedy=wanted)
    return None


def _torch(facts: Facts) -> Check:
    torch = facts.torch
    if torch.failure is not None:
        return Check(
            name="torch",
            state="error",
            found=f"can't be imported: {torch.failure}",
            remedy="install it again, for this machine: the selector at pytorch.org names the command",
        )
    build = "without CUDA" if torch.cuda is None else f"built for CUDA {torch.cuda}"
    return Check(name="torch", state="ok", found=f"{torch.version}, {build}")


def _gpu(facts: Facts) -> Check:
    """The GPU, its memory, its driver, and whether torch can use it."""
    torch = facts.torch
    if not facts.gpus and not torch.gpus and facts.driver_failure is not None:
        return Check(
            name="GPU",
            state="warning",
            found=f"nvidia-smi fails ({facts.driver_failure}); models are trained on the CPU",
            remedy="restart the machine, or install NVIDIA's driver again",
        )
    if not facts.gpus:
        found = ", ".join(torch.gpus) or "none; models are trained on the CPU"
        return Check(name="GPU", state="ok", found=found)
    found = ", ".join(f"{gpu.name} ({gpu.memory_bytes / GIB:.0f} GiB)" for gpu in facts.gpus)
    driver = facts.gpus[0].driver
    found += f", driver {driver}"
    if torch.failure is not None or torch.cuda_available:
        return Check(name="GPU", state="ok", found=found)
    if torch.cuda is None:
        remedy = "install torch for CUDA: the selector at pytorch.org names the command"
        return Check(name="GPU", state="warning", found=f"{found}; torch is built without CUDA", remedy=remedy)
    oldest = OLDEST_DRIVER.get(int(torch.cuda.split(".")[0]), 0)
    major = driver.split(".")[0]
    if major.isdecimal() and int(major) < oldest:
        return Check(
            name="GPU",
            state="error",
            found=f"{found}; CUDA {torch.cuda} needs driver {oldest} or newer",
            remedy=f"update the driver to {oldest} or newer, or install torch for an older CUDA",
        )
    return Check(
        name="GPU",
        state="error",
        found=f"{found}; torch can't use it",
        remedy="check CUDA_VISIBLE_DEVICES, and that the container was started with access to the GPU",
    )


def _cpu(facts: Facts) -> Check:
    """The processor and the instruction sets that decide how fast it trains."""
    flags = facts.cpu_flags
    if not flags:
        return Check(name="CPU", state="ok", found=facts.cpu or "unknown")
    sets = {
        "AVX-512": "avx512f" in flags,
        "bf16": bool(flags & {"avx512_bf16", "amx_bf16", "avx_ne_convert"}),
        "AMX": "amx_tile" in flags,
    }
    words = ", ".join(f"{'with' if there else 'no'} {name}" for name, there in sets.items())
    found = f"{facts.cpu}: {words}"
    if flags & {"sse2"} and "avx2" not in flags:
        remedy = "expect slow training: PyTorch's fast kernels need AVX2"
        return Check(name="CPU", state="warning", found=f"{found}, no AVX2", remedy=remedy)
    return Check(name="CPU", state="ok", found=found)


def _threads(facts: Facts) -> Check:
    threads = facts.torch.threads
    found = f"{facts.cores} usable"
    if not threads:
        return Check(name="cores", state="ok", found=found)
    found += f", torch takes {threads}"
    if facts.omp_num_threads is not None and threads < facts.cores:
        found += f" (OMP_NUM_THREADS={facts.omp_num_threads})"
        return Check(name="cores", state="warning", found=found, remedy=UNSET_THREADS)
    if threads > facts.cores:
        remedy = f"export OMP_NUM_THREADS={facts.cores}, or training waits for threads without a core"
        return Check(name="cores", state="warning", found=found, remedy=remedy)
    return Check(name="cores", state="ok", found=found)


def _memory(facts: Facts) -> Check:
    if facts.memory_bytes is None or facts.available_bytes is None:
        return Check(name="RAM", state="ok", found="unknown")
    found = f"{facts.available_bytes / GIB:.1f} of {facts.memory_bytes / GIB:.1f} GiB available"
    if facts.available_bytes < MEMORY_ADVISED_BYTES:
        remedy = "close other programs, or train with a smaller --batch"
        return Check(name="RAM", state="warning", found=found, remedy=remedy)
    return Check(name="RAM", state="ok", found=found)


def _shared_memory(facts: Facts) -> Check:
    if facts.shm is None:
        return Check(name="/dev/shm", state="ok", found="this system has none")
    found = _space(facts.shm)
    if facts.shm.free_bytes < SHM_ADVISED_BYTES:
        remedy = "start the container with --shm-size=1g, or train with --pipeline batched"
        return Check(name="/dev/shm", state="warning", found=found, remedy=remedy)
    return Check(name="/dev/shm", state="ok", found=found)


def _disk(disk: Disk) -> Check:
    """The space for datasets or runs."""
    state: State = "ok"
    if disk.free_bytes < DISK_ADVISED_BYTES:
        state = "error" if disk.free_bytes < DISK_NEEDED_BYTES else "warning"
    remedy = None if state == "ok" else "free some space; old runs are listed by `cifar runs`"
    return Check(name=f"disk of {disk.folder}", state=state, found=_space(disk), remedy=remedy)


def _space(disk: Disk) -> str:
    return f"{_size(disk.free_bytes)} of {_size(disk.total_bytes)} free"


def _size(count: int) -> str:
    return f"{count / GIB:,.1f} GiB" if count >= GIB else f"{count / MIB:,.0f} MiB"


def _datasets(facts: Facts) -> Check:
    found = ", ".join(facts.datasets) or "none on disk"
    if facts.damaged_datasets:
        return Check(
            name="datasets",
            state="warning",
            found=f"{found}; damaged: {', '.join(facts.damaged_datasets)}",
            remedy=" and ".join(_get_again(name, facts.data_dir) for name in facts.damaged_datasets),
        )
    again = shell_line("cifar download", *_folder_of(facts.data_dir))
    remedy = None if facts.datasets else f"{again}, or train on --dataset shapes, which is drawn"
    return Check(name="datasets", state="ok" if facts.datasets else "warning", found=found, remedy=remedy)


def _folder_of(data_dir: Path) -> tuple[str, ...]:
    """The option that names the dataset folder, where it is another than a command's own."""
    return () if data_dir == Path(os.environ.get(DATA_DIR) or "data") else ("--data-dir", str(data_dir))


def _get_again(name: str, data_dir: Path) -> str:
    """The command that fetches or imports a dataset again."""
    source = () if name in BUILT_IN else ("--from", "PATH")
    return shell_line("cifar download --force --dataset", name, *source, *_folder_of(data_dir))


def _hub(facts: Facts) -> Check:
    if facts.hub_failure is None:
        return Check(name="model hub", state="ok", found="reachable")
    return Check(
        name="model hub",
        state="warning",
        found=f"can't be reached ({facts.hub_failure})",
        remedy="train with --weights none, a local --weights PATH, or --weights bundled",
    )
