"""The commands in the code blocks of README.md and docs/ are run, in a folder that has what they name.

The datasets are small, and training stops after one batch. Where a command needs GPUs or several machines, `train`
prints its settings; what can't be run here is only parsed, as the commands in sentences are (tests/test_docs.py).
"""

from __future__ import annotations

import re
import shlex
import shutil
import tarfile
from pathlib import Path

import albumentations
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cifar_cli.app import app
from cifar_cli.core.data.sources.mirrors import ARCHIVES
from cifar_cli.core.doctor.results import EXIT_STATUS
from tests.fuzz.sources import make_arrays, make_binary, make_parquet
from tests.test_docs import FENCED, PAGES, PLACEHOLDERS, block_lines, commands

RUN = "20261124-093000-null"
VALUES = PLACEHOLDERS | {"--max-epochs 60": "2"}
SETTINGS_ONLY = re.compile(r"--device cuda|--devices|--num-nodes|/shared/")  # GPUs or several machines
PARSED_ONLY = {
    r"https://|cifar100|download --force": "needs a network",
    r"--requeue": "needs SLURM",
    r"--open": "opens a browser",
    r"^cifar sweep": "starts a process for each run; tests/commands/test_sweep.py runs one",
    r"--measure": "takes a minute; tests/core/memory/test_measure.py measures",
    r"^cifar profile-memory(?: --find-max-batch)?$": "takes a minute; tests/commands/test_profile_memory.py runs it",
}
WITHOUT_A_HUB = re.compile(r"(?=.*\btrain\b)(?=.*(hybrid|cnn))(?!.*--weights)")
COUNTED = ("summarize", "profile-memory")
"""What these print is the same on every machine."""


def printed(page: Path, line: str) -> list[str]:
    """What the page shows of a command's output, line by line, without blanks."""
    after = page.read_text(encoding="utf-8").partition(f"\n$ {line}\n")[2]
    shown = re.split(r"^(?:\$ .*|```)$", after, maxsplit=1, flags=re.MULTILINE)[0]
    return ["".join(each.split()) for each in shown.splitlines() if each.strip()]


def to_run(page: Path, seen: set[str]) -> list[str]:
    """The commands of a page that no page before it has."""
    found = [line for line in commands(page, block_lines) if line not in seen]
    seen.update(found)
    return found


def words_of(line: str) -> list[str] | None:
    """The words to run, or None for a command that can't be run here."""
    if any(re.search(pattern, line) for pattern in PARSED_ONLY) or WITHOUT_A_HUB.match(line):
        return None
    words = shlex.split(line)[1:]
    pairs = list(zip(["", *words], words, strict=False))
    words = [VALUES.get(f"{before} {word}", VALUES.get(word, word)) for before, word in pairs]
    if words[0] == "train" and SETTINGS_ONLY.search(line):
        return [*words, "--print-config"] if "--resume" not in words else None
    if words[:2] == ["runs", "rm"]:
        return [*words, "--yes"]  # it asks a person
    if words[0] != "train" or {"--print-config", "--resume"} & set(words):
        return words
    return [*words, "--fast-dev-run"]


