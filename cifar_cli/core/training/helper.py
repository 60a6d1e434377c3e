"""A process that trains with the command that started it: `python -m cifar_cli.core.training.helper`."""

from __future__ import annotations

import sys
from typing import cast

from cifar_cli.core.choices import DeviceChoice
from cifar_cli.core.training.launch import end_with_the_first_process

if __name__ == "__main__":
    end_with_the_first_process()  # before torch is imported, which takes seconds
    from cifar_cli.core.training.group import joined
    from cifar_cli.core.training.train import serve
    from cifar_cli.errors import CifarError

    try:
        with joined(device=cast(DeviceChoice, sys.argv[1])) as ranks:
            serve(ranks)
    except CifarError as error:  # rank 0 prints it
        sys.exit(error.exit_code)
