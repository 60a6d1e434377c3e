"""What a person reads after a mistake on the command line: one golden file for each command."""

from __future__ import annotations

import shlex

import pytest
from typer.testing import CliRunner

from cifar_cli.app import app
from tests.commands.command_lines import commands, options_of
from tests.golden import Golden

MISTAKES = {
    "cifar": ["", "trian", "--no-such-option", "--debug --debug train"],
    "download": [
        "download --img-size large",
        "download --data-dir a --data-dir b",
        "download --dataset a/b",
        "download --dataset nosuch --data-dir nodir",
        "download --img-size 0",
        "download --from a --from b",
        "download extra",
    ],
    "augment-preview": [
        "augment-preview --policy corse",
        "augment-preview --pipeline batch",
        "augment-preview --images 0",
        "augment-preview --seed -1",
        "augment-preview --out picture.jpg",
        "augment-preview --policy none --augment policy.yaml",
        "augment-preview --pipeline batched --augment policy.yaml",
    ],
    "summarize": [
        "summarize",
        "summarize --model",
        "summarize --model hybird",
        "summarize --model null --patch-size 3",
        "summarize --model null --batch 1.5",
        "summarize --model null --batch 0",
    ],
    "train": [
        "train --model null --model cnn",
        "train --model nul",
        "train --model resnet18",
        "train --recipe curse",
        "train --policy curse",
        "train --optimizer addam",
        "train --schedule cosine",
        "train --device gpu",
        "train --accelerator tpu",
        "train --precision 8",
        "train --memory-format rows",
        "train --pipeline batch",
        "train --batch many",
        "train --batch 0",
        "train --lr fast",
        "train --lr nan",
        "train --max-time soon",
        "train --seeds 1,1",
        "train --seeds one",
        "train --seeds ''",
        "train --seeds 0,1 --seed 7",
        "train --compile --no-compile",
        "train --workers 4",
        "train --policy none --augment policy.yaml",
        "train --pipeline batched --augment policy.yaml",
        "train --dataset nosuch --data-dir nodir",
        "train --warmup 1.5",
        "train --resume runs/a --recipe best --model cnn",
        "train --resume runs/a -b 64",
        "train --resume runs/a --full-backbone",
        "train --resume runs/a --accelerator=cpu",
    ],
    "evaluate": [
        "evaluate",
        "evaluate runs/a --device gpu",
        "evaluate runs/a --device cpu --accelerator cuda",
        "evaluate runs/a --batch 0",
        "evaluate runs/a --out matrix.png",
        "evaluate runs/a --split validation",
        "evaluate runs/a runs/b",
    ],
    "predict": [
        "predict",
        "predict cat.png",
        "predict cat.png --checkpoint runs/a --top 0",
        "predict - - --checkpoint runs/a",
        "predict cat.png --checkpoint runs/a",
    ],
    "export": [
        "export",
        "export runs/a --format tflite",
        "export runs/a --out model.pt2",
        "export runs/a --format safetensors --with-preprocessing",
        "export runs/a",
    ],
    "profile-memory": [
        "profile-memory --memory abc",
        "profile-memory --memory 0",
        "profile-memory --margin 95%",
        "profile-memory --optimizer lion",
        "profile-memory --batch 0",
        "profile-memory --gpu T4 --memory 8GiB",
        "profile-memory --estimate --measure",
        "profile-memory --multiple-of 0",
        "profile-memory --channels-last --contiguous",
        "profile-memory --channels-last --memory-format onednn",
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("command", MISTAKES)
def test_mistakes_are_answered_as_in_the_golden_file(
    golden: Golden, command: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("empty"))
    answers = []
    for line in MISTAKES[command]:
        result = CliRunner().invoke(app, shlex.split(line), prog_name="cifar", env={"COLUMNS": "80"})
        assert result.exit_code in (1, 2), line
        assert "Traceback" not in result.output
        assert result.stdout == ""
        answers.append(f"$ cifar {line}".rstrip() + f"\n{result.stderr.rstrip()}\nexit status {result.exit_code}\n")
    golden(f"commands/mistakes-{command}", "\n".join(answers))


@pytest.mark.parametrize(
    ("name", "flag"),
    [(name, option.opts[0]) for name, each in commands().items() for option in options_of(each) if not option.is_flag],
)
def test_an_empty_value_is_refused(name: str, flag: str) -> None:
    """Of an unset variable of the shell: an empty path would be the current folder, or the folder of all runs."""
    result = CliRunner().invoke(app, [name, f"{flag}="])
    assert result.exit_code == 2
    assert f"{flag} is empty" in result.stderr
