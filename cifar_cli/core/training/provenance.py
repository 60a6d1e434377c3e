"""What config.yaml says about a run beside its config: versions, data, machine, the command that repeats it."""

from __future__ import annotations

import platform
from dataclasses import asdict
from typing import Any

import torch

from cifar_cli import __version__
from cifar_cli.core.training.machine import device_name
from cifar_cli.core.training.prepare import Prepared
from cifar_cli.core.training.repeat import repeat_command


def provenance(prepared: Prepared) -> dict[str, Any]:
    """Plain values. A run that is continued keeps the trials that chose its precision."""
    store = prepared.store
    told: dict[str, Any] = {
        "version": __version__,
        "command": repeat_command(prepared.config),
        "data": {
            "source": store.provenance.source,
            "source_checksum": store.provenance.checksum,
            "content_checksum": store.content,
        },
        "device": str(prepared.device),
        "device_name": device_name(prepared.device),
        "threads": torch.get_num_threads(),
        "processes": prepared.ranks.world_size,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }
    if prepared.checkpoint is None:
        told["trials"] = [asdict(trial) for trial in prepared.numerics.trials]
    return told
