"""Several seeds, and the batch size found beforehand."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cifar_cli.core.data.config import DataConfig
from cifar_cli.core.memory.results import BatchChoice
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.config import ResumeConfig, TrainConfig
from cifar_cli.core.training.listeners import SILENT, Listeners
from cifar_cli.core.training.loop import Seams
from cifar_cli.core.training.prepare import Prepared, prepare
from cifar_cli.core.training.ranks import Ranks
from cifar_cli.core.training.recipe import RECIPES
from cifar_cli.core.training.step import TrainingStep
from cifar_cli.core.training.train import train
from cifar_cli.core.workflow.batch_size import with_batch_found
from cifar_cli.core.workflow.config import TrainRequest
from cifar_cli.core.workflow.results import TrainReport
from cifar_cli.core.workflow.run import resume_and_report, train_and_report, utilization_of
from cifar_cli.errors import CheckpointError, CifarError, ConfigError, Interrupted, ModelError, ResourceError


@pytest.fixture
def config(data_dir: Path, tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        model=ModelConfig(name="null"),
        data=DataConfig(dataset="shapes", data_dir=data_dir),
        recipe=replace(RECIPES["course"], batch=64, max_epochs=1),
        precision="32",
        memory_format="channels-last",
        run_dir=tmp_path / "run",
    )


def stopping_at(step: int) -> tuple[Seams, list[int]]:
    """A training step during whose `step`-th call, over all runs, the user presses Ctrl-C; the calls of each run."""
    calls: list[int] = []

    class Stopping(TrainingStep):
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, **options)  # type: ignore[arg-type]
            calls.append(0)

        def __call__(self, images_BCHW: torch.Tensor, labels_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            calls[-1] += 1
            if sum(calls) == step:
                os.kill(os.getpid(), signal.SIGINT)
            return super().__call__(images_BCHW, labels_B)

    return Seams(make_step=Stopping), calls


def test_a_seed_s_run_directory_that_is_taken_is_named_before_anything_is_trained(config: TrainConfig) -> None:
    assert config.run_dir is not None
    (config.run_dir / "seed-2").mkdir(parents=True)
    (config.run_dir / "seed-2" / "mine").write_text("")
    seams, calls = stopping_at(-1)
    with pytest.raises(CheckpointError, match="seed-2 is not empty"):
        train_and_report(TrainRequest(config=config, seeds=(0, 1, 2)), seams=seams)
    assert calls == []


def test_a_run_directory_that_is_taken_is_named_before_a_dataset_is_opened(config: TrainConfig) -> None:
    assert config.run_dir is not None
    config.run_dir.mkdir()
    (config.run_dir / "mine").write_text("")
    absent = replace(config, data=DataConfig(dataset="absent", data_dir=config.run_dir / "data"))
    with pytest.raises(CheckpointError, match="run is not empty"):
        train_and_report(TrainRequest(config=absent))


@pytest.mark.slow
def test_ctrl_c_names_the_seeds_that_are_done_and_those_that_are_left(config: TrainConfig) -> None:
    """360 images in batches of 64 are 6 steps: the eighth is the second step of the second seed."""
    seams, calls = stopping_at(8)
    with pytest.raises(Interrupted, match=r"interrupted in epoch 1; .* seed 0 is done in .*seed-0: ") as caught:
        train_and_report(TrainRequest(config=config, seeds=(0, 1, 2)), seams=seams)
    resumed = f"continue with `cifar train --resume {config.run_dir}/seed-1`"
    assert caught.value.remedy == f"{resumed}, then train the others with --seeds 2"
    assert calls == [6, 2]


@pytest.mark.slow
def test_ctrl_c_in_the_last_step_of_a_seed_starts_no_other(config: TrainConfig) -> None:
    seams, calls = stopping_at(6)
    with pytest.raises(Interrupted, match=r"^interrupted; seed 0 is done") as caught:
        train_and_report(TrainRequest(config=config, seeds=(0, 1)), seams=seams)
    assert caught.value.remedy == "train the others with --seeds 1"
    assert calls == [6]


@pytest.mark.slow
def test_a_seed_that_fails_names_those_that_are_done_and_those_that_are_left(config: TrainConfig) -> None:
    class Diverging(TrainingStep):
        seed = 0

        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, **options)  # type: ignore[arg-type]
            Diverging.seed += 1
            self.fails = Diverging.seed == 2

        def loss(self, images_BCHW: torch.Tensor, labels_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            loss, logits_BK = super().loss(images_BCHW, labels_B)
            return loss * (float("nan") if self.fails else 1.0), logits_BK

    with pytest.raises(CifarError, match=r"^seed 1: the training diverged: .* seed 0 is done in .*seed-0: ") as caught:
        train_and_report(TrainRequest(config=config, seeds=(0, 1, 2)), seams=Seams(make_step=Diverging))
    assert str(caught.value.remedy).endswith(", then train the others with --seeds 2")
    assert "lower --lr" in str(caught.value.remedy)
    assert caught.value.exit_code == 1


@pytest.mark.slow
def test_a_run_that_is_finished_is_not_measured_against_this_moment_s_machine(config: TrainConfig) -> None:
    report = train_and_report(TrainRequest(config=replace(config, fast_dev_run=True)))
    assert report.utilization is not None
    again = resume_and_report(ResumeConfig(run_dir=report.results[0].run_dir))
    assert again.utilization is None
    assert again.to_dict()["test_accuracy"] == report.to_dict()["test_accuracy"]


@pytest.mark.slow
def test_each_seed_gives_the_run_that_it_gives_alone(config: TrainConfig, tmp_path: Path) -> None:
    report = train_and_report(TrainRequest(config=config, seeds=(3, 4)))
    alone = train(replace(config, seed=4, run_dir=tmp_path / "alone"))
    assert report.results[1].test_loss == alone.test_loss != report.results[0].test_loss


@pytest.fixture
def prepared(config: TrainConfig) -> Prepared:
    return prepare(config)


def chooser(asked: dict[str, object]) -> Callable[..., BatchChoice]:
    def choose(model: object, step: object, **options: object) -> BatchChoice:
        asked.update(options, step=step)
        return BatchChoice(batch=200, reason="batch 200: because")

    return choose


def test_the_batch_that_is_found_keeps_learning_rate_and_steps(prepared: Prepared) -> None:
    """360 training images: 6 steps of 64, 2 steps of 200."""
    asked: dict[str, object] = {}
    said: list[str] = []
    found = with_batch_found(prepared, keep_steps=True, listeners=Listeners(on_note=said.append), choose=chooser(asked))
    recipe = found.config.recipe
    assert (recipe.batch, recipe.max_epochs, recipe.learning_rate) == (200, 3, None)
    assert [len(labels) for _, labels in found.loaders.train] == [200, 160]
    assert asked["most"] == 360
    assert said == [
        "--batch auto: batch 200: because; learning rate and number of steps stay, so 1 epochs at batch 64 become 3"
    ]


def test_a_number_of_epochs_that_was_asked_for_stays(prepared: Prepared) -> None:
    found = with_batch_found(prepared, keep_steps=False, listeners=SILENT, choose=chooser({}))
    assert (found.config.recipe.batch, found.config.recipe.max_epochs) == (200, 1)


def test_several_processes_take_the_found_batch_each(prepared: Prepared) -> None:
    class Two(Ranks):
        world_size = 2

    said: list[str] = []
    wide = replace(prepared, ranks=Two())
    few: Callable[..., BatchChoice] = lambda *_, **__: BatchChoice(batch=60, reason="batch 60: because")  # noqa: E731
    found = with_batch_found(wide, keep_steps=False, listeners=Listeners(on_note=said.append), choose=few)
    assert found.config.recipe.batch == 120
    assert [len(labels) for _, labels in found.loaders.train] == [60, 60, 60]
    assert said == ["--batch auto: batch 60: because; 2 processes take 120 together"]


@pytest.mark.slow
def test_seeds_are_trained_on_two_devices_as_on_one(config: TrainConfig, tmp_path: Path) -> None:
    def trained(devices: int) -> TrainReport:
        changed = replace(config, device="cpu", devices=devices, run_dir=tmp_path / str(devices))
        return train_and_report(TrainRequest(config=changed, seeds=(3, 4)))

    one, two = trained(1), trained(2)
    assert [result.processes for result in two.results] == [2, 2]
    assert [result.seed for result in two.results] == [3, 4]
    for ours, theirs in zip(two.results, one.results, strict=True):
        assert ours.test_loss == pytest.approx(theirs.test_loss, abs=1e-4)
        assert (ours.run_dir / "summary.json").is_file()


def test_nothing_is_prepared_twice_for_another_batch(prepared: Prepared) -> None:
    found = with_batch_found(prepared, keep_steps=True, listeners=SILENT, choose=chooser({}))
    assert found.model is prepared.model
    assert found.store is prepared.store


def test_the_memory_of_the_trials_is_released_before_other_processes_measure(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def choose(*_: object, **__: object) -> BatchChoice:
        order.append("measured")
        raise ResourceError("nothing fits")

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: order.append("released"))
    with pytest.raises(ResourceError, match="nothing fits"):
        with_batch_found(
            replace(prepared, device=torch.device("cuda")), keep_steps=False, listeners=SILENT, choose=choose
        )
    assert order == ["released", "measured"]


def test_a_device_whose_memory_can_t_be_queried_is_refused(prepared: Prepared) -> None:
    with pytest.raises(ConfigError, match="--batch auto can't query the memory of mps"):
        with_batch_found(replace(prepared, device=torch.device("mps")), keep_steps=True, listeners=SILENT)


@pytest.mark.slow
def test_a_utilization_that_can_t_be_measured_costs_no_result(config: TrainConfig) -> None:
    def fails(summary: object) -> None:
        raise ModelError("can't be counted")

    report = train_and_report(TrainRequest(config=replace(config, fast_dev_run=True)))
    assert report.utilization is not None
    assert report.utilization.share > 0
    assert utilization_of(report.results[0], count=fails) is None  # type: ignore[arg-type]
    slow, fast = (replace(report.results[0], images_per_second=rate) for rate in (1.0, 3.0))
    one, both = utilization_of(slow), utilization_of(slow, fast)
    assert one is not None
    assert both is not None
    assert both.achieved_flops_per_second == pytest.approx(2 * one.achieved_flops_per_second)
