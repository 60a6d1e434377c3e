"""Headers of tar archives, checked before Python's tarfile reads them.

tarfile takes an invalid header for the archive's end, reads extended headers of any size into memory, and searches some
of them in quadratic time.
"""

from __future__ import annotations

import re
import tarfile
from tarfile import EOFHeaderError, HeaderError  # type: ignore[attr-defined]
from typing import Any, Self

from cifar_cli.core.limits import MAX_EXTENDED_HEADER_BYTES, MAX_EXTENDED_RECORDS

_LONG_NAMES = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_PAX = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
_LONG_NUMBER = re.compile(rb"\d{200}")


class DamagedError(Exception):
    """A header or the content of a member is incomplete or invalid."""


class UnsafeError(Exception):
    """A header asks for more memory or time than any archive of images needs, or for a sparse file."""


class CheckedMember(tarfile.TarInfo):
    """A member whose header is valid and of a usual size. Raises DamagedError or UnsafeError for any other."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile)
        except EOFHeaderError:  # the block of zeros that ends an archive
            raise
        except (HeaderError, ValueError) as error:
            raise DamagedError(str(error)) from error

    def _proc_member(self, archive: Any) -> Any:
        """Called by tarfile for every header, for subclasses to override."""
        if self.type == tarfile.GNUTYPE_SPARSE:
            raise UnsafeError("a sparse file")
        if self.type in _LONG_NAMES + _PAX:
            if not 0 <= self.size <= MAX_EXTENDED_HEADER_BYTES:
                raise UnsafeError(f"an extended header of {self.size:,} bytes")
            content = archive.fileobj.read(-(-self.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE)
            if self.type in _PAX:
                _require_records(content[: self.size])
            archive.fileobj = _ReadAlready(archive, content)
        return super()._proc_member(archive)  # type: ignore[misc]


class _ReadAlready:
    """Stands for the stream of an archive during its next read, whose result is known."""

    def __init__(self, archive: Any, content: bytes) -> None:
        self.archive, self.stream, self.content = archive, archive.fileobj, content

    def read(self, size: int) -> bytes:
        self.archive.fileobj = self.stream
        return self.content


def _require_records(content: bytes) -> None:
    """Check a pax header: records "LENGTH KEYWORD=VALUE\\n", where LENGTH counts all of the record (POSIX.1, pax)."""
    start = records = 0
    while start < len(content) and content[start]:
        length = content[start : start + 8].partition(b" ")[0]
        end = start + (int(length) if length.isdigit() else 0)
        record = content[start:end]
        records += 1
        if b"=" not in record or not record.endswith(b"\n") or end > len(content):
            raise DamagedError("an invalid extended header")
        if records > MAX_EXTENDED_RECORDS:
            raise UnsafeError(f"an extended header of more than {MAX_EXTENDED_RECORDS} records")
        if b" GNU.sparse." in record:
            raise UnsafeError("a sparse file")
        if _LONG_NUMBER.search(record):
            raise UnsafeError("an extended header with a number of 200 digits")
        start = end
