"""The pages: each command in them is parsed, each option, link and file they name exists."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Callable
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import typer

from cifar_cli.app import app
from cifar_cli.errors import UsageError

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ALL_PAGES = [ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "SECURITY.md", *PAGES]

TyperError: Any = typer.BadParameter.__bases__[0]  # Typer exports only this child of it
FENCED = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^ {4}\S.*\n)+", re.MULTILINE)
INLINE = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
PLACEHOLDERS = {
    "RUN_DIR": "runs/20261124-093000-null",
    "FILE.png": "figure.png",
    "FILE": "policy.json",
    "HH:MM:SS": "00:20:00",
    "COMMAND": "train",
    "NAME": "null",
    "PATH": "pets",
    "DIR": "data",
    "SHARE": "0.1",
    "N": "3",
}


def blocks(text: str) -> list[str]:
    return [match.group(match.lastindex or 0) for pattern in (FENCED, INDENTED) for match in pattern.finditer(text)]


def block_lines(text: str) -> list[str]:
    """Lines of code blocks; a line of a shell's session without its prompt and comment."""
    lines = [part for block in blocks(text) for line in block.splitlines() for part in line.split(" && ")]
    return [re.split(r"\s+#", line)[0].strip().removeprefix("$ ") for line in lines]


def code_lines(text: str) -> list[str]:
    """Lines of code blocks, and inline code."""
    return block_lines(text) + [" ".join(code.split()) for code in INLINE.findall(FENCED.sub("", text))]


def filled(words: list[str]) -> list[list[str]]:
    """The words without placeholders; one list for each combination of alternatives such as `bundled|none`."""
    return [
        [PLACEHOLDERS.get(word, word) for word in choice] for choice in product(*(word.split("|") for word in words))
    ]


# The command itself, in the background with variables before it, or started by torchrun or srun.
COMMAND = re.compile(r"(?:\w+=\S+ )*(?:srun (?:--\S+ )*|torchrun .* -m )?(?:cifar|cifar_cli) (.*?)(?: &)?")


def commands(page: Path, lines_of: Callable[[str], list[str]] = code_lines) -> list[str]:
    """The command lines of the page, without what starts them; a shell's variable becomes a number."""
    found = (COMMAND.fullmatch(line) for line in lines_of(page.read_text(encoding="utf-8")))
    return list(dict.fromkeys(re.sub(r"\$\w+", "3", f"cifar {match[1]}") for match in found if match))


