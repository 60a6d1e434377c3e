"""The epochs of which a run draws pictures, and where they are drawn."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from cifar_cli.core.data.dataset import open_dataset
from cifar_cli.core.training.batches import make_loaders
from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.loop import Seams
from cifar_cli.core.training.pictures import Pictures
from cifar_cli.core.training.results import EpochResult
from cifar_cli.core.training.scores import Scores
from cifar_cli.core.training.train import train
from cifar_cli.errors import CifarError, Interrupted
from tests.core.training.fake_time import Machine

ConfigOf = Callable[..., TrainConfig]
CPU = torch.device("cpu")


@dataclass
class Writer:
    """Records which pictures were drawn, and by which thread."""

    fails: bool = False
    drawn: list[tuple[str, int]] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)

    def add_figure(self, tag: str, figure: object, step: int, *, close: bool) -> None:
        self.threads.add(threading.current_thread().name)
        if self.fails:
            raise OSError(28, "No space left on device")
        self.drawn.append((tag, step))

    def flush(self) -> None:
        pass


class Guessing(nn.Module):
    def forward(self, images_BCHW: Tensor) -> Tensor:
        return torch.zeros(len(images_BCHW), 10)


def pictures_of(writer: Writer, config: TrainConfig) -> Pictures:
    store = open_dataset(config.data)
    return Pictures(writer, store, make_loaders(config, store, device=CPU), config)  # type: ignore[arg-type]


def add_epochs(pictures: Pictures, accuracies: list[float]) -> None:
    for number, accuracy in enumerate(accuracies, start=1):
        figures = dict.fromkeys(("train_loss", "train_optimized_loss", "train_accuracy", "val_loss"), 1.0)
        figures |= {"learning_rate": 0.1, "elapsed_seconds": 1.0, "images_per_second": 1.0}
        best = accuracy > max(accuracies[: number - 1], default=-1.0)
        result = EpochResult(epoch=number, step=10 * number, val_accuracy=accuracy, best=best, **figures)
        pictures.add(Guessing(), result, {"val": Scores(10)}, CPU)


@pytest.mark.parametrize(
    ("choice", "before", "after"),
    [("every", [10, 20, 30, 40], [10, 20, 30, 40]), ("best", [], [20, 40]), ("none", [], [])],
)
def test_pictures_are_drawn_of_the_epochs_that_were_asked_for(
    config_of: ConfigOf, choice: Any, before: list[int], after: list[int]
) -> None:
    writer = Writer()
    pictures = pictures_of(writer, replace(config_of(), pictures=choice))
    add_epochs(pictures, [0.3, 0.5, 0.5, 0.4])

    def steps() -> list[int]:
        return [step for tag, step in writer.drawn if tag == "samples/val"]

    assert steps() == before[: len(steps())], "drawn in order; the last one may not be done yet"
    assert len(steps()) >= len(before) - 1
    pictures.finish()
    pictures.close()
    assert steps() == after
    assert {tag for tag, _ in writer.drawn} in ({"confusion/val", "samples/val", "samples/train"}, set())


def test_the_only_epoch_is_drawn_once(config_of: ConfigOf) -> None:
    writer = Writer()
    pictures = pictures_of(writer, config_of())
    add_epochs(pictures, [0.3])
    pictures.finish()
    pictures.close()
    assert [step for tag, step in writer.drawn if tag == "samples/val"] == [10]


def test_pictures_are_drawn_by_a_thread_of_their_own(config_of: ConfigOf) -> None:
    writer = Writer()
    pictures = pictures_of(writer, replace(config_of(), pictures="every"))
    add_epochs(pictures, [0.3])
    pictures.close()
    assert threading.current_thread().name not in writer.threads
    assert len(writer.threads) == 1


def test_what_the_thread_raises_reaches_the_training(config_of: ConfigOf) -> None:
    pictures = pictures_of(Writer(fails=True), replace(config_of(), pictures="every"))
    with pytest.raises(OSError, match="No space"):
        add_epochs(pictures, [0.3, 0.4])
    with pytest.raises(OSError, match="No space"):
        pictures.close()


def drawn_by(run: Path) -> list[int]:
    events = EventAccumulator(str(run), size_guidance={"images": 0})
    events.Reload()
    return [image.step for image in events.Images("samples/val")] if events.Tags()["images"] else []


@pytest.mark.slow
def test_an_interrupted_run_draws_the_epochs_that_it_has(config_of: ConfigOf, tmp_path: Path) -> None:
    class Stopping(Machine):
        @property
        def seams(self) -> Seams:
            return replace(super().seams, make_pictures=Pictures)

    machine = Stopping(interrupted_at=(8,))
    with pytest.raises(Interrupted):
        train(config_of(tmp_path / "run", seconds=1e6), machine.listeners, seams=machine.seams)
    assert drawn_by(tmp_path / "run") == [6]


@pytest.mark.slow
def test_a_picture_that_fails_hides_no_other_failure(config_of: ConfigOf, tmp_path: Path) -> None:
    class Broken(Pictures):
        def close(self) -> None:
            super().close()
            raise OSError("no picture")

    made = config_of(tmp_path / "run")
    diverging = replace(made, recipe=replace(made.recipe, learning_rate=1e30))
    with pytest.raises(CifarError, match="diverged"):
        train(diverging, seams=Seams(make_pictures=Broken))
