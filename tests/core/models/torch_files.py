"""Files of torch.save that were crafted or damaged, for tests of everything that reads one."""

from __future__ import annotations

import resource
import signal
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

NESTED_TUPLES_AS_KEY = b"\x80\x02}(" + b")q\x00" + b"h\x00h\x00\x86q\x00" * 40 + b"K\x01u."
COLLIDING_INTEGERS = (
    b"\x80\x02}("
    + b"".join(b"\x8a" + bytes([9]) + (n * (2**61 - 1)).to_bytes(9, "little") + b"K\x01" for n in range(1, 30))
    + b"u."
)
TEN_GIGABYTES = b"\x80\x02cbuiltins\nbytearray\n\x8a\x06" + (10**10).to_bytes(6, "little") + b"\x85R."


def with_pickle(path: Path, pickle: bytes, *, compression: int = zipfile.ZIP_STORED) -> Path:
    """A file of torch.save whose content is this pickle."""
    torch.save({}, path)
    members = _members(path)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, pickle if name.endswith("/data.pkl") else content)
    return path


def compressed(path: Path) -> Path:
    """The same file with its members compressed."""
    members = _members(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def odd_tensors() -> dict[str, Any]:
    """Tensors that can't be weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # quantised tensors are deprecated
        quantised = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8)
    return {
        "meta": torch.empty(10, device="meta"),
        "sparse": torch.eye(3).to_sparse(),
        "quantised": quantised,
        "expanded": torch.ones(1).expand(10**6, 10**6),
    }


def damaged(content: bytes, random: Random) -> bytes:
    """The bytes of a file with a few of them changed, cut short, or with a part moved."""
    changed = bytearray(content)
    place = random.randrange(len(changed))
    match random.randrange(4):
        case 0:
            del changed[place:]
        case 1:
            length = random.randrange(1, 40_000)
            changed[place : place + length] = random.randbytes(len(changed[place : place + length]))
        case 2:
            part = changed[place : place + 64]
            del changed[place : place + 64]
            other = random.randrange(len(changed) + 1)
            changed[other:other] = part
        case _:
            for _ in range(random.randrange(1, 9)):
                changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def restructured(content: Any, random: Random) -> Any:
    """A checkpoint's content with one value, anywhere inside, replaced by another one, left out, or moved."""
    others: list[Any] = [None, -1, 10**9, 1.5, float("nan"), "text", [], {}, (), True, torch.zeros(2), {"a": 1}, [[1]]]
    others += odd_tensors().values()
    copy = _copied(content)
    places = list(_places(copy))
    holder, key = random.choice(places)
    if random.random() < 0.2:
        del holder[key]
    elif random.random() < 0.2:
        other_holder, other_key = random.choice(places)
        holder[key], other_holder[other_key] = other_holder[other_key], holder[key]
    else:
        holder[key] = random.choice(others)
    return copy


@contextmanager
def limited(*, seconds: int = 20, more_bytes: int = 2 << 30) -> Iterator[None]:
    """Memory and time that one file may cost."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + more_bytes, before[1]))
    previous = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it takes too long"))
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
        resource.setrlimit(resource.RLIMIT_AS, before)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys: Callable[[Any], Any] = lambda each: list(each) if isinstance(each, dict) else range(len(each))  # noqa: E731
    for key in keys(value):
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from _places(value[key])


def _copied(value: Any) -> Any:
    """A copy of the containers; tensors are shared."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, (list, tuple)) else value


def _members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
