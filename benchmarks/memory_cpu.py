"""Predicted peak against what the CPU allocator really gave, through the profiler.

"predicted" traces that batch size; "scaled" is what two traces of 8 and 32 images foresee for it, as the search for the
largest batch starts from. ONEDNN_MAX_CPU_ISA=AVX2 in the environment makes oneDNN act as on an older processor.
"""

from __future__ import annotations

from cifar_cli.core.memory.config import MIB, MemoryConfig, Precision, StepConfig
from cifar_cli.core.memory.estimate import Tracer, tensor_peak_bytes
from cifar_cli.core.memory.measure import host_peaks
from cifar_cli.core.memory.real_steps import measure
from cifar_cli.core.models.config import ModelConfig

MODELS = ("null", "cnn", "hybrid", "timm:resnet50", "timm:convnext_tiny", "timm:mobilenetv3_large_100")
PRECISIONS: tuple[Precision, ...] = ("32", "bf16")


def main() -> None:
    print("| model | precision | batch | predicted MiB | seen MiB | error | scaled |")
    print("|---|---|--:|--:|--:|--:|--:|")
    worst = 0.0
    for name in MODELS:
        for precision in PRECISIONS:
            step = StepConfig(precision=precision, physics="cpu")
            tracer = Tracer(MemoryConfig(model=ModelConfig(name=name, weights="none"), step=step))
            for batch in (16, 64):
                predicted = tensor_peak_bytes(tracer.at(batch))
                seen = measure(tracer.config, batch, device="cpu").peak_allocated_bytes
                worst = max(worst, abs(predicted / seen - 1))
                print(
                    f"| {name} | {precision} | {batch} | {predicted / MIB:.1f} | {seen / MIB:.1f} "
                    f"| {predicted / seen - 1:+.2%} | {host_peaks(tracer)(batch) / seen - 1:+.2%} |",
                    flush=True,
                )
    print(f"worst error {worst:.2%}")


if __name__ == "__main__":
    main()
