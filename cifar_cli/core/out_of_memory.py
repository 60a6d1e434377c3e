"""Which errors say that memory ran out. torch, cuDNN, cuBLAS and the host each say it in their own way."""

from __future__ import annotations

# Messages of errors other than torch.OutOfMemoryError: of the CPU's allocator, cuDNN, cuBLAS and C++.
_SIGNS = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED", "bad_alloc")
_SIGNS_OF_THE_HOST = ("DefaultCPUAllocator", "bad_alloc")


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that the memory of a GPU or of the host ran out."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or (isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS))


def is_of_the_host(error: Exception) -> bool:
    """Whether it was the memory of the host that ran out."""
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in _SIGNS_OF_THE_HOST)
