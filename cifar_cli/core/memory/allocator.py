"""A model of PyTorch's CUDA caching allocator, which counts bytes and allocates none.

It follows pytorch's `c10/cuda/CUDACachingAllocator.cpp`, function by function, with default settings and one stream
(`c10/core/AllocatorConfig.h`: expandable segments off, no rounding to powers of two, no garbage collection,
`max_split_size` without limit):

- `round_size`: a request becomes a multiple of 512 bytes.
- `get_pool`: requests up to 1 MiB are served by the small pool, larger ones by the large pool.
- `get_free_block`: the smallest free block that is large enough, the lowest address first. Oversized blocks are
  refused only below `max_split_size`, which has no limit by default.
- `get_allocation_size`: without such a block, a new segment: 2 MiB for the small pool, 20 MiB for requests below
  10 MiB, otherwise the request rounded up to 2 MiB.
- `should_split`: a small block is split if 512 bytes remain, a large one if more than 1 MiB remains.
- `free_block`, `try_merge_blocks`: a released block merges with its free neighbours.
- `alloc_block`, `release_cached_blocks`: when the device is full, every unused segment is returned to it, and the
  request is tried once more. `release_available_cached_blocks` runs before and does nothing without a `max_split_size`.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass

MIN_BLOCK = 512
SMALL_SIZE = 1 << 20  # the largest request that the small pool serves
SMALL_SEGMENT = 2 << 20
LARGE_SEGMENT = 20 << 20
MIN_LARGE_ALLOC = 10 << 20  # from this size on, a segment is as large as the request
ROUND_LARGE = 2 << 20


class OutOfDeviceMemory(Exception):
    """The request doesn't fit, even after every unused segment was returned to the device."""


@dataclass(slots=True, eq=False, repr=False)
class Block:
    """A range of one segment; neighbours in the segment are linked."""

    address: int
    size: int
    small: bool
    """Whether it belongs to the small pool."""
    free: bool = True
    previous: Block | None = None
    next: Block | None = None


class CachingAllocator:
    """Serves requests and counts bytes.

    capacity_bytes: memory of the device, None for no limit.
    allocated_bytes: in blocks that are in use, rounding included. reserved_bytes: in segments.
    """

    def __init__(self, capacity_bytes: int | None = None) -> None:
        self.capacity_bytes = capacity_bytes
        self.allocated_bytes = 0
        self.reserved_bytes = 0
        self.peak_allocated_bytes = 0
        self.peak_reserved_bytes = 0
        self.retries = 0
        self._next_address = 0
        self._blocks: dict[int, Block] = {}
        # Free blocks of the large and the small pool, sorted by size and then address: best fit is a bisection.
        self._free: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])

    def allocate(self, size: int) -> Block:
        """Serve a request of `size` > 0 bytes. Raises OutOfDeviceMemory."""
        size = rounded(size)
        small = size <= SMALL_SIZE
        pool = self._free[small]
        at = bisect_left(pool, (size, -1))
        if at < len(pool):  # noqa: SIM108
            block = self._blocks[pool.pop(at)[1]]
        else:
            block = self._new_segment(segment_size(size), small=small)
        remaining = block.size - size
        if remaining >= MIN_BLOCK if small else remaining > SMALL_SIZE:
            self._split(block, size)
        block.free = False
        self.allocated_bytes += block.size
        self.peak_allocated_bytes = max(self.peak_allocated_bytes, self.allocated_bytes)
        return block

    def release(self, block: Block) -> None:
        """Free a block and merge it with free neighbours of its segment."""
        assert not block.free, "released twice"
        self.allocated_bytes -= block.size
        block.free = True
        if block.previous is not None and block.previous.free:
            block = self._join(block.previous, block, drop_from_pool=block.previous)
        if block.next is not None and block.next.free:
            block = self._join(block, block.next, drop_from_pool=block.next)
        insort(self._free[block.small], (block.size, block.address))

    def empty_cache(self) -> None:
        """Return every unused segment to the device."""
        for pool in self._free:
            kept = []
            for size, address in pool:
                block = self._blocks[address]
                if block.previous is None and block.next is None:
                    del self._blocks[address]
                    self.reserved_bytes -= size
                else:
                    kept.append((size, address))
            pool[:] = kept

    def blocks(self) -> list[Block]:
        """Every block by address, used and free."""
        return [self._blocks[address] for address in sorted(self._blocks)]

    def _new_segment(self, size: int, *, small: bool) -> Block:
        if self._is_full(size):
            self.retries += 1
            self.empty_cache()
            if self._is_full(size):
                raise OutOfDeviceMemory(f"{size} bytes requested, {self.reserved_bytes} reserved")
        block = Block(self._next_address, size, small=small)
        self._next_address += size + ROUND_LARGE  # a gap, so that segments never look like neighbours
        self._blocks[block.address] = block
        self.reserved_bytes += size
        self.peak_reserved_bytes = max(self.peak_reserved_bytes, self.reserved_bytes)
        return block

    def _is_full(self, size: int) -> bool:
        return self.capacity_bytes is not None and self.reserved_bytes + size > self.capacity_bytes

    def _split(self, block: Block, size: int) -> None:
        """Keep the low end; the rest becomes a free block."""
        rest = Block(block.address + size, block.size - size, block.small, previous=block, next=block.next)
        if rest.next is not None:
            rest.next.previous = rest
        block.next, block.size = rest, size
        self._blocks[rest.address] = rest
        insort(self._free[block.small], (rest.size, rest.address))

    def _join(self, low: Block, high: Block, *, drop_from_pool: Block) -> Block:
        pool = self._free[low.small]
        del pool[bisect_left(pool, (drop_from_pool.size, drop_from_pool.address))]
        low.size += high.size
        low.next = high.next
        if low.next is not None:
            low.next.previous = low
        del self._blocks[high.address]
        return low


def rounded(size: int) -> int:
    """The block size for a request: a multiple of 512 bytes, at least one."""
    return max(MIN_BLOCK, -(-size // MIN_BLOCK) * MIN_BLOCK)


def segment_size(size: int) -> int:
    """The size of a new segment for a rounded request."""
    if size <= SMALL_SIZE:
        return SMALL_SEGMENT
    if size < MIN_LARGE_ALLOC:
        return LARGE_SEGMENT
    return -(-size // ROUND_LARGE) * ROUND_LARGE
