"""Folders and archives of any layout: no picture is lost or changed without a word."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, features

from cifar_cli.core.data.sources import class_folders
from cifar_cli.core.data.sources import folder as folder_module
from cifar_cli.core.data.sources.folder import import_images
from cifar_cli.core.data.sources.kinds import HEIF_REMEDY, SUFFIXES, readable_formats
from cifar_cli.core.data.sources.layout import Shares
from cifar_cli.core.data.sources.reading import ImportChoices
from cifar_cli.core.data.store import open_store, write_store
from cifar_cli.errors import DataError
from tests.conftest import Cifar
from tests.core.data.streams import Collected, collected, jpeg, photo

SIDE = 24


def put(folder: Path, name: str, number: int = 0, *, width: int = SIDE, height: int = SIDE, kind: str = "PNG") -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(jpeg(photo(number, width=width, height=height), kind=kind))
    return file


def classes_of(folder: Path, *places: str, images: int = 2) -> Path:
    """So many images in each of these folders, each image another."""
    for at, place in enumerate(places):
        for number in range(images):
            put(folder, f"{place}/{number}.png", 100 * at + number)
    return folder


def imported(path: Path, **options: object) -> Collected:
    return collected(import_images(path, ImportChoices(**options)))  # type: ignore[arg-type]


def packed(folder: Path, path: Path) -> Path:
    """The folder as an archive: .zip or .tar.gz."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(folder.rglob("*")):
                archive.write(file, file.relative_to(folder).as_posix())
    else:
        with tarfile.open(path, "w:gz") as archive:
            archive.add(folder, arcname="x")
    return path


# Formats


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_every_kind_of_file_that_pillow_decodes_is_taken_or_named(tmp_path: Path, suffix: str) -> None:
    folder = classes_of(tmp_path / "pets", "train/cat", "test/cat")
    kind = SUFFIXES[suffix]
    if kind not in readable_formats():
        (folder / f"train/cat/extra{suffix}").write_bytes(b"of a kind that isn't installed")
        made = imported(folder)
        assert f"1 file of kinds that are not read left out: 1 {suffix}" in made.notes
        assert made.provenance.left_out_kinds == {suffix: 1}
        assert ("pip install cifar-cli[photos]" in made.notes) == (kind == "HEIF")
        return
    file = put(folder, f"train/cat/extra{suffix}", 7, kind=kind)
    made = imported(folder)
    with Image.open(file) as image:
        expected = np.asarray(image.convert("RGB"))
    assert any(np.array_equal(image, expected) for image in made.train_images)


def test_files_that_are_no_images_are_counted_by_kind(tmp_path: Path, cifar: Cifar) -> None:
    folder = classes_of(tmp_path / "pets", "train/cat", "test/cat")
    for name in ("notes.txt", "train/cat/film.mp4", "train/cat/more.mp4", "README"):
        (folder / name).write_bytes(b"x")
    result = cifar("download", "--dataset", "pets", "--from", folder, "--data-dir", tmp_path / "data", "--json")
    told = json.loads(result.stdout)["provenance"]
    assert told["left_out_kinds"] == {".mp4": 2, ".txt": 1, "without a suffix": 1}
    result = cifar("download", "--dataset", "dogs", "--from", folder, "--data-dir", tmp_path / "data")
    assert "4 files of kinds that are not read left out: 2 .mp4" in " ".join(result.stderr.split())


def test_the_first_frame_of_an_animation_is_taken_and_that_is_said(tmp_path: Path) -> None:
    folder = classes_of(tmp_path, "train/cat", "test/cat")
    first, second = (Image.new("RGB", (SIDE, SIDE), colour) for colour in ((200, 0, 0), (0, 0, 200)))
    first.save(folder / "train/cat/a.gif", save_all=True, append_images=[second])
    made = imported(folder)
    assert made.provenance.animated_images == 1
    assert any((image == (200, 0, 0)).all() for image in made.train_images)


# Links, hidden files, what can't be read


def test_links_to_folders_are_followed_once_and_loops_end(tmp_path: Path) -> None:
    folder = classes_of(tmp_path / "pets", "train/cat", "test/cat", "test/dog")
    classes_of(tmp_path / "elsewhere", "dog")
    (folder / "train/dog").symlink_to(tmp_path / "elsewhere/dog")
    (folder / "train/dog/again").symlink_to(folder)
    made = imported(folder)
    assert made.classes == ("cat", "dog")
    assert len(made.train_images) == 4
    assert "read already" in made.left_out[0].reason


