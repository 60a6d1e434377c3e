"""What `cifar profile-memory` does, by request and by machine."""

from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest

from cifar_cli.core.choices import DeviceChoice
from cifar_cli.core.memory.config import MemoryConfig, MemoryRequest
from cifar_cli.core.memory.gpus import TABLE_GPUS, Gpu
from cifar_cli.core.memory.measure import Machine
from cifar_cli.core.memory.profile import cards_of, profile
from cifar_cli.core.memory.real_steps import built
from cifar_cli.core.memory.results import BatchTrial
from cifar_cli.core.memory.worker import Outcome
from cifar_cli.core.models import build
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.progress import Progress
from cifar_cli.core.training.config import StepConfig
from cifar_cli.errors import ConfigError, ModelError, ResourceError

MIB = 1 << 20
NULL = MemoryConfig(model=ModelConfig(name="null", weights="none"))
NO_GPU = Machine(gpu=None)


class UpTo200:
    """A process on a GPU that holds 200 images and is as fast with 128 as with more."""

    def ask(self, *arguments: Any, timeout_seconds: float) -> Outcome:
        batch, _ = arguments
        if batch > 200:
            return Outcome(kind="out of memory", value="the card is full")
        speed, allocated = 10.0 * min(batch, 128), (100 + 2 * batch) * MIB
        trial = BatchTrial(
            batch=batch,
            kind="ran",
            peak_allocated_bytes=allocated,
            peak_reserved_bytes=allocated + MIB,
            device_bytes=allocated + 500 * MIB,
            images_per_second=speed,
        )
        return Outcome(kind="done", value=trial)

    def close(self) -> None:
        pass


WITH_GPU = Machine(
    gpu=Gpu(name="NVIDIA Pretended 9000", memory_bytes=1 << 30, source="this test"), start=lambda function: UpTo200()
)


def request(**options: Any) -> MemoryRequest:
    return MemoryRequest(configs=(NULL,), **options)


@pytest.mark.parametrize("batches", [(16,), (16, 64), (8, 32, 8)])
def test_an_estimate_traces_only_the_batch_sizes_asked_for_and_each_once(batches: tuple[int, ...]) -> None:
    traced: list[Progress] = []
    report = profile(request(batches=batches), machine=NO_GPU, on_progress=traced.append)
    assert [progress.detail for progress in traced] == [f"batch {size}" for size in dict.fromkeys(batches)]
    assert [peak.batch for peak in report.peaks] == list(batches)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"measure": True, "device": "cpu"}])
def test_a_model_is_built_once(options: dict[str, Any]) -> None:
    built.cache_clear()
    with patch.object(build, "build_model", side_effect=build.build_model) as builds:
        profile(request(batches=(4, 6), **options), machine=NO_GPU)
    assert builds.call_count == 1


def test_bytes_per_image_are_the_growth_between_the_smallest_and_the_largest_size() -> None:
    small, middle, large = profile(request(batches=(16, 32, 64)), machine=NO_GPU).peaks
    slope = (large.peak_allocated_bytes - small.peak_allocated_bytes) / 48
    assert small.bytes_per_image == middle.bytes_per_image == large.bytes_per_image == slope
    assert profile(request(batches=(16, 16)), machine=NO_GPU).peaks[0].bytes_per_image is None


def test_with_a_gpu_each_estimate_is_followed_by_its_measurement() -> None:
    peaks = profile(request(batches=(16, 64)), machine=WITH_GPU).peaks
    assert [(peak.method, peak.batch) for peak in peaks] == [
        ("estimate", 16), ("measure", 16), ("estimate", 64), ("measure", 64),
    ]  # fmt: skip
    assert peaks[1].bytes_per_image == peaks[3].bytes_per_image == 2 * MIB
    assert peaks[1].device_bytes == (100 + 32 + 500) * MIB


def test_a_batch_size_that_doesnt_run_on_the_gpu_is_named() -> None:
    with pytest.raises(ResourceError, match="300 images of null don't run on this GPU: out of memory"):
        profile(request(batches=(300,)), machine=WITH_GPU)


@pytest.mark.parametrize(
    ("options", "methods"),
    [({}, ["estimate", "measure"]), ({"device": "cuda"}, ["estimate", "measure"]), ({"estimate": True}, ["estimate"]),
     ({"device": "cpu"}, ["estimate"]), ({"gpus": ("T4",)}, ["estimate"]), ({"memory_bytes": 1 << 30}, ["estimate"]),
     ({"memory_bytes": 1 << 30, "measure": True}, ["estimate", "measure"])],
)  # fmt: skip
def test_with_a_gpu_the_largest_batch_is_measured_unless_other_memory_or_an_estimate_is_asked_for(
    options: dict[str, Any], methods: list[str]
) -> None:
    report = profile(request(find_max_batch=True, **options), machine=WITH_GPU)
    assert [found.method for found in report.largest] == methods
    assert report.largest[0].max_batch < report.largest[0].even_batch, "the safe answer, and the middle beside it"
    if "measure" in methods:
        found = report.largest[-1]
        assert (found.gpu, found.max_batch, found.proved, found.knee_batch) == ("NVIDIA Pretended 9000", 200, True, 128)
        assert found.stopped_by == "out of memory: the card is full"


def test_memory_limits_the_gpu_memory_in_use() -> None:
    options = {"memory_bytes": 900 * MIB, "measure": True, "find_max_batch": True}
    assert {found.memory_bytes for found in profile(request(**options), machine=WITH_GPU).largest} == {900 * MIB}


