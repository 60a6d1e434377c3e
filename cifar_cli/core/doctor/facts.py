"""What `cifar doctor` knows of a machine and its installation, before any of it is judged."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """A direct dependency."""

    name: str
    bound: str
    """The versions that cifar accepts, as a specifier such as ">=2.6.6"."""
    installed: str | None
    """None where it is missing."""
    tested: str | None
    """The version in constraints.txt; None where that is unknown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TorchFacts:
    """What `import torch` gives in a process of its own."""

    version: str = ""
    cuda: str | None = None
    """The CUDA version that torch was built for; None for a build without CUDA."""
    cuda_available: bool = False
    gpus: tuple[str, ...] = ()
    """The GPUs that torch can use."""
    threads: int = 0
    """OpenMP threads that torch takes."""
    failure: str | None = None
    """Why the import failed; None where it succeeded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """A GPU as the driver reports it."""

    name: str
    memory_bytes: int
    driver: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Disk:
    """A folder and the space on its file system."""

    folder: Path
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """A machine and the installation on it."""

    python: tuple[int, int, int]
    platform: str
    packages: tuple[Package, ...]
    torch: TorchFacts
    gpus: tuple[Gpu, ...] = ()
    """Those of the driver, whether torch can use them or not."""
    driver_failure: str | None = None
    """What the driver's program says when it fails; None where there is none."""
    cpu: str = ""
    cpu_flags: frozenset[str] = field(default_factory=frozenset)
    """Instruction sets as Linux names them; empty where they are unknown."""
    cores: int
    """Cores that this process may use."""
    omp_num_threads: str | None = None
    """The environment variable; None where it is not set."""
    memory_bytes: int | None = None
    available_bytes: int | None = None
    """Memory that a new program can take without swapping."""
    shm: Disk | None = None
    """The memory that processes share; None where the system has no /dev/shm."""
    disks: tuple[Disk, ...] = ()
    """The file systems of the dataset folder and of the run folder."""
    data_dir: Path = Path("data")
    """The dataset folder."""
    datasets: tuple[str, ...] = ()
    damaged_datasets: tuple[str, ...] = ()
    """Files in the dataset folder that end as datasets do and can't be read as one."""
    hub_failure: str | None = None
    """Why the hub could not be reached; None where it answered."""
