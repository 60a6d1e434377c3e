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


def test_more_than_twenty_classes_are_drawn_without_names_and_counts() -> None:
    axes = confusion_figure(torch.eye(21, dtype=torch.long), [f"class{n}" for n in range(21)], title="test").axes[0]
    assert not axes.texts
    assert "class0" not in [label.get_text() for label in axes.get_yticklabels()]


def test_samples_mark_wrong_predictions_in_red() -> None:
    images = torch.zeros(3, 4, 4, 3, dtype=torch.uint8)
    figure = samples_figure(images, torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), ("cat", "dog"), title="val")
    labels = figure.axes[0].texts
    assert [label.get_color() for label in labels] == ["black", "firebrick", "black"]
    assert labels[1].get_text() == "true dog\npred. cat"
