import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cifar_cli.app import app
from tests.golden import WIDTHS, Golden

RUN = CliRunner()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--gpu", "RTX 3091"], "did you mean RTX 3090"),
        (["--memory", "100MB", "--find-max-batch"], "alone don't fit into 95 MiB"),
        (["--batch", "0"], "--batch must be at least 1, not 0"),
        (["--measure", "--find-max-batch", "--gpu", "T4"], "--gpu names a card to estimate for"),
        (["--measure", "--device", "cpu", "--find-max-batch", "--memory", "1MiB"], "alone don't fit into 1 MiB"),
        (["--measure", "--device", "cpu", "--find-max-batch", "--memory", "9999GiB"], "to spare, not 9999.0 GiB"),
        (["--measure", "--device", "cpu", "-b", "64", "--memory", "6MiB"], "64 images of null take"),
        (["--measure", "--device", "cpu", "--batch", "0"], "--batch must be at least 1, not 0"),
        (["--device", "mps"], "the memory of an MPS device can't be measured"),
        (["--find-max-batch", "--multiple-of", "0"], "--multiple-of must be at least 1, not 0"),
        (["--gpu", "Voodoo 2"], "--gpu Voodoo 2 is not in the list"),
        (["--eval", "--freeze", "backbone"], "--freeze belongs to a training step, and --eval is a forward pass"),
        (["--eval", "--accumulate", "2"], "--accumulate belongs to a training step"),
        (["--ema-decay", "2"], "--ema-decay 2 is not between 0 and 1"),
        (["--accumulate", "0"], "--accumulate must be at least 1, not 0"),
        (["--devices", "0"], "--devices must be at least 1, not 0"),
        (["-b", "3", "--devices", "4"], "--batch 3 holds less than one image for each of 4 parts"),
        (["--devices", "2", "--measure", "--device", "cpu"], "--measure runs steps in one process"),
        (["--devices", "2", "--strategy", "fsdp", "--optimizer", "muon"], "--optimizer muon needs whole matrices"),
        (["--grad-checkpointing"], "null has no activation checkpointing"),
        (["--what-would-help"], "--what-would-help needs the memory of a card"),
        (["--what-would-help", "--find-max-batch"], "--what-would-help estimates given batch sizes"),
        (["--img-size", "2x40"], "null pools twice and can't read 2x40-pixel images"),
        (["--memory", "24"], "--memory 24 has no unit"),
        (["--img-size", "axb"], "--img-size axb is not a size in pixels"),
        (["--gpu", "*"], "--gpu * is not in the list of cards"),
    ],
)
def test_bad_input_is_refused_by_name(flags: list[str], message: str) -> None:
    result = RUN.invoke(app, ["profile-memory", "--model", "null", *flags])
    assert result.exit_code in (1, 2)
    assert message in result.stderr
    assert result.stderr.count("error:") == result.stderr.count("  try:") == 1


def test_json_is_one_document_with_the_documented_keys() -> None:
    result = RUN.invoke(app, ["profile-memory", "-m", "null", "--find-max-batch", "--memory", "1GiB", "--json"])
    (model,) = json.loads(result.stdout)["models"]
    assert {"batch", "peak_allocated_bytes", "peak_reserved_bytes", "max_batch", "memory_bytes", "terms"} <= set(model)
    assert model["method"] == "estimate"
    assert model["batch"] == model["max_batch"] > 0


@pytest.mark.parametrize("command", ["profile-memory", "summarize"])
def test_an_unknown_tag_of_a_timm_model_is_named(command: str) -> None:
    result = RUN.invoke(app, [command, "-m", "timm:resnet50.nonsense"])
    assert result.exit_code == 1
    assert "timm has no weights named nonsense for resnet50" in result.stderr


@pytest.mark.parametrize("name", ["timm/resnet18.a1_in1k", "hf-hub:timm/resnet18.a1_in1k", "timm:resnet18.a1_in1k"])
def test_models_are_found_under_their_names_on_the_hub(name: str) -> None:
    result = RUN.invoke(app, ["profile-memory", "-m", name, "-b", "2", "--json"])
    assert json.loads(result.stdout)["models"][0]["model"] == "resnet18.a1_in1k"


