"""The training step and the data of this package, for use in your own Lightning Trainer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn

from cifar_cli.core.augment.policy import policy_of
from cifar_cli.core.choices import PipelineName
from cifar_cli.core.data.config import DataConfig, Normalisation
from cifar_cli.core.data.dataset import open_dataset
from cifar_cli.core.data.loader import BatchLoader
from cifar_cli.core.data.splits import VAL_FRACTION, split_of
from cifar_cli.core.data.store import Store
from cifar_cli.core.models.training_form import training_form
from cifar_cli.core.training.batches import eval_loader, train_loader
from cifar_cli.core.training.config import StepConfig
from cifar_cli.core.training.normalisation import normalisation_of_images
from cifar_cli.core.training.recipe import RECIPES, Recipe
from cifar_cli.core.training.schedule import LearningRate
from cifar_cli.core.training.scores import Scores, evaluation_step
from cifar_cli.core.training.step import TrainingStep
from cifar_cli.errors import ConfigError

DEFAULT_SEED = 42


class ClassifierModule(LightningModule):
    """Trains any module that maps images [B, 3, H, W] to logits [B, K] with this package's training step.

    Logs train_loss, train_accuracy, val_loss and val_accuracy (fractions) after every epoch, and test_loss and
    test_accuracy after a test. Clipping, weight decay, schedule and averaged weights are the recipe's; precision and
    device are the Trainer's. model: is modified in place; do not use it elsewhere.
    """

    def __init__(self, model: nn.Module, *, classes: int, learning_rate: float, recipe: Recipe | None = None) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.recipe = RECIPES["course"] if recipe is None else recipe
        if self.recipe.class_weights != "none":
            raise ConfigError(
                "class weights follow the dataset, which a ClassifierModule doesn't know",
                remedy="pass a recipe with class_weights='none', or train with `cifar train`",
            )
        config = StepConfig.of_recipe(
            self.recipe, learning_rate=learning_rate, precision="32", memory_format="channels-last"
        )
        self.model = training_form(model, config.memory_format)
        self.step = _StepInTrainer(self.model, config, module=self)
        self.average = self.step.average  # a submodule, so that Lightning moves and saves it
        self.train_scores, self.val_scores = Scores(classes), Scores(classes)
        self._rate: LearningRate | None = None

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """The logits [B, K] of the weights that are validated."""
        logits_BK: Tensor = self.step.evaluated(images_BCHW.to(memory_format=self.step.layout))
        return logits_BK

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.step.optimizer

    def on_train_start(self) -> None:
        if self.trainer.precision == "16-mixed" and self.step.config.clip_norm is not None:
            raise ConfigError(
                "ClassifierModule would clip the scaled gradients of the Trainer's precision 16-mixed",
                remedy='pass precision="bf16-mixed" or "32-true" to the Trainer, or a recipe without clipping',
            )
        steps = int(self.trainer.estimated_stepping_batches)
        self._rate = LearningRate(self.step.optimizer, self.recipe, steps=steps)

    def on_train_epoch_start(self) -> None:
        self.step.train()  # what is frozen stays in evaluation mode
        self.train_scores.reset()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        assert self._rate is not None
        self._rate.set_for(self.global_step)
        images_BCHW, labels_B = batch
        loss, logits_BK = self.step(images_BCHW, labels_B)
        plain = self.step.cross_entropy(loss, logits_BK, labels_B)
        self.train_scores.update(plain, logits_BK, labels_B, optimized=loss)

    def on_validation_epoch_start(self) -> None:
        self.val_scores.reset()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        evaluation_step(self, *batch, self.val_scores)

    def on_validation_epoch_end(self) -> None:
        self.log("val_loss", self.val_scores.loss)
        self.log("val_accuracy", self.val_scores.accuracy)

    def on_test_epoch_start(self) -> None:
        self.val_scores.reset()

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        evaluation_step(self, *batch, self.val_scores)

    def on_test_epoch_end(self) -> None:
        self.log("test_loss", self.val_scores.loss)
        self.log("test_accuracy", self.val_scores.accuracy)

    def on_train_epoch_end(self) -> None:
        self.log("train_loss", self.train_scores.loss)
        self.log("train_accuracy", self.train_scores.accuracy)


class _StepInTrainer(TrainingStep):
    """The training step with backward pass and update through the Trainer, which handles precision and devices."""

    def __init__(self, model: nn.Module, config: StepConfig, *, module: LightningModule) -> None:
        super().__init__(model, config, device_type="cpu")
        self._module = module

    def backward(self, loss: Tensor) -> None:
        self._module.manual_backward(loss)

    def update(self) -> None:
        if self.config.clip_norm is not None:
            self.clip(self.config.clip_norm)
        optimizer = self._module.optimizers()
        assert not isinstance(optimizer, list)
        optimizer.step()


class CifarDataModule(LightningDataModule):
    """A dataset of this package as batches: float images [B, 3, H, W] and int64 labels [B].

    data_dir: folder of the datasets; a missing built-in one is fetched or drawn. img_size: side in pixels, None for the
    dataset's. val_split: share of every class that is held out, unless the dataset came with validation images. seed:
    order and augmentation. num_workers: processes of the albumentations pipeline; the batched one needs none.
    normalisation: that of pretrained weights; None for the dataset's.
    """

    def __init__(
        self,
        data_dir: Path | str = "data",
        batch_size: int = 128,
        num_workers: int = 0,
        img_size: int | None = None,
        val_split: float = VAL_FRACTION,
        seed: int = DEFAULT_SEED,
        *,
        dataset: str = "cifar10",
        policy: str = "course",
        pipeline: PipelineName = "batched",
        normalisation: Normalisation | None = None,
    ) -> None:
        super().__init__()
        self.config = DataConfig(dataset=dataset, data_dir=Path(data_dir))
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.img_size, self.val_split = img_size, val_split
        self.policy, self.pipeline = policy_of(policy), pipeline
        self.normalisation = normalisation
        self.store: Store | None = None

    def prepare_data(self) -> None:
        """Fetch or draw the dataset where it is missing."""
        open_dataset(self.config)

    def setup(self, stage: str) -> None:
        """Open the dataset and hold out the validation images. Raises DataError where that isn't possible."""
        self.store = open_dataset(self.config)
        self.split = split_of(self.store, fraction=self.val_split)

    @property
    def side(self) -> int:
        """Side of the images in pixels."""
        assert self.store is not None, "setup() comes first"
        return self.img_size or self.store.default_side

    @property
    def normalised_by(self) -> Normalisation:
        """How the images are normalised: the argument, or as the dataset's images need it."""
        assert self.store is not None, "setup() comes first"
        return self.normalisation or normalisation_of_images(self.store)

    def train_dataloader(self) -> _TrainerLoader:
        """Raises ConfigError in a Trainer of several processes, each of which would get the same batches."""
        assert self.store is not None
        if self.trainer is not None and self.trainer.world_size > 1:
            raise ConfigError(
                "CifarDataModule would give every process of the Trainer the same batches",
                remedy="train on one device, or on several with `cifar train --devices N`",
            )
        return _TrainerLoader(
            train_loader(
                self.store.train,
                self.split.train_indices,
                policy=self.policy,
                img_size=self.side,
                normalisation=self.normalised_by,
                batch=self.batch_size,
                seed=self.seed,
                pipeline=self.pipeline,
                workers=self.num_workers,
                classes=len(self.store.classes),
            )
        )

    def val_dataloader(self) -> _TrainerLoader:
        assert self.store is not None
        return _TrainerLoader(
            eval_loader(
                self.store.train,
                self.split.val_indices,
                img_size=self.side,
                normalisation=self.normalised_by,
                workers=self.num_workers,
            )
        )

    def test_dataloader(self) -> _TrainerLoader:
        assert self.store is not None
        rows = torch.arange(len(self.store.test))
        return _TrainerLoader(
            eval_loader(
                self.store.test,
                rows,
                img_size=self.side,
                normalisation=self.normalised_by,
                workers=self.num_workers,
            )
        )


class _TrainerLoader:
    """A BatchLoader with the attributes that Lightning expects of a DataLoader."""

    batch_sampler = None

    def __init__(self, loader: BatchLoader) -> None:
        self.loader = loader

    @property
    def sampler(self) -> BatchLoader:
        """Lightning calls `set_epoch` of a loader's sampler."""
        return self.loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self.loader)

    def state_dict(self) -> dict[str, Any]:
        return self.loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loader.load_state_dict(state)
