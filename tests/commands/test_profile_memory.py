import json

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
        (["--measure", "--device", "cpu", "--batch", "0"], "--batch must be at least 1, not 0"),
        (["--device", "mps"], "the memory of an MPS device can't be measured"),
        (["--find-max-batch", "--multiple-of", "0"], "--multiple-of must be at least 1, not 0"),
        (["--gpu", "Voodoo 2"], "--gpu Voodoo 2 is not in the list"),
    ],
)
def test_bad_input_is_refused_by_name(flags: list[str], message: str) -> None:
    result = RUN.invoke(app, ["profile-memory", "--model", "null", *flags])
    assert result.exit_code == 1
    assert message in result.stderr


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
@pytest.mark.parametrize(("batch", "remedy"), [("1", "pass --batch 2 or more"), ("4", "pass another --img-size")])
def test_a_model_that_cant_read_the_images_is_refused_with_a_remedy_that_works(
    batch: str, remedy: str, measure: list[str]
) -> None:
    model = "timm:resnet18" if batch == "1" else "timm:eca_halonext26ts"  # 1x1 features; blocks
    result = RUN.invoke(app, ["profile-memory", "-m", model, "--img-size", "32", "-b", batch, *measure])
    assert result.exit_code == 1
    assert measure or remedy in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(("batch", "status"), [("64", 0), ("4000000", 1)])
def test_a_named_card_answers_whether_the_batch_fits(batch: str, status: int) -> None:
    result = RUN.invoke(app, ["profile-memory", "-m", "null", "-b", batch, "--gpu", "T4"])
    assert result.exit_code == status
    assert "Does it fit" in result.stdout
    assert ("doesn't fit on T4; try --precision bf16" in result.stderr) == bool(status)


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
