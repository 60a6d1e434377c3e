"""Small archives that ask for much memory or time, and names in several spellings."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from PIL import Image

from cifar_cli.core.data.sources import folder
from cifar_cli.core.data.sources.archive import clean_name, first_folder, read_members
from cifar_cli.core.data.sources.pixels import decode
from cifar_cli.core.limits import FREE_UNPACKED_BYTES, MAX_EXTENDED_HEADER_BYTES, MAX_RATIO
from cifar_cli.errors import DataError
from tests.core.data.streams import Collected, collected

MOST_MEMORY = FREE_UNPACKED_BYTES + (64 << 20)


def import_images(path: Path) -> Collected:
    return collected(folder.import_images(path))


def header(kind: bytes, size: int, name: str = "x") -> bytes:
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT)


def padded(content: bytes) -> bytes:
    return content + b"\0" * (-len(content) % 512)


def pax(content: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    return header(kind, len(content)) + padded(content)


def record(keyword: str, value: str) -> bytes:
    rest = f" {keyword}={value}\n".encode()
    length = len(rest)
    while len(str(length)) + len(rest) != length:
        length = len(str(length)) + len(rest)
    return str(length).encode() + rest


FILE = header(tarfile.REGTYPE, 3, "a.png") + padded(b"abc")
END = b"\0" * 1024
UNSAFE = {
    "a long name of gigabytes": (header(tarfile.GNUTYPE_LONGNAME, 4 << 30), "extended header of 4,294,967,296 bytes"),
    "a long link": (header(tarfile.GNUTYPE_LONGLINK, 1 << 20), "an extended header of 1,048,576 bytes"),
    "a pax header of gigabytes": (header(tarfile.XHDTYPE, 4 << 30), "an extended header of 4,294,967,296 bytes"),
    "digits": (pax(b"1" * 60_000), "an invalid extended header"),
    "digits in a value": (pax(record("comment", "1" * 60_000)), "a number of 200 digits"),
    "lengths that overlap": (pax(b"2 " * 30_000 + b"="), "an invalid extended header"),
    "many records": (pax(b"".join(record(f"k{number}", "") for number in range(2000))), "more than 100 records"),
    "many global records": (
        pax(b"".join(record(f"k{number}", "") for number in range(2000)), tarfile.XGLTYPE),
        "more than 100 records",
    ),
    "a sparse file": (header(tarfile.GNUTYPE_SPARSE, 512), "it contains a sparse file"),
    "a sparse file of pax": (pax(record("GNU.sparse.major", "1") + record("GNU.sparse.minor", "0")), "a sparse file"),
    "a sparse map": (pax(record("GNU.sparse.map", "0,1," * 100)), "it contains a sparse file"),
    "an undecodable charset": (pax(b"18 hdrcharset=\xff\xff\n"), "damaged or truncated"),
    "a negative size": (pax(record("size", "-512")), "damaged or truncated|has -512 bytes"),
    "headers only": (pax(record("comment", "x")) * 2000, "damaged or truncated"),
}


@pytest.mark.parametrize("name", UNSAFE)
@pytest.mark.parametrize("packed", [False, True], ids=["tar", "gz"])
def test_headers_that_cost_much_are_refused_in_a_sentence_and_little_memory(name, packed, tmp_path):
    content, message = UNSAFE[name]
    path = tmp_path / "a.tar"
    content = FILE + content + FILE + END
    path.write_bytes(gzip.compress(content, mtime=0) if packed else content)
    tracemalloc.start()
    with pytest.raises(DataError, match=message):
        list(read_members(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < MOST_MEMORY


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.parametrize("length", [0, 100, 512, 1024])
def test_an_archive_that_ends_in_an_extended_header_is_damaged(kind, length, tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(FILE + header(kind, 2048) + (record("comment", "x" * 2000) + b"x" * 2048)[:length])
    with pytest.raises(DataError, match="damaged or truncated"):
        list(read_members(path))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pack", "place"),
    [
        (gzip.compress, "after the end"),
        (gzip.compress, "in an image"),
        (gzip.compress, "in a file that is skipped"),
        (bz2.compress, "after the end"),
        (lzma.compress, "after the end"),
    ],
    ids=lambda value: getattr(value, "__module__", value),
)
def test_an_archive_that_unpacks_to_far_more_than_its_size_is_refused(pack, place, tmp_path):
    name = "train/a/1.png" if place == "in an image" else "notes.txt"
    start = FILE + END if place == "after the end" else header(tarfile.REGTYPE, 80 << 20, name)
    path = tmp_path / "a.tar.gz"
    path.write_bytes(pack(start) + pack(b"\0" * (40 << 20)) * 2)
    with pytest.raises(DataError, match=f"unpacks to more than {MAX_RATIO} times its size"):
        list(read_members(path))


def test_images_that_compress_well_are_read(tmp_path):
    """A thousand equal images of one colour, a case far beyond what users have."""
    image = io.BytesIO()
    Image.new("RGB", (32, 32)).save(image, "PNG")
    path = tmp_path / "a.tar.xz"
    with tarfile.open(path, "w:xz") as tar:
        for number in range(1000):
            member = tarfile.TarInfo(f"{('train', 'test')[number % 2]}/a/{number}.png")
            member.size = image.tell()
            tar.addfile(member, io.BytesIO(image.getvalue()))
    assert len(import_images(path).train_labels) == 500


def test_extended_headers_of_usual_size_are_read(tmp_path):
    path = tmp_path / "a.tar"
    long_name = f"train/{'ä' * 120}/1.png"
    attributes = {f"LIBARCHIVE.xattr.com.apple.{number}": "YnBsaXN0MDA" * 50 for number in range(20)}
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "made by a test"}) as tar:
        member = tarfile.TarInfo(long_name)
        member.pax_headers = attributes
        tar.addfile(member)
    assert [name for name, _ in read_members(path)] == [long_name]
    assert sum(map(len, attributes.values())) < MAX_EXTENDED_HEADER_BYTES


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("./pets//train/./a.png", "pets/train/a.png"),
        ("pets//test/", "pets/test/"),
        ("./", "./"),
        ("pe\u0301.png", "p\u00e9.png"),
        ("a./b.png", "a./b.png"),
        ("pets/.", "pets"),
    ],
)
def test_a_path_has_one_spelling(name, clean):
    assert clean_name(name) == clean


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("second", ["./train/a/1.png", "train//a/1.png", "train/./a/1.png"])
def test_an_image_in_two_spellings_is_counted_once_or_refused(second, tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("train/a/1.png", second, "test/a/1.png"):
            member = tarfile.TarInfo(name)
            member.size = len(png())
            tar.addfile(member, io.BytesIO(png()))
    with pytest.raises(DataError, match=r"contains train/a/1\.png twice"):
        import_images(path)


def test_composed_and_decomposed_accents_are_one_class_in_folders_and_archives(tmp_path):
    top = tmp_path / "pets"
    for place in ("train/caf\u00e9/1.png", "train/cafe\u0301/2.png", "test/cafe\u0301/1.png"):
        (top / place).parent.mkdir(parents=True, exist_ok=True)
        (top / place).write_bytes(png())
    path = tmp_path / "pets.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(top, "./pets")
    assert first_folder(path) == "pets"
    for source in (top, path):
        images = import_images(source)
        assert images.classes == ("caf\u00e9",)
        assert len(images.train_labels) == 2


def test_hidden_folders_are_left_out_of_archives_as_of_folders(tmp_path):
    top = tmp_path / "pets"
    for place in ("train/a/1.png", "train/.ipynb_checkpoints/1.png", "train/a/.cache/1.png", "test/a/1.png"):
        (top / place).parent.mkdir(parents=True, exist_ok=True)
        (top / place).write_bytes(png())
    with tarfile.open(tmp_path / "pets.tar", "w") as tar:
        tar.add(top, "pets")
    for source in (top, tmp_path / "pets.tar"):
        assert import_images(source).classes == ("a",)


@pytest.mark.parametrize("name", ["cat\u202f1", "cat\u00a01", "\u200fcat", "a\u200db"])
def test_invisible_characters_in_names_are_accepted(name, tmp_path):
    for split in ("train", "test"):
        (tmp_path / split / name).mkdir(parents=True)
        (tmp_path / split / name / "1.png").write_bytes(png())
    assert import_images(tmp_path).classes == (name,)


@pytest.mark.parametrize("kind", ["image", "archive", "link to a device"])
def test_pipes_and_devices_are_refused_and_never_read(kind, tmp_path):
    (tmp_path / "train/a").mkdir(parents=True)
    file = tmp_path / "train/a/1.png"
    if kind == "link to a device":
        file.symlink_to("/dev/zero")
    else:
        os.mkfifo(file)
    with pytest.raises(DataError, match=r"1\.png can't be read \(it is a pipe, a device or another special file\)"):
        import_images(file if kind == "archive" else tmp_path)


def progressive(side: int, scans: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    file = io.BytesIO()
    Image.new("RGB", (side, side), (200, 30, 30)).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * scans + content[-2:]


def test_a_jpeg_with_many_scans_of_many_pixels_is_refused_before_it_is_decoded():
    with pytest.raises(ValueError, match="scans of 3000×3000 pixels take too long to decode"):
        decode(progressive(3000, 2000), 32)
    assert decode(progressive(32, 20), 32)[0].shape == (32, 32, 3)
