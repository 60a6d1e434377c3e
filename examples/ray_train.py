"""Train with Ray Train: each of Ray's workers is one process of the run.

    python examples/ray_train.py --workers 2 --dataset shapes --max-epochs 3

Every worker calls the function that `cifar train` calls, which takes its rank from Ray. At the end the `summary.json`
of the run is printed. Needs the extra `ray`.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from cifar_cli.core.choices import PrecisionChoice
from cifar_cli.core.data.config import DataConfig
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.recipe import RECIPES


def train_function(settings: dict[str, Any]) -> None:
    """Runs in every worker."""
    from cifar_cli.core.training.listeners import Listeners
    from cifar_cli.core.training.train import train

    train(settings["config"], Listeners(on_note=lambda note: print(note, file=sys.stderr)))


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    trainer = TorchTrainer(
        train_function,
        train_loop_config={"config": _config(options)},
        # Several cores, for example, are resources_per_worker={"CPU": 4}.
        scaling_config=ScalingConfig(num_workers=options.workers, use_gpu=options.gpu),
        run_config=RunConfig(storage_path=str(options.storage.resolve())),
    )
    trainer.fit()  # raises what the training raises
    print((options.run_dir / "summary.json").read_text(encoding="utf-8"))
    return 0


def _config(options: argparse.Namespace) -> TrainConfig:
    recipe = replace(RECIPES[options.recipe], batch=options.batch, max_epochs=options.max_epochs)
    return TrainConfig(
        model=ModelConfig(name=options.model, weights="none"),
        # Ray's workers run in folders of their own.
        data=DataConfig(dataset=options.dataset, data_dir=options.data_dir.resolve()),
        run_dir=options.run_dir.resolve(),
        recipe=recipe,
        seed=options.seed,
        precision=options.precision,
        device="cuda" if options.gpu else "cpu",
    )


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=cast(str, __doc__).splitlines()[0])
    parser.add_argument("--workers", type=int, default=2, help="processes over all nodes, one for each GPU")
    parser.add_argument("--gpu", action="store_true", help="give each worker a GPU")
    parser.add_argument("--model", default="null")
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="on several nodes, a shared folder")
    parser.add_argument("--run-dir", type=Path, default=Path("runs/ray"), help="new folder of the run")
    parser.add_argument("--storage", type=Path, default=Path("ray_results"), help="folder for Ray's own files")
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="course")
    parser.add_argument("--batch", type=int, default=128, help="images of a step over all workers")
    parser.add_argument("--max-epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--precision", default="auto", help=" ".join(cast(Any, PrecisionChoice).__args__))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
