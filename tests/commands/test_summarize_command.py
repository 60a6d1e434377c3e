"""`cifar summarize` as a person and a script meet it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from cifar_cli.app import app

PUBLISHED = {"null": (545_098, 790_807_808), "cnn": (4_020_358, 1_085_977_344), "hybrid": (13_350_730, 5_016_995_072)}


def run(*args: str, columns: int = 120) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["summarize", *args], env={"COLUMNS": str(columns)})
    return result.exit_code, result.stdout, result.stderr


def test_the_call_of_the_course_shows_its_figures_and_what_is_unused() -> None:
    code, out, err = run("--model", "hybrid", "--batch", "128")
    assert (code, err) == (0, "")
    for expected in ("13,350,730", "5,016,995,072", "144,282,624", "11,019,008", "--trim-backbone", "128×64×8×8"):
        assert expected in out


def test_json_is_one_document_on_stdout_and_nothing_else() -> None:
    process = subprocess.run(
        [sys.executable, "-m", "cifar_cli", "summarize", "--model", "all", "--batch-size", "128", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    models = json.loads(process.stdout)["models"]
    assert {m["name"]: (m["total_params"], m["macs_per_batch"]) for m in models} == PUBLISHED
    promised = {"trainable_params", "unused_params", "macs_per_image", "forward_flops_per_image"}
    promised |= {"forward_flops_per_batch", "largest_layers", "train_step_flops_per_batch", "weight_bytes"}
    assert all(promised <= model.keys() for model in models)


def test_models_are_named_with_commas_repeated_or_both_and_stay_in_order() -> None:
    code, out, _ = run("-m", "hybrid,null", "--model", "cnn", "--model", "null", "--json")
    assert code == 0
    assert [model["name"] for model in json.loads(out)["models"]] == ["hybrid", "null", "cnn"]


def test_several_models_share_one_table_with_the_best_of_each_row_marked() -> None:
    code, out, _ = run("--model", "all")
    rows = {line.split("  ")[1].strip(): line for line in out.splitlines() if line.startswith("  ")}
    assert code == 0
    assert ": layers (batch" not in out  # no layer tables unless --depth asks for them
    assert rows["parameters"].split() == ["parameters", "545,098", "*", "4,020,358", "13,350,730"]
    assert ": layers (batch" in run("--model", "null,cnn", "--depth", "1")[1]


def test_options_reach_the_model() -> None:
    code, out, _ = run(
        *("--model", "cnn", "--backbone", "resnet18", "--classes", "100", "--img-size", "64"),
        *("--top", "1", "--depth", "0", "--batch", "3", "--json"),
    )
    (model,) = json.loads(out)["models"]
    assert code == 0
    assert (model["backbone"], model["classes"], model["img_size_pixels"], model["batch"]) == ("resnet18", 100, 64, 3)
    assert model["total_params"] == 11_176_512 + 512 * 100 + 100
    assert (len(model["largest_layers"]), len(model["layers"])) == (1, 1)
    trimmed = json.loads(run("-m", "hybrid", "--trim-backbone", "--patch-size", "4", "--json")[1])["models"][0]
    assert (trimmed["trim_backbone"], trimmed["patch_size"], trimmed["unused_params"]) == (True, 4, 0)


def test_memory_is_added_when_asked_and_points_to_the_real_measurement() -> None:
    without, with_memory = run("--model", "null")[1], run("--model", "null", "--memory")[1]
    assert "memory:" not in without
    assert "memory: Adam's two moments" in with_memory
    assert "cifar profile-memory" in with_memory


@pytest.mark.parametrize(
    ("args", "error", "remedy"),
    [
        (["-m", "hybird"], "there is no model named 'hybird'", "did you mean hybrid?"),
        (["-m", "timm:resnet51"], "timm has no model for --model timm:resnet51", "resnet50"),
        (["-m", "cnn", "--backbone", "resnte18"], "timm has no model for --backbone resnte18", "resnet18"),
        (["-m", "null", "--batch", "0"], "--batch 0 holds no image", "--batch 128"),
        (["-m", "null", "--classes", "0"], "--classes 0 leaves nothing to tell apart", "pass 1 or more"),
        (["-m", "null", "--img-size", "2"], "null can't read 2-pixel images", "--img-size 4, the smallest that works"),
    ],
)
def test_bad_input_is_one_sentence_with_its_remedy(args: list[str], error: str, remedy: str) -> None:
    code, out, err = run(*args)
    assert (code, out) == (1, "")
    first, second = err.splitlines()
    assert first == f"error: {error}"
    assert remedy in second


def test_a_missing_model_is_a_usage_error() -> None:
    assert run()[0] == 2
