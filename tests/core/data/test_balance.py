from __future__ import annotations

from cifar_cli.core.data.balance import counts_in_words, imbalance


def test_counts_are_said_as_shortly_as_they_can_be() -> None:
    assert counts_in_words(("a", "b"), (1200, 1200)) == "1,200 a class"
    assert counts_in_words(("cat", "dog"), (1200, 80)) == "cat 1,200, dog 80"
    assert counts_in_words([str(number) for number in range(20)], range(1, 21)) == "1 to 20 a class"


def test_more_than_ten_to_one_is_unbalanced_and_the_remedy_is_named() -> None:
    assert imbalance(("cat", "dog"), (1000, 100)) is None
    assert imbalance(("cat", "dog", "none"), (1010, 100, 0)) == (
        "cat has 1,010 training images and dog 100, 10 times fewer: a model may learn to answer cat. "
        "`cifar train --class-weights auto` gives rare classes more weight in the loss"
    )
    assert imbalance(("cat", "dog"), (5, 0)) is None
    assert imbalance((), ()) is None
