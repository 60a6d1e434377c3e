"""Files of a newer version of this program: what can't be read of them is said to be that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

from cifar_cli import __version__
from cifar_cli.errors import CheckpointError, CifarError

LONGEST = 40  # characters of a version


@contextmanager
def named_if_newer(described: Any, origin: Path) -> Iterator[None]:
    """Replace an error by one that names the newer version which wrote the file.

    described: what the file says about itself: a mapping with "version", or anything else, which changes nothing.
    """
    try:
        yield
    except CifarError as error:
        version = described.get("version") if isinstance(described, dict) else None
        if not _is_newer(version):
            raise
        raise CheckpointError(
            f"{origin} was written by cifar {version}, and this is cifar {__version__}",
            remedy=f'install that version: pip install "cifar-cli>={version}"',
        ) from error


def _is_newer(version: Any) -> bool:
    try:
        return isinstance(version, str) and len(version) <= LONGEST and Version(version) > Version(__version__)
    except InvalidVersion:
        return False
