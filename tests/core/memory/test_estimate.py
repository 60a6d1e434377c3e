from dataclasses import replace

import pytest
import torch

from cifar_cli.core.choices import OptimizerName
from cifar_cli.core.memory.config import MIB, MemoryConfig
from cifar_cli.core.memory.estimate import (
    Tracer,
    check_fit,
    find_max_batch,
    fits,
    memory_remedy,
    peak_of,
    require_weights_fit,
    scaled_trace,
)
from cifar_cli.core.memory.gpus import CONTEXT_BYTES, GPUS, precision_on
from cifar_cli.core.memory.remedies import ladders
from cifar_cli.core.memory.trace import trace_steps
from cifar_cli.core.models.build import build_untrained
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.config import StepConfig
from cifar_cli.core.training.step import OPTIMIZERS
from cifar_cli.errors import ResourceError

NULL = MemoryConfig(model=ModelConfig(name="null"))


def test_terms_add_up_to_the_memory_of_the_device() -> None:
    peak = peak_of(Tracer(NULL).at(16), model="null")
    assert peak.terms is not None
    assert peak.terms.total_bytes == peak.device_bytes
    assert min(getattr(peak.terms, name) for name in peak.terms.__slots__) >= 0
    assert peak.terms.weights_bytes == 545_098 * 4


def test_the_state_of_fused_adam_is_two_moments_and_a_step_count_for_each_parameter() -> None:
    tracer = Tracer(NULL)
    terms = peak_of(tracer.at(16), model="null").terms
    assert terms is not None
    assert terms.optimizer_bytes == 2 * terms.weights_bytes + 4 * len(list(tracer.model.parameters()))


@pytest.mark.parametrize("name", ["null", "hybrid", "airbench", "timm:levit_128s", "timm:swin_tiny_patch4_window7_224"])
def test_an_estimate_for_a_gpu_has_no_weights_and_equals_that_of_a_model_with_weights(name: str) -> None:
    config = MemoryConfig(model=ModelConfig(name=name, img_size=64, weights="none"))
    tracer = Tracer(config)
    assert all(parameter.is_meta for parameter in tracer.model.parameters())
    with_weights = trace_steps(build_untrained(config.model), 2, config)
    assert (tracer.at(2).events, tracer.at(2).sizes_bytes) == (with_weights.events, with_weights.sizes_bytes)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_tracing_makes_no_cuda_context(optimizer: OptimizerName, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise AssertionError("trials that follow would lack the memory of a context")

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda._lazy_init", refuse)
    config = replace(NULL, step=StepConfig(optimizer=optimizer, precision="16", ema_decay=0.9))
    assert Tracer(config).at(2).events
    assert not torch.cuda.is_initialized()


def test_a_scaled_trace_has_the_sizes_of_the_traced_one() -> None:
    tracer = Tracer(NULL)
    scaled = scaled_trace(tracer.at(8), tracer.at(32), 20)
    assert scaled is not None
    assert scaled.sizes_bytes == tracer.at(20).sizes_bytes


def test_the_largest_batch_and_its_neighbour_were_traced() -> None:
    tracer, memory = Tracer(NULL), 2 * 2**30
    found = find_max_batch(tracer, gpu="2GiB", memory_bytes=memory)
    assert {found.max_batch, found.max_batch + 1} <= set(found.tested)
    assert fits(tracer.at(found.max_batch), memory)
    assert not fits(tracer.at(found.max_batch + 1), memory)
    assert found.margin_left_bytes >= 0


def test_multiple_of_divides_the_answer() -> None:
    assert find_max_batch(Tracer(NULL), gpu="x", memory_bytes=2**30, multiple_of=8).max_batch % 8 == 0


def test_weights_that_dont_fit_are_named_on_a_gpu_and_on_the_host() -> None:
    model = ModelConfig(name="hybrid", weights="none")
    with pytest.raises(ResourceError, match=r"\(500 MiB\) alone don't fit into 95 MiB"):
        require_weights_fit(Tracer(MemoryConfig(model=model)), 100 * 10**6)
    with pytest.raises(ResourceError, match=r"the weights of hybrid \(\d+ MiB\) alone don't fit into 1 MiB"):
        require_weights_fit(Tracer(MemoryConfig(model=model, backend="cpu")), 2**20)


def test_a_search_for_a_model_with_batch_norm_never_ends_at_one_image() -> None:
    tracer = Tracer(MemoryConfig(model=ModelConfig(name="cnn", weights="none")))  # 1x1 features at 32 pixels
    least = check_fit(tracer, 2, gpu="a card", memory_bytes=1 << 40).needed_bytes
    for memory, batch in ((least // 2, 0), (least + MIB, 2)):
        found = find_max_batch(tracer, gpu="a card", memory_bytes=memory, risk="safe")
        assert (found.max_batch == 0) == (batch == 0)
        assert found.max_batch != 1


def test_each_gpu_needs_room_for_its_part_of_the_weights_only() -> None:
    model = ModelConfig(name="hybrid", weights="none")
    memory = CONTEXT_BYTES + 20 * MIB  # the weights are 51 MiB
    with pytest.raises(ResourceError, match="alone don't fit") as caught:
        require_weights_fit(Tracer(MemoryConfig(model=model)), memory)
    assert "--strategy fsdp" in str(caught.value.remedy)
    require_weights_fit(Tracer(MemoryConfig(model=model, devices=8, strategy="fsdp")), memory)


@pytest.mark.parametrize(("card", "half"), [
        ("RTX 3090", "bf16"), ("T4", "16"), ("GTX 1080 Ti", "32"), ("Tesla T4", "16"),
        ("NVIDIA GeForce GTX 1660 Ti", "32"),
        ("NVIDIA GeForce RTX 2080 Ti", "16"), ("Tesla V100-SXM2-16GB", "16"), ("NVIDIA TITAN RTX", "16"),
        ("NVIDIA TITAN Xp", "32"), ("Quadro RTX 8000", "16"), ("NVIDIA RTX 4000 Ada Generation", "bf16"),
        ("NVIDIA RTX 2000 Ada Generation", "bf16"), ("NVIDIA A100-SXM4-80GB", "bf16"), ("NVIDIA H100 PCIe", "bf16"),
        ("Tesla P100-PCIE-16GB", "32"), ("24 GiB", "bf16"), ("NVIDIA L4", "bf16"),
    ],
)  # fmt: skip
def test_a_precision_that_the_card_lacks_is_not_recommended(card: str, half: str) -> None:
    config = MemoryConfig(model=ModelConfig(name="null", weights="none"))
    assert precision_on(card) == half
    offered = [ladder[0][0] for ladder in ladders(config, 64, precision_on(card))]
    assert (f"--precision {half}" in offered) == (half != "32")
    assert sum(options.startswith("--precision") for options in offered) == (half != "32")
    assert ("--precision" in memory_remedy(config, precision_on(card))) == (half != "32")


def test_cards_of_the_list_have_the_precision_of_their_name_whatever_is_added() -> None:
    assert all(precision_on(f"NVIDIA {name}") == gpu.precision for name, gpu in GPUS.items())


@pytest.mark.parametrize("parts", [{"devices": 8}, {"accumulate": 8}])
def test_a_search_that_finds_nothing_says_so_with_many_parts_too(parts: dict[str, int]) -> None:
    tracer = Tracer(MemoryConfig(model=ModelConfig(name="cnn", weights="none"), **parts))  # type: ignore[arg-type]
    found = find_max_batch(tracer, gpu="a card", memory_bytes=CONTEXT_BYTES + MIB)
    assert found.max_batch == 0
    assert found.help is not None
