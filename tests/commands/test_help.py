"""The help pages, as a person reads them in a terminal of 80 or 120 columns."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cifar_cli.app import app
from cifar_cli.commands import COMMANDS
from tests.commands.command_lines import GROUP, commands, every_option, parse
from tests.golden import WIDTHS, Golden

ROOT = Path(__file__).parents[2]
ENGLISH_IMPERATIVE = re.compile(r"[A-Z][a-z-]+ .*\.$", re.DOTALL)


def page(name: str | None, width: int) -> str:
    """The help page of a command, or of the program."""
    words = ["--help"] if name is None else [name, "--help"]
    result = CliRunner().invoke(app, words, env={"COLUMNS": str(width)}, prog_name="cifar")
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", [None, *COMMANDS])
def test_a_help_page_reads_as_in_its_golden_file(golden: Golden, name: str | None, width: int) -> None:
    text = page(name, width)
    assert max(map(len, text.splitlines())) <= width
    golden(f"commands/help-{name or 'cifar'}-{width}", text)


def test_the_page_of_all_options_has_every_help_page(golden: Golden) -> None:
    parts = ["# Options\n\nWhat `cifar COMMAND --help` prints, for every command."]
    parts += [f"## cifar {name}\n\n```text\n{page(name, 80).strip()}\n```" for name in COMMANDS]
    golden.file(ROOT / "docs" / "options.md", "\n\n".join(parts) + "\n")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", COMMANDS)
def test_no_word_of_a_help_page_is_cut(name: str, width: int) -> None:
    text = page(name, width)
    assert "…" not in text
    words = set(text.replace("│", " ").split())
    for param in commands()[name].params:
        if not param.hidden:
            shown = [
                *param.help.split(),
                *(param.opts[-1:] if param.param_type_name == "option" else ()),
                *(param.metavar or "").split(),
            ]
            lost = [word for word in shown if word not in words and f"{word}," not in words]
            assert not lost, f"{param.name}: {lost}"


@pytest.mark.parametrize(("name", "option"), [(name, option) for name, option in every_option()])
def test_every_option_has_a_panel_a_sentence_and_a_placeholder(name: str, option: Any) -> None:
    assert option.rich_help_panel, f"{name} {option.opts[0]} has no panel"
    assert ENGLISH_IMPERATIVE.fullmatch(option.help), f"{name} {option.opts[0]}: {option.help!r} is not a sentence"
    assert option.is_flag == (option.metavar is None), f"{name} {option.opts[0]}: a placeholder is missing, or too much"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_page_ends_with_examples_that_parse(name: str) -> None:
    command = commands()[name]
    assert ENGLISH_IMPERATIVE.fullmatch(" ".join(command.help.split()))
    examples = [example.split("\n") for example in command.epilog.split("\n\n")]
    assert 2 <= len(examples) <= 5
    for sentence, line in examples:
        assert ENGLISH_IMPERATIVE.fullmatch(sentence.removeprefix("# "))
        words = re.findall(r'"[^"]*"|\S+', line)
        assert words[:2] == ["cifar", name]
        parse(name, [word.strip('"') for word in words[2:]])
        assert line in page(name, 80)


@pytest.mark.parametrize(("name", "option"), [(name, option) for name, option in every_option() if not option.hidden])
def test_the_default_shown_is_the_default_used(name: str, option: Any) -> None:
    if isinstance(option.show_default, str) or option.default is None or option.required:
        return
    text = " ".join(page(name, 120).replace("│", " ").split())
    described = text[text.index(" ".join(option.help.split())) + len(" ".join(option.help.split())) :]
    if option.is_flag and not option.secondary_opts:
        assert not described.startswith(" [default")
        return
    default = option.default
    if option.is_flag:
        default = option.opts[0] if default else option.secondary_opts[0]
    shown = ",".join(map(str, default)) if isinstance(default, list) else str(default)
    assert described.startswith(f" [default: {shown}]")


def test_the_program_promises_only_what_it_does() -> None:
    assert GROUP.help == "Train, measure and evaluate CIFAR-10 image classifiers."


def test_a_very_narrow_terminal_gets_a_page_too() -> None:
    assert "Train this model" in " ".join(page("train", 20).replace("│", " ").split())


def test_hidden_spellings_are_not_shown() -> None:
    assert "--accelerator" not in page("train", 80)
    assert "--channels-last" not in page("profile-memory", 80)


def test_brackets_in_a_help_text_are_shown_as_they_are() -> None:
    from cifar_cli.render.help import help_page

    command = commands()["evaluate"]
    context = parse("evaluate", ["folder"])
    before, command.help = command.help, "Read [bold]brackets[/bold] and [1, 2]."
    try:
        assert "Read [bold]brackets[/bold] and [1, 2]." in help_page(command, context)
    finally:
        command.help = before


def test_the_learning_rates_named_as_the_default_are_those_of_the_models() -> None:
    from cifar_cli.core.models.registry import MODELS
    from cifar_cli.core.training.recipe import RECIPES

    assert RECIPES["course"].learning_rate is None
    rates = {name: spec.learning_rate for name, spec in MODELS.items()}
    assert rates == {"null": 1e-3, "cnn": 1e-4, "hybrid": 1e-4, "airbench": 1e-3}
    assert all(recipe.learning_rate for name, recipe in RECIPES.items() if name != "course")
    (option,) = (param for param in commands()["train"].params if param.name == "learning_rate")
    assert option.show_default == "the recipe's; course: 1e-3 for null, airbench and own models, 1e-4 for others"


def test_the_weights_named_as_the_default_are_those_of_the_models() -> None:
    from cifar_cli.core.models.registry import MODELS

    assert {name: spec.weights[0] for name, spec in MODELS.items()} == {
        "null": "none",
        "cnn": "imagenet",
        "hybrid": "imagenet",
        "airbench": "none",
    }
    (option,) = (param for param in commands()["train"].params if param.name == "weights")
    assert option.show_default == "imagenet; none for null and airbench"
