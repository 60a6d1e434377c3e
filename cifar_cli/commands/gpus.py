"""`cifar gpus`: the cards whose memory is known."""

from __future__ import annotations

from cifar_cli.command import command
from cifar_cli.options import OutputOptions


@command(
    examples=(
        ("List the cards that --gpu of profile-memory accepts.", "cifar gpus"),
        ("The same as JSON.", "cifar gpus --json"),
    )
)
def gpus(output: OutputOptions) -> None:
    """List the graphics cards that profile-memory can estimate for, their memory, and where each figure is from."""
    from dataclasses import asdict

    from cifar_cli.core.memory.gpus import GPUS
    from cifar_cli.render import console, memory_tables

    if output.as_json:
        console.print_json({"gpus": [asdict(gpu) for gpu in GPUS.values()]})
        return
    console.show(*memory_tables.cards(GPUS.values()))
