"""Tar archives, read as a stream: nothing is extracted to disk, and unsafe members are rejected."""

from __future__ import annotations

import bz2
import errno
import gzip
import hashlib
import lzma
import tarfile
import unicodedata
import zlib
from collections.abc import Generator
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal, Self, overload

from cifar_cli.core.data.sources.tar_header import CheckedMember, DamagedError, UnsafeError
from cifar_cli.core.limits import FREE_UNPACKED_BYTES, MAX_MEMBER_BYTES, MAX_NAME_BYTES, MAX_RATIO
from cifar_cli.core.progress import OnProgress, Progress, silent
from cifar_cli.core.regular import open_regular
from cifar_cli.errors import DataError, ResourceError

CHUNK_BYTES = 4 << 20
_PACK_AGAIN = "download or pack the archive again"

# The exceptions that the standard library raises for damaged archives, depending on where the damage is.
_BROKEN = (
    DamagedError, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError, RecursionError
)  # fmt: skip


class CutShort(DataError):
    """An archive that can be read up to one of its members."""

    def __init__(self, path: Path, place: str, why: object) -> None:
        super().__init__(f"{path} is damaged or truncated ({why})", remedy=_PACK_AGAIN)
        self.place = place
        """The name of the member, or that of the one before it with a remark."""


@overload
def read_members(path: Path, *, max_member_bytes: int = ...) -> Generator[tuple[str, bytes]]: ...


@overload
def read_members(
    path: Path, *, max_member_bytes: int = ..., keep_unread: Literal[True]
) -> Generator[tuple[str, bytes | OSError | None]]: ...


def read_members(
    path: Path, *, max_member_bytes: int = MAX_MEMBER_BYTES, keep_unread: bool = False
) -> Generator[tuple[str, Any]]:
    """Yield name and content of every file in a tar archive (plain, .gz, .bz2 or .xz), in its order.

    The name of a folder ends in `/`, and its content is empty. With `keep_unread` the content of a link is None, and
    that of a file over `max_member_bytes` an OSError that says so.
    Raises DataError for a file that is not a tar archive, for a damaged or truncated one (CutShort, if its beginning
    could be read), for one that unpacks to far more than its own size, and for members that no archive of images
    needs: absolute paths, `..`, links, devices, sparse files, files over `max_member_bytes`.
    """
    place = ""
    try:
        with (
            _open(path) as packed,
            _Unpacked(packed, path) as stream,
            tarfile.open(fileobj=stream, mode="r|", tarinfo=CheckedMember) as archive,  # type: ignore[call-overload]
        ):
            for member in archive:
                archive.members = []  # tarfile would keep 60,000 headers
                _reject_unsafe(path, member, keep_links=keep_unread)
                name = clean_name(f"{member.name}/" if member.isdir() else member.name)
                place = name
                yield name, _content_of(path, archive, member, max_member_bytes, keep_unread=keep_unread)
                place = f"{name} (what follows it)"
            place = ""
            while stream.read(CHUNK_BYTES):  # to the end, where the compressed stream has its checksum
                pass
    except UnsafeError as error:
        raise _unsafe(path, f"it contains {error}") from error
    except MemoryError as error:
        raise ResourceError(
            f"a file in {path} doesn't fit into memory", remedy="leave it out of the archive"
        ) from error
    except _BROKEN as error:
        if place:
            raise CutShort(path, place, error) from error
        raise DataError(f"{path} is damaged or truncated ({error})", remedy=_PACK_AGAIN) from error


def _content_of(
    path: Path, archive: tarfile.TarFile, member: tarfile.TarInfo, max_member_bytes: int, *, keep_unread: bool
) -> bytes | OSError | None:
    """The content of a member as `read_members` yields it."""
    if member.issym() or member.islnk():
        return None
    if member.isdir():
        return b""
    if not 0 <= member.size <= max_member_bytes:
        what = f"has {member.size:,} bytes, more than any image or batch should"
        if keep_unread and member.size > 0:
            return OSError(errno.EFBIG, f"it {what}")
        raise DataError(f"{path}: {member.name} {what}", remedy="leave that file out of the archive")
    file = archive.extractfile(member)
    assert file is not None, member.name
    content = file.read()
    if len(content) != member.size:
        raise DamagedError("unexpected end of data")
    return content


