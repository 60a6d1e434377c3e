import json

from typer.testing import CliRunner

from cifar_cli.app import app
from cifar_cli.core.memory.gpus import GPUS

RUN = CliRunner()


def test_every_card_is_listed_below_its_source() -> None:
    shown = RUN.invoke(app, ["gpus"]).stdout
    for gpu in GPUS.values():
        assert shown.index(gpu.source[:40]) < shown.index(f"  {gpu.name} ")


def test_json_has_every_card() -> None:
    listed = json.loads(RUN.invoke(app, ["gpus", "--json"]).stdout)["gpus"]
    assert [(gpu["name"], gpu["memory_bytes"]) for gpu in listed] == [(g.name, g.memory_bytes) for g in GPUS.values()]
