"""The notebook of the course, executed with drawn images and a few steps."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_every_cell_runs_and_results_are_tables(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nbformat
    from jupyter_client.manager import KernelManager
    from nbclient import NotebookClient

    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "shapes.safetensors").write_bytes((data_dir / "shapes.safetensors").read_bytes())
    env = {
        "CIFAR_TINY": "1",
        "PYTHONPATH": str(ROOT),
        "IPYTHONDIR": str(tmp_path),
        "JUPYTER_RUNTIME_DIR": str(tmp_path),
    }
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(ROOT / "examples" / "course.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "the notebook is committed without outputs"
    manager = KernelManager()
    manager.kernel_spec.argv[0] = sys.executable  # this environment's kernel, whatever the machine has installed
    client = NotebookClient(notebook, km=manager, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    done = client.execute(cwd=str(tmp_path), env=dict(os.environ))
    tables = [
        output["data"]["text/html"] for cell in done.cells for output in cell.get("outputs", []) if "data" in output
    ]
    assert [name for name in ("ModelSummary", "TrainResult", "EvaluateResult") if name in "".join(tables)] == [
        "ModelSummary",
        "TrainResult",
        "EvaluateResult",
    ]
