"""The files in a folder or an archive, by one set of rules: hidden ones are only named, links are followed once."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cifar_cli.core.data.config import STORE_SUFFIX
from cifar_cli.core.data.sources.archive import CutShort, clean_name, read_members
from cifar_cli.core.data.sources.kinds import hidden_part, is_hidden
from cifar_cli.core.data.sources.zip_archive import is_zip, open_zip
from cifar_cli.core.limits import MAX_MEMBER_BYTES
from cifar_cli.core.regular import open_regular
from cifar_cli.errors import DataError

HEAD_BYTES = 64 << 10
CUT = "the archive is damaged or truncated here, and nothing behind it is read"
_UNKNOWN = -1, -1  # of a folder that can't be read
OF_A_RUN = "a run of `cifar train`"
READ_ALREADY = "a link to a folder that is read already"


@dataclass(frozen=True, eq=False, slots=True)
class Entry:
    """A file or a folder of a source."""

    name: str
    """Its path with `/`, as `clean_name` spells it; that of a folder ends in `/`."""
    read: Callable[[int | None], bytes]
    """Its content, or that many bytes of its beginning. Raises OSError when it can't be read."""
    problem: str | None = None
    """Why it can't be read, or is not followed."""
    harmless: bool = False
    """Nothing is lost with it: what it leads to is read elsewhere."""
    hidden: bool = False
    """A hidden file or folder, which is not read and nothing in it is named."""


def entries(path: Path, *, skip_bad: bool = False, without: Path | None = None) -> Iterator[Entry]:
    """Everything in a folder, a zip or a tar archive, in an order that doesn't change; hidden ones once each.

    skip_bad: a tar archive that ends too early ends with an entry that says so. without: the absolute path of the
    folder of the datasets, which is passed over unless it holds no dataset but a user's files.
    Raises DataError for an archive that is damaged or unsafe to read.
    """
    if path.is_dir():
        found = _in_folder(path, without if without is not None and _is_of_datasets(without) else None)
    else:
        found = _in_zip(path) if is_zip(path) else _in_tar(path, skip_bad=skip_bad)
    seen: set[str] = set()
    for entry in found:
        hidden = hidden_part(entry.name)
        if hidden is None or entry.problem == CUT:
            yield entry
        elif hidden not in seen:
            seen.add(hidden)
            yield Entry(hidden, _fails(errno.EINVAL, "it is hidden"), hidden=True)


def _in_tar(path: Path, *, skip_bad: bool) -> Iterator[Entry]:
    try:
        for name, content in read_members(path, keep_unread=True):
            if content is None:
                yield Entry(name, _fails(errno.EINVAL, "it is a link"), "it is a link inside an archive")
            elif isinstance(content, OSError):
                yield Entry(name, _fails(content.errno, content.strerror))
            else:
                yield Entry(name, lambda most, content=content: content if most is None else content[:most])  # type: ignore[misc]
    except CutShort as error:
        if not skip_bad:
            remedy = f"{error.remedy}, or pass --skip-bad to take what comes before the damage"
            raise DataError(error.what, remedy=remedy) from error
        yield Entry(error.place, _fails(errno.EIO, CUT), CUT)


def _in_folder(top: Path, without: Path | None) -> Iterator[Entry]:
    """Real folders first, so that their files keep their names; then the folders that links lead to, each once."""
    seen = {_identity(without)} - {_UNKNOWN} if without is not None and without != top.absolute() else set()
    passed_over = frozenset(seen)
    links: list[Path] = []
    yield from _walk(top, top, seen, links, passed_over)
    while links:
        link = links.pop(0)
        name = f"{clean_name(link.relative_to(top).as_posix())}/"
        if _identity(link) in passed_over:
            continue
        if _identity(link) in seen - {_UNKNOWN}:
            yield Entry(name, _fails(errno.ELOOP, READ_ALREADY), READ_ALREADY, harmless=True)
        else:
            yield from _walk(top, link, seen, links, passed_over)


def _walk(
    top: Path, folder: Path, seen: set[tuple[int, int]], links: list[Path], passed_over: frozenset[tuple[int, int]]
) -> Iterator[Entry]:
    seen.add(_identity(folder))
    name = "" if folder == top else f"{clean_name(folder.relative_to(top).as_posix())}/"
    try:
        children = sorted(os.scandir(folder), key=lambda child: child.name)
    except OSError as error:
        yield Entry(name or "./", _fails(error.errno, error.strerror), f"it can't be read ({error.strerror})")
        return
    if name:
        yield Entry(name, _fails(errno.EISDIR, "it is a folder"))
    for child in children:
        path = folder / child.name
        inner = clean_name(path.relative_to(top).as_posix())
        if is_hidden(child.name):
            yield Entry(inner, _fails(errno.EINVAL, "it is hidden"))
        elif child.is_dir(follow_symlinks=False) and is_run(path):
            yield Entry(f"{inner}/", _fails(errno.EINVAL, OF_A_RUN), OF_A_RUN, harmless=True)
        elif child.is_dir(follow_symlinks=False):
            if _identity(path) in passed_over:
                continue
            if _identity(path) in seen - {_UNKNOWN}:  # below a link, and another link led to it before
                yield Entry(f"{inner}/", _fails(errno.ELOOP, READ_ALREADY), READ_ALREADY, harmless=True)
            else:
                yield from _walk(top, path, seen, links, passed_over)
        elif child.is_symlink() and (problem := _broken(path)):
            yield Entry(inner, _fails(errno.ENOENT, problem), problem)
        elif child.is_dir():
            links.append(path)
        else:
            yield Entry(inner, lambda most, path=path: _read_file(path, most))  # type: ignore[misc]


def is_run(folder: Path) -> bool:
    """Whether a folder is a run directory of `cifar train`, whose pictures are no data."""
    with suppress(OSError):
        return (folder / "config.yaml").is_file() and (folder / "checkpoints").is_dir()
    return False


def _is_of_datasets(folder: Path) -> bool:
    """Whether a folder holds datasets, or nothing but what an import begins with."""
    try:
        names = [child.name for child in os.scandir(folder) if not is_hidden(child.name)]
    except OSError:
        return False
    return not names or any(name.endswith(STORE_SUFFIX) for name in names)


def _broken(link: Path) -> str | None:
    """Why a link leads to nothing that can be read; None for one that does."""
    try:
        link.stat()
    except FileNotFoundError:
        return "it is a link to nothing"
    except OSError as error:
        return f"it is a link, and what it leads to can't be read ({error.strerror})"
    return None


def _identity(folder: Path) -> tuple[int, int]:
    try:
        found = folder.stat()
    except OSError:
        return _UNKNOWN
    return found.st_dev, found.st_ino


def _read_file(path: Path, most: int | None) -> bytes:
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > MAX_MEMBER_BYTES:
            raise OSError(errno.EFBIG, f"it has more than {MAX_MEMBER_BYTES:,} bytes")
        return file.read() if most is None else file.read(most)


def _fails(number: int | None, reason: str | None) -> Callable[[int | None], bytes]:
    def read(most: int | None) -> bytes:
        raise OSError(number or 0, reason or "it can't be read")

    return read


def _in_zip(path: Path) -> Iterator[Entry]:
    with open_zip(path) as members:
        for name in members.sizes:
            if name.endswith("/"):
                yield Entry(name, _fails(errno.EISDIR, "it is a folder"))
            elif members.is_link(name):
                yield Entry(name, _fails(errno.EINVAL, "it is a link"), "it is a link inside an archive")
            else:
                yield Entry(name, lambda most, name=name: members.read(name, most))  # type: ignore[misc]