def test_a_command_is_found_behind_variables_and_a_launcher(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    lines = (
        "A=0 cifar train --seed $ID &",
        "torchrun --nnodes 2 -m cifar_cli train",
        "srun --kill-on-bad-exit=1 cifar train",
        "see cifar x",
    )
    page.write_text("\n".join(("```", *lines, "```")), encoding="utf-8")
    assert commands(page) == ["cifar train --seed 3", "cifar train"]


def options(page: Path) -> list[str]:
    """Inline code that begins with an option."""
    return list(dict.fromkeys(line for line in code_lines(page.read_text("utf-8")) if re.match(r"--?[a-z]", line)))


def cases(found: Any, pages: list[Path] = PAGES) -> list[Any]:
    return [pytest.param(page, item, id=f"{page.name}: {item}") for page in pages for item in found(page)]


def parse(words: list[str]) -> None:
    """Parse a command line as `cifar` does, without running the command. Raises what the parser raises."""
    group: Any = typer.main.get_command(app)
    if "--install-completion" in words:  # parsing it would change the shell of the user who runs the tests
        assert words == ["--install-completion"]
        assert any("--install-completion" in param.opts for param in group.params)
        return
    with suppress(typer.Exit):  # --help
        context = group.make_context("cifar", list(words))
        name, command, rest = group.resolve_command(context, list(words))
        command.make_context(name, rest, parent=context)


def commands_with(option: str) -> list[list[str]]:
    """The start of a command line for every command that has the option: its name and what it requires."""
    group: Any = typer.main.get_command(app)
    return [
        [
            name,
            *(
                word
                for needed in command.params
                if needed.required and option not in needed.opts
                for word in minimal(needed)
            ),
        ]
        for name, command in group.commands.items()
        if any(option in (*parameter.opts, *parameter.secondary_opts) for parameter in command.params)
    ]


def minimal(needed: Any) -> list[str]:
    return ["null"] if needed.param_type_name == "argument" else [needed.opts[0], "null"]


def accepted(words: list[str]) -> bool:
    try:
        parse(words)
    except (TyperError, UsageError):
        return False
    return True


def test_every_extra_is_in_the_table_of_the_installation() -> None:
    page = (ROOT / "docs" / "installation.md").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == set(project["optional-dependencies"])


@pytest.mark.parametrize(("page", "line"), cases(commands))
def test_the_command_line_in_the_page_is_accepted(page: Path, line: str) -> None:
    for words in filled(shlex.split(line)[1:]):
        parse(words)


@pytest.mark.parametrize(("page", "line"), cases(options))
def test_a_command_takes_the_options_in_the_page(page: Path, line: str) -> None:
    for words in filled(shlex.split(line)):
        starts = commands_with(words[0])
        assert starts, f"no command has {words[0]}"
        if len(words) > 1:
            assert any(accepted([*start, *words]) for start in starts), words


def test_an_unknown_option_and_a_wrong_value_are_noticed() -> None:
    with pytest.raises(TyperError, match="--colour"):
        parse(["train", "--colour", "blue"])
    assert not accepted(["train", "--seed", "blue"])
    assert accepted(["train", "--seed", "7"])
    assert not commands_with("--colour")
    assert commands_with("--find-max-batch") == [["profile-memory"]]


@pytest.mark.parametrize(
    ("page", "line"),
    cases(lambda page: [line for line in code_lines(page.read_text("utf-8")) if "benchmarks/" in line]),
)
def test_the_benchmark_in_the_page_exists_with_its_options(page: Path, line: str) -> None:
    words = shlex.split(line)
    (script,) = (word for word in words if word.startswith("benchmarks/"))
    source = (ROOT / script).read_text(encoding="utf-8")
    for option in (word for word in words if word.startswith("--")):
        assert f'"{option}"' in source


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: page.name)
def test_links_between_the_pages_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file.read_text(encoding="utf-8")), target


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_extra_in_the_pages_can_be_installed() -> None:
    known = set(
        tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    )
    named = {
        extra
        for page in ALL_PAGES
        for found in re.findall(r"(?:cifar-cli|-e \"\.|\.whl)\[([a-z,]+)\]", page.read_text(encoding="utf-8"))
        for extra in found.split(",")
    }
    assert {"bundled", "dev", "onnx", "parquet"} <= named <= known


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, waiting = set[Path](), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop().resolve()
        if page.suffix == ".md" and page not in reached:
            reached.add(page)
            links = LINK.findall(page.read_text(encoding="utf-8"))
            waiting += [page.parent / link.split("#")[0] for link in links if "://" not in link and link[0] != "#"]
    assert {page.resolve() for page in ALL_PAGES} <= reached


@pytest.mark.parametrize("walk", ["image", "flag"])
def test_a_walk_names_existing_files_and_none_twice(walk: str) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    part = text.partition(f"<!-- {walk} walk begins -->")[2].partition(f"<!-- {walk} walk ends -->")[0]
    files = re.findall(r"^\d+\. `([^`]+)`", part, re.MULTILINE)
    assert len(files) >= 5
    assert len(set(files)) == len(files)
    assert [file for file in files if not (ROOT / file).is_file()] == []


def test_every_test_that_the_fault_table_names_exists() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    existing = set(re.findall(r"^def (test_\w+)", sources, re.MULTILINE))
    page = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", page))
    assert len(named) > 30
    assert not named - existing


def test_every_fault_of_the_table_has_a_test() -> None:
    page = (ROOT / "docs/reliability.md").read_text(encoding="utf-8").partition("## Faults")[2]
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith(("| fault", "| ---"))]
    assert len(rows) > 40
    assert [row for row in rows if "`test_" not in row] == []
