"""Tar archives, read as a stream: nothing is extracted to disk, and unsafe members are rejected."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import tarfile
import zlib
from collections.abc import Generator
from contextlib import closing
from pathlib import Path, PurePosixPath
from tarfile import EOFHeaderError, HeaderError  # type: ignore[attr-defined]
from typing import BinaryIO, Self

from cifar_cli.core.progress import OnProgress, Progress, silent
from cifar_cli.errors import DataError

CHUNK_BYTES = 4 << 20
MAX_MEMBER_BYTES = 512 << 20


class _DamagedError(Exception):
    """A member's header or content is incomplete."""


class _Member(tarfile.TarInfo):
    """A header that must be valid. tarfile treats an invalid one, or the end of the file, as the archive's end."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile)
        except EOFHeaderError:  # the block of zeros that ends an archive
            raise
        except HeaderError as error:
            raise _DamagedError(str(error)) from error


# The exceptions that the standard library raises for damaged archives, depending on where the damage is.
_BROKEN = (_DamagedError, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError)


def read_members(path: Path, *, max_member_bytes: int = MAX_MEMBER_BYTES) -> Generator[tuple[str, bytes]]:
    """Yield name and content of every file in a tar archive (plain, .gz, .bz2 or .xz), in its order.

    The name of a folder ends in `/`, and its content is empty.
    Raises DataError for a file that is not a tar archive, for a damaged or truncated one, and for members that
    no archive of images needs: absolute paths, `..`, links, devices, files over `max_member_bytes`.
    """
    try:
        with _unpacked(path) as stream, tarfile.open(fileobj=stream, mode="r|", tarinfo=_Member) as archive:
            for member in archive:
                archive.members = []  # type: ignore[attr-defined]  # tarfile would keep 60,000 headers
                _reject_unsafe(path, member)
                if member.isdir():
                    yield f"{member.name}/", b""
                    continue
                if member.size > max_member_bytes:
                    raise DataError(
                        f"{path}: {member.name} has {member.size:,} bytes, more than any image or batch should",
                        remedy="leave that file out of the archive",
                    )
                file = archive.extractfile(member)
                assert file is not None, member.name
                content = file.read()
                if len(content) != member.size:
                    raise _DamagedError("unexpected end of data")
                yield member.name, content
            while stream.read(CHUNK_BYTES):  # to the end, where the compressed stream has its checksum
                pass
    except _BROKEN as error:
        raise DataError(
            f"{path} is damaged or truncated ({error})", remedy="download or pack the archive again"
        ) from error


def first_folder(path: Path) -> str:
    """The top folder of an archive's first member; "" if it has none or the archive is empty."""
    with closing(read_members(path)) as members:
        name, _ = next(members, ("", b""))
    parts = PurePosixPath(name).parts
    return parts[0] if len(parts) > 1 or (parts and name.endswith("/")) else ""


def checksum_of(path: Path, algorithm: str, on_progress: OnProgress = silent, *, start: int = 0) -> str:
    """Hash a file from byte `start` to its end: "md5:…" or "sha256:…". Raises DataError when it can't be read."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    done = start
    try:
        total = path.stat().st_size
        with path.open("rb") as file:
            file.seek(start)
            while block := file.read(CHUNK_BYTES):
                digest.update(block)
                done += len(block)
                on_progress(Progress(task=f"verify {path.name}", done=done, total=total, unit="bytes"))
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror})", remedy="check its permissions") from error
    return f"{algorithm}:{digest.hexdigest()}"


def _unpacked(path: Path) -> BinaryIO | gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile:
    """Open the tar stream of an archive. gzip, bz2 and lzma verify checksums; tarfile's stream modes do not."""
    try:
        with path.open("rb") as file:
            start = file.read(512)
        if start.startswith(b"\x1f\x8b"):
            return gzip.open(path)
        if start.startswith(b"BZh"):
            return bz2.open(path)
        if start.startswith(b"\xfd7zXZ\x00"):
            return lzma.open(path)
        if start[257:262] == b"ustar":
            return path.open("rb")
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror})", remedy="check its permissions") from error
    if start.startswith(b"PK\x03\x04"):
        raise DataError(f"{path} is a zip archive, which is not supported", remedy="extract it and pass the folder")
    raise DataError(
        f"{path} is not a tar archive",
        remedy="pass a .tar, .tar.gz, .tar.bz2 or .tar.xz of images, a folder of images, or CIFAR's official archive",
    )


def _reject_unsafe(path: Path, member: tarfile.TarInfo) -> None:
    parts = PurePosixPath(member.name).parts
    if member.name.startswith("/") or ".." in parts:
        kind = "a path that leads outside the archive"
    elif member.issym() or member.islnk():
        kind = "a link"
    elif not (member.isfile() or member.isdir()):
        kind = "a device or another special file"
    else:
        return
    raise DataError(f"{path} is not safe to read: {member.name} is {kind}", remedy="pack plain files only")
