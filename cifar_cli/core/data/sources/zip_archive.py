"""Zip archives whose members are checked before any of them is read."""

from __future__ import annotations

import errno
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from zipfile import _EndRecData  # type: ignore[attr-defined]

from cifar_cli.core.data.sources.archive import clean_name, reject_unsafe_name
from cifar_cli.core.limits import (
    FREE_UNPACKED_BYTES,
    MAX_MEMBER_BYTES,
    MAX_RATIO,
    MAX_ZIP_DIRECTORY_BYTES,
)
from cifar_cli.core.regular import open_regular
from cifar_cli.errors import DataError, ResourceError

MAGIC = (b"PK\x03\x04", b"PK\x05\x06")  # of the first member, and of an archive without any
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}  # others unpack without a bound on memory, or not at all
_DOS = (0, 10, 11, 14)  # systems whose names may have backslashes (APPNOTE.TXT, section 4.4.2)
_ENCRYPTED, _UTF8 = 0x1, 0x800  # flags (APPNOTE.TXT, section 4.4.4)
_DIRECTORY_SIZE = 5  # index into the end record that zipfile returns
_REMEDY = "download or pack the archive again"
# What zipfile raises for damaged archives, depending on where the damage is.
_BROKEN = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError,
    IndexError, OverflowError,
)  # fmt: skip


class ZipMembers:
    """The members of an open zip archive."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path = path
        self._archive = archive
        self._infos: dict[str, zipfile.ZipInfo] = {}
        for info in archive.infolist():
            name = _name_of(info)
            if name in self._infos:
                raise DataError(f"{path} contains {name} twice", remedy="keep one of the two")
            self._infos[name] = info

    @property
    def sizes(self) -> dict[str, int]:
        """Name of every member → its unpacked bytes, in the archive's order. The name of a folder ends in `/`."""
        return {name: info.file_size for name, info in self._infos.items()}

    def is_link(self, name: str) -> bool:
        """Whether a member is a symbolic link."""
        return stat.S_ISLNK(self._infos[name].external_attr >> 16)

    def read(self, name: str, most_bytes: int | None = None) -> bytes:
        """The content of a member, or its beginning. Raises OSError, with the reason, for one that can't be read."""
        info = self._infos[name]
        reason = _refused(info)
        if info.file_size > MAX_MEMBER_BYTES:
            reason = f"has {info.file_size:,} bytes, more than any image or batch should"
        if reason:
            raise OSError(errno.EIO, f"it {reason}")
        wanted = info.file_size if most_bytes is None else min(info.file_size, most_bytes)
        try:
            with self._archive.open(info) as file:
                content = file.read(wanted)
        except MemoryError as error:
            raise self._too_large(name) from error
        except _BROKEN as error:
            raise OSError(errno.EIO, f"it is damaged: {_why(error)}") from error
        if len(content) != wanted:
            raise OSError(errno.EIO, "it is damaged: unexpected end of data")
        return content

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """A member as a stream; read it in parts of bounded size. Raises DataError, within the block too."""
        info = self._infos[name]
        if reason := _refused(info):
            raise DataError(f"{self.path}: {name} {reason}", remedy="pack it again with deflate, without encryption")
        try:
            with self._archive.open(info) as file:
                yield file  # type: ignore[misc]
        except MemoryError as error:
            raise self._too_large(name) from error
        except _BROKEN as error:
            raise damaged(self.path, error) from error

    def _too_large(self, name: str) -> ResourceError:
        return ResourceError(f"{self.path}: {name} doesn't fit into memory", remedy="leave it out")


@contextmanager
def open_zip(path: Path) -> Iterator[ZipMembers]:
    """Open a zip archive (zip64 too).

    Raises DataError for one that is damaged or unpacks to far more than its own size, and for members that no archive
    of images needs: absolute paths, `..`, devices, the same name twice. A member that is damaged, encrypted or packed
    by anything but deflate is refused when it is read.
    """
    try:
        file = open_regular(path)
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror})", remedy="check its permissions") from error
    with file, _opened(path, file) as archive:
        members = ZipMembers(path, archive)
        _require_safe(path, archive)
        yield members


def is_zip(path: Path) -> bool:
    """Whether a file begins as a zip archive does."""
    try:
        with open_regular(path) as file:
            return file.read(4) in MAGIC
    except OSError:
        return False


def damaged(path: Path, why: object) -> DataError:
    """The error for an archive that can't be read to its end."""
    return DataError(f"{path} is damaged or truncated ({why})", remedy=_REMEDY)


def _opened(path: Path, file: BinaryIO) -> zipfile.ZipFile:
    try:
        end = _EndRecData(file)
        if end and end[_DIRECTORY_SIZE] > MAX_ZIP_DIRECTORY_BYTES:
            raise DataError(f"{path} has more names than fit into memory", remedy="pack fewer files, or use tar")
        return zipfile.ZipFile(file)
    except _BROKEN as error:
        raise damaged(path, error) from error


def _require_safe(path: Path, archive: zipfile.ZipFile) -> None:
    unpacked = 0
    for info in archive.infolist():
        name = _name_of(info)
        reject_unsafe_name(path, f"/{name}" if re.match(r"[A-Za-z]:/", name) else name)
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
            raise DataError(
                f"{path} is not safe to read: {name} is a device or another special file",
                remedy="pack plain files only",
            )
        unpacked += info.file_size
    if unpacked > FREE_UNPACKED_BYTES + MAX_RATIO * path.stat().st_size:
        raise DataError(
            f"{path} unpacks to more than {MAX_RATIO} times its size, as no archive of images does",
            remedy="pack the images again, or pass a folder of them",
        )


def _refused(info: zipfile.ZipInfo) -> str | None:
    """Why a member is not read whatever its content is."""
    if info.flag_bits & _ENCRYPTED:
        return "is encrypted"
    if info.compress_type not in _METHODS:
        method = zipfile.compressor_names.get(info.compress_type, info.compress_type)  # type: ignore[attr-defined]
        return f"is compressed with {method}, which is not read"
    return None


def _why(error: Exception) -> str:
    """zipfile's reason without the name of the member, which the message has."""
    return str(error).partition(" for file ")[0] or type(error).__name__


def _name_of(info: zipfile.ZipInfo) -> str:
    """The name as it was meant: macOS writes UTF-8 without saying so, and old Windows tools write backslashes."""
    name = info.filename
    if not info.flag_bits & _UTF8 and not name.isascii():
        with suppress(ValueError):
            name = name.encode("cp437").decode("utf-8")
    if info.create_system in _DOS:
        name = name.replace("\\", "/")
    return clean_name(name)
