"""`cifar report`, and the report at the end of a training."""

from __future__ import annotations

import json
import webbrowser
from pathlib import Path

import pytest


def test_training_has_written_a_report_and_report_writes_it_again(  # type: ignore[no-untyped-def]
    cifar, trained_run: Path, tmp_path: Path
) -> None:
    assert (trained_run / "report.html").is_file()
    result = cifar("report", trained_run, "--out", tmp_path / "page.html")
    assert result.exit_code == 0, result.output
    assert "Does the model over- or under-fit?" in result.stdout
    assert "report: " in result.stdout
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    summary = json.loads((trained_run / "summary.json").read_text())
    assert f"{summary['test_accuracy']:.2%}" in text
    assert f"{summary['train_accuracy_plain']:.2%}" in text
    assert "cifar train --model null" in text


def test_json_is_one_document_with_the_answers(cifar, trained_run: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    result = cifar("report", trained_run, "--out", tmp_path / "page.html", "--json")
    document = json.loads(result.stdout)
    assert document["page"] == str(tmp_path / "page.html")
    (run,) = document["runs"]
    assert run["finished"] is True
    assert all(answer["sentence"] and answer["rests_on"] for answer in run["answers"])


def test_open_hands_the_page_to_the_browser(  # type: ignore[no-untyped-def]
    cifar, trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    assert cifar("report", trained_run, "--out", tmp_path / "page.html", "--open").exit_code == 0
    assert opened == [(tmp_path / "page.html").as_uri()]


def test_what_is_no_run_is_one_sentence_and_a_remedy(cifar, trained_run: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    result = cifar("report", tmp_path)
    assert result.exit_code == 1
    assert f"error: {tmp_path} holds no config.yaml, so it is not a run directory\n  try: " in result.stderr
    result = cifar("report", trained_run.parent)
    assert "pass one or more of them: " in result.stderr
    assert str(trained_run) in result.stderr


def test_the_predictions_of_training_are_those_of_an_evaluation(trained_run: Path) -> None:
    import torch

    from cifar_cli.core.data.dataset import open_dataset
    from cifar_cli.core.evaluation.predictions import predict_split
    from cifar_cli.core.evaluation.report.predicted import read_predictions
    from cifar_cli.core.training.checkpoint import load_checkpoint
    from cifar_cli.core.training.run_dir import RunDir

    checkpoint = load_checkpoint(trained_run)
    store = open_dataset(checkpoint.config.data)
    kept = read_predictions(RunDir(trained_run), store, loss=0.0)
    made = predict_split(
        checkpoint.model,
        store,
        "test",
        img_size=checkpoint.config.model.img_size,
        normalisation=checkpoint.config.normalised_by,
        device=torch.device("cpu"),
    )
    assert kept is not None
    assert torch.equal(kept.logits_NK, made.logits_NK)
    assert torch.equal(kept.labels_N, made.labels_N)
