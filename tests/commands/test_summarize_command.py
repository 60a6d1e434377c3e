"""The command `cifar summarize`: its output, its JSON and its errors."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cifar_cli.app import app
from cifar_cli.core.models.registry import MODELS
from tests.golden import WIDTHS, Golden

PUBLISHED = {
    "null": (545_098, 790_807_808),
    "cnn": (4_020_358, 1_085_977_344),
    "hybrid": (13_350_730, 5_016_995_072),
    "airbench": (1_972_792, 15_126_109_184),
}


def run(*args: str, columns: int = 120) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["summarize", *args], env={"COLUMNS": str(columns)})
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    ("args", "view"),
    [
        (("--model", "null"), "null"),
        (("--model", "hybrid", "--trim-backbone", "--memory"), "hybrid-trimmed-memory"),
        (("--model", "all", "--memory"), "all-memory"),
    ],
)
def test_the_command_prints_the_tables_for_the_width_of_the_terminal(
    args: tuple[str, ...], view: str, width: int, golden: Golden
) -> None:
    code, out, err = run(*args, columns=width)
    assert (code, err) == (0, "")
    golden(f"counting/{view}-{width}", "".join(f"{line.rstrip()}\n" for line in out.splitlines()))


def test_hybrid_shows_the_published_figures_and_its_unused_parameters() -> None:
    code, out, err = run("--model", "hybrid", "--batch", "128")
    assert (code, err) == (0, "")
    for expected in ("13,350,730", "5,016,995,072", "144,282,624", "11,019,008", "--trim-backbone", "128×64×8×8"):
        assert expected in out


@pytest.mark.slow
def test_json_is_one_document_on_stdout_and_nothing_else() -> None:
    process = subprocess.run(
        [sys.executable, "-m", "cifar_cli", "summarize", "--model", "all", "--batch-size", "128", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    models = json.loads(process.stdout)["models"]
    assert {m["name"]: (m["total_params"], m["macs_per_batch"]) for m in models} == PUBLISHED


@pytest.mark.slow
def test_json_has_the_documented_keys() -> None:
    page = (Path(__file__).parents[2] / "docs" / "summarize.md").read_text(encoding="utf-8")
    section = re.split(r"^## .*\n", page.split("\n## `--json`\n")[1], flags=re.MULTILINE)[0]
    documented = {*re.findall(r"`([a-z_]+)`", section)} - {"cnn", "hybrid", "airbench"}
    document = json.loads(run("--model", "all", "--json")[1])
    models = document["models"]
    assert documented == {*document, *(key for model in models for key in model)}
    design = {"total_params", "trainable_params", "unused_params", "macs_per_image", "macs_per_batch"}
    design |= {"forward_flops_per_image", "forward_flops_per_batch", "largest_layers"}
    assert all(design <= model.keys() for model in models)
    assert [model["name"] for model in models] == [*MODELS]


@pytest.mark.slow
def test_models_keep_their_order_whether_separated_by_commas_or_repeated() -> None:
    code, out, _ = run("-m", "hybrid,null", "--model", "cnn", "--model", "null", "--json")
    assert code == 0
    assert [model["name"] for model in json.loads(out)["models"]] == ["hybrid", "null", "cnn"]


@pytest.mark.slow
def test_several_models_share_one_table_that_marks_the_best_of_each_row() -> None:
    code, out, _ = run("--model", "all")
    row = next(line for line in out.splitlines() if line.startswith(" parameters   "))
    assert code == 0
    assert ": layers (batch" not in out  # no layer tables unless --depth asks for them
    assert row.split() == ["parameters", "545,098", "*", "4,020,358", "13,350,730", "1,972,792"]
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


def test_memory_is_counted_when_asked_and_points_to_profile_memory() -> None:
    without, with_memory = run("--model", "null")[1], run("--model", "null", "--memory")[1]
    assert "memory:" not in without
    assert "memory: Adam's moments" in with_memory
    assert "cifar profile-memory" in with_memory


@pytest.mark.parametrize(
    ("args", "error", "remedy"),
    [
        (["-m", "hybird"], "there is no model named 'hybird'", "did you mean hybrid?"),
        (["-m", "timm:resnet51"], "timm has no model for --model timm:resnet51", "resnet50"),
        (["-m", "cnn", "--backbone", "resnte18"], "timm has no model for --backbone resnte18", "resnet18"),
        (["-m", "null", "--batch", "0"], "--batch must be at least 1, not 0", "--batch 128"),
        (["-m", "null", "--classes", "0"], "--classes must be at least 1, not 0", "--classes 10"),
        (["-m", "null", "--depth", "-1"], "--depth must be at least 0, not -1", "--depth 3"),
        (["-m", "null", "--top", "0"], "--top must be at least 1, not 0", "--top 5"),
        (["-m", "null", "--img-size", "2"], "null can't read 2-pixel images", "--img-size 4, the smallest that works"),
    ],
)
def test_bad_input_is_one_error_line_and_one_remedy(args: list[str], error: str, remedy: str) -> None:
    code, out, err = run(*args)
    assert (code, out) == (1, "")
    *progress, first, second = err.splitlines()
    assert all(line.startswith("finding an image size that") for line in progress)
    assert first == f"error: {error}"
    assert remedy in second


def test_a_missing_model_is_a_usage_error() -> None:
    assert run()[0] == 2
