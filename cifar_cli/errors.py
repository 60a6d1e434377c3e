"""Errors that a user can fix. Each states what failed and what to do next."""

from __future__ import annotations

import shlex
from pathlib import Path

from cifar_cli.printable import printable


def shell_line(line: str, *words: str | Path) -> str:
    """A command to copy, for a remedy: `line`, and words that are quoted for the shell."""
    return " ".join([line, *(shlex.quote(str(word)) for word in words)])


class CifarError(Exception):
    """An expected failure. The command line prints `what` and `remedy` and exits with `exit_code`."""

    exit_code = 1

    def __init__(self, what: str, *, remedy: str | None = None) -> None:
        # Names and values in a message may come from files and servers.
        self.what = printable(what)
        """One sentence that names what failed, with its value or path."""
        super().__init__(self.what)
        self.remedy = remedy if remedy is None else printable(remedy)
        """What the user can do next, if possible a command to copy."""

    def __str__(self) -> str:
        return f"{self.what}. Remedy: {self.remedy}" if self.remedy else self.what


class UsageError(CifarError):
    """A command line that can't be understood: a value that an option does not accept, an option given twice,
    or options that contradict each other."""

    exit_code = 2  # the same as for an unknown option


class ConfigError(CifarError):
    """A config field with a value that is out of range, or two fields that contradict each other."""


class DataError(CifarError):
    """A dataset that is missing or damaged, or an archive with unexpected content."""


class ModelError(CifarError):
    """A model that is unknown or can't be built with the given options."""


class WeightsError(CifarError):
    """Pre-trained weights that can't be downloaded or don't fit the model."""


class CheckpointError(CifarError):
    """A checkpoint or run directory that can't be read, or that belongs to another program."""


class ResourceError(CifarError):
    """Not enough disk space or memory, or a device that does not exist."""


class Interrupted(CifarError):
    """The user pressed Ctrl-C, or another signal asked the command to stop. Completed work is saved."""

    exit_code = 130  # 128 + SIGINT, as shells report it
    before_time_limit = False
    """Whether SLURM sent the signal because the job's time is nearly up."""
