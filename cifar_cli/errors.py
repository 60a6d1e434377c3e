"""What can go wrong by the user's hand or the world's: one sentence, and what to do about it."""

from __future__ import annotations


class CifarError(Exception):
    """An expected failure. The command line prints `what` and `remedy` and exits with
    `exit_code`.

    what: one sentence that names the thing that failed, with its value or path.
    remedy: what the user can do next, best as a command to copy.
    """

    exit_code = 1

    def __init__(self, what: str, *, remedy: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.what}. Remedy: {self.remedy}" if self.remedy else self.what


class ConfigError(CifarError):
    """A value that a flag or a config does not admit."""


class DataError(CifarError):
    """A dataset that is missing, broken or not what it says it is."""


class ModelError(CifarError):
    """A model that is unknown or can't be built as asked."""


class WeightsError(CifarError):
    """Pre-trained weights that can't be had or don't fit."""


class CheckpointError(CifarError):
    """A checkpoint or run directory that can't be read or belongs to something else."""


class ResourceError(CifarError):
    """No space, no memory, no such device."""


class Interrupted(CifarError):
    """The user pressed Ctrl-C, and what was done so far is safe."""

    exit_code = 130  # 128 + SIGINT, what shells report
