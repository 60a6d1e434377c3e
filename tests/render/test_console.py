"""Lines on stderr: wrapped between words on a terminal, whole in a log; a command stays whole everywhere."""

from __future__ import annotations

import io

import pytest

from cifar_cli.render.console import console_on, error, note

SENTENCE = "training null (545,098 parameters, recipe course) on 45,000 images of shapes, writing to runs/" + "x" * 90
COMMAND = "  cifar evaluate runs/" + "y" * 40 + " --dataset a-name-that-is-long --json"


@pytest.mark.parametrize("width", [60, 80])
def test_on_a_terminal_no_word_is_broken_and_a_command_stays_on_one_line(width: int) -> None:
    shown = io.StringIO()
    console = console_on(shown, force_terminal=True, color_system=None, width=width)
    note(SENTENCE, console)
    note(COMMAND, console)
    *lines, last = shown.getvalue().splitlines()
    assert " ".join(line.rstrip() for line in lines).split() == SENTENCE.split()
    assert all(len(line.rstrip()) <= width for line in lines if "xxx" not in line)
    assert len(lines) > 2
    assert last == COMMAND


def test_in_a_log_every_sentence_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    note(SENTENCE)
    error(SENTENCE, COMMAND)
    assert capsys.readouterr().err.splitlines() == [SENTENCE, f"error: {SENTENCE}", f"  try: {COMMAND}"]
