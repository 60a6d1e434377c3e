"""The package as a library: light to import, typed, with results that notebooks show; the examples of its page run."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import cifar_cli
from cifar_cli.app import app
from cifar_cli.core.counting.config import SummaryConfig
from cifar_cli.core.evaluation.config import EvaluateConfig, PredictConfig
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.notebook import MOST_ROWS, NotebookView
from cifar_cli.errors import CheckpointError, ConfigError, DataError

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
FUNCTIONS = [name for name in cifar_cli.__all__ if not name.startswith("_")]


def loaded_by(program: str, folder: Path) -> set[str]:
    """What a program that begins with `import cifar_cli` has imported at its end: torch, and rooms of the core."""
    last = "import sys; print(*(name for name in sys.modules if name == 'torch' or name.startswith('cifar_cli.core.')))"
    lines = f"import cifar_cli\n{program}\n{last}"
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True, cwd=folder)
    names = done.stdout.splitlines()[-1].split()
    light = ("config", "results", "registry")  # these import the standard library only
    return {
        ".".join(name.split(".")[:3]) for name in names if name.count(".") != 2 and name.split(".")[-1] not in light
    }


@pytest.mark.slow
def test_the_import_and_the_names_of_its_functions_load_nothing_heavy(tmp_path: Path) -> None:
    assert "torch" not in loaded_by("; ".join(f"cifar_cli.{name}" for name in FUNCTIONS), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "others"),
    [
        ("summarize('null')", ("data", "training", "evaluation", "memory", "augment")),
        ("profile_memory('null')", ("evaluation", "counting", "workflow")),
        ("open_dataset('shapes')", ("models", "training", "evaluation", "counting", "memory")),
        ("predict('a.png', checkpoint='run')", ("counting", "memory", "workflow")),
    ],
)
def test_a_function_loads_only_the_rooms_that_it_needs(
    call: str, others: tuple[str, ...], tmp_path: Path, data_dir: Path
) -> None:
    (tmp_path / "data").symlink_to(data_dir)
    loaded = loaded_by(f"from contextlib import suppress\nwith suppress(Exception): cifar_cli.{call}", tmp_path)
    assert not loaded & {f"cifar_cli.core.{room}" for room in others}


@pytest.mark.parametrize(
    ("arguments", "flags"),
    [
        ({"batch": (16, 32)}, "-b 16 -b 32"),
        ({"img_size": (24, 40)}, "--img-size 24x40"),
        ({"evaluate": True}, "--eval"),
        ({"accumulate": 4}, "--accumulate 4"),
        ({"devices": 4}, "--devices 4"),
        ({"devices": 4, "strategy": "fsdp"}, "--devices 4 --strategy fsdp"),
        ({"gpu": ("T4", "RTX 3090")}, "--gpu T4 --gpu 'RTX 3090'"),
        ({"memory_bytes": 2**30, "find_max_batch": True, "risk": "even"}, "--memory 1GiB --find-max-batch --risk even"),
        (
            {"memory_bytes": 2**30, "find_max_batch": True, "margin": 0.1, "multiple_of": 64},
            "--memory 1GiB --find-max-batch --margin 10% --multiple-of 64",
        ),
        ({"memory_bytes": 2**29, "batch": 4096, "what_would_help": True}, "--memory 512MiB -b 4096 --what-would-help"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_memory_profiles_are_those_of_the_command(arguments: dict[str, Any], flags: str) -> None:
    found = cifar_cli.profile_memory("null", **arguments)
    command = ["profile-memory", "-m", "null", "--estimate", "--precision", "32", *shlex.split(flags), "--json"]
    printed = CliRunner().invoke(app, command)
    assert json.loads(printed.stdout) == json.loads(json.dumps(found.to_dict()))


def test_activation_checkpointing_is_profiled_by_the_library() -> None:
    kept, computed_again = (
        cifar_cli.profile_memory("timm:mobilenetv3_small_050", batch=8, grad_checkpointing=each).peaks[0]
        for each in (False, True)
    )
    assert computed_again.peak_allocated_bytes < kept.peak_allocated_bytes


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = cifar_cli.trian  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_is_typed_documented_and_on_the_page(name: str) -> None:
    function = getattr(cifar_cli, name)
    signature = inspect.signature(function)
    assert all(each.annotation is not inspect.Parameter.empty for each in signature.parameters.values())
    assert signature.return_annotation is not inspect.Signature.empty
    assert len(inspect.getdoc(function) or "") > 50
    assert f"`cifar_cli.{name}`" in PAGE
    assert (ROOT / "cifar_cli" / "py.typed").is_file()


@pytest.fixture
def here(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the small shapes."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "shapes.safetensors").write_bytes((data_dir / "shapes.safetensors").read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: str(text).strip().splitlines()[0])
def test_the_example_of_the_page_runs(here: Path, trained_run: Path, example: str) -> None:
    (here / "runs").mkdir()
    (here / "runs" / "first").symlink_to(trained_run)
    Image.new("RGB", (40, 60), "orange").save("first.png")
    namespace: dict[str, Any] = {}
    exec(compile(example, "library.md", "exec"), namespace)
    if "load" in namespace:
        assert len(namespace["load"]()["train_images"]) == 200


@pytest.mark.slow
def test_a_model_and_a_dataset_of_the_page_train(here: Path, cifar) -> None:  # type: ignore[no-untyped-def]
    for example in EXAMPLES:
        if name := re.match(r"# (\w+\.py)\n", example):
            (here / name[1]).write_text(example)
    assert cifar("download", "--dataset", "pets", "--from", "pets.py:load").exit_code == 0
    trained = cifar("train", "--model", "net.py:build", "--dataset", "pets", "--fast-dev-run")
    assert trained.exit_code == 0, trained.stderr
    assert "net on pets" in trained.stdout


@pytest.mark.slow
def test_predictions_of_files_name_those_that_cant_be_read(here: Path, trained_run: Path) -> None:
    image = Image.fromarray(cifar_cli.open_dataset("shapes").test.pixels_NHWC[0].numpy())
    image.save("first.png")
    both = cifar_cli.predict(["first.png", here / "none.png"], checkpoint=trained_run)
    one = cifar_cli.predict("first.png", checkpoint=trained_run, explain=True)
    assert both.predictions == one.predictions
    assert both.problems == (f"there is no file {here / 'none.png'}",)
    assert len(one.places) == 1
    assert "first.png" in one._repr_html_()


@pytest.mark.slow
def test_a_loaded_model_computes_the_predictions_of_the_command(here: Path, trained_run: Path) -> None:
    Image.new("RGB", (40, 60), "orange").save("large.png")
    Image.fromarray(cifar_cli.open_dataset("shapes").test.pixels_NHWC[0].numpy()).save("small.png")
    trained = cifar_cli.load_model(trained_run)
    images_NHWC = trained.read(["large.png", here / "small.png"])
    shares_NK = trained.model(trained.normalise(images_NHWC)).double().softmax(dim=1)
    expected = cifar_cli.predict(["large.png", "small.png"], checkpoint=trained_run)
    assert trained.classes == expected.classes
    assert torch.equal(images_NHWC, expected.images_NHWC)
    torch.testing.assert_close(
        shares_NK, torch.tensor([each.probabilities for each in expected.predictions], dtype=torch.float64)
    )
    wide = torch.randint(0, 256, (2, 40, 60, 3), dtype=torch.uint8)
    assert torch.equal(trained.normalise(wide), trained.normalise(wide[:, :, 10:50]))
    assert trained.read([]).shape == (0, 32, 32, 3)
    assert not trained.model.training
    assert trained.unfinished is None


@pytest.mark.slow
def test_a_loaded_model_refuses_other_input_in_words(here: Path, trained_run: Path) -> None:
    trained = cifar_cli.load_model(trained_run)
    (here / "text.png").write_text("no image")
    with pytest.raises(DataError, match=r"there is no file none\.png"):
        trained.read(["none.png"])
    with pytest.raises(DataError, match=r"text\.png is not a readable image"):
        trained.read(["text.png"])
    with pytest.raises(ConfigError, match=r"images of type torch.float32 and shape \[1, 32, 32, 3\]"):
        trained.normalise(torch.zeros(1, 32, 32, 3))
    with pytest.raises(ConfigError, match=r"shape \[1, 3, 32, 32\]"):
        trained.normalise(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(CheckpointError, match="there is no run or checkpoint at none"):
        cifar_cli.load_model("none")


@pytest.mark.parametrize(
    ("function", "config"),
    [
        (cifar_cli.evaluate, EvaluateConfig),
        (cifar_cli.predict, PredictConfig),
        (cifar_cli.summarize, SummaryConfig),
    ],
    ids=lambda each: each.__name__,
)
def test_a_function_takes_every_setting_of_its_command(function: Callable[..., Any], config: type) -> None:
    of_the_terminal = {"top", "explain_out"} if config is PredictConfig else set()
    missing = {field.name for field in fields(config)} - set(inspect.signature(function).parameters)
    assert missing == of_the_terminal


@pytest.mark.parametrize("function", [cifar_cli.summarize, cifar_cli.profile_memory], ids=lambda each: each.__name__)
def test_a_function_takes_every_part_of_the_model_that_its_command_counts(function: Callable[..., Any]) -> None:
    missing = {field.name for field in fields(ModelConfig)} - set(inspect.signature(function).parameters)
    assert missing == {"name", "weights", "drop_path"}  # the last changes no count


def test_a_wider_model_is_counted_and_traced_as_such() -> None:
    wide, plain = (cifar_cli.summarize("airbench", width=width) for width in (2, 1))
    assert wide.total_params > 3 * plain.total_params
    more, less = (cifar_cli.profile_memory("airbench", batch=8, width=width).peaks[0] for width in (2, 1))
    assert more.peak_allocated_bytes > less.peak_allocated_bytes


def test_no_image_to_predict_is_an_error_that_says_so() -> None:
    with pytest.raises(ConfigError, match="no image"):
        cifar_cli.predict([], checkpoint="runs/none")


@pytest.mark.slow
def test_training_takes_the_data_folder_and_the_model_as_the_command_does(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "data").rename(here / "elsewhere")
    monkeypatch.setenv("CIFAR_DATA_DIR", str(here / "elsewhere"))
    assert cifar_cli.open_dataset("shapes").path.parent == here / "elsewhere"
    quick = {"fast_dev_run": True, "model.weights": "none"}
    first = cifar_cli.train(dataset="shapes", settings=quick, run_dir="first")
    assert first.config.data.data_dir == here / "elsewhere"
    assert first.config.model.name == "null"
    tuned = cifar_cli.train(dataset="shapes", recipe="finetune", settings=quick | {"recipe.head_first": 0}, run_dir="b")
    assert tuned.config.model.name == "cnn"
    other = cifar_cli.train("null", config="b/config.yaml", settings=quick | {"recipe.policy": "crop-flip"})
    assert other.config.model.name == "null"


@pytest.mark.slow
def test_a_run_is_repeated_by_its_config(here: Path) -> None:
    epochs: list[float] = []
    first = cifar_cli.train(dataset="shapes", settings={"recipe.max_epochs": 1, "recipe.batch": 64}, run_dir="first")
    again = cifar_cli.train(config="first/config.yaml", run_dir="again", on_epoch=lambda e: epochs.append(e.val_loss))
    assert again.test_loss == first.test_loss
    assert again.config.recipe.batch == 64
    assert len(epochs) == 1
    with pytest.raises(ConfigError, match="there is no setting sede"):
        cifar_cli.train(settings={"sede": 1})


def test_a_result_shows_itself_as_a_table_in_a_notebook(here: Path) -> None:
    html = cifar_cli.summarize("null", batch=2)._repr_html_()
    assert "<strong>ModelSummary</strong>" in html
    assert "545,098" in html
    assert html.count("<table>") == html.count("</table>") > 1


def test_every_result_with_a_dictionary_has_the_notebook_view() -> None:
    """A result is a class of the core that turns itself into a dictionary without being asked for more."""
    settings = {"TrainConfig", "Settings"}
    found = []
    for path in (ROOT / "cifar_cli/core").rglob("*.py"):
        if "def to_dict(self" in path.read_text(encoding="utf-8"):
            module = import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
            own = [each for each in vars(module).values() if getattr(each, "__module__", "") == module.__name__]
            found += [each for each in own if isinstance(each, type) and "to_dict" in vars(each)]
    results = [each for each in found if each.__name__ not in settings and each is not NotebookView]
    asking = [each for each in results if not complete(each.to_dict)]
    assert len(results) > 18
    assert [each for each in results if not issubclass(each, NotebookView)] == asking


def complete(method: Callable[..., Any]) -> bool:
    """Whether the method can be called on its object alone."""
    _, *others = inspect.signature(method).parameters.values()
    return all(each.default is not inspect.Parameter.empty for each in others)


def test_the_notebook_view_escapes_names_and_shortens_lists() -> None:
    class Result(NotebookView):
        def to_dict(self) -> dict[str, Any]:
            return {"<b>": "<i>", "few": [], "many": list(range(100)), "rows": [{"a": 0.12345, "b": None}] * 40}

    html = Result()._repr_html_()
    assert "<i>" not in html
    assert "&lt;b&gt;" in html
    assert html.count("<td>0.1235</td>") == MOST_ROWS
    assert html.count("and 70 more") == 1
    assert html.count("and 10 more") == 1
