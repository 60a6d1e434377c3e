"""What ends a run: the scores of its best weights, and its result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from cifar_cli.core.models.build import build_untrained
from cifar_cli.core.training.batches import plain_train_loader
from cifar_cli.core.training.checkpoint import load_checkpoint
from cifar_cli.core.training.results import TrainResult
from cifar_cli.core.training.scores import score

if TYPE_CHECKING:
    from cifar_cli.core.training.loop import Loop


def conclude(loop: Loop) -> TrainResult:
    """Score the best weights once on the test split, and write the result. Called by all processes."""
    train_seconds = loop.deadline.elapsed_seconds
    if loop.pictures is not None:
        loop.pictures.finish()  # they are drawn during the test
    with loop.accounting.spending("test"):
        model = _best_model(loop)
        scores = score(
            model,
            loop.loaders.test,
            classes=len(loop.store.classes),
            device=loop.device,
            flip_average=True,
            on_progress=loop.listeners.on_progress,
            ranks=loop.ranks,
        )
        train = score(
            model,
            plain_train_loader(loop.store, loop.loaders, loop.config, loop.device),
            classes=len(loop.store.classes),
            device=loop.device,
            ranks=loop.ranks,
        )
    config = loop.config
    result = TrainResult(
        run_dir=loop.run.path,
        checkpoint=loop.run.best,
        model=config.model.label,
        dataset=loop.store.name,
        synthetic=loop.store.synthetic,
        recipe=config.recipe.name,
        seed=config.seed,
        epochs=loop.epoch,
        train_seconds=train_seconds,
        images_per_second=loop.pace.images_per_second,
        val_accuracy=loop.record.best_val_accuracy,
        test_accuracy=scores.plain.accuracy,
        test_accuracy_flip_averaged=scores.accuracy_flip_averaged or 0.0,
        test_loss=scores.plain.loss,
        train_accuracy_plain=train.plain.accuracy,
        stopped_by=loop.stopped_by,
        precision=loop.step.config.precision,
        memory_format=loop.step.config.memory_format,
        processes=loop.ranks.world_size,
        time=loop.accounting.spent(),
        asked_to_stop=loop.agreed.signal != 0,
        fast_dev_run=config.fast_dev_run,
        config=config,
    )
    if loop.ranks.is_first:
        if not config.fast_dev_run:
            loop.run.write_predictions(scores.logits_NK)
        loop.run.write_summary(result.to_dict())
        loop.record.add_result(result, loop.global_step)
    answer: TrainResult = loop.ranks.broadcast(result)
    return answer


def _best_model(loop: Loop) -> nn.Module:
    """The best weights in a separate model: the trained one may be compiled."""
    first = loop.ranks.is_first
    model = load_checkpoint(loop.run.best).model if first else build_untrained(loop.config.model)
    loop.ranks.same_weights(model)
    return model
