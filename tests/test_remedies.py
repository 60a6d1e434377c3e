"""Commands in messages can be copied: what a user chose is quoted for the shell in all of them."""

from __future__ import annotations

import ast
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

import cifar_cli
from cifar_cli.core.choices import require_picture_path
from cifar_cli.core.training.interrupts import interrupted
from cifar_cli.core.training.run_dir import RunDir, require_free
from cifar_cli.errors import CifarError
from tests.conftest import Cifar

PACKAGE = Path(cifar_cli.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
# Numbers, and names that are limited to letters, digits, dots, dashes and underscores.
HARMLESS = {
    "gpus", "smallest", "SMALLEST_SIDE", "BUNDLED_BACKBONE", "name", "archive.dataset", "config.dataset", "self.device",
    "self.memory_format", "step", "self.name", "job", "result.dataset.command_again", "epochs_done", "models", "model",
}  # fmt: skip
SHORT = ("--max-epochs", 1, "--precision", "32", "--memory-format", "contiguous", "--no-report")
PATHS = ["run [a] 1", "it's", "a;b", "$(c)", "`d`"]


def commands_in(text: ast.JoinedStr) -> Iterator[str]:
    """The expressions in an f-string that are part of a command or the value of an option."""
    before = ""
    for part in text.values:
        if isinstance(part, ast.FormattedValue):
            word = before.rsplit(" ", 2)[-2:]
            if before.count("`") % 2 or (len(word) == 2 and word[0].startswith("--") and not word[1]):
                yield ast.unparse(part.value)
            before += "x"
        else:
            before += str(part.value)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(PACKAGE)))
def test_a_command_in_a_remedy_quotes_what_a_user_chose(module: Path) -> None:
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        remedies = [each.value for each in node.keywords if each.arg == "remedy"] if isinstance(node, ast.Call) else []
        for text in (part for remedy in remedies for part in ast.walk(remedy) if isinstance(part, ast.JoinedStr)):
            for expression in commands_in(text):
                assert expression.startswith("shell_line(") or expression in HARMLESS, ast.unparse(text)


@pytest.mark.parametrize("name", PATHS)
def test_a_command_for_an_odd_path_is_read_back_by_the_shell_as_that_path(tmp_path: Path, name: str) -> None:
    run = RunDir(tmp_path / name)
    run.checkpoints.mkdir(parents=True)
    run.last.write_bytes(b"")
    errors: list[CifarError] = [interrupted("interrupted", run)]
    for refuse in (lambda: require_free(run.path), lambda: require_picture_path(run.path / "absent" / "a.png")):
        with pytest.raises(CifarError) as caught:
            refuse()
        errors.append(caught.value)
    for error in errors:
        remedy = error.remedy or ""
        command = remedy if remedy.startswith("mkdir") else remedy[remedy.index("`") + 1 : remedy.rindex("`")]
        assert str(run.path) in {word.removesuffix("/absent") for word in shlex.split(command)}


@pytest.mark.slow
def test_the_next_command_quotes_the_run_directory(cifar: Cifar, data_dir: Path, tmp_path: Path) -> None:
    run = tmp_path / "run [a] 1"
    done = cifar("train", "--dataset", "shapes", "--data-dir", data_dir, "--run-dir", run, *SHORT)
    assert done.exit_code == 0, done.output
    assert ["cifar", "evaluate", str(run)] in map(shlex.split, done.stderr.splitlines())
