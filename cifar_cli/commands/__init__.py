"""One module per subcommand. Each makes a config from its options, calls one function of the core, shows the result."""

from __future__ import annotations

from typing import Any

from cifar_cli.commands.augment_preview import augment_preview
from cifar_cli.commands.download import download
from cifar_cli.commands.evaluate import evaluate
from cifar_cli.commands.profile_memory import profile_memory
from cifar_cli.commands.summarize import summarize
from cifar_cli.commands.train import train

COMMANDS: dict[str, Any] = {
    "download": download,
    "augment-preview": augment_preview,
    "summarize": summarize,
    "train": train,
    "evaluate": evaluate,
    "profile-memory": profile_memory,
}
