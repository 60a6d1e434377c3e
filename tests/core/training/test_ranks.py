"""The same run on several processes: the same losses and the same scores."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cifar_cli.core.evaluation.config import EvaluateConfig
from cifar_cli.core.evaluation.evaluate import evaluate
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.checkpoint import read_checkpoint
from cifar_cli.core.training.config import ResumeConfig, TrainConfig
from cifar_cli.core.training.prepare import prepare_ordered
from cifar_cli.core.training.ranks import ALONE, Agreement
from cifar_cli.core.training.recipe import recipe_of
from cifar_cli.core.training.train import train
from cifar_cli.errors import ConfigError, DataError
from tests.core.training.crew import Crew
from tests.core.training.rank_tasks import (
    Normalised,
    normalised,
    order_read_late,
    run,
    run_twice_in_a_group,
    run_with_signal,
    scored,
)
from tests.core.training.same_run import assert_same_run, step_losses

pytestmark = pytest.mark.slow
ConfigOf = Callable[..., TrainConfig]


@pytest.mark.parametrize(("batch", "size"), [(128, 2), (67, 2), (67, 3)])
def test_every_step_has_the_loss_of_one_process_in_float64(
    config: ConfigOf, tmp_path: Path, crew: Crew, batch: int, size: int
) -> None:
    one = run(config(tmp_path / "one", epochs=3, batch=batch), double=True)
    several = crew(run, config(tmp_path / "several", epochs=3, batch=batch), double=True, size=size)
    assert len(one.losses) == 3 * math.ceil(360 / batch)
    assert_same_run(several, one)
    assert [outcome.epochs for outcome in several[1:]] == [[]] * (size - 1), "rank 0 alone talks to its listeners"


@pytest.mark.parametrize(("rate", "steps"), [(1e-4, 20), (1e-3, 10)])
def test_the_first_steps_in_float32_have_the_loss_of_one_process(
    config: ConfigOf, tmp_path: Path, crew: Crew, rate: float, steps: int
) -> None:
    """Adam enlarges rounding: at 1e-3 the losses of one process with one and with two threads part as early."""

    def changed(name: str) -> TrainConfig:
        made = config(tmp_path / name, epochs=4, batch=67)
        return replace(made, recipe=replace(made.recipe, learning_rate=rate))

    one, two = run(changed("one")), crew(run, changed("two"))
    assert step_losses(two)[:steps] == pytest.approx(step_losses([one])[:steps], abs=1e-4, rel=0)


@pytest.mark.parametrize("model", [ModelConfig(name="null"), ModelConfig(name="airbench", width=0.125)])
def test_a_last_batch_with_fewer_images_than_processes_is_trained_with_equal_weight(
    config: ConfigOf, tmp_path: Path, crew: Crew, model: ModelConfig
) -> None:
    one = run(config(tmp_path / "one", batch=358, model=model), double=True)
    three = crew(run, config(tmp_path / "three", batch=358, model=model), double=True, size=3)
    assert [count for _, count in three[0].losses] == [119, 0, 119, 0]
    assert_same_run(three, one)


def test_a_last_batch_of_one_image_joins_the_one_before_in_every_process(
    config: ConfigOf, tmp_path: Path, crew: Crew
) -> None:
    one = run(config(tmp_path / "one", batch=359), double=True)
    two = crew(run, config(tmp_path / "two", batch=359), double=True)
    assert [[count for _, count in part.losses] for part in (one, *two)] == [[360, 360], [180, 180], [180, 180]]
    assert_same_run(two, one)


def test_schedule_averaged_weights_and_every_optimizer_state_are_the_same(
    config: ConfigOf, tmp_path: Path, crew: Crew
) -> None:
    def changed(name: str) -> TrainConfig:
        made = config(tmp_path / name, batch=67)
        recipe = replace(
            made.recipe, optimizer="sgd", learning_rate=0.02, schedule="one-cycle", warmup=0.3, ema_decay=0.8
        )
        return replace(made, recipe=recipe)

    one, two = run(changed("one"), double=True), crew(run, changed("two"), double=True)
    assert_same_run(two, one)
    ours, theirs = (read_checkpoint(tmp_path / name / "checkpoints/last.ckpt") for name in ("one", "two"))
    for kind in ("state_dict", "current_model_state"):
        assert list(ours[kind]) == list(theirs[kind]), "no key says that several processes wrote it"
        for name, value in ours[kind].items():
            torch.testing.assert_close(theirs[kind][name], value, atol=1e-12, rtol=0)


def test_class_weights_of_mixed_and_smoothed_labels_are_the_same(config: ConfigOf, tmp_path: Path, crew: Crew) -> None:
    def changed(name: str) -> TrainConfig:
        made = config(tmp_path / name, batch=67)
        return replace(
            made, recipe=replace(made.recipe, class_weights="auto", label_smoothing=0.1, policy="mixup", batch=67)
        )

    one, two = run(changed("one"), double=True), crew(run, changed("two"), double=True)
    assert_same_run(two, one)


@pytest.mark.parametrize("part", [{"freeze": "backbone"}, {"head_first": 0.5}], ids=str)
def test_a_fine_tune_has_the_losses_of_one_process(
    config: ConfigOf, tmp_path: Path, crew: Crew, part: dict[str, object]
) -> None:
    model = ModelConfig(name="cnn", backbone="tf_efficientnet_lite0", weights="bundled")

    def changed(name: str) -> TrainConfig:
        made = config(tmp_path / name, epochs=1, batch=90, model=model)
        return replace(made, recipe=replace(made.recipe, optimizer="adamw", **part))

    one, two = run(changed("one"), double=True), crew(run, changed("two"), double=True)
    assert_same_run(two, one, tolerance=1e-8)


@pytest.mark.parametrize("trim", [True, False], ids=["trimmed", "full"])
def test_hybrid_has_the_losses_of_one_process(config: ConfigOf, tmp_path: Path, crew: Crew, trim: bool) -> None:
    """Its batch norm is synchronised, and the full backbone has parameters that never get a gradient."""
    model = ModelConfig(name="hybrid", weights="none", trim_backbone=trim)
    one = run(config(tmp_path / "one", epochs=1, batch=90, model=model), double=True)
    two = crew(run, config(tmp_path / "two", epochs=1, batch=90, model=model), double=True)
    assert_same_run(two, one, tolerance=1e-10)


def test_airbench_with_growing_images_has_the_losses_of_one_process(
    config: ConfigOf, tmp_path: Path, crew: Crew
) -> None:
    model = ModelConfig(name="airbench", width=0.125)

    def changed(name: str) -> TrainConfig:
        made = config(tmp_path / name, epochs=2, model=model)
        recipe = replace(recipe_of("best", model="airbench"), max_epochs=2, batch=67)
        return replace(made, recipe=recipe)

    one, two = run(changed("one"), double=True), crew(run, changed("two"), double=True)
    assert_same_run(two, one, tolerance=1e-8)


def test_a_cnn_trained_by_two_is_evaluated_by_one_with_the_same_scores(
    config: ConfigOf, tmp_path: Path, crew: Crew
) -> None:
    model = ModelConfig(name="timm:test_efficientnet", weights="none")
    one = run(config(tmp_path / "one", epochs=1, batch=67, model=model), double=True)
    two = crew(run, config(tmp_path / "two", epochs=1, batch=67, model=model), double=True)
    assert_same_run(two, one, tolerance=1e-10)
    assert two[0].result is not None
    alone = evaluate(EvaluateConfig(checkpoint=tmp_path / "two"))
    assert (alone.accuracy, alone.loss) == (two[0].result.test_accuracy, two[0].result.test_loss)


@pytest.mark.parametrize("size", [2, 3])
def test_evaluation_counts_every_image_once_and_equals_one_process_to_the_bit(
    data_dir: Path, crew: Crew, size: int
) -> None:
    asked = {"batch": 30, "model": ModelConfig(name="null")}  # 30, 30, 30 and 10 images
    path = data_dir / "shapes.safetensors"
    assert crew(scored, path, size=size, **asked) == [scored(path, **asked)] * size  # type: ignore[arg-type]


def test_batch_norm_over_two_processes_is_that_over_all_images(crew: Crew) -> None:
    several: list[Normalised] = crew(normalised, sizes=(5, 2), alone=False)
    one: Normalised = crew(normalised, sizes=(5, 2), alone=True)[0]

    def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)

    close(torch.cat([part.features for part in several]), one.features)
    # The gradients of a process are those of twice the mean loss, which the average over two halves.
    close(torch.cat([part.features_gradient for part in several]) / 2, one.features_gradient)
    for part in several:
        for name in ("weight_gradient", "bias_gradient", "running_mean", "running_var"):
            close(getattr(part, name), getattr(one, name))


def test_a_run_goes_on_with_one_process_then_two_then_one(config: ConfigOf, tmp_path: Path, crew: Crew) -> None:
    whole = run(config(tmp_path / "whole", epochs=3, batch=67), double=True)
    resumed = ResumeConfig(run_dir=tmp_path / "cut")
    cut = config(tmp_path / "cut", epochs=3, batch=67)
    first = run_with_signal(cut, number=signal.SIGINT, rank=0, step=4, double=True)
    second = crew(run_with_signal, resumed, number=signal.SIGINT, rank=1, step=7, double=True)
    third = run(resumed, double=True)
    assert [first.exit_code, *(part.exit_code for part in second)] == [130, 130, 130]
    assert (len(first.losses), len(second[0].losses), len(third.losses)) == (4, 7, 7)
    losses = [*step_losses([first]), *step_losses(second), *step_losses([third])]
    assert losses == pytest.approx(step_losses([whole]), abs=1e-12, rel=0)
    assert third.result is not None
    assert whole.result is not None
    assert third.result.val_accuracy == whole.result.val_accuracy


def test_the_introduction_says_what_each_process_gets(config: ConfigOf, tmp_path: Path, crew: Crew) -> None:
    two = crew(run, replace(config(tmp_path / "run"), fast_dev_run=True))
    assert two[0].notes[1] == "2 processes share every batch: 64 = 2 × 32"
    assert two[1].notes == []


def test_a_program_with_a_process_group_of_its_own_trains_twice_in_it_and_keeps_it(
    config: ConfigOf, tmp_path: Path, crew: Crew
) -> None:
    one = run(config(tmp_path / "one", epochs=1))
    configs = (config(tmp_path / name, epochs=1) for name in ("first", "second"))
    two = crew(run_twice_in_a_group, *configs)
    assert [kept for _, kept in two] == [True, True]
    for several in zip(*(outcomes for outcomes, _ in two), strict=True):
        assert step_losses(list(several)) == pytest.approx(step_losses([one]), abs=1e-4, rel=0)
        assert several[0].result is not None
        assert several[0].result.processes == 2


def test_rank_0_ends_after_the_others_have_read_its_last_order(crew: Crew) -> None:
    assert crew(order_read_late, size=3) == [None] * 3


def test_a_single_process_agrees_with_itself() -> None:
    asked = Agreement(signal=15, planned_steps=7)
    assert ALONE.agree(asked) is asked
    assert ALONE.gather(3) == [3]


def test_a_batch_smaller_than_the_number_of_devices_is_refused(config: ConfigOf, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--batch 3 holds less than one image for each of 4 devices"):
        config(tmp_path / "run", batch=3, devices=4)


def test_library_use_starts_its_own_helpers(config: ConfigOf, tmp_path: Path) -> None:
    one = train(config(tmp_path / "one", epochs=1))
    two = train(config(tmp_path / "two", epochs=1, devices=2))
    assert two.test_loss == pytest.approx(one.test_loss, abs=1e-4)
    assert not torch.distributed.is_initialized()


def test_a_machine_with_other_images_than_rank_0_is_named(config: ConfigOf, tmp_path: Path) -> None:
    asked = replace(config(tmp_path / "run"), precision="32", memory_format="contiguous")
    with pytest.raises(DataError, match=r"holds other images on .* than on the machine of rank 0") as caught:
        prepare_ordered(asked, ALONE, content="sha256:0123")
    assert "copy the file" in (caught.value.remedy or "")
