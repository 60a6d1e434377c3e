"""A batch is a function of (seed, epoch, batch index) alone."""

import lightning
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cifar_cli.core.augment.batched import BatchedPipeline
from cifar_cli.core.augment.per_image import PerImagePipeline
from cifar_cli.core.augment.policy import COURSE, CROP_FLIP
from cifar_cli.core.data.loader import BatchLoader, WorkerLoader

IMAGES = torch.randint(0, 256, (50, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(50)  # a label identifies its image
PIPELINE = BatchedPipeline(COURSE, 32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
PER_IMAGE = PerImagePipeline(COURSE, 32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
both_pipelines = pytest.mark.parametrize("transform", [PIPELINE, PER_IMAGE], ids=["batched", "albumentations"])


def loader(kind=BatchLoader, *, images=IMAGES, indices=LABELS, **options):
    defaults = {"batch": 8, "transform": PIPELINE, "seed": 7, "shuffle": True} | options
    return kind(images, LABELS, indices, **defaults)


def same(left, right):
    left, right = list(left), list(right)
    return len(left) == len(right) and all(
        torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(left, right, strict=True)
    )


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**63 - 1), batch=st.integers(1, 60), kind=st.sampled_from([BatchedPipeline, PerImagePipeline])
)
def test_every_image_keeps_its_own_label_through_the_augmentation(seed, batch, kind):
    levels = (0.0,) * 3, (1 / 255,) * 3  # output values equal pixel levels
    images = (LABELS + 1).to(torch.uint8)[:, None, None, None].expand(50, 32, 32, 3).contiguous()
    batches = loader(images=images, transform=kind(CROP_FLIP, 32, *levels), seed=seed, batch=batch)
    for made, labels in batches:
        assert torch.equal(made.amax(dim=(1, 2, 3)).round().long(), labels + 1)


def test_every_epoch_contains_every_image_once_in_a_new_order():
    batches = loader()
    first, second = ([label for _, labels in batches for label in labels.tolist()] for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second


def test_equal_seeds_give_equal_batches_and_another_seed_does_not():
    assert same(loader(), loader())
    assert not same(loader(), loader(seed=8))


def test_the_last_batch_is_short_or_dropped():
    assert [len(labels) for _, labels in loader()] == [8] * 6 + [2]
    assert [len(labels) for _, labels in loader(drop_last=True)] == [8] * 6
    assert len(loader(drop_last=True)) == 6


@both_pipelines
def test_the_slices_of_three_devices_add_up_to_the_batch_of_one(transform):
    options = {"transform": transform, "drop_last": True}
    ranks = [list(loader(rank=rank, world_size=3, **options)) for rank in range(3)]
    for index, (images, labels) in enumerate(loader(**options)):
        assert torch.equal(torch.cat([rank[index][0] for rank in ranks]), images)
        assert torch.equal(torch.cat([rank[index][1] for rank in ranks]), labels)


@both_pipelines
@pytest.mark.parametrize("workers", [0, 2])
def test_the_number_of_workers_changes_no_batch_of_two_epochs(workers, transform):
    expected, made = loader(transform=transform), loader(WorkerLoader, workers=workers, transform=transform)
    assert same(made, expected)
    assert same(made, expected)


@both_pipelines
@pytest.mark.parametrize("kind", [BatchLoader, WorkerLoader])
def test_a_position_in_a_batch_is_augmented_differently_in_every_epoch(kind, transform):
    # AlbumentationsX issue 266: every epoch repeated the draws of the first one.
    image = IMAGES[:1].expand(8, -1, -1, -1).contiguous()
    options = {"workers": 2} if kind is WorkerLoader else {}
    batches = loader(kind, images=image, indices=torch.arange(8), transform=transform, **options)
    epochs = [images for _ in range(4) for images, _ in batches]
    for position in range(8):
        looks = {epoch[position].numpy().tobytes() for epoch in epochs}
        assert len(looks) > 1  # two equal ones may be chance: the same crop and no other step
    assert len({image.numpy().tobytes() for epoch in epochs for image in epoch}) > 20  # of 32


class Recording(BatchedPipeline):
    """Records how many batches each call makes."""

    def __init__(self, images_per_call):
        super().__init__(COURSE, 32, (0.49, 0.48, 0.45), (0.25, 0.24, 0.26))
        self.images_per_call, self.sizes = images_per_call, []

    def __call__(self, images_BHWC, slices):
        self.sizes.append(len(slices))
        return super().__call__(images_BHWC, slices)


def many(images_per_call, transform=None, **options):
    images = IMAGES[torch.arange(501) % 50]
    rows = torch.arange(501)
    settings = {"batch": 50, "seed": 7, "shuffle": True} | options
    return BatchLoader(images, rows, rows, transform=transform or Recording(images_per_call), **settings)


def test_batches_made_in_one_call_equal_batches_made_one_by_one_to_the_bit():
    recording = Recording(400)
    assert same(many(400, recording), many(1))
    assert recording.sizes == [1, 2, 4, 4]  # the first by itself, so that it is ready soon
    one_by_one = Recording(1)
    assert len(list(many(1, one_by_one))) == 11
    assert one_by_one.sizes == [1] * 11
    assert same(many(400, world_size=3, rank=1), many(1, world_size=3, rank=1))


@pytest.mark.parametrize("stopped_after", [2, 4, 10])
def test_a_restart_in_the_middle_of_a_group_continues_with_the_next_batch(stopped_after):
    complete, stopped, resumed = list(many(1)), many(400), many(400)
    for _, _batch in zip(range(stopped_after), stopped, strict=False):
        state = stopped.state_dict()
    resumed.load_state_dict(state)
    assert same(resumed, complete[stopped_after:])


def test_a_pipeline_takes_fewer_images_per_call_when_they_are_larger():
    per_call = {size: BatchedPipeline(COURSE, size, (0.5,) * 3, (0.2,) * 3).images_per_call for size in (32, 64, 224)}
    assert per_call == {32: 1024, 64: 256, 224: 20}


def test_one_call_makes_at_most_sixteen_batches():
    recording = Recording(1024)
    assert len(list(loader(batch=1, transform=recording))) == 50
    assert recording.sizes == [1, 2, 4, 8, 16, 16, 3]


def test_a_restored_loader_continues_with_the_next_batch():
    complete = list(loader())
    stopped = loader()
    for _, _batch in zip(range(3), stopped, strict=False):
        state = stopped.state_dict()
    resumed = loader()
    resumed.load_state_dict(state)
    resumed.set_epoch(0)
    assert same(resumed, complete[3:])


def test_a_pass_after_an_abandoned_one_starts_from_the_first_batch():
    batches = loader()
    next(iter(batches))
    assert same(batches, loader())


class Recorder(lightning.LightningModule):
    """Keeps the labels of every training batch it is given."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.seen = []

    def training_step(self, batch, index):
        self.seen.append((self.current_epoch, index, batch[1].tolist(), batch[0].double().sum().item()))
        return self.layer(batch[0].mean().reshape(1, 1)).sum()

    def validation_step(self, batch, index):
        self.seen.append(("val", index, batch[1].tolist(), batch[0].double().sum().item()))

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


class PowerCut(Exception):
    """Ends a run without Lightning's tidying up."""


class SaveThenCut(lightning.Callback):
    """Saves a checkpoint after a step, as ModelCheckpoint does, trains on and is cut off."""

    def __init__(self, path, *, save_at, cut_at):
        self.path, self.save_at, self.cut_at = path, save_at, cut_at

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.save_at:
            trainer.save_checkpoint(self.path)
        if trainer.global_step == self.cut_at:
            raise PowerCut


def fit(recorder, batches, folder, *, callbacks=(), resume=None):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=3,
        enable_checkpointing=False,
        callbacks=list(callbacks),
        **quiet,
    )
    trainer.fit(recorder, batches, ckpt_path=resume, weights_only=True if resume else None)


@pytest.mark.parametrize(("kind", "options"), [(BatchLoader, {}), (WorkerLoader, {"workers": 1})])
@pytest.mark.parametrize("save_at", [7, 10])  # after an epoch's last batch; in the middle of the second epoch
def test_lightning_goes_on_with_the_batches_it_had_not_seen(tmp_path, kind, options, save_at):
    whole, first, second = Recorder(), Recorder(), Recorder()
    fit(whole, loader(), tmp_path)
    saved = tmp_path / "middle.ckpt"
    with pytest.raises(PowerCut):
        fit(first, loader(kind, **options), tmp_path, callbacks=[SaveThenCut(saved, save_at=save_at, cut_at=12)])
    fit(second, loader(kind, **options), tmp_path, resume=saved)
    assert len(whole.seen) == 21
    assert first.seen[:save_at] + second.seen == whole.seen


@pytest.mark.parametrize(("kind", "options"), [(BatchLoader, {}), (WorkerLoader, {"workers": 1})])
@pytest.mark.parametrize("stage", ["validate", "test"])
def test_lightning_takes_the_loaders_for_validation_and_test(tmp_path, kind, options, stage):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(default_root_dir=tmp_path, accelerator="cpu", enable_checkpointing=False, **quiet)
    recorder = Recorder()
    getattr(trainer, stage)(recorder, loader(kind, shuffle=False, **options))
    assert [labels for _, _, labels, _ in recorder.seen] == [part.tolist() for part in LABELS.split(8)]


def test_lightning_validates_between_epochs_without_a_warning(tmp_path, recwarn):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", max_epochs=2, enable_checkpointing=False, **quiet
    )
    recorder = Recorder()
    trainer.fit(recorder, loader(), loader(shuffle=False))
    validated = [labels for stage, _, labels, _ in recorder.seen if stage == "val"]
    assert validated[2:9] == validated[9:] == [part.tolist() for part in LABELS.split(8)]  # 2 of the sanity check
    assert [stage for stage, *_ in recorder.seen if stage != "val"] == [0] * 7 + [1] * 7
    assert not [warning for warning in recwarn if "sampler" in str(warning.message) or "shuffl" in str(warning.message)]
