"""Files of torch.save that were crafted or damaged, for tests of everything that reads one."""

from __future__ import annotations

import random
import resource
import signal
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
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


def damaged(content: bytes, *, mutations: int, seed: int = 0) -> Iterator[bytes]:
    """The bytes of a file with a few of them changed, cut short, or with a part moved."""
    chance = random.Random(seed)
    for number in range(mutations):
        changed = bytearray(content)
        place = chance.randrange(len(changed))
        if number % 4 == 0:
            del changed[place:]
        elif number % 4 == 1:
            length = chance.randrange(1, 40_000)
            changed[place : place + length] = chance.randbytes(len(changed[place : place + length]))
        elif number % 4 == 2:
            part = changed[place : place + 64]
            del changed[place : place + 64]
            other = chance.randrange(len(changed) + 1)
            changed[other:other] = part
        else:
            for _ in range(chance.randrange(1, 9)):
                changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        yield bytes(changed)


def restructured(content: Any, *, mutations: int, seed: int = 0) -> Iterator[Any]:
    """A checkpoint's content with one value, anywhere inside, replaced by another one, left out, or moved."""
    chance = random.Random(seed)
    others: list[Any] = [None, -1, 10**9, 1.5, float("nan"), "text", [], {}, (), True, torch.zeros(2), {"a": 1}, [[1]]]
    others += odd_tensors().values()
    for _ in range(mutations):
        copy = _copied(content)
        places = list(_places(copy))
        holder, key = chance.choice(places)
        if chance.random() < 0.2:
            del holder[key]
        elif chance.random() < 0.2:
            other_holder, other_key = chance.choice(places)
            holder[key], other_holder[other_key] = other_holder[other_key], holder[key]
        else:
            holder[key] = chance.choice(others)
        yield copy


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
