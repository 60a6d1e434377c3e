"""Every line of the table in docs/data.md about what an import finds, shown on the command line with its sentence."""

from __future__ import annotations

import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import Cifar
from tests.core.data.streams import photo
from tests.core.data.test_any_folder import classes_of, put

PAGE = Path(__file__).parents[3] / "docs/data.md"
Make = Callable[[Path], Path | None]
OTHER_KINDS = "file of kinds that are not read left out: 1 .mp4"


def formats(folder: Path) -> None:
    for kind, suffix in (("WEBP", "webp"), ("BMP", "bmp"), ("GIF", "gif"), ("TIFF", "tif"), ("PPM", "ppm")):
        put(folder, f"cat/{kind}.{suffix}", 30, kind=kind)


def animation(folder: Path) -> None:
    frames = [Image.new("RGB", (24, 24), colour) for colour in ((200, 0, 0), (0, 0, 200))]
    frames[0].save(folder / "cat/a.gif", save_all=True, append_images=frames[1:])


def loop(folder: Path) -> None:
    (folder / "cat/again").symlink_to(folder)


def run(folder: Path) -> None:
    (folder / "runs/first/checkpoints").mkdir(parents=True)
    (folder / "runs/first/config.yaml").write_text("")
    put(folder, "runs/first/evaluation/confusion.png", 60)


def broken_link(folder: Path) -> None:
    (folder / "cat/x.png").symlink_to("nowhere")


def linked_in_archive(folder: Path) -> Path:
    broken_link(folder)
    with tarfile.open(folder.parent / "pets.tar", "w") as archive:
        archive.add(folder, "pets")
    return folder.parent / "pets.tar"


def damaged(folder: Path) -> None:
    (folder / "cat/0.png").write_bytes(b"no image")


def damaged_zip(folder: Path) -> Path:
    path = folder.parent / "pets.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, file.relative_to(folder).as_posix())
    content = bytearray(path.read_bytes())
    content[content.index(b"cat/0.png") + 200] ^= 1
    path.write_bytes(content)
    return path


def cut_tar(folder: Path) -> Path:
    path = folder.parent / "pets.tar"
    with tarfile.open(path, "w") as archive:
        for file in sorted(folder.rglob("*.png"), key=lambda file: (file.name, file)):
            archive.add(file, file.relative_to(folder).as_posix())
    with tarfile.open(path) as archive:
        cut = archive.getmember("dog/3.png").offset_data + 100
    path.write_bytes(path.read_bytes()[:cut])
    return path


def stray(folder: Path) -> None:
    put(folder, "x.png", 40)


def beside_splits(folder: Path) -> None:
    for split in ("train", "test"):
        classes_of(folder, f"{split}/cat", f"{split}/dog")


def table(*rows: str) -> Make:
    def make(folder: Path) -> None:
        for number in (1, 2, 3):
            put(folder, f"x{number}.png", 40 + number)
        (folder / "labels.csv").write_text("\n".join(rows), encoding="utf-8")

    return make


def unused_table(folder: Path) -> None:
    (folder / "notes.csv").write_text("day,weather\n1,rain\n")


def photographs(folder: Path) -> None:
    for number in range(14):
        put(folder, f"cat/p{number}.jpg", number, width=300 + number, height=240 + number, kind="JPEG")


def turned(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for number in range(6):
        image = Image.fromarray(photo(number, width=300, height=240))
        image.save(folder / f"cat/{number}.png", exif=exif)
        put(folder, f"dog/{number}.png", number, width=300, height=240)


def grey(folder: Path) -> None:
    for name in ("cat", "dog"):
        for number in range(6):
            Image.new("LA", (240, 240), (number, 99)).save(folder / f"{name}/{number}.png")


def single(folder: Path) -> None:
    beside_splits(folder)
    for name in ("cat", "dog"):
        for file in (folder / name).iterdir():
            file.unlink()
        (folder / name).rmdir()
    put(folder, "train/emu/0.png", 50)
    (folder / "train/gnu").mkdir()


def only_in_test(folder: Path) -> None:
    single(folder)
    put(folder, "test/yak/0.png", 51)


def seven_zip(folder: Path) -> Path:
    (folder.parent / "pets.7z").write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(99))
    return folder.parent / "pets.7z"


def rows(*changed: str) -> Make:
    return table("image,label", *changed)


