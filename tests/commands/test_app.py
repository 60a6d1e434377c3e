"""The program: start-up, exit status, errors, completion."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cifar_cli.commands import COMMANDS

HEAVY = ("torch", "torchvision", "lightning", "timm", "albumentations", "cv2", "numpy", "matplotlib", "pydantic")


@pytest.mark.slow
@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_loads_nothing_heavy(command: str | None) -> None:
    words = ["--help"] if command is None else [command, "--help"]
    program = (
        "import sys\n"
        "from cifar_cli.app import app\n"
        f"try:\n    app({words!r})\nexcept SystemExit as end:\n    assert end.code == 0\n"
        f"print(sorted(set(sys.modules) & set({HEAVY[:6]!r})), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "Usage" in done.stdout
    assert done.stderr.strip() == "[]"


def test_the_six_commands_are_there() -> None:
    assert {"download", "augment-preview", "summarize", "train", "evaluate", "profile-memory"} <= set(COMMANDS)


def test_a_usage_error_exits_2_and_an_expected_failure_1(cifar) -> None:  # type: ignore[no-untyped-def]
    assert cifar("train", "--no-such-flag").exit_code == 2
    assert cifar("train", "--max-epochs", "many").exit_code == 2
    failed = cifar("train", "--model", "nul")
    assert failed.exit_code == 1
    assert failed.stderr == (
        "error: there is no model named 'nul'\n  try: did you mean null? (use timm:NAME for a timm classifier)\n"
    )
    assert failed.stdout == ""


def test_all_models_are_trained_by_a_sweep(cifar) -> None:  # type: ignore[no-untyped-def]
    """summarize and profile-memory take --model all, so a user tries it."""
    failed = cifar("train", "--model", "all")
    assert failed.exit_code == 1
    assert " ".join(failed.stderr.split()) == (
        "error: one model is trained at a time, and 'all' are several try: train each with `cifar sweep --grid "
        "model=null,cnn,hybrid`; `cifar report` compares them"
    )


def test_debug_shows_the_traceback() -> None:
    words = [sys.executable, "-m", "cifar_cli"]
    for debug in ([*words, "train", "--debug", "--model", "nul"], [*words, "--debug", "train", "--model", "nul"]):
        done = subprocess.run(debug, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "Traceback" in done.stderr
        assert "there is no model named 'nul'" in done.stderr


def test_version(cifar) -> None:  # type: ignore[no-untyped-def]
    from cifar_cli import __version__

    assert cifar("--version").stdout == f"cifar {__version__}\n"


@pytest.mark.parametrize(
    ("words", "completed"),
    [("cifar tr", "train"), ("cifar train --device ", "mps"), ("cifar train -m null -m cnn --optimizer s", "sgd")],
)
def test_a_shell_completes_commands_and_the_names_of_closed_sets(words: str, completed: str) -> None:
    from typer.testing import CliRunner

    from cifar_cli.app import app

    env = {"_CIFAR_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    result = CliRunner().invoke(app, [], prog_name="cifar", env=env)
    assert completed in result.output.split()
