import json

import pytest
from typer.testing import CliRunner

from cifar_cli.app import app

RUN = CliRunner()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--memory", "0"], "--memory 0 leaves no memory"),
        (["--memory", "abc"], "--memory abc is not an amount"),
        (["--gpu", "RTX 3091"], "did you mean RTX 3090"),
        (["--memory", "100MB", "--find-max-batch"], "alone don't fit into 95 MiB"),
        (["--batch", "0"], "--batch 0 holds no image"),
        (["--precision", "8"], "--precision 8 is not offered"),
        (["--gpu", "T4", "--memory", "8GiB"], "--gpu and --memory both"),
        (["--estimate", "--measure"], "--estimate and --measure exclude each other"),
    ],
)
def test_bad_input_is_refused_by_name(flags: list[str], message: str) -> None:
    result = RUN.invoke(app, ["profile-memory", "--model", "null", *flags])
    assert result.exit_code == 1
    assert message in result.stderr


def test_measuring_without_a_gpu_names_the_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    result = RUN.invoke(app, ["profile-memory", "--model", "null", "--measure"])
    assert result.exit_code == 1
    assert "needs a GPU" in result.stderr
    assert "--device cpu" in result.stderr


def test_json_is_one_document_with_the_documented_keys() -> None:
    result = RUN.invoke(app, ["profile-memory", "-m", "null", "--find-max-batch", "--memory", "1GiB", "--json"])
    (model,) = json.loads(result.stdout)["models"]
    assert {"batch", "peak_allocated_bytes", "peak_reserved_bytes", "max_batch", "memory_bytes", "terms"} <= set(model)
    assert model["method"] == "estimate"
    assert model["batch"] == model["max_batch"] > 0