@pytest.mark.slow
@pytest.mark.parametrize("measure", [[], ["--measure", "--device", "cpu"]])
@pytest.mark.parametrize(
    ("batch", "remedy"), [("1", "pass --batch 2 or more"), ("4", "pass --img-size 256, for which")]
)
def test_a_model_that_cant_read_the_images_is_refused_with_a_remedy_that_works(
    batch: str, remedy: str, measure: list[str]
) -> None:
    model = "timm:resnet18" if batch == "1" else "timm:eca_halonext26ts"  # 1x1 features; blocks
    result = RUN.invoke(app, ["profile-memory", "-m", model, "--img-size", "32", "-b", batch, *measure])
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit), "an expected error"
    assert ("don't run on the CPU" if measure else remedy) in " ".join(result.stderr.split())


@pytest.mark.parametrize(("batch", "status"), [("64", 0), ("4000000", 1)])
def test_a_named_card_answers_whether_the_batch_fits(batch: str, status: int) -> None:
    result = RUN.invoke(app, ["profile-memory", "-m", "null", "-b", batch, "--gpu", "T4"])
    assert result.exit_code == status
    assert "Does it fit" in result.stdout
    message = "batch 4,000,000 of null doesn't fit on T4; add --what-would-help"
    assert (message in result.stderr) == bool(status)
    document = RUN.invoke(app, ["profile-memory", "-m", "null", "-b", batch, "--gpu", "T4", "--json"])
    assert document.exit_code == status
    assert json.loads(document.stdout)["fits"][0]["fits"] is not bool(status)


@pytest.mark.parametrize("command", ["profile-memory", "summarize"])
@pytest.mark.parametrize("names", [",", " , "])
def test_a_model_option_without_a_name_is_a_usage_error(command: str, names: str) -> None:
    result = RUN.invoke(app, [command, "-m", names])
    assert result.exit_code == 2
    assert "--model names no model" in result.stderr


def test_what_would_help_ranks_options_that_keep_their_promise_when_they_are_added() -> None:
    words = ["profile-memory", "-m", "null", "-b", "100000", "--gpu", "T4", "--json"]
    result = RUN.invoke(app, [*words, "--what-would-help"])
    (found,) = json.loads(result.stdout)["what_would_help"]
    saved = [remedy["saved_bytes"] for remedy in found["remedies"]]
    assert saved == sorted(saved, reverse=True)
    assert found["not_possible"] == ["--grad-checkpointing: null has no activation checkpointing"]
    assert {remedy["options"].split()[0] for remedy in found["remedies"]} == {
        "--accumulate", "--devices", "--freeze", "--optimizer",
    }  # fmt: skip
    for remedy in found["remedies"]:
        (changed,) = json.loads(RUN.invoke(app, [*words, *remedy["options"].split()]).stdout)["fits"]
        assert (changed["needed_bytes"], changed["fits"]) == (remedy["needed_bytes"], remedy["fits"])
        assert found["needed_bytes"] - changed["needed_bytes"] == remedy["saved_bytes"]


def test_a_batch_that_fits_needs_no_help() -> None:
    result = RUN.invoke(app, ["profile-memory", "-m", "null", "-b", "8", "--gpu", "T4", "--what-would-help", "--json"])
    (found,) = json.loads(result.stdout)["what_would_help"]
    assert (found["remedies"], found["not_possible"]) == ([], [])


@pytest.mark.parametrize(
    ("flags", "precision"),
    [
        (["--gpu", "RTX 3090"], "bf16"),
        (["--gpu", "T4"], "16"),
        (["--gpu", "GTX 1080 Ti"], "32"),
        (["--memory", "24GiB"], "bf16"),
        (["--gpu", "T4", "--eval"], "32"),
        (["--gpu", "T4", "--precision", "32"], "32"),
        ([], "bf16"),
    ],
)
def test_the_precision_is_that_of_training_on_the_card(flags: list[str], precision: str) -> None:
    result = RUN.invoke(app, ["profile-memory", "-m", "null", "-b", "8", "--estimate", "--json", *flags])
    assert [peak["precision"] for peak in json.loads(result.stdout)["models"]] == [precision]