@pytest.fixture(scope="module")
def world(data_dir: Path, trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with datasets, a run, and images in every form that the pages name."""
    from cifar_cli.core.data.sources.shapes import draw_shapes
    from cifar_cli.core.data.store import write_store

    folder = tmp_path_factory.mktemp("world")
    shutil.copytree(data_dir, folder / "data")
    write_store(
        folder / "data/cifar10.safetensors", name="cifar10", images=draw_shapes(train_images=300, test_images=50)
    )
    shutil.copytree(trained_run, folder / "runs" / RUN)
    noise = np.random.default_rng(0)
    for name in ("photos", "pets", "kaggle"):
        for kind in ("cat", "dog", "horse"):
            (folder / name / kind).mkdir(parents=True)
            for number in range(8):
                file = folder / name / kind / f"test-{number:04}.jpg"
                Image.fromarray(noise.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(file)
    for name in ("cat.png", "cat.jpg"):
        shutil.copy(folder / "pets/cat/test-0000.jpg", folder / name)
    files = sorted((folder / "kaggle").rglob("*.jpg"))
    rows = [f"{number},{file.parent.name}" for number, file in enumerate(files, start=1)]
    (folder / "kaggle/trainLabels.csv").write_text("\n".join(["id,label", *rows]))
    (folder / "kaggle/train").mkdir()
    for number, file in enumerate(files, start=1):
        file.rename(folder / f"kaggle/train/{number}.jpg")
    for kind in ("cat", "dog", "horse"):
        (folder / "kaggle" / kind).rmdir()
    shutil.make_archive(str(folder / "pets"), "zip", folder / "pets")
    albumentations.save(albumentations.Compose([albumentations.HorizontalFlip()]), folder / "mine.yaml", "yaml")
    make_arrays(folder)
    make_parquet(folder)
    (folder / "pets-hf/data").mkdir(parents=True)
    shutil.copy(folder / "pets.parquet", folder / "pets-hf/data/train-00000-of-00001.parquet")
    (folder / "pets.parquet").rename(folder / "train-00000-of-00001.parquet")
    make_binary(folder)
    for name in ("data_batch_1.bin", "test_batch.bin"):
        records = (bytes([number]) + bytes([number]) * 3072 for number in range(10))
        (folder / "cifar-10-batches-bin" / name).write_bytes(b"".join(records))
    (folder / "cifar-10-batches-bin/batches.meta.txt").write_text("\n".join(ARCHIVES["cifar10"].classes))
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as tar:
        tar.add(folder / "cifar-10-batches-bin", "cifar-10-batches-bin")
    for page in PAGES:
        for block in FENCED.findall(page.read_text(encoding="utf-8")):
            if named := re.match(r"# (\w+\.(?:py|yaml))\n", block):
                (folder / named[1]).write_text(block, encoding="utf-8")
    return folder


SEEN: set[str] = set()
LINES = {page: to_run(page, SEEN) for page in PAGES}


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if LINES[page]], ids=lambda page: page.name)
def test_the_commands_of_the_page_run(page: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    shutil.copytree(world, here)
    monkeypatch.chdir(here)
    monkeypatch.setenv("CIFAR_TRUSTED_FILES", str(here / "net.py"))
    failed = []
    for line in LINES[page]:
        if (words := words_of(line)) is None:
            continue
        set_up(world, here, words)
        result = CliRunner().invoke(app, words)
        expected = set(EXIT_STATUS.values()) if words == ["doctor"] else {0}
        if "--what-would-help" in words:
            expected = {1}  # the page shows a batch that doesn't fit
        if result.exit_code not in expected:
            failed.append(f"{line}\n{result.output}")
        elif words[0] in COUNTED:
            said = "".join(result.output.split())
            failed += [f"{line} no longer prints {shown}" for shown in printed(page, line) if shown not in said]
    assert not failed, "\n".join(failed)


def set_up(world: Path, here: Path, words: list[str]) -> None:
    """Make what earlier commands of the page would have left, and nothing of what the command itself makes."""
    shutil.copytree(world / "data", here / "data", dirs_exist_ok=True)
    if "--from" in words:  # the imports of a page are alternatives
        name = words[words.index("--dataset") + 1] if "--dataset" in words else "cifar10"
        (here / "data" / f"{name}.safetensors").unlink(missing_ok=True)
    named = [here / word for word in words if word.startswith("runs/")] if words[0] != "train" else []
    if words[:2] == ["runs", "rm"]:
        named = [here / "runs" / words[2]]
    for run in named:
        if not run.exists():
            shutil.copytree(here / "runs" / RUN, run)


def test_what_stops_a_command_from_running_is_named_and_happens() -> None:
    every = {line for page in PAGES for line in commands(page, block_lines)}
    assert [pattern for pattern in PARSED_ONLY if not any(re.search(pattern, line) for line in every)] == []
    assert sum(words_of(line) is not None for line in every) > 3 * len(every) / 4
