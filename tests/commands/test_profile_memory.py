import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from cifar_cli.app import app
from cifar_cli.core.memory.config import MemoryConfig
from cifar_cli.core.memory.estimate import estimate
from cifar_cli.core.memory.results import PeakMemory, Trial
from cifar_cli.core.memory.worker import Outcome

RUN = CliRunner()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--gpu", "RTX 3091"], "did you mean RTX 3090"),
        (["--memory", "100MB", "--find-max-batch"], "alone don't fit into 95 MiB"),
        (["--batch", "0"], "--batch 0 holds no image"),
        (["--gpu", "T4", "--memory", "8GiB"], "--gpu and --memory both"),
        (["--measure", "--find-max-batch", "--gpu", "T4"], "--gpu names a card to estimate for"),
        (["--measure", "--device", "cpu", "--find-max-batch", "--memory", "1MiB"], "alone don't fit into 1 MiB"),
        (["--measure", "--device", "cpu", "--find-max-batch", "--memory", "9999GiB"], "to spare, not 9999.0 GiB"),
        (["--measure", "--device", "cpu", "--batch", "0"], "--batch 0 holds no image"),
        (["--find-max-batch", "--multiple-of", "0"], "--multiple-of 0 leaves no batch size"),
        (["--gpu", "Voodoo 2"], "--gpu Voodoo 2 is not in the list"),
        (["--estimate", "--measure"], "--estimate and --measure exclude each other"),
    ],
)
def test_bad_input_is_refused_by_name(flags: list[str], message: str) -> None:
    result = RUN.invoke(app, ["profile-memory", "--model", "null", *flags])
    assert result.exit_code == 1
    assert message in result.stderr


@pytest.mark.parametrize("more", [[], ["--find-max-batch"], ["--find-max-batch", "--memory", "8GiB"]])
def test_measuring_without_a_gpu_names_the_ways_out(more: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    result = RUN.invoke(app, ["profile-memory", "--model", "null", "--measure", *more])
    assert result.exit_code == 1
    assert "needs a GPU" in result.stderr
    assert "--device cpu" in result.stderr


def test_json_is_one_document_with_the_documented_keys() -> None:
    result = RUN.invoke(app, ["profile-memory", "-m", "null", "--find-max-batch", "--memory", "1GiB", "--json"])
    (model,) = json.loads(result.stdout)["models"]
    assert {"batch", "peak_allocated_bytes", "peak_reserved_bytes", "max_batch", "memory_bytes", "terms"} <= set(model)
    assert model["method"] == "estimate"
    assert model["batch"] == model["max_batch"] > 0


class UpTo200:
    """A worker on a GPU that holds 200 images and is as fast with 128 as with more."""

    def ask(self, batch: int, proof: bool, /, *, timeout_seconds: float) -> Outcome:
        if batch > 200:
            return Outcome(kind="out of memory", value="told to")
        speed = 10.0 * min(batch, 128)
        trial = Trial(batch=batch, kind="ran", peak_reserved_bytes=batch << 20, images_per_second=speed)
        return Outcome(kind="done", value=trial)

    def close(self) -> None:
        pass


@pytest.fixture(params=["80", "120"])
def with_gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """A machine that seems to have a GPU, before a terminal of this width."""

    def measure(config: MemoryConfig, batch: int, *, device: str) -> PeakMemory:
        assert device == "cuda"
        return replace(estimate(config, batch), method="measure", terms=None, largest_modules=())

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("cifar_cli.core.memory.profile.gpu_and_memory", lambda: ("NVIDIA Pretended 9000", 1 << 30))
    monkeypatch.setattr("cifar_cli.core.memory.profile.measure", measure)
    monkeypatch.setattr("cifar_cli.core.memory.measure.Worker", lambda function: UpTo200())
    monkeypatch.setenv("COLUMNS", request.param)
    return int(request.param)


def lines_of(text: str, width: int) -> list[str]:
    lines = [line.rstrip() for line in text.splitlines()]
    assert max(map(len, lines)) <= width
    assert "…" not in text
    return lines


def test_with_a_gpu_the_measurement_stands_beside_the_estimate(with_gpu: int) -> None:
    result = RUN.invoke(app, ["profile-memory", "-m", "timm:mobilenetv3_large_100", "-b", "16", "-b", "64"])
    assert result.exit_code == 0, result.output
    lines = lines_of(result.stdout, with_gpu)
    rows = [line for line in lines if "│ measure" in line or "│ estimate" in line]
    assert ["measure" in row for row in rows] == [False, True, False, True]


def test_with_a_gpu_the_largest_batch_is_measured_and_its_knee_marked(with_gpu: int) -> None:
    result = RUN.invoke(app, ["profile-memory", "-m", "null", "--find-max-batch"])
    assert result.exit_code == 0, result.output
    lines = lines_of(result.stdout, with_gpu)
    text = " ".join(result.stdout.split())
    assert next(line for line in lines if "measure " in line).split("│")[5].strip() == "200"
    assert any("128" in line and "1,280" in line and "knee" in line for line in lines)
    assert any("200" in line and "largest" in line for line in lines)
    assert "5 steps, a partial batch and a" in text
    assert "the smallest size run within 5%" in text


@pytest.mark.parametrize(
    ("flags", "methods"),
    [([], ["estimate", "measure"]), (["--estimate"], ["estimate"]), (["--gpu", "T4"], ["estimate"]),
     (["--memory", "1GiB"], ["estimate"]), (["--memory", "1GiB", "--measure"], ["estimate", "measure"])],
)  # fmt: skip
@pytest.mark.parametrize("with_gpu", ["80"], indirect=True)
def test_with_a_gpu_only_other_memory_or_estimate_keep_it_from_running(
    with_gpu: int, flags: list[str], methods: list[str]
) -> None:
    result = RUN.invoke(app, ["profile-memory", "-m", "null", "--find-max-batch", "--json", *flags])
    models = json.loads(result.stdout)["models"]
    assert [model["method"] for model in models] == methods
    if "measure" in methods:
        seen = models[-1]
        assert (seen["max_batch"], seen["proved"], seen["knee_batch"]) == (200, True, 128)
        assert {"batch": 128, "images_per_second": 1280.0} in seen["images_per_second"]
        assert seen["stopped_by"] == "out of memory: told to"


@pytest.mark.slow
def test_on_the_host_the_search_runs_real_steps() -> None:
    flags = ["-m", "null", "--measure", "--device", "cpu", "--find-max-batch", "--memory", "20MiB", "--json"]
    result = RUN.invoke(app, ["profile-memory", *flags])
    (model,) = json.loads(result.stdout)["models"]
    assert model["proved"]
    assert model["host"]
    assert model["batch"] == model["max_batch"] in model["tested_batches"]
    assert model["peak_allocated_bytes"] <= model["memory_bytes"] == 20 << 20
