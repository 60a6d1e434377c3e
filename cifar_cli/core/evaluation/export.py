"""Writes a trained model for other programs, and compares what they will compute with the model."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cifar_cli import __version__
from cifar_cli.core.data.config import Normalisation
from cifar_cli.core.evaluation.config import SUFFIXES, ExportConfig
from cifar_cli.core.evaluation.results import ExportResult
from cifar_cli.core.evaluation.runs import checkpoint_of
from cifar_cli.core.models.build import build_untrained
from cifar_cli.core.models.weights import save_state
from cifar_cli.core.training.checkpoint import Checkpoint, load_checkpoint
from cifar_cli.core.write import replacing
from cifar_cli.errors import CifarError, ModelError, ResourceError

TOLERANCE, HALF_TOLERANCE = 1e-4, 1e-2
IMAGES = 7  # of the comparison: not the number that the graph was traced with
OPSET = 20

Logits = Callable[[Tensor], Tensor]


class Deployed(nn.Module):
    """A model as other programs get it: it takes uint8 images [B, 3, S, S], or normalised float32 ones.

    half: compute in float16 with a copy of the model.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, model: nn.Module, normalised_by: Normalisation, *, with_preprocessing: bool, half: bool) -> None:
        super().__init__()
        self.model = deepcopy(model).half() if half else model
        self.with_preprocessing, self.half_precision = with_preprocessing, half
        mean, std = torch.tensor(normalised_by.mean), torch.tensor(normalised_by.std)
        self.register_buffer("scale", 1 / (255 * std).view(1, 3, 1, 1))
        self.register_buffer("shift", -(mean / std).view(1, 3, 1, 1))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        if self.with_preprocessing:
            images_BCHW = images_BCHW.float() * self.scale + self.shift
        logits_BK: Tensor = self.model(images_BCHW.half() if self.half_precision else images_BCHW)
        return logits_BK


def export(config: ExportConfig) -> ExportResult:
    """Write a trained model as a file, and compare the file's logits with the model's.

    Raises CheckpointError when the checkpoint can't be read, ResourceError when a package for the format is missing or
    the file can't be written, ModelError when the model can't be exported or the logits differ.
    """
    if config.format == "onnx":
        _require_onnx()
    found = checkpoint_of(config.checkpoint)
    checkpoint = load_checkpoint(found.path)
    path = config.out or found.path.with_name(f"{found.path.stem}-export{SUFFIXES[config.format]}")
    form = partial(
        Deployed, checkpoint.model, checkpoint.config.normalised_by, with_preprocessing=config.with_preprocessing
    )
    images_BCHW = _example(checkpoint, config)
    metadata = _metadata(checkpoint, config)
    tolerance = HALF_TOLERANCE if config.half else TOLERANCE
    try:
        with torch.no_grad(), _quiet(), replacing(path) as part:
            read = _WRITERS[config.format](form(half=config.half).eval(), images_BCHW[:2], part, metadata, checkpoint)
            difference = _difference(form(half=False).eval(), read(), images_BCHW) if config.verify else None
            _require_close(difference, tolerance, config)
    except CifarError:
        raise
    except OSError as error:
        raise ResourceError(
            f"{path} can't be written ({error.strerror or error})",
            remedy="pass --out FILE in a folder you may write to",
        ) from error
    except Exception as error:  # exporters raise errors of many types for a model that they can't trace
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{checkpoint.config.model.label} can't be exported as {config.format} ({first})",
            remedy="try --format safetensors, which holds the weights only",
        ) from error
    return ExportResult(
        checkpoint=found.path,
        path=path,
        format=config.format,
        size_bytes=path.stat().st_size,
        input=json.loads(metadata["input"]),
        metadata=metadata,
        greatest_difference=difference,
        tolerance=tolerance,
    )


def _to_onnx(
    model: Deployed, images_BCHW: Tensor, path: Path, metadata: dict[str, str], checkpoint: Checkpoint
) -> Callable[[], Logits]:
    import onnx

    program = torch.onnx.export(
        model,
        (images_BCHW,),
        dynamo=True,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        opset_version=OPSET,
        verbose=False,
    )
    assert program is not None
    content = program.model_proto
    onnx.helper.set_model_props(content, metadata)
    onnx.save(content, str(path))

    def read() -> Logits:
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])

    return read


def _to_torch_export(
    model: Deployed, images_BCHW: Tensor, path: Path, metadata: dict[str, str], checkpoint: Checkpoint
) -> Callable[[], Logits]:
    program = torch.export.export(model, (images_BCHW,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    # Files that are open: torch warns of a path that does not end in .pt2, and this one becomes it only when complete.
    with path.open("wb") as file:
        torch.export.save(program, file, extra_files={"metadata.json": json.dumps(metadata)})

    def read() -> Logits:
        with path.open("rb") as file:
            return torch.export.load(file).module()

    return read


def _to_safetensors(
    model: Deployed, images_BCHW: Tensor, path: Path, metadata: dict[str, str], checkpoint: Checkpoint
) -> Callable[[], Logits]:
    save_state(model.model.state_dict(), path, metadata=metadata)

    def read() -> Logits:
        again = build_untrained(checkpoint.config.model)
        again = again.half() if model.half_precision else again
        again.load_state_dict(load_file(path))
        return Deployed(
            again, checkpoint.config.normalised_by, with_preprocessing=False, half=model.half_precision
        ).eval()

    return read


_WRITERS = {"onnx": _to_onnx, "torch-export": _to_torch_export, "safetensors": _to_safetensors}


def _require_close(difference: float | None, tolerance: float, config: ExportConfig) -> None:
    """Raise ModelError for logits that differ by more than `tolerance`, or are NaN."""
    if difference is not None and not difference <= tolerance:
        raise ModelError(
            f"the exported logits differ from the model's by {difference:.1e}, more than {tolerance:g}; "
            "no file was written",
            remedy="try another --format" + ", or leave out --half" * config.half,
        )


def _difference(model: nn.Module, logits_of: Logits, images_BCHW: Tensor) -> float:
    """The greatest difference between the logits, over batches of different sizes."""
    batches = (images_BCHW, images_BCHW[:1])
    return max(float((logits_of(each).float() - model(each).float()).abs().max()) for each in batches)


def _example(checkpoint: Checkpoint, config: ExportConfig) -> Tensor:
    size = checkpoint.config.model.img_size
    pixels = torch.randint(
        0, 256, (IMAGES, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    if config.with_preprocessing:
        return pixels
    by = checkpoint.config.normalised_by
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (by.mean, by.std))
    return (pixels / 255 - mean) / std


def _metadata(checkpoint: Checkpoint, config: ExportConfig) -> dict[str, str]:
    size = checkpoint.config.model.img_size
    inside = config.with_preprocessing
    kind = "uint8 RGB" if inside else "float32 RGB, divided by 255, minus mean, divided by std"
    return {
        "model": json.dumps(checkpoint.config.to_dict()["model"]),
        "dataset": checkpoint.config.data.dataset,
        "classes": json.dumps(checkpoint.classes),
        "input": json.dumps(f"{kind}, [batch, 3, {size}, {size}]"),
        "mean": json.dumps(checkpoint.config.normalised_by.mean),
        "std": json.dumps(checkpoint.config.normalised_by.std),
        "preprocessing": "inside" if inside else "outside",
        "cifar_version": __version__,
        "torch_version": torch.__version__,
    }


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ResourceError(
            f"--format onnx needs the package {error.name}", remedy='pip install "cifar-cli[onnx]"'
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep exporters from printing: what matters is in the result or in the error."""
    logger = logging.getLogger("torch.onnx")
    level: Any = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