UNREADABLE = "cat/0.png is not a readable image (not an image of a known kind)"
CASES: list[tuple[str, Make, tuple[object, ...], int, str]] = [
    ("JPEG, PNG", formats, (), 0, "14 train, 3 test"),
    ("files of other kinds", lambda folder: put(folder, "cat/a.mp4"), (), 0, OTHER_KINDS),
    ("an animation", animation, (), 0, "1 image with several frames or pages: the first was taken"),
    ("hidden files", lambda folder: put(folder, "cat/.x/a.png"), (), 0, "1 hidden file or folder left out"),
    ("a run of", run, (), 0, "left out: runs/first/ (a run of `cifar train`)"),
    ("links to folders", loop, (), 0, "left out: cat/again/ (a link to a folder that is read already)"),
    ("links to folders", broken_link, (), 1, "cat/x.png is a link to nothing"),
    ("links to folders", linked_in_archive, ("--skip-bad",), 0, "x.png (it is a link inside an archive)"),
    ("a file or folder that can't be read", damaged, (), 1, UNREADABLE),
    ("a file or folder", damaged, ("--skip-bad",), 0, "left out: cat/0.png (not an image of a known kind)"),
    ("a damaged or encrypted member", damaged_zip, (), 1, "cat/0.png can't be read (it is damaged: Bad CRC-32)"),
    ("a damaged or encrypted member", damaged_zip, ("--skip-bad",), 0, "left out: cat/0.png (it can't be read"),
    ("a tar archive that ends too early", cut_tar, (), 1, "pets.tar is damaged or truncated"),
    ("a tar archive", cut_tar, ("--skip-bad",), 0, "dog/3.png (the archive is damaged or truncated here"),
    ("an image in no class folder", stray, (), 1, "x.png is not in a class folder"),
    ("an image in no class folder", stray, ("--skip-bad",), 0, "left out: x.png (in no class folder)"),
    ("folders beside", beside_splits, (), 1, "cat/, dog/ lie beside test/, train/, and the images in them belong"),
    ("folders beside", beside_splits, ("--skip-bad",), 0, "cat/, dog/ are no splits: 12 images in them are left out"),
    ("an image without a row", rows("x1.png,cat", "x2.png,cat"), (), 0, "1 image without a label left out, such as x3"),
    ("an image without a row", rows("x1.png,cat", "y.png,cat"), (), 0, "names 1 image that is not there, such as y"),
    ("a row with an empty label", rows("x1.png,", "x2.png,cat"), (), 1, "labels.csv has no usable label for x1.png"),
    ("a row with", rows("x1.png,cat", "x1.png,dog"), ("--skip-bad",), 0, "x1.png (two labels in labels.csv)"),
    ("a CSV file without a header", table("x1.png,cat", "x2.png,dog", "x3.png,cat"), (), 0, "labels.csv has no header"),
    ("a CSV file that labels nothing", unused_table, (), 0, "notes.csv is not used for labels"),
    ("images of several sizes", photographs, (), 0, "they are stored for training at 224 pixels (--img-size chooses"),
    ("images of several sizes", photographs, ("--img-size", 120), 0, "less than a quarter of 120 pixels a side: cat/0"),
    (
        "images of several sizes",
        lambda folder: None,
        ("--img-size", 120),
        0,
        "12 images are enlarged to 120 pixels, which adds no detail",
    ),
    ("orientation", turned, (), 0, "6 images encoded again, to be upright, in RGB"),
    ("greyscale", grey, (), 0, "12 images encoded again, to be upright, in RGB"),
    ("one image in a class", single, (), 0, "left out as classes, because their folders hold no images: gnu"),
    ("one image in a class", single, (), 0, "emu is not among the test images, so never measured"),
    ("one image in a class", single, (), 0, "emu has a single training image"),
    ("a class without training images", only_in_test, (), 1, "yak is in test/ but not in train/"),
    ("a 7z or rar archive", seven_zip, (), 1, "pets.7z is a 7z archive, which is not read"),
    ("猫", lambda folder: classes_of(folder, "$50_$100", "a\u202fb", "猫"), (), 0, r"$50_$100, a\u202fb, cat, dog, 猫"),
    (
        "猫",
        lambda folder: put(folder, "cat/a\x07b.png"),
        (),
        1,
        "holds a name with control characters, cat/a\\x07b.png",
    ),
]


@pytest.mark.parametrize(("line", "make", "words", "status", "said"), CASES)
def test_what_an_import_finds_is_said(
    tmp_path: Path, cifar: Cifar, line: str, make: Make, words: tuple[object, ...], status: int, said: str
) -> None:
    folder = classes_of(tmp_path / "pets", "cat", "dog", images=6)
    made = make(folder)
    path = made if made is not None and made.parent == tmp_path else folder
    result = cifar("download", "--dataset", "pets", "--from", path, "--data-dir", tmp_path / "data", *words)
    assert result.exit_code == status, result.stderr
    assert said in " ".join((result.stdout + result.stderr).split())
    assert ("  try: " in result.stderr) == (status == 1)


def test_other_settings_than_those_that_are_stored_are_said(tmp_path: Path, cifar: Cifar) -> None:
    folder = classes_of(tmp_path / "pets", "cat", "dog")
    words = ("download", "--dataset", "pets", "--from", folder, "--data-dir", tmp_path / "data")
    assert cifar(*words).exit_code == 0
    again = cifar(*words, "--img-size", 12)
    assert again.exit_code == 1
    assert "is stored with 24 pixels a side, not 12" in " ".join(again.stderr.split())


def test_every_line_of_the_page_is_shown() -> None:
    found = PAGE.read_text(encoding="utf-8").partition("| what is found | what happens |\n| --- | --- |\n")[2]
    lines = re.findall(r"^\| (.+?) \| .+ \|$", found.partition("\n\n")[0], flags=re.MULTILINE)
    shown = {line for line in lines if any(line.startswith(case[0]) for case in CASES)}
    assert set(lines) - shown == {"other settings than those that are stored"}
    assert all(any(line.startswith(case[0]) for line in lines) for case in CASES)
