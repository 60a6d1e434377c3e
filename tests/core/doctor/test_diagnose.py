"""What `cifar doctor` says about good and bad installations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from cifar_cli.core.doctor.diagnose import MALICIOUS, VULNERABLE, diagnose
from cifar_cli.core.doctor.facts import Disk, TorchFacts
from tests.core.doctor.installations import BAD, GIB, GOOD, LIGHTNING, TORCH
from tests.golden import Golden
from tests.test_dependencies import REQUIREMENTS

SMALL = Disk(folder=Path("/dev/shm"), total_bytes=64 * 2**20, free_bytes=64 * 2**20)
BOUNDS: dict[str, Requirement] = {each.name: each for each in REQUIREMENTS}


def test_a_good_installation_is_ok_in_every_check() -> None:
    report = diagnose(GOOD)
    assert {check.state for check in report.checks} == {"ok"}
    assert (report.worst, report.exit_status) == ("ok", 0)
    assert all(check.remedy is None for check in report.checks)


@pytest.mark.parametrize(
    ("change", "name", "state", "found"),
    [
        ({"python": (3, 10, 2)}, "Python", "error", "3.10.2 on Linux x86_64"),
        ({"packages": (replace(LIGHTNING, installed="2.6.2"),)}, "lightning", "error", "2.6.2 is malicious"),
        ({"packages": (replace(LIGHTNING, installed="2.6.3"),)}, "lightning", "error", "2.6.3 is malicious"),
        ({"packages": (replace(LIGHTNING, installed="2.6.5"),)}, "lightning", "error", "CVE-2026-58659"),
        ({"packages": (replace(LIGHTNING, installed=None),)}, "lightning", "error", "not installed"),
        ({"packages": (replace(TORCH, installed="broken"),)}, "torch", "warning", "is not a version number"),
        ({"packages": (replace(TORCH, installed="2.14.0"),)}, "package versions", "warning", "(tested: 2.15.0)"),
        ({"torch": TorchFacts(failure="libc10.so: no such file")}, "torch", "error", "libc10.so"),
        ({"torch": replace(GOOD.torch, cuda=None, cuda_available=False)}, "GPU", "warning", "built without CUDA"),
        (
            {
                "torch": replace(GOOD.torch, cuda_available=False),
                "gpus": (replace(GOOD.gpus[0], driver="535.104.05"),),
            },
            "GPU",
            "error",
            "CUDA 13.2 needs driver 580 or newer",
        ),
        ({"torch": replace(GOOD.torch, cuda_available=False)}, "GPU", "error", "torch can't use it"),
        (
            {"gpus": (), "torch": replace(GOOD.torch, gpus=()), "driver_failure": "Driver/library version mismatch"},
            "GPU",
            "warning",
            "nvidia-smi fails (Driver/library version mismatch)",
        ),
        ({"cpu_flags": frozenset({"sse2"})}, "CPU", "warning", "no AVX2"),
        ({"omp_num_threads": "1", "torch": replace(GOOD.torch, threads=1)}, "cores", "warning", "OMP_NUM_THREADS=1"),
        ({"cores": 2}, "cores", "warning", "2 usable, torch takes 8"),
        ({"available_bytes": GIB}, "RAM", "warning", "1.0 of 64.0 GiB"),
        ({"shm": SMALL}, "/dev/shm", "warning", "64 MiB of 64 MiB free"),
        ({"disks": BAD.disks}, "disk of data", "error", "20 MiB of 500.0 GiB free"),
        ({"disks": (replace(BAD.disks[0], free_bytes=GIB),)}, "disk of data", "warning", "1.0 GiB of 500.0 GiB free"),
        ({"datasets": ()}, "datasets", "warning", "none on disk"),
        ({"damaged_datasets": ("cifar10", "pets")}, "datasets", "warning", "damaged: cifar10, pets"),
        ({"hub_failure": "timed out"}, "model hub", "warning", "can't be reached (timed out)"),
    ],
)
def test_a_fault_is_named_with_a_remedy_and_decides_the_exit_status(
    change: dict[str, Any], name: str, state: str, found: str
) -> None:
    report = diagnose(replace(GOOD, **change))
    (check,) = (check for check in report.checks if check.state != "ok")
    assert (check.name, check.state) == (name, state)
    assert found in check.found
    assert check.remedy
    assert report.exit_status == {"warning": 3, "error": 1}[state]


@pytest.mark.parametrize(
    "change",
    [
        {"gpus": (), "torch": replace(GOOD.torch, cuda=None, cuda_available=False, gpus=())},
        {"cpu_flags": frozenset(), "cpu": ""},
        {"memory_bytes": None, "available_bytes": None},
        {"shm": None},
    ],
)
def test_what_a_machine_lacks_or_does_not_tell_is_no_fault(change: dict[str, Any]) -> None:
    assert diagnose(replace(GOOD, **change)).worst == "ok"


def test_the_malicious_lightning_asks_to_replace_passwords() -> None:
    (check,) = (check for check in diagnose(BAD).checks if check.name == "lightning")
    assert check.remedy is not None
    assert "replace every password and token" in check.remedy
    assert "pip install 'lightning>=2.6.6'" in check.remedy


@pytest.mark.parametrize("name", VULNERABLE)
def test_no_vulnerable_or_malicious_version_is_inside_the_bound(name: str) -> None:
    limit = Version(VULNERABLE[name][0].removeprefix("<"))
    assert limit in BOUNDS[name].specifier
    assert not any(version in BOUNDS[name].specifier for version in MALICIOUS.get(name, ()))


@pytest.mark.parametrize("name", ["good", "bad"])
def test_the_table_reads_as_in_the_golden_file(golden: Golden, name: str) -> None:
    from cifar_cli.render.doctor_table import report

    golden.tables(f"doctor-{name}", report(diagnose({"good": GOOD, "bad": BAD}[name])))


def test_a_build_for_the_cpu_of_the_tested_version_is_the_tested_one() -> None:
    report = diagnose(replace(GOOD, packages=(replace(TORCH, installed="2.15.0+cpu"),)))
    (check,) = (check for check in report.checks if check.name == "package versions")
    assert (check.state, check.found) == ("ok", "1 of 1 direct dependencies are those tested")
