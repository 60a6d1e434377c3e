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
