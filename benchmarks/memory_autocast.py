"""Bytes that a forward pass in bfloat16 saves for the backward pass: in our trace, and under torch's own AutocastCUDA.

    python benchmarks/memory_autocast.py ROWS.csv [MODEL ...]

The reference runs on fake CUDA tensors, for which torch casts by itself and which need no GPU; only its choice of the
attention kernel, which asks the driver, is replaced by ours. Rows are appended as they come, and models that the file
already has are left out.
"""

from __future__ import annotations

import contextlib
import copy
import csv
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from timm_zoo import side_of, zoo
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from cifar_cli.core.memory import cuda_operators
from cifar_cli.core.memory.trace import copy_without_data, tensors_of
from cifar_cli.core.models.build import build_untrained
from cifar_cli.core.models.config import ModelConfig

DTYPE = torch.bfloat16
BATCH = 2
TOLERANCE = 0.005


def compare(name: str, side: int) -> tuple[int, int]:
    """Saved bytes: ours and the reference's."""
    with torch.device("meta"):
        model = build_untrained(ModelConfig(name=f"timm:{name}", img_size=side, weights="none")).train()
    model = copy_without_data(model)
    with tensors_of("cuda"):
        ours = saved_bytes(model, side, "meta", torch.autocast("meta", dtype=DTYPE))
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake:
        memo: dict[int, Any] = {id(buffer): _on_cuda(buffer) for buffer in model.buffers()}
        memo |= {id(parameter): nn.Parameter(_on_cuda(parameter)) for parameter in model.parameters()}
    reference = copy.deepcopy(model, memo)
    with fake, patch.object(F, "scaled_dot_product_attention", _attention):
        return ours, saved_bytes(reference, side, "cuda", _autocast_cuda())


def saved_bytes(model: nn.Module, side: int, device: str, autocast: AbstractContextManager[Any]) -> int:
    """Bytes of the storages that autograd saves, without those of parameters and buffers."""
    saved: dict[int, tuple[Any, int]] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage._cdata] = (storage, storage.nbytes())  # kept alive, so that no other takes its address
        return tensor

    images_BCHW = torch.empty(BATCH, 3, side, side, device=device)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast:
        logits = model(images_BCHW)
    own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    del logits
    return sum(size for key, (_, size) in saved.items() if key not in own)


@contextlib.contextmanager
def _autocast_cuda() -> Iterator[None]:
    """torch.autocast("cuda"), which disables itself where there is no GPU."""
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", DTYPE)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", False)


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *args: Any, **kw: Any
) -> Any:
    if torch.is_autocast_enabled("cuda"):
        query, key, value = (tensor.to(DTYPE) for tensor in (query, key, value))
        if attn_mask is not None and attn_mask.is_floating_point():
            attn_mask = attn_mask.to(DTYPE)
    with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCUDA)):
        return cuda_operators.attention(query, key, value, attn_mask, *args, **kw)


def _on_cuda(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cuda")


def main(path: Path, only: list[str]) -> None:
    warnings.simplefilter("ignore")
    known = {row["model"] for row in csv.DictReader(path.open())} if path.exists() else set()
    models = {name: side_of(name) or 224 for name in only} or zoo()
    with path.open("a", newline="") as file:
        rows = csv.writer(file)
        if not known:
            rows.writerow(["model", "side", "ours_bytes", "autocast_cuda_bytes", "difference", "why"])
        for name in [name for name in models if name not in known]:
            try:
                ours, reference = compare(name, models[name])
                rows.writerow([name, models[name], ours, reference, f"{ours / reference - 1:+.4f}", ""])
            except Exception as error:  # a row says why a model was not compared
                why = (str(error) or type(error).__name__).splitlines()[0][:160]
                rows.writerow([name, models[name], "", "", "", why])
            file.flush()
    found = [row for row in csv.DictReader(path.open()) if row["difference"]]
    within = sum(abs(float(row["difference"])) <= TOLERANCE for row in found)
    print(f"{within} of {len(found)} models within {TOLERANCE:.1%}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2:])
