from __future__ import annotations

import torch

from cifar_cli.core.figures import confusion_figure, samples_figure


def test_the_confusion_figure_labels_classes_and_counts() -> None:
    figure = confusion_figure(torch.tensor([[3000, 1], [0, 4]]), ("cat", "dog"), title="test")
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog"]
    assert [text.get_text() for text in axes.texts] == ["3,000", "1", "4"]
    assert axes.get_title() == "test\n99.97% of 3,005 images correct"


def test_every_text_of_the_confusion_figure_is_inside_the_picture() -> None:
    names = ("a_class_name_of_more_than_twenty_letters", "automobile")
    figure = confusion_figure(torch.tensor([[3, 1], [0, 4]]), names, title="timm:tf_efficientnet_lite0 on pets, test")
    figure.canvas.draw()
    width, height = figure.canvas.get_width_height()
    for axes in figure.axes:
        box = axes.get_tightbbox()
        assert box is not None
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height


def test_more_than_twenty_classes_are_drawn_with_names_and_without_counts() -> None:
    axes = confusion_figure(torch.eye(21, dtype=torch.long), [f"class{n}" for n in range(21)], title="test").axes[0]
    assert not axes.texts
    assert [label.get_text() for label in axes.get_yticklabels()] == [f"class{n}" for n in range(21)]


def test_of_more_than_a_hundred_classes_those_with_the_most_mistakes_are_drawn() -> None:
    matrix = 10 * torch.eye(1000, dtype=torch.long)
    matrix[7, 900], matrix[500, 7] = 3, 1
    axes = confusion_figure(matrix, [f"class{n}" for n in range(1000)], title="test").axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert len(names) == 40
    assert {"class7", "class500", "class900"} < set(names)
    assert axes.get_title() == ("test\n99.96% of 10,004 images correct\nthe 40 of 1,000 classes with the most mistakes")
    (image,) = axes.images
    shares = image.get_array()
    assert shares is not None
    assert shares[names.index("class7"), names.index("class900")] == 3 / 13  # a share of all images of the class


def test_samples_mark_wrong_predictions_in_red() -> None:
    images = torch.zeros(3, 4, 4, 3, dtype=torch.uint8)
    figure = samples_figure(images, torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), ("cat", "dog"), title="val")
    labels = figure.axes[0].texts
    assert [label.get_color() for label in labels] == ["black", "firebrick", "black"]
    assert labels[1].get_text() == "true dog\npred. cat"
