"""The package as a library: light to import, typed, with results that notebooks show; the examples of its page run."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import cifar_cli
from cifar_cli.core.notebook import MOST_ROWS, NotebookView
from cifar_cli.errors import ConfigError

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
FUNCTIONS = [name for name in cifar_cli.__all__ if not name.startswith("_")]


@pytest.mark.slow
def test_the_import_loads_no_torch_and_the_first_function_does() -> None:
    program = "import sys, cifar_cli; a = 'torch' in sys.modules; cifar_cli.train; print(a, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False True\n"


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
def test_the_example_of_the_page_runs(here: Path, example: str) -> None:
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
    from cifar_cli.core.counting.results import ModelSummary, SummaryReport
    from cifar_cli.core.data.results import DatasetCheck, DatasetSummary, DownloadResult
    from cifar_cli.core.doctor.results import DoctorReport
    from cifar_cli.core.evaluation.results import EvaluateResult
    from cifar_cli.core.memory.results import MaxBatch, MemoryReport, PeakMemory
    from cifar_cli.core.training.results import TrainResult
    from cifar_cli.core.workflow.results import TrainReport

    for result in (
        ModelSummary, SummaryReport, DatasetCheck, DatasetSummary, DownloadResult, DoctorReport, EvaluateResult,
        MaxBatch, MemoryReport, PeakMemory, TrainResult, TrainReport,
    ):  # fmt: skip
        assert issubclass(result, NotebookView)
        assert result.to_dict is not NotebookView.to_dict


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