def test_what_a_trace_cant_see_is_said() -> None:
    result = RUN.invoke(app, ["profile-memory", "-m", "null", "-b", "8", "--compile", "--devices", "2"])
    assert "torch.compile is not traced" in result.stderr
    assert "without what NCCL takes" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
def test_an_estimate_is_shown_as_tables(width: int, golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    result = RUN.invoke(app, ["profile-memory", "-b", "64", "-b", "128", "--estimate"])
    assert result.exit_code == 0, result.output
    golden(f"memory/command-{width}", "\n".join(line.rstrip() for line in result.stdout.splitlines()) + "\n")


@pytest.mark.parametrize("width", WIDTHS)
def test_the_largest_batches_are_shown_as_a_table(width: int, golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    flags = ["-m", "null", "--gpu", "RTX 3070", "--margin", "5%", "--multiple-of", "8"]
    result = RUN.invoke(app, ["profile-memory", "--find-max-batch", *flags])
    assert result.exit_code == 0, result.output
    golden(f"memory/command-largest-{width}", "\n".join(line.rstrip() for line in result.stdout.splitlines()) + "\n")


@pytest.mark.slow
def test_on_the_host_the_search_runs_real_steps() -> None:
    flags = ["-m", "null", "--measure", "--device", "cpu", "--find-max-batch", "--memory", "20MiB", "--json"]
    result = RUN.invoke(app, ["profile-memory", *flags])
    (model,) = json.loads(result.stdout)["models"]
    assert model["proved"]
    assert model["host"]
    assert model["batch"] == model["max_batch"] in model["tested_batches"]
    assert model["peak_allocated_bytes"] <= model["memory_bytes"] == 20 << 20


@pytest.mark.slow
def test_a_measured_search_of_a_model_with_batch_norm_says_that_memory_is_short_and_not_that_one_image_fails() -> None:
    words = ["-m", "cnn", "--measure", "--device", "cpu", "--find-max-batch", "--precision", "32", "--memory", "50MiB"]
    result = RUN.invoke(app, ["profile-memory", *words, "--json"])
    assert result.exit_code == 1, result.stderr
    (model,) = json.loads(result.stdout)["models"]
    assert (model["max_batch"], model["method"]) == (0, "measure")
    figures = ("peak_allocated_bytes", "peak_reserved_bytes", "device_bytes", "margin_left_bytes", "terms")
    assert [model[name] for name in figures] == [None] * 5  # nothing ran, and nothing predicted stands in its place


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [("--find-max-batch", "--memory", "40MiB"), ("-b", "4"), ("-b", "4", "--memory", "1GiB")]
)
def test_a_model_that_can_not_be_traced_is_measured(tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, classes):\n        super().__init__()\n        self.head = nn.Linear(3072, classes)\n"
        "    def forward(self, images):\n        assert images.mean().item() < 9\n"
        "        return self.head(images.flatten(1))\n"
        "def build(*, classes, img_size):\n    return Net(classes)\n"
    )
    asked = ["profile-memory", "-m", f"{tmp_path}/net.py:build", "--json"]
    predicted = RUN.invoke(app, [*asked, *words])
    assert predicted.exit_code == 1
    assert "or --measure" in predicted.stderr or "--memory" in words  # which is less than a CUDA context takes
    measured = RUN.invoke(app, [*asked, "--measure", "--device", "cpu", *words])
    assert measured.exit_code == 0, measured.stderr
    document = json.loads(measured.stdout)
    assert [model["method"] for model in document["models"]] == ["measure"]
    assert document["models"][0]["batch"] >= 4
    assert bool(document["remarks"]) == ("--find-max-batch" in words)
