"""How facts about a machine are found, on pretended machines and on this one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from cifar_cli.core.doctor.gather import (
    PINS,
    cpu_of,
    datasets_in,
    disk_of,
    driver_gpus,
    hub_failure,
    memory_of,
    packages_of,
    pinned_versions,
    torch_facts,
    usable_cores,
)

ROOT = Path(__file__).parents[3]


def answering(stdout: str = "", stderr: str = "", status: int = 0):  # type: ignore[no-untyped-def]
    """A pretended program."""

    def run(words: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(words, status, stdout, stderr)

    return run


def missing(words: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
    raise FileNotFoundError(words[0])


def hanging(words: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
    raise subprocess.TimeoutExpired(words, seconds)


@pytest.mark.slow
def test_torch_answers_from_a_process_of_its_own() -> None:
    facts = torch_facts()
    assert facts.failure is None
    assert facts.version[0].isdigit()
    assert facts.threads >= 1


@pytest.mark.parametrize(
    ("run", "failure"),
    [
        (answering(stderr="Traceback\nModuleNotFoundError: No module named 'torch'\n", status=1), "No module named"),
        (answering(status=-4), "the process ended with status -4"),
        (answering(stdout="not JSON"), "ended with status 0"),
        (hanging, "no answer within"),
        (missing, sys.executable),
    ],
)
def test_a_torch_that_is_absent_crashes_or_hangs_is_a_fact(run, failure: str) -> None:  # type: ignore[no-untyped-def]
    assert failure in (torch_facts(run).failure or "")


def test_the_driver_names_its_gpus() -> None:
    (first, second), failure = driver_gpus(answering("NVIDIA A100, 81920, 580.95.05\nTesla T4, 15360, 580.95.05\n"))
    assert failure is None
    assert (first.name, first.memory_bytes, first.driver) == ("NVIDIA A100", 80 * 2**30, "580.95.05")
    assert second.name == "Tesla T4"


@pytest.mark.parametrize(
    ("run", "failure"),
    [
        (missing, None),
        (hanging, "no answer within 20 s"),
        (
            answering("NVIDIA-SMI has failed because it couldn't reach the driver\nMake sure\n", status=9),
            "NVIDIA-SMI has",
        ),
        (answering("", "Driver/library version mismatch", status=18), "Driver/library version mismatch"),
        (answering("", status=9), "status 9"),
        (answering("", status=0), None),
    ],
)
def test_without_a_driver_that_works_there_are_no_gpus(run, failure) -> None:  # type: ignore[no-untyped-def]
    gpus, found = driver_gpus(run)
    assert gpus == ()
    assert found is None if failure is None else str(found).startswith(failure)


def test_the_processor_is_read_as_linux_lists_it(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: avx2 avx512f\n")
    assert cpu_of(tmp_path / "cpuinfo") == ("Some CPU", frozenset({"avx2", "avx512f"}))
    assert cpu_of(tmp_path / "absent") == ("", frozenset())


def test_memory_is_that_of_the_machine_or_of_the_smaller_container(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 8192 kB\nMemAvailable: 4096 kB\nHugePages_Total: 0\n")
    assert memory_of(meminfo, tmp_path) == (8192 * 1024, 4096 * 1024)
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_of(meminfo, tmp_path) == (8192 * 1024, 4096 * 1024)
    (tmp_path / "memory.max").write_text("2048000\n")
    (tmp_path / "memory.current").write_text("2000000\n")
    assert memory_of(meminfo, tmp_path) == (2048000, 48000)
    (tmp_path / "memory.stat").write_text(
        "anon 500000\ninactive_file 1000000\nactive_file 1\n"
    )  # the kernel's to give up
    assert memory_of(meminfo, tmp_path) == (2048000, 1048000)
    assert memory_of(tmp_path / "absent", tmp_path / "absent") == (None, None)


def test_a_folder_that_does_not_exist_yet_has_the_space_of_its_parent(tmp_path: Path) -> None:
    disk = disk_of(tmp_path / "not" / "yet")
    assert disk is not None
    assert disk.folder == tmp_path / "not" / "yet"
    assert 0 < disk.free_bytes <= disk.total_bytes


def test_datasets_and_damaged_files_are_told_apart(data_dir: Path, tmp_path: Path) -> None:
    assert datasets_in(data_dir) == (("shapes (500 images)",), ())
    (tmp_path / "pets.safetensors").write_bytes(b"no dataset")
    assert datasets_in(tmp_path) == ((), ("pets",))
    assert datasets_in(tmp_path / "absent") == ((), ())


def test_a_hub_that_does_not_answer_is_a_fact() -> None:
    assert hub_failure("http://127.0.0.1:9", 0.5) == "Connection refused"


def test_direct_dependencies_come_with_their_pinned_versions() -> None:
    packages = {package.name: package for package in packages_of("cifar-cli")}
    assert packages["lightning"].bound == ">=2.6.6"
    assert packages["lightning"].installed == packages["lightning"].tested
    assert "pytest" not in packages
    assert packages_of("no-such-distribution") == ()
    assert f"torch=={pinned_versions('cifar-cli')['torch']}" in (ROOT / PINS).read_text(encoding="utf-8")


def test_this_process_may_use_a_core() -> None:
    assert usable_cores(Path("nowhere")) >= 1


@pytest.mark.parametrize(("limit", "most"), [("max 100000", None), ("100000 100000", 1), ("50000 100000", 1)])
def test_a_container_limits_the_cores(tmp_path: Path, limit: str, most: int | None) -> None:
    (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert usable_cores(tmp_path) == (most or usable_cores(tmp_path / "absent"))


def test_a_folder_that_may_not_be_looked_at_has_no_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def is_dir(path: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_dir", is_dir)
    assert disk_of(tmp_path / "closed") is None
