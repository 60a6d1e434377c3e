"""A heat map is hot where the model looks, and the commands show it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from cifar_cli.core.data.config import Normalisation
from cifar_cli.core.data.store import Part, write_store
from cifar_cli.core.evaluation.config import MOST_EXPLAINED, PredictConfig
from cifar_cli.core.evaluation.explain import NOWHERE, heat_maps, overlay, place_of
from cifar_cli.core.evaluation.predict import predict
from cifar_cli.core.evaluation.report.config import ReportConfig
from cifar_cli.core.evaluation.report.report import report
from cifar_cli.core.models.build import build_model
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.batches import eval_loader
from cifar_cli.errors import ConfigError
from cifar_cli.render.evaluation_predictions import SIDE, as_pictures
from tests.core.data.streams import photo_stream
from tests.golden import rendered

CPU = torch.device("cpu")


class OneQuarter(nn.Module):
    """Two classes: class 0 is as probable as the quarter at (row, column) is bright, class 1 the opposite."""

    def __init__(self, row: int, column: int) -> None:
        super().__init__()
        self.row, self.column = row, column

    def forward(self, images_BCHW: Tensor) -> Tensor:
        half = images_BCHW.shape[2] // 2
        rows, columns = (slice(half * place, half * (place + 1)) for place in (self.row, self.column))
        bright_B = images_BCHW[:, :, rows, columns].mean(dim=(1, 2, 3))
        return torch.stack((bright_B, -bright_B), dim=1)


def heat_of(model: nn.Module, images_NHWC: Tensor, targets: list[int], *, size: int = 32) -> Tensor:
    part = Part(images_NHWC=images_NHWC, labels_N=torch.zeros(len(images_NHWC), dtype=torch.long))
    rows = torch.arange(len(images_NHWC))
    loader = eval_loader(part, rows, img_size=size, normalisation=Normalisation(), batch=7)
    return heat_maps(model, loader, torch.tensor(targets), device=CPU)


@pytest.mark.parametrize("size", [32, 20])
@pytest.mark.parametrize(
    ("row", "column", "place"),
    [(0, 0, "upper left"), (0, 1, "upper right"), (1, 0, "lower left"), (1, 1, "lower right")],
)
def test_a_model_that_looks_at_one_quarter_is_hot_there_only(row: int, column: int, place: str, size: int) -> None:
    white_NHWC = torch.full((9, 32, 32, 3), 255, dtype=torch.uint8)
    heat_NHW = heat_of(OneQuarter(row, column), white_NHWC, [0] * 9, size=size)
    assert heat_NHW.shape == (9, size, size)
    quarters = heat_NHW.unfold(1, size // 2, size // 2).unfold(2, size // 2, size // 2).sum(dim=(3, 4))
    shares = quarters / quarters.sum(dim=(1, 2), keepdim=True)
    assert (shares[:, row, column] > 0.8).all()
    assert torch.allclose(heat_NHW.amax(dim=(1, 2)), torch.ones(9))
    assert {place_of(heat_HW) for heat_HW in heat_NHW} == {place}


def test_only_what_supports_the_class_is_hot() -> None:
    """White speaks for class 0: covering it makes class 1 more probable, which is no support for class 1."""
    white_NHWC = torch.full((2, 32, 32, 3), 255, dtype=torch.uint8)
    for_0, for_1 = heat_of(OneQuarter(0, 0), white_NHWC, [0, 1])
    assert for_0.max() == 1
    assert for_1.max() == 0
    assert place_of(for_1) == NOWHERE


@pytest.mark.slow
@pytest.mark.parametrize("name", ["null", "cnn", "hybrid", "airbench", "timm:resnet18"])
def test_every_kind_of_model_is_explained(name: str) -> None:
    model = build_model(ModelConfig(name=name, weights="none", classes=10, img_size=32), seed=0)
    images_NHWC = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    heat_NHW = heat_of(model, images_NHWC, [3, 4])
    assert heat_NHW.shape == (2, 32, 32)
    assert heat_NHW.isfinite().all()
    assert (heat_NHW.amax(dim=(1, 2)) == 1).all()


def test_an_overlay_is_grey_where_it_is_cold_and_coloured_where_it_is_hot() -> None:
    image_HWC = torch.zeros(8, 8, 3, dtype=torch.uint8)
    image_HWC[..., 1] = 200
    heat_HW = torch.zeros(4, 4)
    heat_HW[3, 3] = 1
    drawn_HWC = overlay(image_HWC, heat_HW)
    assert drawn_HWC.shape == (8, 8, 3)
    assert len(set(drawn_HWC[0, 0].tolist())) == 1
    assert len(set(drawn_HWC[7, 7].tolist())) == 3


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        Image.effect_noise((40, 32), 60).convert("RGB").save(folder / f"{number}.png")
    return folder


def test_a_prediction_explains_its_first_images(trained_run: Path, photos: Path) -> None:
    words = (str(photos),) * (MOST_EXPLAINED // 3 + 1)
    result = predict(PredictConfig(images=words, checkpoint=trained_run, device="cpu", explain=True))
    assert len(result.predictions) == MOST_EXPLAINED + 3
    assert result.heat_NHW is not None
    assert result.heat_NHW.shape == (MOST_EXPLAINED, 32, 32)
    assert len(result.places) == MOST_EXPLAINED
    places = [each["rests_on"] for each in result.to_dict(1)["predictions"]]
    assert places[:MOST_EXPLAINED] == list(result.places)
    assert places[MOST_EXPLAINED:] == [None] * 3


def test_the_command_draws_a_picture_and_names_the_parts(
    cifar, trained_run: Path, photos: Path, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path / "why.png"
    words = ("predict", photos, "--checkpoint", trained_run, "--explain", "--explain-out", out)
    result = cifar(*words)
    assert result.exit_code == 0, result.output
    assert f"heat maps: {out}" in result.stderr.replace("\n", "")
    with Image.open(out) as picture:
        assert picture.width > 1000
    assert "rests on" in result.stdout
    document = json.loads(cifar(*words, "--json").stdout)
    assert all(each["rests_on"] in result.stdout for each in document["predictions"])


def test_a_terminal_shows_the_heat_map_beside_the_picture(trained_run: Path, photos: Path) -> None:
    (photo,) = photos.glob("1.png")
    config = PredictConfig(images=(str(photo),), checkpoint=trained_run, device="cpu")
    result = predict(replace(config, explain=True))
    shown = rendered(as_pictures(result, 3), width=120)
    assert shown.count("▀") == 2 * SIDE * SIDE // 2
    assert f"rests on: {result.places[0]}" in shown
    assert rendered(as_pictures(predict(config), 3), width=120).count("▀") == SIDE * SIDE // 2


@pytest.mark.parametrize(
    ("out", "message"),
    [("why.jpg", "--explain-out why.jpg is not a PNG"), ("no/x.png", "the folder no for --explain-out does not exist")],
)
def test_a_picture_that_can_not_be_written_is_refused_before_the_model_runs(out: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PredictConfig(images=("x.png",), checkpoint=Path("run"), explain=True, explain_out=Path(out))


def test_a_report_shows_heat_maps_beside_mistakes_and_suspects_when_asked(trained_run: Path, tmp_path: Path) -> None:
    pages = {
        explain: report(ReportConfig(runs=(trained_run,), out=tmp_path / f"{explain}.html", explain=explain)).page
        for explain in (False, True)
    }
    plain, explained = (pages[explain].read_text(encoding="utf-8") for explain in (False, True))
    assert "heat map" not in plain
    mistakes = explained.partition('id="run1-mistakes"')[2].partition('id="run1-model"')[0]
    assert mistakes.count('alt="heat map of test image ') == mistakes.count('alt="test image ') > 12
    assert "covering this part with the mean colour" in mistakes


@pytest.mark.slow
@pytest.mark.parametrize("command", ["report", "predict"])
def test_a_missing_captum_is_named_with_its_extra_before_anything_is_done(command: str, tmp_path: Path) -> None:
    words = {"report": ["report", str(tmp_path)], "predict": ["predict", "x.png", "--checkpoint", str(tmp_path)]}
    script = (
        "import sys\nsys.modules['captum'] = None\nfrom typer.testing import CliRunner\n"
        f"from cifar_cli.app import app\nprint(CliRunner().invoke(app, {[*words[command], '--explain']!r}).stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "--explain needs the package captum" in done.stdout
    assert 'pip install "cifar-cli[explain]"' in done.stdout


@pytest.mark.slow
def test_a_report_explains_images_that_are_kept_as_files(cifar, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    store = tmp_path / "pets.safetensors"
    write_store(store, name="pets", images=photo_stream(train=40, val=10, test=8))
    words = (
        "--dataset",
        store,
        "--model",
        "null",
        "--img-size",
        24,
        "--batch",
        8,
        "--max-epochs",
        1,
        "--device",
        "cpu",
    )
    run = tmp_path / "run"
    assert (result := cifar("train", *words, "--no-report", "--run-dir", run)).exit_code == 0, result.output
    text = report(ReportConfig(runs=(run,), explain=True)).page.read_text(encoding="utf-8")
    assert len(set(re.findall('alt="heat map of test image ([0-9]+);', text))) == 8
