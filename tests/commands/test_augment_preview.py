"""`cifar augment-preview`: the picture, the JSON document, the messages."""

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from cifar_cli.app import app
from cifar_cli.core.augment.config import PreviewConfig
from cifar_cli.core.augment.offline import A
from cifar_cli.core.augment.preview import preview
from cifar_cli.core.data.config import DataConfig
from cifar_cli.core.data.results import Provenance
from cifar_cli.core.data.sources.images import SourceImages
from cifar_cli.core.data.store import write_store
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.run_dir import RunDir
from cifar_cli.render import pictures
from tests.core.data.streams import photo_stream

IMAGES = torch.randint(0, 256, (60, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(60) % 3
CLASSES = ("ant", "bee", "an_unusually_long_class_name")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "insects.safetensors"
    images = SourceImages(
        classes=CLASSES,
        train_images=IMAGES.numpy(),
        train_labels=LABELS.numpy(),
        test_images=IMAGES.numpy(),
        test_labels=LABELS.numpy(),
        provenance=Provenance.now(source="a test", checksum="sha256:0"),
    )
    write_store(path, name="insects", images=images)
    return path


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    """The picture is written into the current folder by default."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(store):
    return lambda *options: CliRunner().invoke(app, ["augment-preview", "--dataset", str(store), *options])


def test_it_writes_a_picture_and_prints_a_row_for_each_step(run, tmp_path):
    done = run()
    assert done.exit_code == 0, done.output
    for name in ("PadCrop", "HorizontalFlip", "ColorJitter", "CoarseDropout", "padded=36"):
        assert name in done.stdout
    assert "augment-preview.png" in done.stderr
    with Image.open(tmp_path / "augment-preview.png") as picture:
        assert picture.format == "PNG"
        assert picture.size[0] > 9 * 96


@pytest.mark.parametrize("options", [[], ["--steps"], ["--pipeline", "albumentations"]], ids=" ".join)
def test_json_is_one_document_on_stdout(run, options):
    variants = [] if options == ["--steps"] else ["--variants", "3"]
    done = run("--json", "--images", "2", *variants, *options)
    document = json.loads(done.stdout)
    assert list(document) == ["dataset", "picture", "policy", "pipeline", "seed", "rows", "columns", "steps"]
    assert document["rows"] == ["ant", "bee"]
    assert len(document["columns"]) == (5 if options == ["--steps"] else 4)
    assert [step["probability"] for step in document["steps"]] == [1.0, 0.5, 0.5, 0.3]
    assert {step["sample_images"] for step in document["steps"]} == {60}


def test_the_documented_json_keys_are_those_of_the_document(run):
    page = (Path(__file__).parents[2] / "docs/augmentation.md").read_text(encoding="utf-8")
    paragraph = page.partition("augment-preview --json")[2].partition("\n\n")[0]
    document = json.loads(run("--json", "--images", "2", "--variants", "1").stdout)
    assert set(re.findall(r"`(\w+)`", paragraph)) == {*document, *document["steps"][0]}


def test_show_outside_a_terminal_is_a_note_that_names_the_file(run):
    done = run("--show", "--images", "1")
    assert done.exit_code == 0
    assert "in a terminal only" in done.stderr
    assert "▀" not in done.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--images", "0"], "--images 0 is not between 1 and 64"),
        (["--variants", "0"], "--variants 0 is not between 1 and 64"),
        (["--augment", "no.yaml"], "the augmentation policy no.yaml can't be read (No such file or directory)"),
        (["--out", "no/x.png"], "the folder no for --out does not exist"),
        (["--out", "x.jpg"], "try: pass --out x.png"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_an_error_with_a_remedy(run, tmp_path, options, message):
    done = run(*options)
    assert done.exit_code == 1
    assert message in done.stderr
    assert "try: " in done.stderr
    assert "Traceback" not in done.output
    assert done.stdout == ""
    assert not list(tmp_path.glob("*.png"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--augment", "no.yaml", "--pipeline", "batched"], "try: pass --pipeline albumentations"),
        (["--augment", "no.yaml", "--policy", "course"], "--policy and --augment contradict each other"),
        (["--augment", "no.yaml", "--recipe", "fast"], "--augment and --recipe contradict each other"),
        (["--run", "runs/1", "--policy", "course"], "--policy and --run contradict each other"),
    ],
)
def test_options_that_contradict_each_other_are_usage_errors(run, options, message):
    done = run(*options)
    assert done.exit_code == 2
    assert message in done.stderr


def test_images_are_shown_in_the_size_asked_for(run, tmp_path):
    done = run("--img-size", "128", "--images", "1", "--variants", "1", "--json")
    assert json.loads(done.stdout)["steps"][0]["parameters"]["padded"] == 144
    with Image.open(tmp_path / "augment-preview.png") as picture:
        assert picture.height > 128 + pictures.TOP
    done = run("--img-size", "3000000000")
    assert done.exit_code == 1
    assert "--img-size 3000000000 is not between 8 and 1024" in done.stderr


def test_photographs_are_shown_as_training_sees_them(tmp_path):
    path = tmp_path / "photos.safetensors"
    write_store(path, name="photos", images=photo_stream(width=400, height=300, img_size=300))
    for option, side in (((), 224), (("--img-size", "96"), 96)):
        words = ["augment-preview", "--dataset", str(path), "--policy", "photo", "--json", *option]
        done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "x.png")])
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["steps"][0]["parameters"]["side"] == side
        assert "the crops shown here are of the middle of each photograph" in " ".join(done.stderr.split())


def test_the_policy_of_a_recipe_is_shown(run):
    assert json.loads(run("--recipe", "best", "--json").stdout)["policy"] == "crop-flip-cutout"


@pytest.fixture
def trained(store, tmp_path):
    """A run's directory, as far as its settings go."""
    folder = tmp_path / "trained"
    folder.mkdir()
    A.save(A.Compose([A.VerticalFlip(p=1.0)]), folder / "own.yaml", data_format="yaml")
    config = TrainConfig(
        model=ModelConfig(name="null", img_size=48),
        data=DataConfig(dataset=str(store)),
        pipeline="albumentations",
        augment_file=folder / "own.yaml",
        seed=7,
    )
    RunDir(folder).write_config({"config": config.to_dict(), "classes": list(CLASSES)})
    return folder


def test_what_a_run_was_trained_on_is_shown(trained):
    done = CliRunner().invoke(app, ["augment-preview", "--run", str(trained), "--json"])
    shown = json.loads(done.stdout)
    assert (shown["dataset"], shown["policy"], shown["pipeline"], shown["seed"]) == (
        "insects", "own.yaml", "albumentations", 7,
    )  # fmt: skip
    with Image.open(shown["picture"]) as picture:
        assert picture.height >= pictures.TOP + 3 * 96  # 48 pixels, each drawn twice as wide and high


def test_options_stand_above_the_run_s(trained, data_dir):
    options = ("--seed", "3", "--img-size", "32", "--dataset", "shapes", "--data-dir", str(data_dir))
    done = CliRunner().invoke(app, ["augment-preview", "--run", str(trained), *options, "--json"])
    assert (json.loads(done.stdout)["dataset"], json.loads(done.stdout)["seed"]) == ("shapes", 3)


def test_a_folder_that_is_no_run_is_named(run, tmp_path):
    done = run("--run", str(tmp_path))
    assert done.exit_code == 1
    assert "holds no config.yaml" in done.stderr


def test_an_unwritable_picture_is_named(run, tmp_path):
    (tmp_path / "taken.png").mkdir()
    done = run("--out", "taken.png")
    assert done.exit_code == 1
    assert "the picture taken.png can't be written" in done.stderr


def look(**options):
    return preview(PreviewConfig(**options), IMAGES, LABELS, CLASSES)


def test_the_png_shows_every_pixel_of_every_image(tmp_path):
    result = look(images=3, variants=4)
    path = tmp_path / "grid.png"
    pictures.save_preview(result, path)
    with Image.open(path) as picture:
        drawn = torch.frombuffer(bytearray(picture.convert("RGB").tobytes()), dtype=torch.uint8)
        drawn = drawn.reshape(picture.height, picture.width, 3)
    side = 96
    left = drawn.shape[1] - 5 * (side + pictures.GAP)  # the class names, of any width, are on the left
    for row in range(3):
        for column in range(5):
            y, x = pictures.TOP + row * (side + pictures.GAP), left + column * (side + pictures.GAP)
            assert torch.equal(drawn[y + 1 : y + side : 3, x + 1 : x + side : 3], result.grid_RCHWC[row, column])


def drawn_in_terminal(result, width, tmp_path):
    path = tmp_path / "screen.txt"
    with path.open("w", encoding="utf-8") as file:
        pictures.show_preview(result, Console(file=file, width=width))
    return path.read_text(encoding="utf-8")


def test_each_half_block_shows_two_pixels_in_24_bit_colour(tmp_path):
    result = look(images=1, variants=1)
    lines = [line for line in drawn_in_terminal(result, 80, tmp_path).splitlines() if "▀" in line]
    assert len(lines) == 16
    pattern = re.compile(r"\x1b\[38;2;(\d+);(\d+);(\d+);48;2;(\d+);(\d+);(\d+)m▀")
    for number, line in enumerate(lines):
        found = [[int(level) for level in levels] for levels in pattern.findall(line)]
        upper, lower = result.grid_RCHWC[0, :, 2 * number], result.grid_RCHWC[0, :, 2 * number + 1]
        assert found == torch.cat([upper, lower], dim=-1).flatten(0, 1).tolist()


@pytest.mark.parametrize("width", [80, 120, 200])
def test_half_blocks_fit_the_width_of_the_terminal(tmp_path, width):
    text = drawn_in_terminal(look(images=1, variants=8), width, tmp_path)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()
    assert max(len(line) for line in plain) <= width
    assert any("columns fit this terminal" in line for line in plain) == (width < 9 * 17 - 1)
