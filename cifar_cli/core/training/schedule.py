"""The learning rate over a training, as a share of its highest value."""

from __future__ import annotations

import math

FIRST_SHARE = 0.04  # of the highest rate, where a rising schedule begins


def rate_share(schedule: str, progress: float, *, warmup: float) -> float:
    """The rate at `progress` (0..1) of the training as a share (0..1) of the highest.

    schedule: "constant"; "triangular", which rises and falls in straight lines; "one-cycle", which rises and falls
    along half a cosine each. warmup: the share of the training in which it rises. Both end at 0.
    Source: Smith & Topin 2018, Super-convergence (one-cycle).
    """
    progress = min(max(progress, 0.0), 1.0)
    if schedule == "constant":
        return 1.0
    rising = progress < warmup
    way = progress / warmup if rising else (progress - warmup) / (1 - warmup)
    if schedule == "one-cycle":
        way = (1 - math.cos(math.pi * way)) / 2
    return FIRST_SHARE + (1 - FIRST_SHARE) * way if rising else 1 - way
