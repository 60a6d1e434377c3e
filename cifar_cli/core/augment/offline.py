"""The only module that imports albumentations, with its online version check switched off."""

from __future__ import annotations

import os

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # read on import

import albumentations as A
from albumentations.core.serialization import SERIALIZABLE_REGISTRY as TRANSFORMS
from albumentations.core.serialization import register_additional_transforms

register_additional_transforms()  # adds ToTensorV2 to TRANSFORMS, the serialisable transforms by name

__all__ = ["TRANSFORMS", "A"]
