"""Archives of which a part can't be read: the part is named, and left out with --skip-bad."""

from __future__ import annotations

import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from cifar_cli.core.data.sources.archive import read_members
from cifar_cli.errors import DataError
from tests.conftest import Cifar
from tests.core.data.test_any_folder import classes_of, imported, packed, put

BAD = "cat/3.png"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return classes_of(tmp_path / "pets", "cat", "dog", images=6)


def zipped(folder: Path, method: int) -> Path:
    path = folder.parent / "pets.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, file.relative_to(folder).as_posix())
    return path


def _overwrite(path: Path, at: int, content: bytes) -> Path:
    whole = bytearray(path.read_bytes())
    whole[at : at + len(content)] = content
    path.write_bytes(whole)
    return path


def wrong_byte(folder: Path) -> Path:
    path = zipped(folder, zipfile.ZIP_STORED)
    at = path.read_bytes().index(BAD.encode()) + 200
    return _overwrite(path, at, bytes([path.read_bytes()[at] ^ 1]))


def bad_deflate(folder: Path) -> Path:
    path = zipped(folder, zipfile.ZIP_DEFLATED)
    return _overwrite(path, path.read_bytes().index(BAD.encode()) + len(BAD), b"\xff" * 40)


def other_local_name(folder: Path) -> Path:
    path = zipped(folder, zipfile.ZIP_STORED)
    return _overwrite(path, path.read_bytes().index(BAD.encode()), b"dog")


def short_content(folder: Path) -> Path:
    """The directory says that the member has more bytes than its deflate stream."""
    path = zipped(folder, zipfile.ZIP_DEFLATED)
    in_directory = path.read_bytes().rindex(BAD.encode()) - 46
    size = int.from_bytes(path.read_bytes()[in_directory + 24 : in_directory + 28], "little")
    return _overwrite(path, in_directory + 24, (size + 9).to_bytes(4, "little"))


def encrypted(folder: Path) -> Path:
    path = zipped(folder, zipfile.ZIP_STORED)
    return _overwrite(path, path.read_bytes().rindex(BAD.encode()) - 46 + 8, b"\x01")


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (wrong_byte, "it is damaged: Bad CRC-32"),
        (bad_deflate, "it is damaged: "),
        (other_local_name, "it is damaged: File name in directory"),
        (short_content, "it is damaged: "),
        (encrypted, "it is encrypted"),
    ],
)
def test_a_member_of_a_zip_archive_that_can_t_be_read_is_named_or_left_out(
    folder: Path, damage: Callable[[Path], Path], why: str
) -> None:
    path = damage(folder)
    with pytest.raises(DataError, match=rf"pets.zip: cat/3.png can't be read \({why}") as caught:
        imported(path)
    assert "--skip-bad" in (caught.value.remedy or "")
    made = imported(path, skip_bad=True)
    assert [each.name for each in made.left_out] == [BAD]
    assert why in made.left_out[0].reason
    assert len(made.train_images) + len(made.test_images) == 11


def test_damage_behind_the_head_of_a_member_is_found_when_it_is_decoded(folder: Path) -> None:
    put(folder, "cat/large.bmp", 3, width=200, height=200, kind="BMP")
    path = folder.parent / "pets.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.write(file, file.relative_to(folder).as_posix())
    _overwrite(path, path.read_bytes().index(b"cat/large.bmp") + 100_000, b"\x01\x02\x03")
    with pytest.raises(DataError, match=r"cat/large.bmp is not a readable image \(it is damaged: Bad CRC-32\)"):
        imported(path)
    assert [each.name for each in imported(path, skip_bad=True).left_out] == ["cat/large.bmp"]


@pytest.mark.parametrize("mode", ["w", "w:gz"])  # blocks of bz2 and xz hold all of so few images
@pytest.mark.parametrize("share", [0.6, 0.8])
def test_a_tar_archive_that_is_cut_short_is_taken_up_to_the_cut_with_skip_bad(
    folder: Path, mode: str, share: float
) -> None:
    path = folder.parent / "pets.tar"
    with tarfile.open(path, mode) as archive:
        for file in sorted(folder.rglob("*.png"), key=lambda file: (file.name, file)):
            archive.add(file, file.relative_to(folder).as_posix())
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(DataError, match=r"pets\.tar is damaged or truncated") as caught:
        imported(path)
    assert "pass --skip-bad to take what comes before the damage" in (caught.value.remedy or "")
    made = imported(path, skip_bad=True)
    assert made.classes == ("cat", "dog")
    (left_out,) = made.left_out
    assert left_out.reason == "the archive is damaged or truncated here, and nothing behind it is read"
    assert left_out.name.startswith(("cat/", "dog/"))
    assert 4 <= len(made.train_images) + len(made.test_images) < 12


def test_an_archive_that_is_cut_between_two_members_says_behind_which(folder: Path) -> None:
    path = folder.parent / "pets.tar"
    with tarfile.open(path, "w") as archive:
        for file in sorted(folder.rglob("*.png"), key=lambda file: (file.name, file)):
            archive.add(file, file.relative_to(folder).as_posix())
    with tarfile.open(path) as archive:
        cut = archive.getmember("dog/4.png").offset
    path.write_bytes(path.read_bytes()[: cut + 100])
    made = imported(path, skip_bad=True)
    assert [each.name for each in made.left_out] == ["cat/4.png (what follows it)"]


def test_an_archive_that_is_cut_in_a_hidden_file_says_so(folder: Path) -> None:
    path = folder.parent / "pets.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(folder, "pets")
        archive.add(put(folder, "dog/._5.png"), "pets/dog/._5.png")
    with tarfile.open(path) as archive:
        cut = archive.getmember("pets/dog/._5.png").offset_data
    path.write_bytes(path.read_bytes()[: cut + 9])
    made = imported(path, skip_bad=True)
    assert [each.name for each in made.left_out] == ["pets/dog/._5.png"]


def test_a_member_that_is_too_large_can_be_passed_over(folder: Path) -> None:
    (folder / "cat/film.mp4").write_bytes(bytes(5000))
    path = folder.parent / "pets.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(folder, "pets")
    with pytest.raises(DataError, match=r"film\.mp4 has 5,000 bytes, more than any image"):
        list(read_members(path, max_member_bytes=4999))
    kept = dict(read_members(path, max_member_bytes=4999, keep_unread=True))
    assert "it has 5,000 bytes" in str(kept["pets/cat/film.mp4"])
    assert kept["pets/cat/5.png"] == (folder / "cat/5.png").read_bytes()


@pytest.mark.parametrize("kind", ["folder", "pets.tar.gz", "pets.zip"])
def test_hidden_files_are_counted_alike_in_folders_and_archives(folder: Path, kind: str) -> None:
    for name in (".DS_Store", "cat/._0.png", "cat/Thumbs.db", ".git/a.png", ".git/b/c.png", "__MACOSX/cat/._0.png"):
        put(folder, name)
    path = folder if kind == "folder" else packed(folder, folder.parent / kind)
    assert imported(path).provenance.hidden_files == 5


def test_hidden_files_are_told_in_one_number(folder: Path, cifar: Cifar) -> None:
    for name, said in (("cat/.DS_Store", "1 hidden file or folder left out"), (".git/a", "2 hidden files and folders")):
        put(folder, name)
        words = ("download", "--dataset", "pets", "--from", folder, "--data-dir", folder.parent / "data", "--force")
        assert f"note: {said}" in " ".join(cifar(*words).stderr.split())
    assert json.loads(cifar(*words, "--json").stdout)["provenance"]["hidden_files"] == 2
