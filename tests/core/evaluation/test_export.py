from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from cifar_cli.core.data.store import open_store
from cifar_cli.core.evaluation.config import EvaluateConfig, ExportConfig
from cifar_cli.core.evaluation.evaluate import evaluate_only
from cifar_cli.core.evaluation.export import export
from cifar_cli.core.training.checkpoint import load_checkpoint
from cifar_cli.errors import ConfigError

MIXED = {"onnx": ".onnx", "torch-export": ".pt2", "safetensors": ".safetensors"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", MIXED)
def test_an_exported_file_computes_the_models_logits(trained_run: Path, tmp_path: Path, kind: str) -> None:
    result = export(ExportConfig(checkpoint=trained_run, format=kind, out=tmp_path / f"m{MIXED[kind]}"))  # type: ignore[arg-type]
    assert result.greatest_difference is not None
    assert result.greatest_difference <= 1e-4
    assert result.size_bytes == result.path.stat().st_size


@pytest.mark.slow
def test_an_onnx_file_with_preprocessing_takes_uint8_images_and_says_what_it_is(
    trained_run: Path, data_dir: Path, tmp_path: Path
) -> None:
    import onnx
    import onnxruntime

    path = tmp_path / "model.onnx"
    export(ExportConfig(checkpoint=trained_run, with_preprocessing=True, out=path))
    store = open_store(data_dir / "shapes.safetensors")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    images = np.ascontiguousarray(store.test.images_NHWC.numpy().transpose(0, 3, 1, 2))
    (logits,) = session.run(None, {"images": images})
    expected = evaluate_only(EvaluateConfig(checkpoint=trained_run, device="cpu")).predictions.logits_NK
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-4)
    metadata = {each.key: each.value for each in onnx.load(path).metadata_props}
    assert json.loads(metadata["classes"]) == list(store.classes)
    assert (metadata["dataset"], metadata["preprocessing"]) == ("shapes", "inside")
    assert metadata["torch_version"] == torch.__version__


@pytest.mark.slow
@pytest.mark.parametrize("with_preprocessing", [False, True])
def test_an_onnx_file_in_half_precision_computes_nearly_the_models_logits(
    trained_run: Path, tmp_path: Path, with_preprocessing: bool
) -> None:
    import onnxruntime

    path = tmp_path / "half.onnx"
    config = ExportConfig(checkpoint=trained_run, half=True, with_preprocessing=with_preprocessing, out=path)
    result = export(config)
    assert result.greatest_difference is not None
    assert 0 < result.greatest_difference <= 1e-2
    whole = export(ExportConfig(checkpoint=trained_run, verify=False, out=tmp_path / "whole.onnx"))
    assert result.size_bytes < 0.6 * whole.size_bytes
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].type == ("tensor(uint8)" if with_preprocessing else "tensor(float)")
    assert session.get_outputs()[0].type == "tensor(float16)"


def test_a_half_precision_file_is_compared_within_its_own_tolerance(trained_run: Path, tmp_path: Path) -> None:
    config = ExportConfig(checkpoint=trained_run, format="torch-export", half=True, out=tmp_path / "half.pt2")
    result = export(config)
    assert result.tolerance == 1e-2
    assert result.greatest_difference is not None
    assert 0 < result.greatest_difference <= 1e-2


def test_an_export_is_written_and_read_without_a_warning(trained_run: Path, tmp_path: Path) -> None:
    said: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = said.append  # type: ignore[method-assign]
    logger = logging.getLogger("torch.export")
    logger.addHandler(handler)
    try:
        export(ExportConfig(checkpoint=trained_run, format="torch-export", out=tmp_path / "m.pt2"))
    finally:
        logger.removeHandler(handler)
    assert [record.getMessage() for record in said] == []


def test_a_safetensors_file_carries_classes_and_preprocessing(trained_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    export(ExportConfig(checkpoint=trained_run, format="safetensors", verify=False, out=path))
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["classes"])[0] == "circle"
    normalised_by = load_checkpoint(trained_run / "checkpoints/best.ckpt").config.normalised_by
    assert json.loads(metadata["mean"]) == list(normalised_by.mean)


@pytest.mark.slow
def test_a_missing_package_is_named_with_its_extra(trained_run: Path) -> None:
    script = (
        "import sys\nsys.modules['onnxruntime'] = None\nfrom typer.testing import CliRunner\n"
        "from cifar_cli.app import app\n"
        f"print(CliRunner().invoke(app, ['export', {str(trained_run)!r}]).stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "--format onnx needs the package onnxruntime" in done.stdout
    assert 'pip install "cifar-cli[onnx]"' in done.stdout


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"format": "safetensors", "with_preprocessing": True}, "needs a graph"),
        ({"out": Path("model.pt2")}, "does not end in .onnx"),
        ({"out": Path("absent/model.onnx")}, "absent for --out does not exist"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ExportConfig(checkpoint=Path("run"), **given)  # type: ignore[arg-type]


def test_the_command_prints_the_greatest_difference(cifar, trained_run: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    words = ("export", trained_run, "--format", "safetensors", "--out", tmp_path / "m.safetensors")
    assert "greatest difference of a logit from the model's: 0.0e+00" in " ".join(cifar(*words).stdout.split())
    assert json.loads(cifar(*words, "--json").stdout)["greatest_difference"] == 0
