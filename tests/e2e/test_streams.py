"""The command line with streams that are closed, full, left by their reader, or unable to encode a character."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

CIFAR = f"{sys.executable} -m cifar_cli"
FULL = "error: the result can't be written to stdout (No space left on device)\n  try: send stdout somewhere else\n"
REFUSED = "train --max-time ²"


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which `cifar` is the command; its status is that of the first part of a pipe."""
    script = f'cifar() {{ {CIFAR} "$@"; }}; {line}; exit "${{PIPESTATUS[0]}}"'
    return subprocess.run(
        ["bash", "-c", script], env=os.environ | environment, capture_output=True, text=True, check=False
    )


def test_an_encoding_without_some_characters_gets_plain_ones() -> None:
    for words in ("--help", "train --help", "download --help"):
        done = shell(f"cifar {words}", PYTHONIOENCODING="ascii", COLUMNS="100")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.isascii()
        assert "\\u" not in done.stdout


def test_a_full_disk_behind_stdout_is_one_sentence() -> None:
    done = shell("cifar --help > /dev/full")
    assert (done.returncode, done.stderr) == (1, FULL)


def test_a_closed_stdout_is_quiet() -> None:
    done = shell("cifar --help >&-")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("redirection", ["2>&-", "2> /dev/full"])
def test_what_stderr_cannot_take_does_not_come_out_on_stdout(redirection: str) -> None:
    done = shell(f"cifar {REFUSED} --json {redirection}")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")


@pytest.mark.slow
def test_json_is_alone_on_stdout_when_stderr_is_closed(data_dir: Path, tmp_path: Path) -> None:
    words = f"--dataset shapes --data-dir '{data_dir}' --run-dir '{tmp_path}/run' --fast-dev-run"
    done = shell(f"cifar train {words} --json 2>&-")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["epochs"] == 1


def test_a_reader_that_leaves_ends_the_command_quietly() -> None:
    done = shell("cifar --help | true")
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.slow
def test_a_reader_of_stderr_that_leaves_does_not_end_a_run(data_dir: Path, tmp_path: Path) -> None:
    words = f"--dataset shapes --data-dir '{data_dir}' --run-dir '{tmp_path}/run' --fast-dev-run"
    done = shell(f"cifar train {words} --json 2>&1 >'{tmp_path}/result.json' | true")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "result.json").read_text())["epochs"] == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_torch_is_imported_is_one_line(number: signal.Signals, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "cifar_cli", "train", "--dataset", "shapes", "--data-dir", tmp_path / "data"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
    )  # fmt: skip
    maps = Path(f"/proc/{process.pid}/maps")
    while "libtorch" not in maps.read_text() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout, stderr) == (128 + number, "", "error: interrupted\n")
    assert not list(tmp_path.iterdir())
