"""`cifar doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cifar_cli.command import command, option_group
from cifar_cli.options import DATA_DIR, OutputOptions


@option_group("Data")
class DoctorOptions:
    """The folder to look at."""

    data_dir: Annotated[Path, DATA_DIR(help="Look for datasets in this folder.")] = Path("data")


@command(
    examples=(
        ("Check this machine and the installation.", "cifar doctor"),
        ("Attach the answer to a bug report.", "cifar doctor --json"),
    )
)
def doctor(data: DoctorOptions, output: OutputOptions) -> None:
    """Check Python, packages, GPU, memory, disk, datasets and the model hub, and say how to mend what is wrong.

    The exit status is 0 if everything is ok, 3 after a warning and 1 after an error.
    """
    from cifar_cli.core.doctor.config import DoctorConfig
    from cifar_cli.core.doctor.diagnose import diagnose
    from cifar_cli.core.doctor.gather import gather
    from cifar_cli.core.training.config import runs_dir
    from cifar_cli.render import console, doctor_table

    report = diagnose(gather(DoctorConfig(data_dir=data.data_dir, runs_dir=runs_dir())))
    if output.as_json:
        console.print_json(report.to_dict())
    else:
        console.show(doctor_table.report(report))
    raise typer.Exit(report.exit_status)
