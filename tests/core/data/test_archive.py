"""Tar archives that are damaged, of another format, or unsafe."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from cifar_cli.core.data.sources.archive import checksum_of, first_folder, read_members
from cifar_cli.errors import DataError


def tar_with(path: Path, *members: tarfile.TarInfo, content: bytes = b"") -> Path:
    with tarfile.open(path, "w") as tar:
        for member in members:
            member.size = len(content) if member.isreg() else 0
            tar.addfile(member, io.BytesIO(content))
    return path


def named(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.linkname = target
    return member


def read_all(path: Path) -> list[tuple[str, bytes]]:
    return list(read_members(path, max_member_bytes=1000))


def test_files_have_content_and_folders_have_none(tmp_path):
    path = tar_with(tmp_path / "a.tar", named("top", tarfile.DIRTYPE), named("top/file"), content=b"hello")
    assert read_all(path) == [("top/", b""), ("top/file", b"hello")]
    assert first_folder(path) == "top"


@pytest.mark.parametrize(
    ("member", "what"),
    [
        (named("/etc/passwd"), "/etc/passwd is a path that leads outside the archive"),
        (named("train/../../x.png"), r"train/\.\./\.\./x\.png is a path that leads outside the archive"),
        (named("link.png", tarfile.SYMTYPE, "/etc/passwd"), r"link\.png is a link"),
        (named("hard.png", tarfile.LNKTYPE, "/etc/passwd"), r"hard\.png is a link"),
        (named("null", tarfile.CHRTYPE), "null is a device or another special file"),
        (named("disk", tarfile.BLKTYPE), "disk is a device or another special file"),
        (named("pipe", tarfile.FIFOTYPE), "pipe is a device or another special file"),
    ],
)
def test_unsafe_members_are_rejected_by_name(member, what, tmp_path):
    path = tar_with(tmp_path / "a.tar", named("ok.png"), member)
    with pytest.raises(DataError, match=f"not safe to read: {what}"):
        read_all(path)


def test_a_member_that_is_too_large_is_rejected_before_it_is_read(tmp_path):
    path = tar_with(tmp_path / "a.tar", named("big.png"), content=bytes(1001))
    with pytest.raises(DataError, match=r"big\.png has 1,001 bytes, more than any image or batch should"):
        read_all(path)


def test_a_text_file_is_not_an_archive(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("hello")
    with pytest.raises(DataError, match=r"notes\.txt is neither a tar nor a zip archive") as caught:
        read_all(path)
    assert ".tar.gz" in (caught.value.remedy or "")


def test_a_zip_archive_is_recognised(tmp_path):
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train/cat/1.png", b"")
    with pytest.raises(DataError, match=r"images\.zip is a zip archive, which is not read") as caught:
        read_all(path)
    assert "extract it and pass the folder" in (caught.value.remedy or "")


def complete_archive(path: Path, mode: str) -> bytes:
    content = b"".join(hashlib.sha256(bytes([number])).digest() for number in range(256))
    with tarfile.open(path, mode) as tar:
        for number in range(20):
            member = tarfile.TarInfo(f"{number}.png")
            member.size = 500
            tar.addfile(member, io.BytesIO(content[number : number + 500]))
    return path.read_bytes()


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("part", [0.1, 0.35, 0.6])
def test_a_truncated_archive_is_rejected(mode, part, tmp_path):
    path = tmp_path / "a.tar"
    complete = complete_archive(path, mode)
    assert len(read_all(path)) == 20
    path.write_bytes(complete[: int(len(complete) * part)])
    with pytest.raises(DataError, match="is damaged or truncated"):
        read_all(path)


def test_a_wrong_byte_in_a_compressed_archive_is_detected(tmp_path):
    path = tmp_path / "a.tar.gz"
    content = bytearray(complete_archive(path, "w:gz"))
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match="is damaged or truncated"):
        read_all(path)


def test_checksums_start_with_their_algorithm(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert checksum_of(path, "md5") == "md5:900150983cd24fb0d6963f7d28e17f72"
    assert checksum_of(path, "sha256").startswith("sha256:ba7816bf8f01cfea414140de5dae2223")
