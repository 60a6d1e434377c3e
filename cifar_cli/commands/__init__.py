"""One module per subcommand. It makes a config from its options, calls the core and shows the result."""

from __future__ import annotations

from typing import Any

from cifar_cli.commands.augment_preview import augment_preview
from cifar_cli.commands.doctor import doctor
from cifar_cli.commands.download import download
from cifar_cli.commands.evaluate import evaluate
from cifar_cli.commands.export import export
from cifar_cli.commands.gpus import gpus
from cifar_cli.commands.predict import predict
from cifar_cli.commands.profile_memory import profile_memory
from cifar_cli.commands.report import report
from cifar_cli.commands.runs import runs
from cifar_cli.commands.summarize import summarize
from cifar_cli.commands.sweep import sweep
from cifar_cli.commands.train import train

_FUNCTIONS: tuple[Any, ...] = (
    download,
    augment_preview,
    summarize,
    train,
    sweep,
    evaluate,
    predict,
    export,
    report,
    profile_memory,
    gpus,
    runs,
    doctor,
)
COMMANDS = {function.__name__.replace("_", "-"): function for function in _FUNCTIONS}
