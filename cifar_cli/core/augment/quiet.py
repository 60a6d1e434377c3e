"""Albumentations, kept off the network: the one place that imports it."""

from __future__ import annotations

import os

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # read on import: else it asks online for its newest version

import albumentations as A

__all__ = ["A"]
