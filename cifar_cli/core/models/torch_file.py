"""Reading files of `torch.save` that anybody may have written or damaged.

`torch.load(weights_only=True)` executes nothing, but it doesn't compare checksums, and a file of a few hundred bytes
can keep it busy for hours: with a dictionary whose keys are deeply nested tuples, with members that inflate, or with a
constructor that takes a size. Such files are refused before they are loaded.
"""

from __future__ import annotations

import argparse
import io
import mmap
import pickletools
import zipfile
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch
from torch import Tensor

from cifar_cli.core.regular import open_regular

MAX_INFLATION = 2.0  # bytes of all members by bytes of the file; torch stores members uncompressed
MAX_PICKLE_BYTES = 16 << 20
MAX_OPCODES = 1_000_000  # some 35 are needed for each tensor
MAX_KEY = 1 << 31  # larger integers can be chosen so that all their hashes collide
LEGACY_PICKLES = 5  # in a file of torch before 1.6: magic number, protocol, system, content, keys of the storages

_FUNCTIONS = {
    "collections OrderedDict",
    "argparse Namespace",
    "torch Size",
    *(f"torch._utils {name}" for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3")),
    "torch._utils _rebuild_parameter",
}
"""What a pickle may call, as `pickletools` writes it."""


class BadFileError(Exception):
    """A file that must not be used. Its text is the rest of a sentence that begins with the file's name."""


def load_torch_file(path: Path) -> Any:
    """The content of a file of `torch.save`: plain containers, numbers, texts, and dense tensors on the CPU.

    Compares the checksum of every member, and executes nothing. Raises BadFileError for a damaged file, for content
    of other types, and for a file that would need far more time or memory than its size.
    """
    try:
        with open_regular(path) as file:
            _require_harmless(file, path.stat().st_size)
            file.seek(0)
            # A Namespace holds the options of the program that trained; it has no code of its own.
            with torch.serialization.safe_globals([argparse.Namespace]):
                content = torch.load(file, map_location="cpu", weights_only=True)
    except (BadFileError, MemoryError):
        raise
    except Exception as error:  # torch, zipfile and pickletools raise a dozen types for a file that torch didn't write
        raise BadFileError("is not a file that can be read safely") from error
    return content


def require_plain_tensor(name: Any, tensor: Tensor) -> None:
    """Raise BadFileError unless a tensor is dense, on the CPU, and stores each of its values."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise BadFileError(f"holds {name} as a sparse, quantised or empty tensor, and not as a dense one")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise BadFileError(f"holds {name} with more values than are stored")


def verify(path: Path) -> None:
    """Compare the checksum of every member. Raises BadFileError for a damaged file, OSError for one that is missing."""
    with open_regular(path) as file:
        _require_whole(file, path.stat().st_size)


def _require_harmless(file: BinaryIO, size: int) -> None:
    if not size:
        raise BadFileError("is empty")
    if not zipfile.is_zipfile(file):
        # Mapped, because reading from a file claims as much memory as a damaged length asks for.
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            for _ in range(LEGACY_PICKLES):
                _require_harmless_pickle(cast(IO[bytes], mapped))
        return
    archive = _require_whole(file, size)
    pickles = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1:
        raise BadFileError("is not a file of torch.save")
    if archive.getinfo(pickles[0]).file_size > MAX_PICKLE_BYTES:
        raise BadFileError(f"describes its tensors with more than {MAX_PICKLE_BYTES >> 20} MiB")
    _require_harmless_pickle(io.BytesIO(archive.read(pickles[0])))


def _require_whole(file: BinaryIO, size: int) -> zipfile.ZipFile:
    """The archive, if every member agrees with its CRC-32."""
    try:
        archive = zipfile.ZipFile(file)
        members = archive.infolist()
        if sum(member.file_size for member in members) > MAX_INFLATION * size:
            raise BadFileError(f"is {size:,} bytes that would become more than {MAX_INFLATION:g} times as many")
        if len({member.filename for member in members}) < len(members):
            raise BadFileError("holds two members of one name")
        damaged = archive.testzip()
    except BadFileError:
        raise
    except Exception as error:  # zipfile raises many types for a damaged directory of members
        raise BadFileError("is damaged: it is cut short, or its list of members is unreadable") from error
    if damaged is not None:
        raise BadFileError(f"is damaged: the checksum of its member {damaged!r} doesn't agree")
    return archive


# What is known of a value on the stack of a pickle: one of these, or the name of a function.
_MARK, _TEXT, _NUMBER, _EMPTY, _FILLABLE, _OTHER = "mark", "text", "number", "empty tuple", "fillable", "other"
_CONTAINERS = {"collections OrderedDict", "argparse Namespace"}
_PUSHED = {
    **dict.fromkeys(("NONE", "NEWTRUE", "NEWFALSE", "BINFLOAT", "LONG1", "EMPTY_DICT", "EMPTY_LIST"), _OTHER),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING"), _TEXT),
    "EMPTY_TUPLE": _EMPTY,
    "MARK": _MARK,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _require_harmless_pickle(file: IO[bytes]) -> None:
    """Follow the steps of a pickle without executing them.

    Keys must be texts or small integers, dictionaries and namespaces must begin empty, and nothing but _FUNCTIONS may
    be called.
    """
    stack: list[str] = []
    memo: dict[Any, str] = {}
    argument: Any
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if count > MAX_OPCODES:
            raise BadFileError(f"describes its content in more than {MAX_OPCODES:,} steps")
        name = opcode.name
        if name in _PUSHED:
            stack.append(_PUSHED[name])
        elif name in ("BININT", "BININT1", "BININT2"):
            stack.append(_NUMBER if 0 <= argument < MAX_KEY else _OTHER)
        elif name == "GLOBAL":
            stack.append(_known(argument))
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name not in ("PROTO", "STOP"):
            _combine(name, stack)


def _combine(name: str, stack: list[str]) -> None:
    """The step `name`, which takes values from the stack."""
    if name == "TUPLE":
        stack.append(_OTHER if _until_mark(stack) else _EMPTY)
    elif name in _TUPLES:
        stack[-_TUPLES[name] :] = [_OTHER]
    elif name == "APPEND":
        stack.pop()
    elif name == "APPENDS":
        _until_mark(stack)
    elif name == "SETITEM":
        stack.pop()
        _require_keys([stack.pop()])
    elif name == "SETITEMS":
        _require_keys(_until_mark(stack)[1::2])  # from the top: value, key, value, key
    elif name in ("REDUCE", "NEWOBJ"):
        arguments, function = stack.pop(), stack.pop()
        if function not in _FUNCTIONS or (function in _CONTAINERS and arguments != _EMPTY):
            raise BadFileError("builds an object in a way that torch.save doesn't")
        stack.append(_FILLABLE if function in _CONTAINERS else _OTHER)
    elif name == "BUILD":
        stack.pop()
        if stack[-1] != _FILLABLE:
            raise BadFileError("sets attributes of an unknown object")
    elif name == "BINPERSID":
        stack[-1] = _OTHER
    else:
        raise BadFileError(f"uses {name}, which torch.save doesn't write")


def _require_keys(kinds: list[str]) -> None:
    if not {_TEXT, _NUMBER}.issuperset(kinds):
        raise BadFileError("holds a dictionary whose keys are neither texts nor small numbers")


def _known(name: str) -> str:
    """A global, named "module name" by `pickletools`, as a value on the stack."""
    if name in _FUNCTIONS:
        return name
    module, _, attribute = name.partition(" ")
    kind = getattr(torch, attribute, None) if module in ("torch", "torch.storage") else None
    if isinstance(kind, torch.dtype) or (kind is not None and attribute.endswith("Storage")):
        return _OTHER
    raise BadFileError(f"holds an object of the type {module}.{attribute}, which is no tensor or plain value")


def _until_mark(stack: list[str]) -> list[str]:
    """Take the values above the last mark from the stack, and the mark. Returns them, the top one first."""
    values = []
    while (value := stack.pop()) != _MARK:
        values.append(value)
    return values
