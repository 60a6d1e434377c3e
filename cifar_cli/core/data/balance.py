"""How many images the classes have, in words, and what to do where they differ much."""

from __future__ import annotations

from collections.abc import Sequence

UNBALANCED = 10  # times as many images in the largest class as in the smallest
COUNTED_ONE_BY_ONE = 6  # classes


def counts_in_words(classes: Sequence[str], counts: Sequence[int]) -> str:
    """Images per class: "450 a class", "cat 120, dog 80", or the range where there are many classes."""
    if min(counts) == max(counts):
        return f"{counts[0]:,} a class"
    if len(classes) <= COUNTED_ONE_BY_ONE:
        return ", ".join(f"{name} {count:,}" for name, count in zip(classes, counts, strict=True))
    return f"{min(counts):,} to {max(counts):,} a class"


def imbalance(classes: Sequence[str], counts: Sequence[int]) -> str | None:
    """A sentence about classes that differ by more than UNBALANCED times; None without any. Empty ones don't count."""
    some = [(count, name) for name, count in zip(classes, counts, strict=True) if count]
    (fewest, rare), (most, common) = min(some, default=(1, "")), max(some, default=(1, ""))
    if most <= UNBALANCED * fewest:
        return None
    return (
        f"{common} has {most:,} training images and {rare} {fewest:,}, {most / fewest:,.0f} times fewer: a model may "
        f"learn to answer {common}. `cifar train --class-weights auto` gives rare classes more weight in the loss"
    )
