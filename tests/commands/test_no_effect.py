"""An option that would change nothing is refused, by every command, and so is one that another option overrules."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Cifar

NO_EFFECT: list[tuple[tuple[str, ...], str]] = [
    (("download", "--out", "d"), "--out has no effect without --duplicates"),
    (("download", "--check", "--force"), "--check imports nothing, and --force has no effect"),
    (("download", "--check", "--from", "x", "--skip-bad"), "--check imports nothing, and --from has no effect"),
    (("download", "--duplicates", "--img-size", "32"), "--duplicates imports nothing, and --img-size has no effect"),
    (("predict", "a.png", "-c", "run", "--explain-out", "e.png"), "--explain-out has no effect without --explain"),
    (("augment-preview", "--steps", "--variants", "3"), "--steps draws a column for each step"),
    (("profile-memory", "-b", "4", "--find-max-batch"), "-b and --find-max-batch contradict each other"),
    (("profile-memory", "--multiple-of", "8"), "--multiple-of has no effect without --find-max-batch"),
    (("profile-memory", "--margin", "5%"), "--margin has no effect without --find-max-batch"),
    (("profile-memory", "--strategy", "fsdp"), "--strategy has no effect without --devices"),
    (("profile-memory", "--devices", "1", "--strategy", "fsdp"), "--strategy has no effect with --devices 1"),
    (("profile-memory", "--measure", "--device", "cpu", "--risk", "even"), "and --risk has no effect"),
    (("profile-memory", "-m", "null", "--backbone", "resnet18"), "null has no --backbone"),
    (("summarize", "-m", "null", "--patch-size", "4"), "null has no --patch-size"),
    (("summarize", "-m", "null,cnn", "--trim-backbone"), "null and cnn have no --trim-backbone"),
    (("train", "--backbone", "resnet34"), "null has no --backbone"),
    (("train", "--model", "timm:resnet18", "--backbone", "resnet34"), "timm:resnet18 has no --backbone"),
    (("train", "--full-backbone"), "null has no --full-backbone"),
    (("train", "--print-config", "--batch", "auto"), "--print-config can't know what --batch auto will find"),
    (("train", "--batch", "auto", "--set", "recipe.batch=64"), "--set recipe.batch and --batch contradict each other"),
    (("train", "--seeds", "0,1", "--set", "seed=7"), "--set seed and --seeds contradict each other"),
    (("train", "--print-config", "--seeds", "0,1"), "--print-config and --seeds contradict each other"),
]


@pytest.mark.parametrize(("words", "message"), NO_EFFECT, ids=lambda value: " ".join(value)[:60])
def test_it_is_refused_with_a_remedy(
    cifar: Cifar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = cifar(*words)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())
    assert "try: " in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [("-m", "null,cnn", "--backbone", "resnet18"), ("-m", "all", "--patch-size", "4")])
def test_an_option_that_one_of_several_models_has_is_taken(cifar: Cifar, words: tuple[str, ...]) -> None:
    assert cifar("summarize", *words, "--json").exit_code == 0


def test_quiet_keeps_warnings(cifar: Cifar) -> None:
    result = cifar("-q", "profile-memory", "-m", "null", "-b", "100000", "--gpu", "T4")
    assert result.exit_code == 1
    assert "doesn't fit" in result.stderr
