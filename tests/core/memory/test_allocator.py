import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cifar_cli.core.memory import allocator as rules
from cifar_cli.core.memory.allocator import Block, CachingAllocator, OutOfDeviceMemory, rounded, segment_size

MIB = 1 << 20
SIZES = st.one_of(st.integers(1, 4096), st.integers(1, 3 * MIB), st.integers(MIB, 64 * MIB))
PLANS = st.lists(st.one_of(SIZES, st.integers(-40, -1)), max_size=60)  # negative: release one that is live


def play(allocator: CachingAllocator, plan: list[int]) -> list[Block]:
    live: list[Block] = []
    for action in plan:
        if action > 0:
            live.append(allocator.allocate(action))
        elif live:
            allocator.release(live.pop(action % len(live)))
    return live


@pytest.mark.parametrize(("size", "block"), [(1, 512), (512, 512), (513, 1024), (MIB, MIB)])
def test_requests_are_rounded_to_512_bytes(size: int, block: int) -> None:
    assert rounded(size) == block


@pytest.mark.parametrize(
    ("size", "segment"),
    [(512, 2 * MIB), (MIB, 2 * MIB), (MIB + 512, 20 * MIB), (10 * MIB - 512, 20 * MIB), (11 * MIB, 12 * MIB)],
)
def test_segments_have_the_sizes_of_pytorchs_source(size: int, segment: int) -> None:
    assert segment_size(size) == segment


@given(PLANS)
def test_blocks_never_overlap_and_reserved_covers_allocated(plan: list[int]) -> None:
    allocator = CachingAllocator()
    live = play(allocator, plan)
    blocks = allocator.blocks()
    assert all(low.address + low.size <= high.address for low, high in pairwise(blocks))
    assert sum(block.size for block in live) == allocator.allocated_bytes <= allocator.reserved_bytes
    assert sum(block.size for block in blocks) == allocator.reserved_bytes


@given(PLANS)
def test_when_everything_is_released_all_segments_can_be_returned_to_the_device(plan: list[int]) -> None:
    allocator = CachingAllocator()
    for block in play(allocator, plan):
        allocator.release(block)
    assert allocator.allocated_bytes == 0
    assert all(block.previous is None and block.next is None for block in allocator.blocks())
    allocator.empty_cache()
    assert allocator.reserved_bytes == 0


@given(PLANS)
def test_reserved_never_shrinks_before_the_cache_is_emptied(plan: list[int]) -> None:
    allocator, live, before = CachingAllocator(), [], 0
    for action in plan:
        if action > 0:
            live.append(allocator.allocate(action))
        elif live:
            allocator.release(live.pop(action % len(live)))
        assert allocator.reserved_bytes >= before
        before = allocator.reserved_bytes


def test_a_large_block_is_split_only_when_more_than_one_mib_remains() -> None:
    allocator = CachingAllocator()
    allocator.release(allocator.allocate(20 * MIB))
    assert allocator.allocate(19 * MIB).size == 20 * MIB


def test_unused_segments_are_returned_before_memory_runs_out() -> None:
    allocator = CachingAllocator(30 * MIB)
    allocator.release(allocator.allocate(20 * MIB))
    allocator.allocate(30 * MIB)
    assert allocator.retries == 1
    with pytest.raises(OutOfDeviceMemory):
        allocator.allocate(MIB)


def test_the_sizes_and_defaults_are_those_of_the_installed_torch() -> None:
    header = (Path(torch.__file__).parent / "include" / "c10" / "core" / "AllocatorConfig.h").read_text()
    constants = {name: int(value) for name, value in re.findall(r"constexpr size_t (k\w+) = (\d+);", header)}
    assert constants == {
        "kSmallBuffer": rules.SMALL_SEGMENT,
        "kMinBlockSize": rules.MIN_BLOCK,
        "kSmallSize": rules.SMALL_SIZE,
        "kMinLargeAlloc": rules.MIN_LARGE_ALLOC,
        "kRoundLarge": rules.ROUND_LARGE,
    }
    assert f"large_segment_size_{{{rules.LARGE_SEGMENT}}}" in header
    assert "max_split_size_{std::numeric_limits<size_t>::max()}" in header
    assert "use_expandable_segments_{false}" in header


def test_a_small_block_is_split_down_to_512_bytes_and_best_fit_takes_the_smallest() -> None:
    allocator = CachingAllocator()
    whole = allocator.allocate(MIB)
    allocator.allocate(MIB - 512)
    assert allocator.reserved_bytes == 2 * MIB
    assert allocator.allocate(512).size == 512
    assert allocator.reserved_bytes == 2 * MIB
    large = allocator.allocate(30 * MIB)
    allocator.release(large)
    allocator.release(whole)
    assert allocator.allocate(600).address == whole.address


def test_a_released_block_merges_with_both_neighbours() -> None:
    allocator = CachingAllocator()
    blocks = [allocator.allocate(5 * MIB) for _ in range(4)]
    for block in (blocks[0], blocks[2], blocks[1]):
        allocator.release(block)
    assert [block.size for block in allocator.blocks()] == [15 * MIB, 5 * MIB]


def test_a_segment_in_use_is_not_returned() -> None:
    allocator = CachingAllocator(40 * MIB)
    first = allocator.allocate(5 * MIB)
    allocator.allocate(5 * MIB)
    allocator.release(first)
    with pytest.raises(OutOfDeviceMemory):
        allocator.allocate(30 * MIB)
    assert allocator.reserved_bytes == 20 * MIB