@pytest.mark.parametrize(
    "made", [os.mkfifo, lambda file: file.symlink_to("nowhere"), lambda file: file.write_bytes(b"")]
)
def test_what_can_t_be_read_ends_an_import_or_is_listed_with_skip_bad(
    tmp_path: Path, made: Callable[[Path], object], cifar: Cifar
) -> None:
    folder, data = classes_of(tmp_path / "pets", "train/cat", "test/cat"), tmp_path / "data"
    made(folder / "train/cat/bad.png")
    words = ("download", "--dataset", "pets", "--from", folder, "--data-dir", data)
    refused = cifar(*words)
    assert refused.exit_code == 1
    assert "bad.png" in refused.stderr
    assert "--skip-bad" in refused.stderr
    taken = cifar(*words, "--skip-bad", "--json")
    assert taken.exit_code == 0, taken.stderr
    document = json.loads(taken.stdout)
    assert [Path(each["name"]).name for each in document["left_out"]] == ["bad.png"]
    assert document["train_images"] == 2
    rows = list(csv.DictReader(Path(document["left_out_csv"]).read_text("utf-8").splitlines()))
    assert [Path(row["file"]).name for row in rows] == ["bad.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_class_folder_that_can_t_be_read_is_named(tmp_path: Path) -> None:
    folder = classes_of(tmp_path, "train/cat", "train/dog", "test/cat", "test/dog")
    (folder / "train/dog").chmod(0)
    with pytest.raises(DataError, match="train/dog"):
        import_images(folder)


@pytest.mark.parametrize("kind", ["folder", "pets.tar.gz", "pets.zip"])
def test_hidden_files_and_folders_are_no_classes_in_a_folder_or_an_archive(tmp_path: Path, kind: str) -> None:
    folder = classes_of(tmp_path / "pets", "train/cat", "test/cat", "train/.ipynb_checkpoints", "__MACOSX/train/cat")
    put(folder, "train/cat/._0.png")
    made = imported(folder if kind == "folder" else packed(folder, tmp_path / kind))
    assert made.classes == ("cat",)
    assert len(made.train_images) == 2


# Layouts


@pytest.mark.parametrize(
    "names",
    [("train", "val", "test"), ("Train", "Valid", "Test"), ("TRAINING", "validation", "testing")],
)
def test_splits_are_known_by_every_usual_name_and_a_given_validation_split_is_kept(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    folder = classes_of(tmp_path / "pets", *(f"{split}/{name}" for split in names for name in ("cat", "dog")))
    stream = import_images(folder)
    assert [row.split for row in stream.rows] == ["train"] * 4 + ["val"] * 4 + ["test"] * 4
    write_store(tmp_path / "pets.safetensors", name="pets", images=stream)
    assert open_store(tmp_path / "pets.safetensors").given_val == 4


def test_a_folder_per_class_gets_a_test_split_that_only_the_names_decide(tmp_path: Path) -> None:
    folder = classes_of(tmp_path / "pets", "cat", "dog", images=10)
    streams = [
        import_images(path)
        for path in (folder, packed(folder, tmp_path / "a.tar.gz"), packed(folder, tmp_path / "a.zip"))
    ]
    assert streams[0].rows == streams[1].rows == streams[2].rows
    for split, count in (("train", 8), ("test", 2)):
        for label in (0, 1):
            assert sum(row.split == split and row.label == label for row in streams[0].rows) == count
    made = imported(folder, shares=Shares(test=0.5, val=0.4))
    assert "10 (50% of each class, chosen by their names) are set aside (--test-share)" in made.notes
    assert "4 (40% of each class, chosen by their names) are set aside (--val-share)" in made.notes


def test_a_table_of_labels_beside_numbered_images(tmp_path: Path) -> None:
    folder = tmp_path / "kaggle"
    for number in range(1, 11):
        put(folder, f"train/{number}.png", number)
    rows = "".join(f"{number},{'cat' if number % 2 else 'dog'}\n" for number in range(1, 11))
    (folder / "trainLabels.csv").write_text(f"id,label\n{rows}")
    stream = import_images(folder)
    assert stream.classes == ("cat", "dog")
    assert {Path(row.name).stem: row.label for row in stream.rows} == {str(n): 1 - n % 2 for n in range(1, 11)}
    assert {row.split for row in stream.rows} == {"train", "test"}


def test_folders_below_a_class_belong_to_it(tmp_path: Path) -> None:
    made = imported(classes_of(tmp_path, "train/cat/2019", "train/cat/2020", "train/dog", "test/cat", "test/dog"))
    assert made.classes == ("cat", "dog")
    assert "images in folders below a class folder belong to that class" in made.notes


@pytest.mark.parametrize(
    ("places", "said"),
    [
        (("train/cat", "test/cat", "train/dog"), "dog is not among the test images"),
        (("train/cat", "test/cat"), "cat is the only class"),
    ],
)
def test_classes_that_can_be_trained_but_not_judged_are_named(
    tmp_path: Path, places: tuple[str, ...], said: str
) -> None:
    assert said in imported(classes_of(tmp_path, *places)).notes


def test_one_image_and_an_empty_class_are_named_and_a_class_only_in_test_is_refused(tmp_path: Path) -> None:
    folder = classes_of(tmp_path, "train/cat", "test/cat", "test/dog")
    put(folder, "train/dog/0.png")
    (folder / "train/emu").mkdir()
    notes = imported(folder).notes
    assert "dog has a single training image" in notes
    assert "their folders hold no images: emu" in notes
    shutil.rmtree(folder / "train/dog")
    with pytest.raises(DataError, match="dog is in test/ but not in train/"):
        import_images(folder)


def test_check_says_in_its_text_and_in_json_that_classes_differ_in_size(tmp_path: Path, cifar: Cifar) -> None:
    folder = classes_of(classes_of(tmp_path / "pets", "train/cat", images=30), "test/cat", "test/dog", "train/dog")
    common = ("--dataset", "pets", "--data-dir", tmp_path / "data")
    assert cifar("download", *common, "--from", folder).exit_code == 0
    checked, document = cifar("download", *common, "--check"), cifar("download", *common, "--check", "--json")
    (remark,) = json.loads(document.stdout)["remarks"]
    assert "--class-weights auto" in remark
    assert " ".join(remark.split()) in " ".join(checked.stderr.split())


# Sizes


def test_one_thumbnail_does_not_decide_the_size_and_is_named(tmp_path: Path) -> None:
    folder = classes_of(tmp_path, "train/cat", "test/cat")
    put(folder, "train/cat/tiny.png", width=3, height=2)
    stream = import_images(folder)
    assert stream.img_size == SIDE
    assert "1 image has less than a quarter of 24 pixels a side: train/cat/tiny.png" in collected(stream).notes


def test_photographs_of_many_sizes_are_stored_as_files_for_224_pixels(tmp_path: Path) -> None:
    for number, width in enumerate((300, 400, 500, 600, 900)):
        put(
            tmp_path,
            f"{'test' if number == 4 else 'train'}/cat/{number}.jpg",
            number,
            width=width,
            height=260,
            kind="JPEG",
        )
    put(tmp_path, "train/cat/large.jpg", 9, width=1000, height=700, kind="JPEG")
    stream = import_images(tmp_path)
    assert (stream.img_size, stream.encoded) == (224, True)
    contents = {stream.rows[index].name: content for index, content in stream.images()}
    assert contents["train/cat/0.jpg"] == (tmp_path / "train/cat/0.jpg").read_bytes()
    with Image.open(io.BytesIO(contents["train/cat/large.jpg"])) as image:
        assert min(image.size) == 256  # evaluation sees the central 224
    assert "stored for training at 224 pixels" in " ".join(stream.provenance().notes)
    assert stream.provenance().reencoded_images == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--img-size", 12), "is stored with 24 pixels a side, not 12"),
        (("--from", "."), "was imported from"),
        (("--test-share", "10%"), "has its splits already"),
    ],
)
def test_asking_for_another_import_than_is_stored_is_refused(
    tmp_path: Path, cifar: Cifar, words: tuple[object, ...], said: str
) -> None:
    folder = classes_of(tmp_path / "pets", "train/cat", "test/cat")
    common = ("download", "--dataset", "pets", "--data-dir", tmp_path / "data")
    assert cifar(*common, "--from", folder).exit_code == 0
    source = () if "--from" in words else ("--from", folder)
    again = cifar(*common, *source, *words)
    assert again.exit_code == 1
    assert said in " ".join(again.stderr.split())
    assert "--force" in again.stderr


