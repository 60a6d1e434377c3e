import json
import re

from typer.testing import CliRunner

from cifar_cli.app import app
from cifar_cli.core.memory.gpus import GPUS

RUN = CliRunner()


def test_every_card_is_listed_below_its_source() -> None:
    shown = RUN.invoke(app, ["gpus"]).stdout
    for gpu in GPUS.values():
        row = re.search(rf"^  {re.escape(gpu.name)} +\d", shown, re.MULTILINE)
        assert row is not None
        assert shown.index(gpu.source[:40]) < row.start()


def test_json_has_every_card() -> None:
    listed = json.loads(RUN.invoke(app, ["gpus", "--json"]).stdout)["gpus"]
    assert [(gpu["name"], gpu["memory_bytes"]) for gpu in listed] == [(g.name, g.memory_bytes) for g in GPUS.values()]
