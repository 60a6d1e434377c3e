"""Completion in real shells, each in a terminal of its own (tmux), and what it loads."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHELLS = {
    "bash": "bash --norc --noprofile -i",
    "zsh": "zsh -f -i",
    "fish": "fish --no-config -i",
}
START = {
    "bash": 'eval "$(cifar --show-completion bash)"',
    "zsh": "autoload -U compinit; compinit -D; source <(cifar --show-completion zsh)",
    "fish": "cifar --show-completion fish | source",
}
ANSWER_SECONDS = 20.0  # generous: the machine may be busy


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with `cifar`, a dataset, and a run."""
    cifar = tmp_path / "bin" / "cifar"
    cifar.parent.mkdir()
    start = f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv[0] = 'cifar'; from cifar_cli.start import main"
    cifar.write_text(f"#!{sys.executable}\n{start}\nmain()\n")
    cifar.chmod(0o755)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "pets.safetensors").touch()
    (tmp_path / "runs" / "first-try").mkdir(parents=True)
    (tmp_path / "runs" / "first-try" / "config.yaml").touch()
    return tmp_path


Terminal = Callable[[str, str], str]


@pytest.fixture(params=SHELLS)
def terminal(request: pytest.FixtureRequest, folder: Path) -> Iterator[Terminal]:
    """Types into a shell until its screen shows a text."""
    shell = request.param
    for program in ("tmux", shell):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    socket = f"cifar-{uuid.uuid4().hex[:8]}"
    path = f"{folder / 'bin'}:{os.environ['PATH']}"

    def tmux(*words: str) -> str:
        done = subprocess.run(["tmux", "-L", socket, *words], capture_output=True, text=True, check=True)
        return done.stdout

    def typed(keys: str, expected: str) -> str:
        tmux("send-keys", "-l", "--", keys)
        end = time.monotonic() + ANSWER_SECONDS
        while not re.search(expected, screen := tmux("capture-pane", "-p", "-J"), re.MULTILINE):
            assert time.monotonic() < end, f"{expected!r} is not on the screen:\n{screen}"
            time.sleep(0.1)
        return screen

    words = ("new-session", "-d", "-x", "150", "-y", "50", "-c", str(folder))
    env = {"PATH": path, "HOME": str(folder), "TERM": "screen", "PS1": "$ ", "LC_ALL": "C.UTF-8"}
    tmux(
        "-f",
        "/dev/null",
        *words,
        "env",
        "-i",
        *(f"{name}={value}" for name, value in env.items()),
        *SHELLS[shell].split(),
    )
    try:
        tmux("send-keys", "-l", f"{START[shell]}; echo rea''dy\n")
        typed("", r"^ready")
        yield typed
    finally:
        tmux("kill-server")


@pytest.mark.slow
def test_a_shell_completes_models_datasets_and_runs(terminal: Terminal) -> None:
    terminal("cifar train --model hy\t", r"--model hybrid")
    terminal("--dataset pe\t", r"--dataset pets")
    terminal("--recipe fa\t", r"--recipe fast")
    terminal("--backbone dla46x\t", r"--backbone dla46x_c")
    terminal("\x15cifar summarize -m timm:dla46_\t", r"timm:dla46_c")
    terminal("\x15cifar profile-memory --gpu RTX-509\t", r"--gpu RTX-5090")
    terminal("\x15cifar evaluate runs/fi\t", r"cifar evaluate runs/first-try")
