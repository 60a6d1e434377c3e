"""The list of timm's classifiers, which completion reads. `pytest -m "" --update-golden` on this file writes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cifar_cli.core.models import registry


def test_the_list_is_that_of_timm(request: pytest.FixtureRequest) -> None:
    import timm

    if request.config.getoption("--update-golden"):
        path = Path(registry.__file__).with_name("timm_names.txt")
        path.write_text("".join(f"{name}\n" for name in timm.list_models()), encoding="ascii")
        registry.timm_names.cache_clear()
    assert list(registry.timm_names()) == timm.list_models()