@pytest.mark.parametrize("device", ["auto", "cuda"])
@pytest.mark.parametrize("find_max_batch", [False, True])
def test_measuring_without_a_gpu_is_refused_with_the_alternatives(device: DeviceChoice, find_max_batch: bool) -> None:
    with pytest.raises(ResourceError, match="needs a GPU") as error:
        profile(request(measure=True, device=device, find_max_batch=find_max_batch), machine=NO_GPU)
    assert "--device cpu" in str(error.value.remedy)


def test_the_cards_are_the_one_named_this_machines_or_several_common_ones() -> None:
    assert [card.name for card in cards_of(request(gpus=("rtx3090",)), WITH_GPU)] == ["RTX 3090"]
    assert [card.name for card in cards_of(request(memory_bytes=24 << 30), WITH_GPU)] == ["24 GiB"]
    assert [card.name for card in cards_of(request(memory_bytes=64 * MIB), NO_GPU)] == ["64 MiB"]
    assert cards_of(request(), WITH_GPU) == [WITH_GPU.gpu]
    assert [card.name for card in cards_of(request(), NO_GPU)] == list(TABLE_GPUS)


def test_a_named_card_says_whether_each_batch_fits_and_what_is_left() -> None:
    report = profile(request(batches=(16, 100_000), gpus=("T4", "A100 80GB")), machine=NO_GPU)
    answers = {(check.gpu, check.batch): check for check in report.fits}
    assert {where: check.fits for where, check in answers.items()} == {
        ("T4", 16): True, ("T4", 100_000): False, ("A100 80GB", 16): True, ("A100 80GB", 100_000): True,
    }  # fmt: skip
    for check in report.fits:
        assert check.fits == (check.left_bytes >= 0) == (check.help is None)
        assert check.even_bytes < check.needed_bytes
    assert not profile(request(batches=(16,)), machine=NO_GPU).fits


def test_the_safe_answer_is_smaller_and_the_middle_stands_beside_it() -> None:
    safe, even = (
        profile(request(find_max_batch=True, gpus=("T4",), risk=risk)).largest[0] for risk in ("safe", "even")
    )
    assert safe.max_batch < safe.even_batch == even.max_batch == even.even_batch
    assert safe.margin_left_bytes >= 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "mps"}, "the memory of an MPS device can't be measured"),
        ({"device": "tpu"}, "--device tpu is not offered"),
        ({"margin": 0.95}, "--margin 0.95 is not a share"),
        ({"memory_bytes": 0}, "--memory must be at least 1, not 0"),
        ({"gpus": ("T4",), "memory_bytes": 1}, "--gpu and --memory both set the memory size"),
        ({"estimate": True, "measure": True}, "contradict each other"),
        ({"measure": True, "gpus": ("T4",)}, "--gpu names a card to estimate for"),
        ({"risk": "none"}, "--risk none is not offered"),
        ({"multiple_of": 0}, "--multiple-of must be at least 1, not 0"),
    ],
)
def test_requests_that_cant_be_answered_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        request(**options)


@pytest.mark.parametrize("find_max_batch", [False, True])
def test_cards_are_answered_once_each_in_the_order_asked_for(find_max_batch: bool) -> None:
    names = ("rtx3090", "T4", "4090", "Tesla T4", "GTX 1080 Ti")
    report = profile(
        request(batches=(16,), gpus=names, precision_auto=True, find_max_batch=find_max_batch), machine=NO_GPU
    )
    answers = report.largest or report.fits
    assert [answer.gpu for answer in answers] == ["RTX 3090", "T4", "RTX 4090", "GTX 1080 Ti"]
    precisions = [found.peak.precision for found in report.largest] or [check.precision for check in report.fits]
    assert precisions == ["bf16", "16", "bf16", "32"]


def test_what_would_help_estimates_where_there_is_a_gpu_too() -> None:
    report = profile(request(batches=(10_000_000,), what_would_help=True), machine=WITH_GPU)
    assert {peak.method for peak in report.peaks} == {"estimate"}
    (found,) = report.helps
    assert found.check.gpu == "NVIDIA Pretended 9000"
    assert found.remedies


@pytest.mark.parametrize("options", [{"find_max_batch": True}, {"batches": (8,)}])
def test_figures_of_a_gpu_are_called_that_where_the_cpu_was_named(options: dict[str, Any]) -> None:
    report = profile(request(device="cpu", **options), machine=NO_GPU)
    assert report.remarks == (
        "the figures are of a GPU; --measure --device cpu runs the steps in the memory of this host",
    )
    assert not profile(request(**options), machine=NO_GPU).remarks


def test_the_json_document_has_the_step_that_was_asked_for() -> None:
    config = replace(NULL, accumulate=4, step=StepConfig(optimizer="sgd", freeze="none"))
    (found,) = profile(MemoryRequest(configs=(config,)), machine=NO_GPU).to_dict()["configs"]
    assert (found["accumulate"], found["step"]["optimizer"], found["model"]["name"]) == (4, "sgd", "null")


class Failing(UpTo200):
    """A process in which no step runs."""

    def ask(self, *arguments: Any, timeout_seconds: float) -> Outcome:
        return Outcome(kind="failed", value="RuntimeError: no C compiler")


def test_steps_that_fail_on_a_gpu_say_why() -> None:
    machine = replace(WITH_GPU, start=lambda function: Failing())
    with pytest.raises(ModelError, match="don't run on this GPU: RuntimeError: no C compiler"):
        profile(request(batches=(16,), measure=True), machine=machine)