def first_folder(path: Path) -> str:
    """The top folder of an archive's first member; "" if it has none or the archive is empty."""
    with closing(read_members(path, keep_unread=True)) as members:
        name, _ = next(members, ("", b""))
    parts = PurePosixPath(name).parts
    return parts[0] if len(parts) > 1 or (parts and name.endswith("/")) else ""


def checksum_of(path: Path, algorithm: str, on_progress: OnProgress = silent, *, start: int = 0) -> str:
    """Hash a file from byte `start` to its end: "md5:…" or "sha256:…". Raises DataError when it can't be read."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    done = start
    try:
        total = path.stat().st_size
        with open_regular(path) as file:
            file.seek(start)
            while block := file.read(CHUNK_BYTES):
                digest.update(block)
                done += len(block)
                on_progress(Progress(task=f"verify {path.name}", done=done, total=total, unit="bytes"))
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror})", remedy="check its permissions") from error
    return f"{algorithm}:{digest.hexdigest()}"


def clean_name(name: str) -> str:
    """One spelling of a path: no `.`, no empty parts, and letters with their accents as one character (NFC).

    `./pets//a.png` is `pets/a.png`. The name of a folder keeps its `/` at the end.
    """
    if name.isascii() and "//" not in name and "./" not in name and not name.endswith("/."):
        return name
    end = "/" if name.endswith("/") else ""
    return f"{PurePosixPath(unicodedata.normalize('NFC', name))}{end}"


def _open(path: Path) -> BinaryIO:
    try:
        return open_regular(path)
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror})", remedy="check its permissions") from error


_REFUSED = {
    b"PK\x03\x04": "a zip archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a rar archive",
    b"\x28\xb5\x2f\xfd": "a file packed by zstd",
}
"""The first bytes of files that are no tar archives, and what they are."""


class _Unpacked:
    """The tar stream of an archive, which may not become far larger than the archive itself.

    gzip, bz2 and lzma verify checksums; tarfile's stream modes do not.
    """

    def __init__(self, packed: BinaryIO, path: Path) -> None:
        self._packed, self._path = packed, path
        self._stream = _decompressed(packed, path)
        self._bytes, self._allowed_bytes = 0, FREE_UNPACKED_BYTES

    def read(self, size: int) -> bytes:
        content = self._stream.read(size)
        self._bytes += len(content)
        if self._bytes > self._allowed_bytes:
            self._allowed_bytes = FREE_UNPACKED_BYTES + MAX_RATIO * self._packed.tell()
            if self._bytes > self._allowed_bytes:
                raise DataError(
                    f"{self._path} unpacks to more than {MAX_RATIO} times its size, as no archive of images does",
                    remedy="pack the images again, or pass a folder of them",
                )
        return content

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()


def _decompressed(packed: BinaryIO, path: Path) -> BinaryIO | gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile:
    start = packed.read(512)
    packed.seek(0)
    if start.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=packed, mode="rb")
    if start.startswith(b"BZh"):
        return bz2.open(packed)
    if start.startswith(b"\xfd7zXZ\x00"):
        return lzma.open(packed)
    if start[257:262] == b"ustar":
        return packed
    for magic, what in _REFUSED.items():
        if start.startswith(magic):
            raise DataError(
                f"{path} is {what}, which is not read",
                remedy="extract it and pass the folder, or pack a zip or tar archive",
            )
    raise DataError(
        f"{path} is neither a tar nor a zip archive",
        remedy="pass a folder of images, a .zip or .tar.gz of them, a .parquet or .npz file, or an official archive",
    )


def reject_unsafe_name(path: Path, name: str) -> None:
    """Raise DataError for the name of a member that no archive of images needs."""
    if len(name) > MAX_NAME_BYTES:
        raise DataError(f"{path} has a name of {len(name):,} characters", remedy="pack files with shorter names")
    if name.startswith("/") or ".." in PurePosixPath(name).parts:
        raise _unsafe(path, f"{name} is a path that leads outside the archive")


def _reject_unsafe(path: Path, member: tarfile.TarInfo, *, keep_links: bool) -> None:
    reject_unsafe_name(path, member.name)
    if member.issym() or member.islnk():
        if keep_links:
            return
        kind = "a link"
    elif not (member.isfile() or member.isdir()):
        kind = "a device or another special file"
    else:
        return
    raise _unsafe(path, f"{member.name} is {kind}")


def _unsafe(path: Path, why: str) -> DataError:
    return DataError(f"{path} is not safe to read: {why}", remedy="pack plain files only")
