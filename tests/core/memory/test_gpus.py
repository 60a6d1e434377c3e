import pytest

from cifar_cli.core.memory.gpus import GPUS, TABLE_GPUS, gpu_of
from cifar_cli.errors import ConfigError

GIB = 1 << 30


@pytest.mark.parametrize(
    ("name", "nominal_gib"), [("T4", 16), ("L4", 24), ("RTX 3090", 24), ("A100 40GB", 40), ("H100 80GB", 80)]
)
def test_a_card_has_less_than_its_nominal_memory(name: str, nominal_gib: int) -> None:
    assert 0.91 * nominal_gib * GIB < GPUS[name].memory_bytes < 0.996 * nominal_gib * GIB


def test_every_card_has_a_source_and_the_cards_of_the_table_are_known() -> None:
    assert all(gpu.source for gpu in GPUS.values())
    assert set(TABLE_GPUS) <= set(GPUS)


@pytest.mark.parametrize("spelling", ["RTX 3090", "rtx3090", "rtx-3090", "RTX_3090"])
def test_cards_are_found_in_every_spelling(spelling: str) -> None:
    assert gpu_of(spelling).name == "RTX 3090"


def test_an_unknown_card_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="RTX 3091"):
        gpu_of("RTX 3091")
