"""Image folders and archives of images: what is read, and the error for each mistake."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cifar_cli.core.data.sources import folder
from cifar_cli.core.data.sources.class_folders import lay_out
from cifar_cli.core.data.sources.pixels import decode
from cifar_cli.core.data.sources.reading import ImportChoices
from cifar_cli.errors import DataError
from tests.core.data.streams import Collected, collected


def import_images(path: Path, **options: object) -> Collected:
    return collected(folder.import_images(path, ImportChoices(**options)))


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def pack(top: Path, archive: Path, mode: str) -> Path:
    with tarfile.open(archive, mode) as tar:
        tar.add(top, arcname=top.name)
    return archive


def test_the_classes_of_a_folder_are_sorted(make_tree):
    images = import_images(make_tree(("dog", "ant", "cat"), images=2))
    assert images.classes == ("ant", "cat", "dog")
    assert images.train_labels.tolist() == images.test_labels.tolist() == [0, 0, 1, 1, 2, 2]
    # make_tree: red is 20 times the class number (ant has number 1), green is 10 times the image number
    assert images.train_images[:, 0, 0].tolist() == [
        [20, 0, 0],
        [20, 10, 0],
        [40, 0, 0],
        [40, 10, 0],
        [0, 0, 0],
        [0, 10, 0],
    ]
    assert images.test_images[0, 5, 5].tolist() == [20, 0, 100]
    assert (images.provenance.resized_images, images.provenance.skipped_images) == (0, 0)


@pytest.mark.parametrize(
    ("name", "mode"), [("a.tar", "w"), ("a.tgz", "w:gz"), ("a.tar.bz2", "w:bz2"), ("a.tar.xz", "w:xz")]
)
def test_an_archive_and_its_folder_have_equal_images(name, mode, make_tree, tmp_path):
    top = make_tree()
    from_folder = import_images(top)
    from_archive = import_images(pack(top, tmp_path / name, mode))
    for key, array in from_folder.arrays().items():
        assert np.array_equal(array, from_archive.arrays()[key]), key


def test_the_order_of_files_in_an_archive_has_no_effect(make_tree, tmp_path):
    top = make_tree()
    files = sorted(top.rglob("*.png"), reverse=True)
    with tarfile.open(tmp_path / "reversed.tar", "w") as tar:
        for file in files:
            tar.add(file, arcname=file.relative_to(top))
    assert np.array_equal(import_images(tmp_path / "reversed.tar").train_images, import_images(top).train_images)


def test_the_most_common_size_is_the_default_and_resized_images_are_counted(make_tree):
    top = make_tree(size=(20, 20), images=4)
    Image.new("RGB", (50, 40)).save(top / "train/cat/large.png")
    images = import_images(top)
    assert images.train_images.shape == (9, 20, 20, 3)
    assert images.provenance.resized_images == 1


def test_an_image_size_can_be_requested(make_tree):
    images = import_images(make_tree(size=(20, 20)), img_size=8)
    assert images.train_images.shape == (6, 8, 8, 3)
    assert images.provenance.resized_images == 12


def test_an_image_that_is_not_square_is_cropped_at_the_centre():
    wide = np.zeros((10, 30, 3), dtype=np.uint8)
    wide[:, 10:20] = 200
    image, changed = decode(encoded(Image.fromarray(wide)), 10)
    assert changed
    assert image.tolist() == wide[:, 10:20].tolist()


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_pixels_equal_those_that_pillow_decodes(format, pixels):
    content = encoded(Image.fromarray(pixels[:30]), format)
    image, changed = decode(content, 30)
    assert not changed
    assert np.array_equal(image, np.asarray(Image.open(io.BytesIO(content))))


@pytest.mark.parametrize(
    ("image", "format", "expected"),
    [
        (Image.new("L", (4, 4), 77), "PNG", [77, 77, 77]),
        (Image.new("L", (8, 8), 77), "JPEG", [77, 77, 77]),
        (Image.new("1", (4, 4), 1), "PNG", [255, 255, 255]),
        (Image.new("RGBA", (4, 4), (10, 20, 30, 0)), "PNG", [255, 255, 255]),
        (Image.new("RGBA", (4, 4), (10, 20, 30, 255)), "PNG", [10, 20, 30]),
        (Image.new("LA", (4, 4), (50, 255)), "PNG", [50, 50, 50]),
        (Image.new("RGB", (4, 4), (9, 8, 7)).quantize(4), "PNG", [9, 8, 7]),
        (Image.fromarray(np.full((4, 4), 32896, dtype=np.uint16)), "PNG", [128, 128, 128]),
        (Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG", [255, 255, 255]),
    ],
    ids=["grey", "grey-jpeg", "bilevel", "transparent", "opaque", "grey-alpha", "palette", "16-bit", "cmyk"],
)
def test_every_colour_mode_becomes_rgb(image, format, expected):
    decoded, _ = decode(encoded(image, format), image.width)
    assert decoded.shape == (image.width, image.width, 3)
    assert decoded[1, 1].tolist() == expected


def test_a_transparent_palette_colour_becomes_white():
    image = Image.new("P", (4, 4), 0)
    image.putpalette([10, 20, 30, 0, 0, 0])
    decoded, _ = decode(encoded(image, transparency=0), 4)
    assert decoded[0, 0].tolist() == [255, 255, 255]


def test_a_photograph_is_rotated_by_its_exif_orientation(pixels):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    turned, _ = decode(encoded(Image.fromarray(pixels), "PNG", exif=exif), 30)
    upright, _ = decode(encoded(Image.fromarray(np.rot90(pixels, -1))), 30)
    assert np.array_equal(turned, upright)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not an image of a known kind"),
        (b"%PDF-1.7 not an image", "not an image of a known kind"),
        (encoded(Image.effect_noise((64, 64), 50), "JPEG")[:-400], "truncated"),
        (encoded(Image.effect_noise((64, 64), 50))[:-400], "truncated|broken"),
        (encoded(Image.effect_noise((64, 64), 50))[:20], "."),
    ],
    ids=["empty", "other", "cut-jpeg", "cut-png", "cut-header"],
)
def test_a_damaged_image_is_rejected(content, reason):
    with pytest.raises(ValueError, match=reason):
        decode(content, 64)


def test_an_image_with_too_many_pixels_is_rejected_without_decoding_it():
    with pytest.raises(ValueError, match="20×20 pixels are more than 100"):
        decode(encoded(Image.new("RGB", (20, 20))), 20, max_pixels=100)


def test_an_unreadable_image_is_named_with_its_path(make_tree):
    top = make_tree()
    bad = top / "train" / "dog" / "1.png"
    bad.write_bytes(b"not an image")
    with pytest.raises(
        DataError, match=r"train/dog/1\.png is not a readable image \(not an image of a known kind\)"
    ) as caught:
        import_images(top)
    assert str(bad) in caught.value.what
    assert "--skip-bad" in (caught.value.remedy or "")


def test_skip_bad_leaves_unreadable_images_out_and_counts_them(make_tree):
    top = make_tree()
    (top / "train/dog/1.png").write_bytes(b"not an image")
    (top / "test/cat/0.png").write_bytes(b"")
    images = import_images(top, skip_bad=True)
    assert images.provenance.skipped_images == 2
    assert images.train_labels.tolist() == [0, 0, 0, 1, 1]
    assert images.train_images[:, 0, 0, 1].tolist() == [
        0,
        10,
        20,
        0,
        20,
    ]  # green: 10 times the image number
    assert images.test_labels.tolist() == [0, 0, 1, 1, 1]


def test_a_class_without_a_readable_image_is_an_error(make_tree):
    top = make_tree(images=1)
    (top / "train/dog/0.png").write_bytes(b"")
    with pytest.raises(DataError, match="no image of train/dog can be read"):
        import_images(top, skip_bad=True)


def test_hidden_and_other_files_are_not_read(make_tree):
    top = make_tree()
    (top / "train/cat/.hidden.png").write_bytes(b"")
    (top / "train/cat/._0.jpg").write_bytes(b"")
    (top / "README.txt").write_text("pets")
    assert len(import_images(top).train_labels) == 6


def remove(top: Path, *names: str) -> None:
    for name in names:
        shutil.rmtree(top / name)


def one_more(top: Path, *names: str) -> None:
    for name in names:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32)).save(top / name)


LAYOUT_MISTAKES = [
    (lambda top: remove(top, "train"), r"has no train/ folder with images, only test/", "put some images"),
    (lambda top: remove(top, "train", "test"), r"holds no images", "train/CLASS"),
    (lambda top: remove(top, "train/dog"), r"dog is in test/ but not in train/", "same class folders"),
    (lambda top: one_more(top, "test/a/1.png", "test/b/1.png"), r"a, b are in test/ but not in train/", "same class"),
    (lambda top: one_more(top, "val/a/1.png"), r"a is in val/ but not in train/", "same class folders"),
    (lambda top: one_more(top, "train/1.png"), r"train/1\.png is not in a SPLIT/CLASS folder", "--skip-bad"),
    (lambda top: one_more(top, "cat/1.png"), r"cat/ lies beside test/, train/, and the images", "--skip-bad"),
]


@pytest.mark.parametrize(("mistake", "message", "remedy"), LAYOUT_MISTAKES)
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "archive"])
def test_each_layout_mistake_is_an_error_with_a_remedy(mistake, message, remedy, packed, make_tree, tmp_path):
    top = make_tree()
    mistake(top)
    with pytest.raises(DataError, match=message) as caught:
        import_images(pack(top, tmp_path / "a.tar", "w") if packed else top)
    assert remedy in (caught.value.remedy or "")


def test_images_without_any_folder_are_an_error(tmp_path):
    one_more(tmp_path, "1.png")
    with pytest.raises(DataError, match=r"1\.png is not in a class folder"):
        import_images(tmp_path)


@pytest.mark.parametrize("name", ["train/c\x1b[31mat/1.png", "train/c\udcffat/1.png", "train/cat/a\nb.png"])
def test_a_name_with_control_characters_is_rejected_with_a_printable_message(name):
    with pytest.raises(DataError, match="holds a name with control characters") as caught:
        lay_out("pets", [name])
    assert caught.value.what.isprintable()


def test_a_name_that_is_packed_twice_is_rejected(make_tree, tmp_path):
    top = make_tree()
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(top, arcname="pets")
        tar.add(top / "train/cat/0.png", arcname="pets/train/cat/0.png")
    with pytest.raises(DataError, match=r"contains pets/train/cat/0\.png twice"):
        import_images(tmp_path / "a.tar")


def test_expected_classes_determine_the_order_of_labels(make_tree):
    images = import_images(make_tree(("cat", "dog")), expected_classes=("dog", "cat"))
    assert images.classes == ("dog", "cat")
    assert images.train_images[0, 0, 0].tolist() == [20, 0, 0]  # make_tree's dog


def test_other_classes_than_expected_are_listed(make_tree):
    with pytest.raises(DataError, match=r"does not have this dataset's 2 classes \(dog unknown; ant missing\)"):
        import_images(make_tree(("cat", "dog")), expected_classes=("ant", "cat"))