# Orientation and depth


def _exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif.tobytes()


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'


def _xmp_jpeg(file: Path, image: Image.Image) -> None:
    image.save(file, "JPEG", quality=95, xmp=XMP)


def _raw_profile_png(file: Path, image: Image.Image) -> None:
    content = b"Exif\x00\x00" + _exif().removeprefix(b"Exif\x00\x00")
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", f"\nexif\n{len(content):8d}\n{content.hex()}\n", zip=True)
    image.save(file, "PNG", pnginfo=info)


def _app1_profile_png(file: Path, image: Image.Image) -> None:
    """As older ImageMagick and ExifTool call the profile."""
    content = b"Exif\x00\x00" + _exif().removeprefix(b"Exif\x00\x00")
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type APP1", f"\ngeneric\n{len(content):8d}\n{content.hex()}\n", zip=True)
    image.save(file, "PNG", pnginfo=info)


def _xmp_profile_png(file: Path, image: Image.Image) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type xmp", f"\nxmp\n{len(XMP):8d}\n{XMP.hex()}\n", zip=True)
    image.save(file, "PNG", pnginfo=info)


def _late_exif_png(file: Path, image: Image.Image) -> None:
    """The eXIf chunk stands behind the pixels."""
    image.save(file, "PNG")
    png, body = file.read_bytes(), b"eXIf" + _exif().removeprefix(b"Exif\x00\x00")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    end = png.rindex(b"IEND") - 4
    file.write_bytes(png[:end] + chunk + png[end:])


