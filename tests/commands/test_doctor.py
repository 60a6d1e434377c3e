"""`cifar doctor` on this machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cifar_cli.core.doctor.results import EXIT_STATUS


@pytest.mark.slow
def test_the_document_has_every_check_and_the_exit_status_says_the_worst(cifar, data_dir: Path) -> None:  # type: ignore[no-untyped-def]
    result = cifar("doctor", "--data-dir", data_dir, "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == EXIT_STATUS[document["state"]]
    states = {check["name"]: check["state"] for check in document["checks"]}
    assert states["torch"] == states["datasets"] == "ok"
    assert {"Python", "package versions", "GPU", "CPU", "cores", "RAM", "/dev/shm", "model hub"} <= set(states)
