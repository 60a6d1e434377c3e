from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cifar_cli.core.data.config import DataConfig
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.recipe import RECIPES
from tests.core.training.crew import Crew


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What this test measures of its pretended machine is not remembered for the others."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def config_of(data_dir: Path) -> Callable[..., TrainConfig]:
    """Makes configs of short runs on the drawn images."""

    def make(run_dir: Path | None = None, *, epochs: int = 2, seconds: float = 600) -> TrainConfig:
        return TrainConfig(
            model=ModelConfig(name="null"),
            data=DataConfig(dataset="shapes", data_dir=data_dir),
            recipe=replace(RECIPES["course"], batch=64, max_epochs=epochs, max_seconds=seconds),
            device="cpu",
            run_dir=run_dir,
        )

    return make


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    crew = Crew()
    yield crew
    crew.end()


@pytest.fixture
def config(config_of: Callable[..., TrainConfig]) -> Callable[..., TrainConfig]:
    """Makes configs whose precision and memory format are given, so that nothing is tried."""

    def make(run_dir: Path, *, epochs: int = 2, batch: int = 64, **changes: object) -> TrainConfig:
        made = replace(config_of(run_dir, epochs=epochs), precision="32", memory_format="channels-last")
        return replace(made, recipe=replace(made.recipe, batch=batch), **changes)  # type: ignore[arg-type]

    return make
