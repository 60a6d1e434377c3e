"""Predicted peak against what the CPU allocator really gave, through the profiler."""

from __future__ import annotations

from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.profiling.config import MIB, MemoryConfig, StepConfig
from cifar_cli.core.profiling.max_batch import Tracer
from cifar_cli.core.profiling.measure import measure
from cifar_cli.core.profiling.replay import tensor_peak_bytes

MODELS = ("null", "cnn", "hybrid", "timm:resnet50", "timm:convnext_tiny", "timm:mobilenetv3_large_100")


def main() -> None:
    print(f"{'model':28} {'batch':>5} {'precision':>9} {'predicted':>9} {'seen MiB':>9} {'error':>7}")
    for name in MODELS:
        for precision in ("32", "bf16"):
            for batch in (16, 64):
                step = StepConfig(precision="bf16" if precision == "bf16" else "32", physics="cpu")
                config = MemoryConfig(model=ModelConfig(name=name, weights="none"), step=step)
                predicted = tensor_peak_bytes(Tracer(config).at(batch))
                seen = measure(config, batch, device="cpu").peak_allocated_bytes
                print(
                    f"{name:28} {batch:5} {precision:>9} {predicted / MIB:9.1f} {seen / MIB:9.1f} "
                    f"{predicted / seen - 1:+7.2%}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
