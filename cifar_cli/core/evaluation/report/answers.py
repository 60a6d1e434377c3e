"""The questions that the course asks after every training, answered from the record of a run."""

from __future__ import annotations

from collections.abc import Callable

import torch

from cifar_cli.core.evaluation.metrics import confused_pairs
from cifar_cli.core.evaluation.report.facts import Facts
from cifar_cli.core.evaluation.report.recorded import Matrix
from cifar_cli.core.evaluation.report.results import Answer
from cifar_cli.core.evaluation.report.rules import STEADY_RISES, UNEVEN_RISES, Decline, decline_of
from cifar_cli.core.evaluation.results import ConfusedPair

CONFIDENT = 0.9  # probability of a wrong class from which a prediction is called obviously wrong
SPLITS = {"train": "train (augmented)", "val": "validation", "test": "test"}
UNKNOWN = "This run holds no record of it."


def answers_of(facts: Facts) -> tuple[Answer, ...]:
    """Every question with its answer, in the order of the course."""
    return tuple(question(facts) for question in QUESTIONS)


def duration(seconds: float) -> str:
    """ "47.3 s", "18 min 38 s" or "2 h 5 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def share(value: float) -> str:
    return f"{value:.2%}"


def _learning_rate(facts: Facts) -> Answer:
    recipe, rates = facts.run.config.recipe, [rate for _, rate in facts.run.rates]
    rates = rates or [epoch.learning_rate for epoch in facts.run.epochs]
    if not rates:
        sentence = UNKNOWN
    elif min(rates) == max(rates):
        sentence = f"It was {rates[0]:g} in every step ({recipe.optimizer}, schedule {recipe.schedule})."
    else:
        sentence = (
            f"It went from {rates[0]:.2g} up to {max(rates):.2g} and ended at {rates[-1]:.2g} "
            f"({recipe.optimizer}, schedule {recipe.schedule})."
            if rates[0] < max(rates)
            else f"It fell from {rates[0]:.2g} to {rates[-1]:.2g} ({recipe.optimizer}, schedule {recipe.schedule})."
        )
    return Answer(
        key="learning-rate",
        question="Which learning rate was used?",
        sentence=sentence,
        rests_on="The learning rate of every step, recorded wherever it changed by more than 1 %.",
        section="learning-rate",
    )


def _best_epoch(facts: Facts) -> Answer:
    best, done = facts.run.best, len(facts.run.epochs)
    sentence = UNKNOWN
    if best is not None:
        sentence = (
            f"Epoch {best.epoch} of {done} has the highest validation accuracy, {share(best.val_accuracy)}; its "
            "weights were kept."
        )
    return Answer(
        key="best-epoch",
        question="Which epoch is the best one?",
        sentence=sentence,
        rests_on="Validation accuracy of every epoch; of equal ones the first.",
        section="curves",
    )


def _time(facts: Facts) -> Answer:
    run, epochs = facts.run, facts.run.epochs
    sentence = UNKNOWN
    if epochs:
        # Without the first epoch, whose time includes the start-up.
        later = epochs[-1].elapsed_seconds - epochs[0].elapsed_seconds
        per_epoch = later / (len(epochs) - 1) if len(epochs) > 1 else epochs[0].elapsed_seconds
        seconds = run.said("train_seconds") or epochs[-1].elapsed_seconds
        ended = ", as many as --max-time allowed" if run.said("stopped_by") == "time" else ""
        sentence = (
            f"{duration(seconds)} for {len(epochs)} epoch{'s' if len(epochs) > 1 else ''}{ended}, about "
            f"{duration(per_epoch)} each, validation included."
        )
    return Answer(
        key="time",
        question="How much time did the training take?",
        sentence=sentence,
        rests_on="The clock from the start of the command to the end of the last epoch.",
        section="time",
    )


def _losses(facts: Facts) -> Answer:
    epochs = facts.run.epochs
    sentence = UNKNOWN
    if len(epochs) > 1:
        train, val = ([getattr(epoch, name) for epoch in epochs] for name in ("train_loss", "val_loss"))
        sentence = f"{_fell('training', decline_of(train))} {_fell('validation', decline_of(val))}"
    elif epochs:
        sentence = f"There is only one epoch, with training loss {epochs[0].train_loss:.3f}."
    return Answer(
        key="losses",
        question="Do the losses fall steadily?",
        sentence=sentence,
        rests_on=f"Cross-entropy of every epoch. Steady: all rises add up to at most {STEADY_RISES:.0%} of all falls; "
        f"with ups and downs: to at most {UNEVEN_RISES:.0%}.",
        section="curves",
    )


def _fell(name: str, decline: Decline) -> str:
    way = f"from {decline.first:.3f} to {decline.last:.3f}"
    rises = f"it rose in {decline.rises} of {decline.steps} epochs" if decline.rises else "it never rose"
    return {
        "steady": f"The {name} loss falls steadily, {way}; {rises}.",
        "uneven": f"The {name} loss falls with ups and downs, {way}; {rises}.",
        "none": f"The {name} loss does not fall on the whole: {way}; {rises}.",
        "broken": f"The {name} loss is no longer a finite number.",
    }[decline.kind]


def _accuracy(facts: Facts) -> Answer:
    epochs, best = facts.run.epochs, facts.run.best
    sentence = UNKNOWN
    if best is not None:
        first, gain = epochs[0].val_accuracy, best.val_accuracy - epochs[0].val_accuracy
        reached = f"{share(first)} after the first epoch, {share(best.val_accuracy)} at the best"
        sentence = (
            f"Yes: validation accuracy is {reached}." if gain > 0.01 else f"No: validation accuracy is {reached}."
        )
        if best is not epochs[-1] and best.val_accuracy - epochs[-1].val_accuracy > 0.01:
            sentence += f" It ends lower, at {share(epochs[-1].val_accuracy)}."
    return Answer(
        key="accuracy",
        question="Does accuracy rise?",
        sentence=sentence,
        rests_on="Validation accuracy of every epoch. Yes: the best is more than one point above the first.",
        section="curves",
    )


def _chance(facts: Facts) -> Answer:
    score, chance, sentence = facts.score, facts.chance, UNKNOWN
    if score is not None:
        low, high = score.interval.low, score.interval.high
        interval = f"{share(score.accuracy)} ({share(low)} to {share(high)}) of {score.images:,} {score.split} images"
        if low > chance:
            sentence = f"Yes: {interval} are right, {score.accuracy / chance:.1f} times chance ({share(chance)})."
        else:
            sentence = f"No: {interval} are right, which chance ({share(chance)}) explains."
    return Answer(
        key="chance",
        question="Is the model better than chance?",
        sentence=sentence,
        rests_on="Chance is the accuracy of always answering the most frequent class. Better: the lower end of the "
        "accuracy's 95 % interval (Wilson) is above it.",
        section="result",
    )


def _matrices(facts: Facts) -> Answer:
    parts = [
        f"{name.capitalize()}: {_diagonal(facts.matrices[split], facts.run.classes)}"
        for split, name in SPLITS.items()
        if facts.matrices.get(split)
    ]
    return Answer(
        key="confusion",
        question="How do the confusion matrices of train and validation look?",
        sentence="; ".join(parts) + "." if parts else UNKNOWN,
        rests_on="Confusion matrices of the best epoch: share of each class on the diagonal.",
        section="confusion",
    )


def _diagonal(matrix: Matrix, classes: tuple[str, ...]) -> str:
    shares = {
        classes[place]: row[place] / sum(row) for place, row in enumerate(matrix) if sum(row) and place < len(classes)
    }
    worst, best = min(shares, key=shares.__getitem__), max(shares, key=shares.__getitem__)
    right, total = sum(row[place] for place, row in enumerate(matrix)), sum(map(sum, matrix))
    if shares[worst] == shares[best]:
        return f"{right / total:.1%} on the diagonal, equally in every class"
    return f"{right / total:.1%} on the diagonal, from {shares[worst]:.0%} ({worst}) to {shares[best]:.0%} ({best})"


def _samples(facts: Facts) -> Answer:
    store, sentence = facts.store, "The dataset is not where it was, so no image can be shown."
    if store is not None:
        kind = "synthetic images, drawn by cifar," if store.synthetic else "images"
        sentence = (
            f"The dataset {store.name} has {kind} of {store.img_size}×{store.img_size} pixels in {len(store.classes)} "
            f"classes; {len(store.train):,} for training and validation, {len(store.test):,} for the test."
        )
    return Answer(
        key="samples",
        question="How do the samples look?",
        sentence=sentence,
        rests_on="The dataset's file; the pictures show some of its images.",
        section="samples",
    )


def _augmentation(facts: Facts) -> Answer:
    samples, recipe, sentence = facts.samples, facts.run.config.recipe, UNKNOWN
    if samples is not None:
        policy = str(facts.run.config.augment_file or recipe.policy)
        count, changed = len(samples.rows), samples.changed
        sentence = (
            f"Yes: policy {policy} changed {changed} of the {count} images shown."
            if changed
            else f"No: none of the {count} images shown differs from its original (policy {policy})."
        )
    return Answer(
        key="augmentation",
        question="Can the augmentation be seen in the training images?",
        sentence=sentence,
        rests_on="The first images of the best epoch, pixel by pixel against their originals.",
        section="samples",
    )


def _fit(facts: Facts) -> Answer:
    verdict = {
        "diverged": "Neither: the training diverged",
        "chance": "That can't be said",
        "over-fitting": "It over-fits",
        "under-fitting": "It under-fits",
        "balanced": "Neither",
        "too short": "That can't be said yet",
    }[facts.judgement.verdict]
    return Answer(
        key="fit",
        question="Does the model over- or under-fit?",
        sentence=f"{verdict}: {facts.judgement.reason}."
        if "diverged" not in verdict
        else f"{verdict}; {facts.judgement.reason}.",
        rests_on=facts.judgement.rule,
        section="fit",
    )


def pairs_of(facts: Facts, *, most: int) -> tuple[ConfusedPair, ...]:
    """The most confused pairs of the test images, or of the validation images while a run is not finished."""
    matrix = facts.matrices.get("test") or facts.matrices.get("val")
    return confused_pairs(torch.tensor(matrix), facts.run.classes, most=most) if matrix else ()


def _pairs(facts: Facts) -> Answer:
    split = "test" if "test" in facts.matrices else "val"
    pairs = pairs_of(facts, most=3)
    sentence = UNKNOWN
    if pairs:
        listed = ", ".join(f"{pair.true} → {pair.predicted} ({pair.images})" for pair in pairs)
        sentence = f"Most often confused, as true → predicted (images): {listed}."
    elif facts.matrices.get(split):
        sentence = "None: every image is predicted right."
    return Answer(
        key="pairs",
        question="Which categories are hard to tell apart?",
        sentence=sentence,
        rests_on=f"The largest counts beside the diagonal of the confusion matrix ({SPLITS[split]}).",
        section="pairs",
    )


def _mistakes(facts: Facts) -> Answer:
    predicted, sentence = facts.predicted, "No predictions of the test images were kept."
    if predicted is not None:
        wrong_N = ~predicted.correct_N
        wrong = int(wrong_N.sum())
        confident = int((wrong_N & (predicted.confidence_N >= CONFIDENT)).sum())
        sentence = (
            f"{wrong:,} of {len(predicted):,} test images are predicted wrong, {confident:,} of them with a "
            f"probability of {CONFIDENT:.0%} or more for the wrong class."
        )
    return Answer(
        key="mistakes",
        question="Which predictions are obviously wrong?",
        sentence=sentence,
        rests_on="Probabilities of the test images by the best weights; the most confident mistakes are shown.",
        section="mistakes",
    )


def _size(facts: Facts) -> Answer:
    counted, memory, sentence = facts.counted, facts.memory, UNKNOWN
    if counted is not None:
        sentence = (
            f"{counted.label} has {counted.total_params:,} parameters and takes "
            f"{counted.forward_flops_per_image / 1e6:,.1f} million FLOPs an image."
        )
        if memory is not None:
            mib = memory.device_bytes / 2**20
            gpu = "a GPU" if memory.devices == 1 else f"each of the {memory.devices} GPUs"
            sentence += f" A training step of {memory.batch} images takes about {mib:,.0f} MiB of {gpu}."
    return Answer(
        key="size",
        question="How large is the model, and what does it need?",
        sentence=sentence,
        rests_on="Counted as cifar summarize does, estimated as cifar profile-memory does.",
        section="model",
    )


QUESTIONS: tuple[Callable[[Facts], Answer], ...] = (
    _learning_rate, _best_epoch, _time, _losses, _accuracy, _chance, _matrices, _samples, _augmentation, _fit, _pairs,
    _mistakes, _size,
)  # fmt: skip
