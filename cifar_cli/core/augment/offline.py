"""The only module that imports albumentations, with its online version check switched off."""

from __future__ import annotations

import os

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # read on import

import albumentations as A

__all__ = ["A"]
