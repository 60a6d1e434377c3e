import re

import pytest

from cifar_cli.core.memory.gpus import GPUS, NOMINAL_BYTES, NOMINAL_SHARE, TABLE_GPUS, gpu_of
from cifar_cli.errors import ConfigError

GIB = 1 << 30


@pytest.mark.parametrize(
    ("name", "nominal_gib"), [("T4", 16), ("L4", 24), ("RTX 3090", 24), ("A100 40GB", 40), ("H100 80GB", 80)]
)
def test_a_card_has_less_than_its_nominal_memory(name: str, nominal_gib: int) -> None:
    assert 0.91 * nominal_gib * GIB < GPUS[name].memory_bytes < 0.996 * nominal_gib * GIB


@pytest.mark.parametrize(
    ("name", "nominal_gib"),
    [
        ("RTX 2060", 6), ("GTX 1660 Ti", 6), ("RTX 3070", 8), ("RTX 3080", 10), ("RTX 2080 Ti", 11), ("RTX 3060", 12),
        ("V100 16GB", 16), ("RTX 3090", 24), ("RTX 4090", 24), ("V100 32GB", 32), ("A100 40GB", 40), ("H100 NVL", 94),
    ],
)  # fmt: skip
def test_no_card_whose_memory_is_known_has_less_than_is_assumed_of_one_with_a_nominal_size(
    name: str, nominal_gib: int
) -> None:
    assumed = nominal_gib * GIB * (1 - NOMINAL_SHARE) - NOMINAL_BYTES
    assert assumed <= GPUS[name].memory_bytes < nominal_gib * GIB


def test_every_card_has_a_source_and_the_cards_of_the_table_are_known() -> None:
    assert all(gpu.source for gpu in GPUS.values())
    assert set(TABLE_GPUS) <= set(GPUS)


@pytest.mark.parametrize("spelling", ["RTX 3090", "rtx3090", "rtx-3090", "RTX_3090"])
def test_cards_are_found_in_every_spelling(spelling: str) -> None:
    assert gpu_of(spelling).name == "RTX 3090"


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("4090", "RTX 4090"), ("H100", "H100 80GB"), ("Tesla T4", "T4"), ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA H100 80GB HBM3", "H100 80GB"), ("NVIDIA A100-SXM4-40GB", "A100 40GB"), ("A10G", "A10G"),
        ("Tesla V100-SXM2-16GB", "V100 16GB"), ("NVIDIA GeForce RTX 4060 Laptop GPU", "RTX 4060 Laptop"),
        ("L40", "L40"), ("A6000", "RTX A6000"), ("RTX 6000 Ada Generation", "RTX 6000 Ada"), ("B200", "B200"),
        ("NVIDIA GeForce GTX 1080 Ti", "GTX 1080 Ti"), ("AMD Instinct MI300X", "MI300X"),
        ("Tesla P100-PCIE-16GB", "P100 16GB"), ("RTX 3090 24GB", "RTX 3090"), ("T4 16GB", "T4"),
        ("RTX 3080 10GB", "RTX 3080"), ("rtx-3080-12gb", "RTX 3080 12GB"), ("RTX 4060 Ti 8GB", "RTX 4060 Ti"),
        ("A100 40G", "A100 40GB"), ("H200 NVL", "H200 NVL"), ("NVIDIA RTX A5000", "RTX A5000"),
        ("NVIDIA GeForce RTX 3050 Ti Laptop GPU", "RTX 3050 Ti Laptop"), ("A100 80 GiB", "A100 80GB"),
        ("NVIDIA GeForce RTX 3050 6GB Laptop GPU", "RTX 3050 Laptop 6GB"),
        ("NVIDIA GeForce RTX 5070 Ti Laptop GPU", "RTX 5070 Ti Laptop"), ("GTX 1650 Ti", "GTX 1650 Ti"),
    ],
)  # fmt: skip
def test_cards_are_found_as_people_and_drivers_write_them(spelling: str, name: str) -> None:
    assert gpu_of(spelling).name == name


def test_every_card_is_found_by_its_own_name() -> None:
    assert all(gpu_of(name) is gpu for name, gpu in GPUS.items())


def test_a_card_that_exists_with_several_sizes_is_asked_back() -> None:
    with pytest.raises(ConfigError, match="several sizes") as error:
        gpu_of("A100")
    assert "A100 40GB or A100 80GB" in str(error.value.remedy)


@pytest.mark.parametrize("name", ["RTX 3090 16GB", "A100 24GB", "RTX 3080 24GB"])
def test_a_card_that_does_not_exist_with_that_memory_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="does not exist with that memory") as error:
        gpu_of(name)
    assert name.rsplit(" ", 1)[0] in str(error.value.remedy)


@pytest.mark.parametrize("name", ["Apple M2", "M3 Max", "M4 Max 64GB"])
def test_apples_shared_memory_is_refused_with_a_reason(name: str) -> None:
    with pytest.raises(ConfigError, match="shares its memory with the system"):
        gpu_of(name)


@pytest.mark.parametrize("name", ["RTX 3091", "*", "RTX **", "T4[", "H", "P", "RTX 308", "NVIDIA", "24GB"])
def test_an_unknown_card_is_refused_with_the_nearest(name: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"--gpu {name} is not in the list")):
        gpu_of(name)
