"""The rules by which a report judges a training run. docs/report.md explains them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cifar_cli.core.evaluation.report.recorded import Epoch

STEADY_RISES = 0.10  # of everything that a loss fell, by which a steady loss may have risen in between
UNEVEN_RISES = 0.50  # beyond this share a loss does not fall on the whole
WIDE_GAP = 0.10  # accuracy on plain training images minus validation accuracy: over-fitting
NARROW_GAP = 0.05  # at most this for under-fitting
LOSS_RISE = 0.05  # share by which the validation loss at the end exceeds its lowest value: over-fitting
STILL_FALLING = 0.01  # share by which the validation loss falls in each of the last epochs: not trained to the end
LAST_EPOCHS = 3
LEARNED_LITTLE = 0.5  # share of the way from chance to every image right that training accuracy covers
FEW_EPOCHS = 3

Verdict = Literal["diverged", "chance", "over-fitting", "under-fitting", "balanced", "too short"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Decline:
    """How a loss falls over the epochs."""

    kind: Literal["steady", "uneven", "none", "broken"]
    """"broken" if a value is not finite."""
    first: float
    last: float
    rises: int
    """Epochs in which it was higher than in the one before, of `steps`."""
    steps: int
    share_risen: float
    """Sum of all rises over the sum of all falls."""


def decline_of(losses: Sequence[float]) -> Decline:
    """Steady: the rises add up to at most STEADY_RISES of the falls; uneven: to at most UNEVEN_RISES."""
    changes = [after - before for before, after in itertools.pairwise(losses)]
    finite = all(map(math.isfinite, losses))
    risen, fallen = sum(max(change, 0.0) for change in changes), sum(max(-change, 0.0) for change in changes)
    share = (risen / fallen if fallen else math.inf if risen else 0.0) if finite else math.inf
    kind: Literal["steady", "uneven", "none", "broken"] = "broken"
    if finite:
        kind = (
            "steady" if share <= STEADY_RISES and fallen else "uneven" if share <= UNEVEN_RISES and fallen else "none"
        )
    return Decline(
        kind=kind,
        first=losses[0] if losses else math.nan,
        last=losses[-1] if losses else math.nan,
        rises=sum(change > 0 for change in changes),
        steps=len(changes),
        share_risen=share,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """The verdict on a run, with its reason and rule."""

    verdict: Verdict
    reason: str
    rule: str


def judge(
    epochs: Sequence[Epoch], *, classes: int, chance: float, better_than_chance: bool, train_accuracy: float | None
) -> Judgement:
    """The verdict: the first of the rules below that applies.

    chance: the accuracy of always answering the most frequent class. train_accuracy: of the best weights on training
    images without augmentation; None where it wasn't measured, in which case that on augmented images stands for it.
    """
    if not epochs:
        return _too_short("no epoch is recorded")
    diverged = _divergence(epochs, classes)
    if diverged is not None:
        return diverged
    if not better_than_chance:
        return Judgement(
            verdict="chance",
            reason="the model is not better than chance, so neither over- nor under-fitting can be judged",
            rule="The lower end of the accuracy's 95 % interval is not above chance.",
        )
    if len(epochs) < FEW_EPOCHS:
        return _too_short(f"{len(epochs)} epoch{'s are' if len(epochs) != 1 else ' is'} too few to judge the curves")
    best = max(epochs, key=lambda epoch: epoch.val_accuracy)
    measured = best.train_accuracy if train_accuracy is None else train_accuracy
    images = "augmented training images" if train_accuracy is None else "training images without augmentation"
    return (
        _over_fitting(epochs, measured - best.val_accuracy, images)
        or _under_fitting(epochs, measured, measured - best.val_accuracy, images, chance)
        or Judgement(
            verdict="balanced",
            reason=f"accuracy on {images} and validation accuracy are {points(abs(measured - best.val_accuracy))} "
            "apart, and the validation loss ends near its lowest value",
            rule="None of the rules for divergence, over-fitting and under-fitting applies.",
        )
    )


def _too_short(reason: str) -> Judgement:
    return Judgement(verdict="too short", reason=reason, rule=f"A verdict needs {FEW_EPOCHS} epochs.")


def points(difference: float) -> str:
    """A difference of accuracies in percentage points."""
    return f"{difference * 100:.1f} points"


def _divergence(epochs: Sequence[Epoch], classes: int) -> Judgement | None:
    losses = [epoch.train_loss for epoch in epochs]
    even = math.log(max(classes, 2))
    rule = (
        "Diverged: a loss is NaN or infinite, or the last training loss is above both ln K (the loss of guessing "
        "evenly among K classes) and twice its lowest value."
    )
    for epoch in epochs:
        for name, loss in (("training", epoch.train_loss), ("validation", epoch.val_loss)):
            if not math.isfinite(loss):
                return Judgement(
                    verdict="diverged", reason=f"the {name} loss became {loss} in epoch {epoch.epoch}", rule=rule
                )
    if losses and losses[-1] > max(even, 2 * min(losses)):
        reason = f"the training loss rose from {min(losses):.3f} to {losses[-1]:.3f}; guessing evenly has {even:.3f}"
        return Judgement(verdict="diverged", reason=reason, rule=rule)
    return None


def _over_fitting(epochs: Sequence[Epoch], gap: float, images: str) -> Judgement | None:
    lowest = min(epochs, key=lambda epoch: epoch.val_loss)
    last = epochs[-1]
    rise = last.val_loss / max(lowest.val_loss, 1e-9) - 1
    reasons = []
    if gap > WIDE_GAP:
        reasons.append(f"accuracy on {images} is {points(gap)} above validation accuracy")
    if rise > LOSS_RISE and last.train_loss < lowest.train_loss:
        reasons.append(
            f"the validation loss has risen by {rise:.0%} since epoch {lowest.epoch}, and the training loss still fell"
        )
    if not reasons:
        return None
    return Judgement(
        verdict="over-fitting",
        reason=", and ".join(reasons),
        rule=f"Over-fitting: accuracy on {images} exceeds validation accuracy by more than {points(WIDE_GAP)}, or the "
        f"last validation loss is more than {LOSS_RISE:.0%} above its lowest while the training loss fell further.",
    )


def _under_fitting(
    epochs: Sequence[Epoch], accuracy: float, gap: float, images: str, chance: float
) -> Judgement | None:
    if gap > NARROW_GAP:
        return None
    losses = [epoch.val_loss for epoch in epochs[-LAST_EPOCHS - 1 :]]
    falls = [1 - after / before if before else 0.0 for before, after in itertools.pairwise(losses)]
    learned = (accuracy - chance) / (1 - chance) if chance < 1 else 1.0
    reasons = []
    if learned < LEARNED_LITTLE:
        reasons.append(f"the model gets only {accuracy:.1%} of the {images} right")
    if len(falls) == LAST_EPOCHS and min(falls) >= STILL_FALLING:
        reasons.append(
            f"the validation loss still fell by {min(falls):.1%} or more in each of the last {LAST_EPOCHS} epochs"
        )
    if not reasons:
        return None
    return Judgement(
        verdict="under-fitting",
        reason=" and ".join(reasons) + f"; training and validation accuracy are only {points(abs(gap))} apart",
        rule=f"Under-fitting: the gap is at most {points(NARROW_GAP)}, and the accuracy on {images} is less than "
        f"halfway from chance to 100 %, or the validation loss fell by at least {STILL_FALLING:.0%} in each "
        f"of the last {LAST_EPOCHS} epochs.",
    )