@pytest.mark.parametrize("write", [_xmp_jpeg, _raw_profile_png, _app1_profile_png, _xmp_profile_png, _late_exif_png])
def test_pictures_are_turned_upright_wherever_their_orientation_stands(
    tmp_path: Path, write: Callable[[Path, Image.Image], None]
) -> None:
    folder = classes_of(tmp_path, "test/cat")
    lying = Image.fromarray(photo(5, width=SIDE, height=SIDE))
    (folder / "train/cat").mkdir(parents=True)
    write(folder / "train/cat/0.png", lying)
    made = imported(folder).train_images[0].astype(int)
    expected = np.asarray(lying.transpose(Image.Transpose.ROTATE_270)).astype(int)
    assert abs(made - expected).mean() < 5  # JPEG rounds


def test_a_transparent_grey_of_16_bits_becomes_white(tmp_path: Path) -> None:
    folder = classes_of(tmp_path, "test/cat")
    (folder / "train/cat").mkdir(parents=True)
    grey = np.full((SIDE, SIDE), 30000, dtype=np.uint16)
    grey[:4] = 12345
    Image.fromarray(grey).save(folder / "train/cat/0.png", transparency=12345)
    image = imported(folder).train_images[0]
    assert (image[:4] == 255).all()
    assert (image[4:] == 30000 // 257).all()


# Names


@pytest.mark.parametrize("name", ["Bild\u202f1", "a\u00a0b", "x\u200dy", "\u200fعربي", "猫", "$50_$100", "'q'", "a b"])
def test_names_with_unusual_characters_are_classes(tmp_path: Path, name: str) -> None:
    made = imported(classes_of(tmp_path, f"train/{name}", f"test/{name}", "train/dog", "test/dog"))
    assert set(made.classes) == {unicodedata.normalize("NFC", name), "dog"}


def test_composed_and_decomposed_spellings_are_one_class(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Bär") for form in ("NFC", "NFD"))
    made = imported(classes_of(tmp_path, f"train/{composed}", f"test/{decomposed}"))
    assert made.classes == (composed,)


def test_pillow_knows_the_formats_that_the_page_names() -> None:
    assert features.check("webp")
    assert {"BMP", "GIF", "JPEG", "PNG", "PPM", "WEBP"} <= set(readable_formats())


def test_a_folder_that_two_links_lead_to_is_read_once(tmp_path: Path) -> None:
    everything = classes_of(tmp_path / "all", "cats", "dogs", images=5)
    top = tmp_path / "top"
    top.mkdir()
    (top / "a").symlink_to(everything / "cats")
    (top / "b").symlink_to(everything)
    made = imported(top)
    assert len(made.train_images) + len(made.test_images) == 10


def test_a_folder_of_heic_files_alone_names_the_plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pets" / "cat").mkdir(parents=True)
    (tmp_path / "pets" / "cat" / "1.HEIC").write_bytes(b"of a kind that isn't installed")
    monkeypatch.setattr(folder_module, "is_image", lambda name: False)
    monkeypatch.setattr(class_folders, "is_image", lambda name: False)
    with pytest.raises(DataError, match="holds no images") as caught:
        imported(tmp_path / "pets")
    assert caught.value.remedy == HEIF_REMEDY
