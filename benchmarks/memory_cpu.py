"""Predicted peak of a training step against the peak of the CPU allocator, measured with the profiler.

    python benchmarks/memory_cpu.py ROWS.csv [--page docs/memory-accuracy.md]

60 timm models with 1000 classes and four images each, in float32 and bf16. Rows are appended as they come, and those
that the file already has are left out. --page writes the table between the marks of a page.
"""

from __future__ import annotations

import argparse
import csv
from itertools import product
from pathlib import Path

from timm_zoo import side_of

from cifar_cli.core.choices import Precision
from cifar_cli.core.memory.config import MIB, MemoryConfig
from cifar_cli.core.memory.estimate import Tracer, tensor_peak_bytes
from cifar_cli.core.memory.real_steps import measure
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.config import StepConfig

BATCH = 4
TOLERANCE = 0.01
PRECISIONS: tuple[Precision, ...] = ("32", "bf16")
BEGINS, ENDS = "<!-- CPU rows begin -->", "<!-- CPU rows end -->"
# Attention, recurrent, grouped and halo layers, mixers and plain convolutions, one or two models of a family.
MODELS = """
    vit_tiny_patch16_224 vit_tiny_patch16_384 deit_tiny_patch16_224 eva02_tiny_patch14_224 crossvit_9_240
    volo_d1_224 sequencer2d_s lamhalobotnet50ts_256 halonet26t sehalonet33ts eca_halonext26ts bat_resnext26ts
    resnext26ts resnext50_32x4d regnetx_008 regnety_008 dpn68 dla60x gmixer_24_224 mixer_s32_224 resmlp_12_224
    gmlp_ti16_224 convmixer_768_32 poolformer_s12 caformer_s18 resnet18 resnet50 resnetv2_50d_frn seresnet50
    skresnet18 res2net50_14w_8s resnest14d densenet121 vgg11_bn efficientnet_b0 efficientnet_lite0
    mobilenetv3_large_100 mobilenetv4_hybrid_medium mixnet_s ghostnet_100 rexnet_100 tresnet_m hrnet_w18_small
    convnext_atto convnextv2_atto csatv2 xcit_nano_12_p16_224 swin_tiny_patch4_window7_224
    swinv2_tiny_window8_256 swiftformer_xs efficientvit_b0 efficientvit_m0 efficientformerv2_s0 coat_tiny
    convit_tiny pit_ti_224 pvt_v2_b0 twins_svt_small edgenext_xx_small mobilevit_xxs levit_128s nfnet_l0
""".split()  # noqa: SIM905 - a list of names reads best as words


def row_of(name: str, precision: Precision) -> dict[str, object]:
    """One comparison."""
    side = side_of(name) or 224
    model = ModelConfig(name=f"timm:{name}", classes=1000, img_size=side, weights="none")
    config = MemoryConfig(model=model, step=StepConfig(precision=precision), backend="cpu")
    row: dict[str, object] = {"model": name, "side": side, "precision": precision}
    try:
        predicted = tensor_peak_bytes(Tracer(config).at(BATCH))
        measured = measure(config, BATCH).peak_allocated_bytes
    except Exception as error:  # a row says why a model was not compared
        return row | {"why": (str(error) or type(error).__name__).splitlines()[0][:160]}
    return row | {"predicted": predicted, "measured": measured, "error": predicted / measured - 1}


def markdown(rows: list[dict[str, str]]) -> str:
    """The table of the page and the line above it."""
    compared = [row for row in rows if row["error"]]
    close = {
        name for name in MODELS if all(abs(float(r["error"])) <= TOLERANCE for r in compared if r["model"] == name)
    }
    close &= {row["model"] for row in compared}
    lines = [
        f"{len(close)} of {len({row['model'] for row in rows})} models are within {TOLERANCE:.0%} in both precisions.",
        "",
        "| model | pixels | precision | predicted MiB | measured MiB | error |",
        "|---|--:|---|--:|--:|--:|",
    ]
    for row in sorted(rows, key=lambda row: MODELS.index(row["model"])):
        names = f"| {row['model']} | {row['side']} | {row['precision']} "
        if row["error"]:
            sizes = " | ".join(f"{int(row[key]) / MIB:,.1f}" for key in ("predicted", "measured"))
            lines.append(f"{names}| {sizes} | {float(row['error']):+.2%} |")
        else:
            lines.append(f"{names}| - | - | {row['why']} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=Path)
    parser.add_argument("--page", type=Path)
    options = parser.parse_args()
    columns = ["model", "side", "precision", "predicted", "measured", "error", "why"]
    known = list(csv.DictReader(options.rows.open())) if options.rows.exists() else []
    done = {(row["model"], row["precision"]) for row in known}
    with options.rows.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns)
        if not known:
            writer.writeheader()
        for name, precision in product(MODELS, PRECISIONS):
            if (name, precision) not in done:
                writer.writerow(row_of(name, precision))
                file.flush()
    text = markdown(list(csv.DictReader(options.rows.open())))
    print(text)
    if options.page:
        before, rest = options.page.read_text().split(BEGINS)
        options.page.write_text(f"{before}{BEGINS}\n{text}\n{ENDS}{rest.split(ENDS)[1]}")


if __name__ == "__main__":
    main()
