"""A batch is a function of (seed, epoch, batch index) alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cifar_cli.core.augment.batched import BatchedPipeline
from cifar_cli.core.augment.per_image import PerImagePipeline
from cifar_cli.core.augment.policy import COURSE, CROP_FLIP
from cifar_cli.core.data import worker_loader
from cifar_cli.core.data.loader import BatchLoader
from cifar_cli.core.data.worker_loader import WorkerLoader

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


@pytest.mark.parametrize("kind", [BatchLoader, WorkerLoader])
def test_a_last_batch_of_one_image_joins_the_batch_before(kind):
    options = {"batch": 7, "workers": 0} if kind is WorkerLoader else {"batch": 7}
    batches = loader(kind, **options)
    seen = [labels.tolist() for _, labels in batches]
    assert [len(labels) for labels in seen] == [7] * 6 + [8]
    assert [batches.images_of(index) for index in range(len(batches))] == [7] * 6 + [8]
    assert sorted(label for labels in seen for label in labels) == list(range(50))


@pytest.mark.parametrize(("batch", "sizes"), [(1, [1] * 50), (49, [50]), (48, [48, 2]), (50, [50]), (60, [50])])
def test_every_image_is_in_one_batch_whatever_its_size(batch, sizes):
    batches = loader(batch=batch)
    assert [len(labels) for _, labels in batches] == sizes
    assert len(batches) == len(sizes)


def test_a_single_image_is_a_batch():
    assert [len(labels) for _, labels in loader(indices=LABELS[:1])] == [1]


def test_a_last_batch_of_one_image_is_dropped_where_short_batches_are():
    assert [len(labels) for _, labels in loader(batch=7, drop_last=True)] == [7] * 7


@both_pipelines
def test_the_slices_of_a_joined_last_batch_add_up(transform):
    ranks = [list(loader(batch=7, transform=transform, rank=rank, world_size=3))[-1] for rank in range(3)]
    images, labels = list(loader(batch=7, transform=transform))[-1]
    assert torch.equal(torch.cat([part for part, _ in ranks]), images)
    assert torch.equal(torch.cat([part for _, part in ranks]), labels)


@both_pipelines
def test_the_slices_of_three_devices_add_up_to_the_batch_of_one(transform):
    options = {"transform": transform, "drop_last": True}
    ranks = [list(loader(rank=rank, world_size=3, **options)) for rank in range(3)]
    for index, (images, labels) in enumerate(loader(**options)):
        assert torch.equal(torch.cat([rank[index][0] for rank in ranks]), images)
        assert torch.equal(torch.cat([rank[index][1] for rank in ranks]), labels)


def test_a_device_for_which_a_last_batch_has_no_image_gets_the_first_one():
    ranks = [list(loader(rank=rank, world_size=3))[-1] for rank in range(3)]
    images, labels = list(loader())[-1]
    assert [len(part) for _, part in ranks] == [1, 1, 1]
    assert torch.equal(torch.cat([part for _, part in ranks[1:]]), labels)
    assert torch.equal(ranks[0][0], images[:1])
    assert torch.equal(ranks[0][1], labels[:1])


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
    images = IMAGES[torch.arange(502) % 50]
    rows = torch.arange(502)
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


def epochs(batches, count):
    return [each for _ in range(count) for each in batches]


@pytest.mark.parametrize(("kind", "options"), [(BatchLoader, {}), (WorkerLoader, {"workers": 1})])
@pytest.mark.parametrize("seen", [3, 7, 10])  # in the first epoch, after its last batch, in the second epoch
def test_a_restored_loader_continues_with_the_next_batch(kind, options, seen):
    complete, stopped, resumed = epochs(loader(), 3), loader(kind, **options), loader(kind, **options)
    for _, _batch in zip(range(seen), (each for _ in range(2) for each in stopped), strict=False):
        state = stopped.state_dict()
    resumed.load_state_dict(state)
    assert same(epochs(resumed, 2 if seen >= 7 else 3), complete[seen:])


def test_choosing_the_restored_epoch_keeps_the_restored_position():
    resumed = loader()
    resumed.load_state_dict({"epoch": 0, "next_batch": 3})
    resumed.set_epoch(0)
    assert same(resumed, list(loader())[3:])
    resumed.load_state_dict({"epoch": 0, "next_batch": 3})
    resumed.set_epoch(1)
    assert same(resumed, epochs(loader(), 2)[7:])


def test_a_pass_after_an_abandoned_one_starts_from_the_first_batch():
    batches = loader()
    next(iter(batches))
    assert same(batches, loader())


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_of_worker_processes_are_put_on_the_device(workers):
    made = list(loader(WorkerLoader, workers=workers, device=torch.device("meta")))
    assert {part.device.type for batch in made for part in batch} == {"meta"}
    assert [part[0].shape for part in made] == [part[0].shape for part in loader()]


@pytest.mark.parametrize(("workers", "times"), [(0, 0), (1, 3), (2, 2)])
def test_each_worker_gives_freed_memory_back_from_time_to_time(monkeypatch, tmp_path, workers, times):
    batches = loader(WorkerLoader, transform=PER_IMAGE, batch=1, workers=workers)
    log = tmp_path / "log"
    log.touch()

    def note():
        with log.open("a") as file:
            file.write("given back\n")

    monkeypatch.setattr(worker_loader, "_forking_cheaply", worker_loader.nullcontext)
    monkeypatch.setattr(worker_loader, "return_freed_memory", note)
    assert len(list(batches)) == 50
    assert len(log.read_text().splitlines()) == times


@pytest.mark.parametrize("workers", [0, 2])
def test_each_worker_returns_large_blocks_which_the_process_of_the_run_keeps(monkeypatch, tmp_path, workers):
    log = tmp_path / "log"
    log.touch()

    def note():
        with log.open("a") as file:
            file.write("told\n")

    monkeypatch.setattr(worker_loader, "return_large_blocks", note)
    assert len(list(loader(WorkerLoader, transform=PER_IMAGE, workers=workers))) > 0
    assert len(log.read_text().splitlines()) == workers


@both_pipelines
def test_every_other_batch_is_that_of_a_complete_pass(transform):
    complete, some = list(loader(batch=7, transform=transform)), loader(batch=7, transform=transform)
    assert same(some.batches_of(range(1, len(some), 2)), complete[1::2])
    assert some.state_dict() == loader(batch=7).state_dict()
