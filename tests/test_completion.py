"""The values that a shell completes, and what completing them loads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cifar_cli.app import app
from cifar_cli.completion import AFTER_THE_COLON, leave_out_what_bash_cut_off

WORDS = {
    "cifar train --model c": ["cnn"],
    "cifar summarize -m timm:resnet101d.": [],
    "cifar summarize -m timm:resnet18": ["timm:resnet18", "timm:resnet18d"],
    "cifar train --backbone tf_efficientnet_lite0": ["tf_efficientnet_lite0"],
    "cifar train --data-dir DATA --dataset p": ["pets"],
    "cifar train --recipe f": ["fast", "finetune"],
    "cifar train --policy crop-flip-": ["crop-flip-cutout"],
    "cifar profile-memory --gpu L40S": ["L40S"],
    "cifar train --resume RUNS/fi": ["RUNS/first", "RUNS/five/seed-0"],
    "cifar evaluate RUNS/fir": ["RUNS/first"],
    "cifar runs rm fi": ["first", "five/seed-0"],
    "cifar runs r": ["rm"],
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "pets.safetensors").touch()
    for name in ("first", "five/seed-0"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.yaml").touch()
    monkeypatch.setenv("CIFAR_RUNS_DIR", str(tmp_path / "runs"))
    return tmp_path


@pytest.mark.parametrize("words", WORDS)
def test_values_are_completed(words: str, folder: Path) -> None:
    def placed(text: str) -> str:
        return text.replace("DATA", str(folder / "data")).replace("RUNS", str(folder / "runs"))

    asked = placed(words).split(" ")
    env = {"_CIFAR_COMPLETE": "complete_bash", "COMP_WORDS": "\n".join(asked), "COMP_CWORD": str(len(asked) - 1)}
    result = CliRunner().invoke(app, [], prog_name="cifar", env=env)
    assert result.output.split() == [placed(word) for word in WORDS[words]]


def test_without_a_letter_the_models_are_few() -> None:
    env = {"_CIFAR_COMPLETE": "complete_bash", "COMP_WORDS": "cifar train --model ", "COMP_CWORD": "3"}
    result = CliRunner().invoke(app, [], prog_name="cifar", env=env)
    assert result.output.split() == ["null", "cnn", "hybrid", "airbench", "timm:"]


@pytest.mark.parametrize(
    ("words", "index", "joined", "new_index"),
    [
        ("cifar\ntrain\n-m\ntimm\n:\nres", 5, "cifar\ntrain\n-m\nres", 3),
        ("cifar\ntrain\n-m\ntimm\n:\n", 5, "cifar\ntrain\n-m\n", 3),
        ("cifar\ntrain\n-m\ntimm\n:", 4, "cifar\ntrain\n-m\n", 3),
    ],
)
def test_a_word_that_bash_cuts_at_its_colon_is_completed_after_it(
    words: str, index: int, joined: str, new_index: int
) -> None:
    environment = {"_CIFAR_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(index)}
    leave_out_what_bash_cut_off(environment)
    assert (environment["COMP_WORDS"], environment["COMP_CWORD"]) == (joined, str(new_index))
    assert AFTER_THE_COLON in environment


@pytest.mark.parametrize("words", ["cifar\ntrain\n-m\nnull", "", "cifar\ntrain\n-m\ntimm\n:\nresnet18\n--seed\n"])
def test_other_words_stay_as_they_are(words: str) -> None:
    environment = {"_CIFAR_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "3"}
    before = dict(environment)
    leave_out_what_bash_cut_off(environment)
    assert environment == before


def test_completing_a_timm_name_loads_nothing_heavy() -> None:
    program = (
        "import atexit, json, sys; sys.argv[0] = 'cifar'\n"
        "heavy = {'torch', 'timm', 'numpy', 'yaml', 'pydantic', 'rich'}\n"
        "atexit.register(lambda: print(json.dumps(sorted(heavy & set(sys.modules)))))\n"
        "from cifar_cli.start import main; main()"
    )
    env = {"_CIFAR_COMPLETE": "complete_bash", "COMP_WORDS": "cifar\ntrain\n-m\ntimm\n:\nresnet101d", "COMP_CWORD": "5"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=env)
    *names, loaded = done.stdout.splitlines()
    assert names == ["resnet101d"]
    assert json.loads(loaded) == []
