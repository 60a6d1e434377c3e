"""What would help: the changes of a step that save memory, each computed from a trace of the changed step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from cifar_cli.core.choices import Precision
from cifar_cli.core.memory.config import MemoryConfig, Risk
from cifar_cli.core.memory.estimate import Tracer, check_fit
from cifar_cli.core.memory.results import FitCheck, HelpReport, Remedy
from cifar_cli.core.models.config import RectangularConfig
from cifar_cli.errors import CifarError

PARTS = tuple(2**power for power in range(1, 11))
GPUS = (2, 4, 8)
SMALLEST_SIDE = 32

Ladder = Sequence[tuple[str, dict[str, Any]]]
"""Changes of one kind, the smallest first: the options to add to the command, and the fields of MemoryConfig."""


def what_would_help(tracer: Tracer, check: FitCheck, risk: Risk, *, half: Precision = "bf16") -> HelpReport:
    """Rank the changes by the memory they save on the card of the check. A batch that fits needs none.

    tracer: of the step that was checked. risk: that of the check. half: the 16-bit precision of the card; "32" if
    it has none.
    """
    remedies: list[Remedy] = []
    not_possible: list[str] = []
    for ladder in () if check.fits else ladders(tracer.config, check.batch, half):
        try:
            remedies.append(_first_that_fits(ladder, tracer, check, risk))
        except CifarError as error:
            not_possible.append(f"{ladder[0][0]}: {error.what}")
    ranked = sorted(remedies, key=lambda remedy: -remedy.saved_bytes)
    return HelpReport(check=check, remedies=tuple(ranked), not_possible=tuple(not_possible))


def ladders(config: MemoryConfig, batch: int, half: Precision = "bf16") -> Iterator[Ladder]:
    """The changes that a step leaves open, by kind. half: the 16-bit precision of the card; "32" if it has none."""
    step, model = config.step, config.model
    if step.precision == "32" and half != "32":
        yield [(f"--precision {half}", {"step": replace(step, precision=half)})]
    smaller = model.img_size // 2
    if smaller >= SMALLEST_SIDE and not isinstance(model, RectangularConfig):
        yield [(f"--img-size {smaller}", {"model": replace(model, img_size=smaller)})]
    if model.name == "hybrid" and not model.trim_backbone:
        yield [("--trim-backbone", {"model": replace(model, trim_backbone=True)})]
    if config.evaluate:
        return
    if not config.grad_checkpointing:
        yield [("--grad-checkpointing", {"grad_checkpointing": True})]
    if step.optimizer != "sgd":
        yield [("--optimizer sgd", {"step": replace(step, optimizer="sgd")})]
    if step.freeze == "none":
        yield [("--freeze backbone", {"step": replace(step, freeze="backbone")})]
    if step.ema_decay is not None:
        yield [("--ema-decay 0", {"step": replace(step, ema_decay=None)})]
    most = batch // config.devices
    if parts := [parts for parts in PARTS if config.accumulate < parts <= most]:
        yield [(f"--accumulate {count}", {"accumulate": count}) for count in parts]
    if config.devices > 1 and not config.shards:
        yield [("--strategy fsdp", {"strategy": "fsdp"})]
    if config.devices == 1 and (gpus := [count for count in GPUS if count * config.accumulate <= batch]):
        yield [(f"--devices {count} --strategy fsdp", {"devices": count, "strategy": "fsdp"}) for count in gpus]


def _first_that_fits(ladder: Ladder, tracer: Tracer, check: FitCheck, risk: Risk) -> Remedy:
    """The smallest change of a kind with which the batch fits; the largest one that runs if it fits with none.

    Raises CifarError if no change of the kind runs.
    """
    remedy: Remedy | None = None
    for options, fields in ladder:
        try:
            changed = Tracer(replace(tracer.config, **fields), on_progress=tracer.on_progress)
            # The check's memory is what its margin leaves.
            found = check_fit(changed, check.batch, gpu=check.gpu, memory_bytes=check.memory_bytes, risk=risk)
        except CifarError:  # such as batch norm over one image, when the parts become that small
            if remedy is None:
                raise
            break
        remedy = Remedy(
            options=options,
            needed_bytes=found.needed_bytes,
            saved_bytes=check.needed_bytes - found.needed_bytes,
            fits=found.fits,
        )
        if remedy.fits:
            break
    assert remedy is not None, "an empty ladder"
    return remedy
