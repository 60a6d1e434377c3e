"""Predicted peak of a training step against the peak of the CPU allocator, measured with the profiler.

"predicted" is from a trace of that batch size, "scaled" from traces of 8 and 32 images, as in the search for the
largest batch. ONEDNN_MAX_CPU_ISA=AVX2 in the environment makes oneDNN act as on an older processor.
"""

from __future__ import annotations

from cifar_cli.core.choices import Precision
from cifar_cli.core.memory.config import MIB, MemoryConfig
from cifar_cli.core.memory.estimate import Tracer, tensor_peak_bytes
from cifar_cli.core.memory.measure import host_peaks
from cifar_cli.core.memory.real_steps import measure
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.config import StepConfig

MODELS = ("null", "cnn", "hybrid", "timm:resnet50", "timm:convnext_tiny", "timm:mobilenetv3_large_100")
PRECISIONS: tuple[Precision, ...] = ("32", "bf16")


def main() -> None:
    print("| model | precision | batch | predicted MiB | measured MiB | error | scaled |")
    print("|---|---|--:|--:|--:|--:|--:|")
    worst = 0.0
    for name in MODELS:
        for precision in PRECISIONS:
            model = ModelConfig(name=name, weights="none")
            tracer = Tracer(MemoryConfig(model=model, step=StepConfig(precision=precision), backend="cpu"))
            for batch in (16, 64):
                predicted = tensor_peak_bytes(tracer.at(batch))
                measured = measure(tracer.config, batch).peak_allocated_bytes
                worst = max(worst, abs(predicted / measured - 1))
                print(
                    f"| {name} | {precision} | {batch} | {predicted / MIB:.1f} | {measured / MIB:.1f} "
                    f"| {predicted / measured - 1:+.2%} | {host_peaks(tracer)(batch) / measured - 1:+.2%} |",
                    flush=True,
                )
    print(f"worst error {worst:.2%}")


if __name__ == "__main__":
    main()
