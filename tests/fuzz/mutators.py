"""Changes of bytes, documents, archives and folders, each a function of a random generator."""

from __future__ import annotations

import bz2
import copy
import gzip
import io
import lzma
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

TEXTS = (
    "", ".", "..", "/", "../x", "\x1b[2J", "a\nerror: b", "\u202e", "\ud800", "x" * 300, "x" * 100_000, "[red]",
    "$x_1$", "e\u0301", "\u00e9", "__metadata__", "Lambda", "os.system", "NaN", "²", "1e999", "-0",
)  # fmt: skip
NUMBERS = (0, 1, -1, 2, 255, 256, 4096, 30_000, 2**31, -(2**31), 2**63, 10**30, 0.5, -0.5, 1e-9, 1e308)
ODD = (None, True, False, [], {}, [[]], float("nan"), float("inf"), *NUMBERS, *TEXTS)


def mutated_bytes(content: bytes, random: Random) -> bytes:
    """The content after one to four changes: bits flipped, parts cut, doubled, moved or overwritten."""
    changed = bytearray(content)
    for _ in range(random.randint(1, 4)):
        start = random.randint(0, len(changed))
        end = min(len(changed), start + random.choice((1, 2, 8, 64, 512, 4096)))
        kind = random.randrange(7)
        if kind == 0 and start < len(changed):
            changed[start] ^= 1 << random.randrange(8)
        elif kind == 1:
            del changed[start:end]
        elif kind == 2:
            changed[start:start] = changed[start:end] * random.choice((1, 1, 100))
        elif kind == 3:
            changed[start:end] = random.choice((b"\0", b"\xff", b"9")) * (end - start)
        elif kind == 4:
            changed[start:end] = random.randbytes(end - start)
        elif kind == 5 and random.random() < 0.5:
            del changed[start:]
        elif kind == 6:
            changed[start:start] = random.choice(TEXTS).encode("utf-8", "surrogatepass")
    return bytes(changed)


def mutated_document(document: Any, random: Random) -> Any:
    """A document of lists, dictionaries and plain values after one or two changes."""
    changed = copy.deepcopy(document)
    for _ in range(random.randint(1, 2)):
        changed = _with_a_change(changed, random)
    return changed


def _with_a_change(document: Any, random: Random) -> Any:
    places = list(_places(document))
    numbers = [(parent, key) for parent, key in places if isinstance(parent[key], int | float)]
    if numbers and random.random() < 0.5:  # more of these are right
        parent, key = random.choice(numbers)
        parent[key] = random.choice((*NUMBERS[:5], parent[key] / 2, -parent[key]))
        return document
    if not places:
        return odd_value(random)
    parent, key = random.choice(places)
    kind = random.randrange(5)
    if kind == 0:
        del parent[key]
    elif kind == 1 and isinstance(parent, dict):
        parent[random.choice(TEXTS)] = parent.pop(key)
    elif kind == 2:
        parent[key] = copy.deepcopy(random.choice(places)[0])
    elif kind == 3 and isinstance(parent, list):
        parent *= random.choice((0, 2, 30))
    else:
        parent[key] = odd_value(random)
    return document


def _places(document: Any) -> Any:
    keys: Any = document if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ()
    for key in list(keys):
        yield document, key
        yield from _places(document[key])


def odd_value(random: Random) -> Any:
    """A value that few places expect: of another type, out of range, deeply nested, or a text that is no name."""
    value = random.choice(ODD)
    for _ in range(random.choice((0, 0, 0, 1, 400))):
        value = [value] if random.random() < 0.5 else {"x": value}
    return copy.deepcopy(value)


PACKERS: tuple[Callable[[bytes], bytes], ...] = (bytes, gzip.compress, bz2.compress, lzma.compress)
_KINDS = b"0127345LKSxgVM\0"
_NAME, _SIZE, _KIND, _LINK = slice(0, 100), slice(124, 136), 156, slice(157, 257)


def mutated_archive(content: bytes, random: Random) -> bytes:
    """A plain tar archive with some headers or bytes changed (headers keep a right checksum), then packed."""
    changed = bytearray(content)
    headers = [at for at in range(0, len(changed) - 511, 512) if changed[at + 257 : at + 262] == b"ustar"]
    for at in random.sample(headers, min(len(headers), random.choice((0, 1, 1, 3)))):
        _change_header(changed, at, random)
    if random.random() < 0.5:
        changed = bytearray(mutated_bytes(bytes(changed), random))
    packed = random.choice(PACKERS)(bytes(changed))
    return mutated_bytes(packed, random) if random.random() < 0.3 else packed


def _change_header(archive: bytearray, at: int, random: Random) -> None:
    header = bytearray(archive[at : at + 512])
    kind = random.randrange(4)
    text = random.choice((*TEXTS, "./train/a/1.png", "train//a/1.png", "train/a/1.png")).encode(
        "utf-8", "surrogatepass"
    )
    if kind == 0:
        header[_NAME] = text[:100].ljust(100, b"\0")
    elif kind == 1:
        header[_KIND] = random.choice(_KINDS)
        header[_LINK] = text[:100].ljust(100, b"\0")
    elif kind == 2:
        size = random.choice((b"00000000000", b"77777777777", b"00000001000", b"-0000000001", b"\x80" + b"\xff" * 10))
        header[_SIZE] = size + b"\0"
    else:
        start = random.randrange(500)
        header[start : start + 8] = random.randbytes(8)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    archive[at : at + 512] = header


def mutate_folder(top: Path, random: Random) -> None:
    """Change one to three files or folders below `top`: content, name, kind."""
    for _ in range(random.randint(1, 3)):
        places = sorted(path for path in top.rglob("*"))
        if not places:
            return
        place = random.choice(places)
        change = random.choice((_change_content, _rename, _remove, _make_pipe, _make_link, _copy))
        try:
            change(place, random)
        except (OSError, ValueError):  # a name that no file can have
            continue


def _change_content(place: Path, random: Random) -> None:
    if place.is_file():
        place.write_bytes(mutated_bytes(place.read_bytes(), random))


def _rename(place: Path, random: Random) -> None:
    place.rename(place.with_name(random.choice(TEXTS).replace("/", "_") + random.choice(("", place.suffix))))


def _remove(place: Path, random: Random) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink()


def _make_pipe(place: Path, random: Random) -> None:
    _remove(place, random)
    os.mkfifo(place)


def _make_link(place: Path, random: Random) -> None:
    target = random.choice(
        (place.parent, place.parent.parent, Path("/dev/zero"), Path("nowhere"), Path("/etc/hostname"))
    )
    _remove(place, random)
    place.symlink_to(target)


def _copy(place: Path, random: Random) -> None:
    target = place.with_name(random.choice(("copy", ".hidden", "train", "test")) + place.suffix)
    if place.is_file() and not target.exists():
        shutil.copy(place, target)


def tar_of(top: Path) -> bytes:
    """A plain tar archive of a folder, always the same bytes."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path in sorted(top.rglob("*")):
            member = tarfile.TarInfo(str(path.relative_to(top)))
            content = b"" if path.is_dir() else path.read_bytes()
            member.type = tarfile.DIRTYPE if path.is_dir() else tarfile.REGTYPE
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()
